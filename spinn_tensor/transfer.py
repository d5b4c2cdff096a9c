"""How batches come to a device without anybody waiting: made ahead, in one buffer, from pinned memory."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import accumulate, takewhile
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from spinn_tensor.bundles import flatten, map_tensors, move

ALIGNMENT = 64  # bytes, of the tensors in a buffer
CPU = torch.device("cpu")

Made = TypeVar("Made")
Item = TypeVar("Item")


def made_ahead(
    make: Callable[[Item], Made],
    items: Iterable[Item],
    n_ahead: int,
    device: torch.device = CPU,  # that what is made is for
) -> Generator[Made, None, None]:
    """Yield make(item) for every item, in order, up to `n_ahead` made by a thread before they are asked for; 0 = none.

    What `make` raises is raised when its turn comes. Closing the iterator drops what was made in vain.
    """
    if not n_ahead:
        yield from map(make, items)
        return
    made: deque[Future[Made]] = deque()
    # a thread begins on the first GPU, where pinning would open a context, whichever one is computed on
    on_device = partial(torch.cuda.set_device, device) if device.type == "cuda" else None
    pool = ThreadPoolExecutor(1, "feeding", on_device)
    try:
        for item in items:
            made.append(pool.submit(make, item))
            if len(made) > n_ahead:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def begun_to_host(tensors: Sequence[Tensor]) -> Callable[[], list[np.ndarray]]:
    """Begin to copy tensors to the host; return what waits for that, and for nothing that is launched afterwards.

    They are of one device.
    """
    on_cuda = tensors[0].is_cuda  # on other devices nobody knows when a copy has arrived
    with torch.cuda.device_of(tensors[0]):
        copies = [tensor.to("cpu", non_blocking=on_cuda) for tensor in tensors]  # which torch pins
        arrived = torch.cuda.Event() if on_cuda else None
        if arrived is not None:
            arrived.record()

    def wait() -> list[np.ndarray]:
        if arrived is not None:
            arrived.synchronize()
        return [copied.numpy() for copied in copies]

    return wait


def pinned(bundle: Any) -> Any:
    """Copy a bundle to pinned memory, from where copying to a device waits for nothing; what is `OnHost` as it is."""
    return packed(bundle, pin=True)


def packed(bundle: Any, *, pin: bool = False) -> Any:
    """Copy a bundle into one buffer, perhaps of pinned memory; it is given back where it lies in one already."""
    tensors = flatten(bundle, host=False)
    n_packed, whole = packed_part(tensors)
    is_packed = n_packed == len(tensors)
    if is_packed and (not pin or whole.is_pinned()):
        return bundle
    buffer = torch.empty(buffer_starts(tensors)[-1], dtype=torch.uint8, pin_memory=pin)
    if is_packed:
        buffer.copy_(whole)
        return with_tensors(bundle, buffer_views(buffer, tensors))
    return with_tensors(bundle, _lay(tensors, buffer))


def sent(bundle: Any, device: torch.device) -> Any:
    """Bring a bundle to a device, by one copy where it lies in one buffer; from pinned memory none is waited for."""
    tensors, on_cuda = flatten(bundle, host=False), device.type == "cuda"
    n_packed, whole = packed_part(tensors)
    if n_packed < len(tensors):
        return move(bundle, device, non_blocking=on_cuda)
    return with_tensors(bundle, buffer_views(whole.to(device, non_blocking=on_cuda), tensors))


class Parcel(NamedTuple):
    """Hold what another process is sent of a bundle: where its bytes are, and what it is like."""

    # where they begin in the `SharedSlots`, or, where these have no room, (n,) uint8 themselves
    place: int | np.ndarray
    like: Any  # the bundle, its tensors without numbers


class SharedSlots:
    """Bring bundles from processes to the one they are forked from, in memory that all of them share.

    Memory that is new to a process costs more than writing to it: of 2 MB, 2 ms. So slots are filled in turn; what lies
    in one is gone when its turn comes again. They are no file, so not bound by the size of /dev/shm, and take no more
    memory than is written.
    """

    def __init__(self, n_slots: int, slot_bytes: int) -> None:
        self._n_slots, self._slot_bytes = n_slots, -(-slot_bytes // ALIGNMENT) * ALIGNMENT
        self._memory = torch.frombuffer(mmap.mmap(-1, n_slots * self._slot_bytes), dtype=torch.uint8)
        self._start, self._end = 0, 0  # of what is empty in the slot that this process fills

    def turn_to(self, number: int) -> None:
        """Fill the slot that has its turn at this number, counted by all processes together."""
        self._start = number % self._n_slots * self._slot_bytes
        self._end = self._start + self._slot_bytes

    def packed(self, bundle: Any) -> Parcel:
        """Copy a bundle into the slot; where that has no room, its bytes are in the parcel."""
        tensors = flatten(bundle, host=False)
        like = map_tensors(bundle, lambda tensor: torch.empty_like(tensor, device="meta"))
        start, end = self._start, self._start + buffer_starts(tensors)[-1]
        if end > self._end:
            buffer = torch.empty(end - start, dtype=torch.uint8)
            _lay(tensors, buffer)
            return Parcel(buffer.numpy(), like)
        _lay(tensors, self._memory[start:end])
        self._start = end
        return Parcel(start, like)

    def opened(self, parcel: Parcel, *, pin: bool = False) -> Any:
        """Return a copy of the bundle, in one buffer, perhaps of pinned memory."""
        place, like = parcel.place, flatten(parcel.like, host=False)
        n_bytes = buffer_starts(like)[-1]
        buffer = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=pin)
        whole = self._memory[place : place + n_bytes] if isinstance(place, int) else torch.from_numpy(place)
        buffer.copy_(whole)
        return with_tensors(parcel.like, buffer_views(buffer, like))


def _lay(tensors: Sequence[Tensor], buffer: Tensor) -> list[Tensor]:
    """Copy tensors into a buffer, and return them there."""
    views = buffer_views(buffer, tensors)
    for view, tensor in zip(views, tensors, strict=True):
        view.copy_(tensor)
    return views


def size_of(bundle: Any) -> int:
    """Return how many bytes a buffer of a bundle has."""
    return buffer_starts(flatten(bundle, host=False))[-1]


def buffer_starts(tensors: Sequence[Tensor]) -> list[int]:
    """Return the byte at which each tensor begins in a buffer of them all, and where the last one ends."""
    sizes = (-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors)
    return list(accumulate(sizes, initial=0))


def buffer_views(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors like these that lie in a buffer of bytes."""
    pairs = zip(buffer_starts(like), like, strict=False)
    return [buffer[start : start + one.nbytes].view(one.dtype).view(one.shape) for start, one in pairs]


def packed_part(tensors: Sequence[Tensor]) -> tuple[int, Tensor]:
    """Count how many of the first tensors fill a buffer as `buffer_views` lays them, and return its bytes."""
    if not tensors:
        return 0, torch.empty(0, dtype=torch.uint8)
    storage = tensors[0].untyped_storage()
    together = list(takewhile(lambda one: one.untyped_storage().data_ptr() == storage.data_ptr(), tensors))
    *starts, end = buffer_starts(together)
    lie = [one.storage_offset() * one.element_size() for one in together]
    if lie != starts or end != storage.nbytes() or not all(one.is_contiguous() for one in together):
        return 0, torch.empty(0, dtype=torch.uint8)
    return len(together), torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def with_tensors(bundle: Any, tensors: Iterable[Tensor]) -> Any:
    """Return a bundle of these tensors, in the order of `flatten`."""
    following = iter(tensors)
    return map_tensors(bundle, lambda _: next(following))
