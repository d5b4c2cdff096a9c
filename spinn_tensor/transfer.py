"""How batches come to a device without anybody waiting: made ahead, in one buffer, from pinned memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, takewhile
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from spinn_tensor.bundles import flatten, map_tensors

ALIGNMENT = 64  # bytes, of the tensors in a buffer

Made = TypeVar("Made")
Item = TypeVar("Item")


def made_ahead(
    make: Callable[[Item], Made], items: Iterable[Item], n_ahead: int
) -> Generator[Made, None, None]:
    """Yield make(item) for every item, in order, up to `n_ahead` made before they are asked for; 0 = none.

    What `make` raises is raised when its turn comes. Closing the iterator drops what was made in vain.
    """
    if not n_ahead:
        yield from map(make, items)
        return
    made: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="feeding")
    try:
        for item in items:
            made.append(pool.submit(make, item))
            if len(made) > n_ahead:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
    views = buffer_views(buffer, tensors)
    if is_packed:
        buffer.copy_(whole)
    else:
        for view, tensor in zip(views, tensors, strict=True):
            view.copy_(tensor)
    return with_tensors(bundle, views)


class Parcel(NamedTuple):
    """Hold a bundle as what another process gets of it quickest: one tensor, whose memory both then share."""

    buffer: Tensor  # (n,) uint8
    like: Any  # the bundle, its tensors without numbers

    @classmethod
    def of(cls, bundle: Any) -> Parcel:
        """Pack a bundle."""
        tensors = flatten(packed(bundle), host=False)
        _, buffer = packed_part(tensors)
        return cls(buffer, map_tensors(bundle, lambda tensor: torch.empty_like(tensor, device="meta")))

    def opened(self) -> Any:
        """Return the bundle, in the buffer."""
        return with_tensors(self.like, buffer_views(self.buffer, flatten(self.like, host=False)))


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
