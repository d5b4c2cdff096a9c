"""Training steps as CUDA graphs: recorded once for each shape of batch, then replayed with one launch.

A recording owns the buffer that it reads. Replaying copies a batch into it (from one buffer in pinned memory, by one
copy that waits for nothing) and launches every kernel of the step at once: forward, loss, backward, clipping and
optimiser. The offsets of the steps are read on the host while recording, so they belong to the shape. The graphs share
one pool of memory: no two run at the same time, and what one leaves for the next are only the model's weights and the
optimiser's state.

On the CPU there is nothing to record and a replay calls the step on the same buffers, which is what tests run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, takewhile
from typing import Any

import torch
from torch import Tensor

from spinn_tensor.bundles import OnHost, flatten, map_tensors

ALIGNMENT = 64  # bytes, of the tensors in a buffer
N_WARM_UP = 3  # runs before recording, as torch's notes on CUDA graphs ask for
Step = Callable[[Any], Tensor]  # of a bundle of tensors; gives a tensor and may change the model
Signature = tuple[Any, ...]


class CapturedSteps:
    """Run one step function over bundles of few shapes."""

    def __init__(
        self,
        step: Step,
        state: Callable[[], Sequence[Tensor]],  # all that the step changes
        device: torch.device,
    ) -> None:
        self._step, self._state, self.device = step, state, device
        self._recordings: dict[Signature, Recording] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    @property
    def n_recordings(self) -> int:
        """Count how many shapes are recorded."""
        return len(self._recordings)

    def record(self, bundle: Any) -> None:
        """Make ready for bundles of this shape, which takes a few runs; the state is afterwards as before."""
        key = signature(bundle)
        if key not in self._recordings:
            with preserved(self._state(), self.device):
                self._recordings[key] = Recording(self._step, bundle, self.device, self._pool)

    def __call__(
        self,
        bundle: Any,  # on the host, best in pinned memory, or on the device
    ) -> Tensor:
        """Return what the step gives. A new shape is recorded first."""
        self.record(bundle)
        return self._recordings[signature(bundle)](bundle)


class Recording:
    """Run the step on buffers of one shape."""

    def __init__(self, step: Step, bundle: Any, device: torch.device, pool: Any) -> None:
        tensors = flatten(bundle, host=False)
        self._buffer = torch.empty(_starts(tensors)[-1], dtype=torch.uint8, device=device)
        self._destinations = _views(self._buffer, tensors)
        self.inputs = _with_tensors(bundle, self._destinations)
        self._step, self._graph = step, None
        self._fill(bundle)
        if device.type == "cuda":
            self._graph, self._output = _record(lambda: step(self.inputs), pool)

    def __call__(self, bundle: Any) -> Tensor:
        self._fill(bundle)
        if self._graph is None:
            return self._step(self.inputs)
        self._graph.replay()
        return self._output.clone()  # another graph may overwrite it

    def _fill(self, bundle: Any) -> None:
        sources = flatten(bundle, host=False)
        n_packed, packed = _packed_part(sources)
        if n_packed:
            self._buffer[: len(packed)].copy_(packed, non_blocking=True)
        for destination, source in zip(self._destinations[n_packed:], sources[n_packed:], strict=True):
            destination.copy_(source, non_blocking=True)


def _record(run: Callable[[], Tensor], pool: Any) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(N_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # of this thread alone: another one may pin a batch meanwhile, which would spoil the recording
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        output = run()
    return graph, output


@contextmanager
def preserved(tensors: Iterable[Tensor], device: torch.device) -> Iterator[None]:
    """Put the tensors and the generators back afterwards as they were before."""
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for tensor, values in kept:
                tensor.copy_(values)


def signature(bundle: Any) -> Signature:
    """Return what two bundles share if one recording serves both: kinds, shapes, and the values of what is `OnHost`."""
    if bundle is None or isinstance(bundle, Tensor):
        return () if bundle is None else (tuple(bundle.shape), bundle.dtype)
    if isinstance(bundle, OnHost):
        return tuple(bundle.tolist())
    return type(bundle), *map(signature, bundle)


def pinned(bundle: Any) -> Any:
    """Copy a bundle to pinned memory, from where copying to a device waits for nothing; what is `OnHost` as it is."""
    return packed(bundle, pin=True)


def packed(bundle: Any, *, pin: bool = False) -> Any:
    """Copy a bundle into one buffer, perhaps of pinned memory; it is given back where it lies in one already."""
    tensors = flatten(bundle, host=False)
    n_packed, whole = _packed_part(tensors)
    is_packed = n_packed == len(tensors)
    if is_packed and (not pin or whole.is_pinned()):
        return bundle
    buffer = torch.empty(_starts(tensors)[-1], dtype=torch.uint8, pin_memory=pin)
    views = _views(buffer, tensors)
    if is_packed:
        buffer.copy_(whole)
    else:
        for view, tensor in zip(views, tensors, strict=True):
            view.copy_(tensor)
    return _with_tensors(bundle, views)


def _starts(tensors: Sequence[Tensor]) -> list[int]:
    """Return the byte at which each tensor begins in a buffer of them all, and where the last one ends."""
    sizes = (-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors)
    return list(accumulate(sizes, initial=0))


def _views(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors like these that lie in a buffer of bytes."""
    pairs = zip(_starts(like), like, strict=False)
    return [buffer[start : start + one.nbytes].view(one.dtype).view(one.shape) for start, one in pairs]


def _packed_part(tensors: Sequence[Tensor]) -> tuple[int, Tensor]:
    """Count how many of the first tensors fill a buffer as `_views` lays them, and return its bytes."""
    if not tensors:
        return 0, torch.empty(0, dtype=torch.uint8)
    storage = tensors[0].untyped_storage()
    together = list(takewhile(lambda one: one.untyped_storage().data_ptr() == storage.data_ptr(), tensors))
    *starts, end = _starts(together)
    lie = [one.storage_offset() * one.element_size() for one in together]
    if lie != starts or end != storage.nbytes() or not all(one.is_contiguous() for one in together):
        return 0, torch.empty(0, dtype=torch.uint8)
    return len(together), torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _with_tensors(bundle: Any, tensors: Iterable[Tensor]) -> Any:
    """Return a bundle of these tensors, in the order of `flatten`."""
    following = iter(tensors)
    return map_tensors(bundle, lambda _: next(following))
