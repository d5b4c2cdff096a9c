"""Training steps as CUDA graphs: recorded once for each shape of batch, then replayed with one launch.

A recording owns the buffer that it reads. Replaying copies a batch into it (from one buffer in pinned memory, by one
copy that waits for nothing) and launches every kernel of the step at once: forward, loss, backward, clipping and
optimiser. The offsets of the steps are read on the host while recording, so they belong to the shape. The graphs share
one pool of memory: no two run at the same time, and what one leaves for the next are only the model's weights and the
optimiser's state.

A sum over ranks, as batch norm's, is not within a graph: there one ends and another begins (`Graphs`). So a replay
issues the same sums in the same order as a step that is launched, and a rank may replay while another does not; a graph
with NCCL's collectives in it would hang, unless all ranks replayed the same one. All ranks record the same shapes at
once, since what warms up a recording sums over ranks.

On the CPU there is nothing to record and a replay calls the step on the same buffers, which is what tests run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor

from spinn_tensor.bundles import OnHost, flatten
from spinn_tensor.normalization import summing_by
from spinn_tensor.transfer import buffer_starts, buffer_views, packed_part, with_tensors

N_WARM_UP = 3  # runs before recording, as torch's notes on CUDA graphs ask for
Step = Callable[[Any], Tensor]  # of a bundle of tensors; gives a tensor and may change the model
Signature = tuple[Any, ...]


class Place(NamedTuple):
    """Say where graphs are recorded."""

    pool: Any  # of memory
    stream: torch.cuda.Stream  # of the device; torch's own choice is one for all graphs of a process

    @classmethod
    def on(cls, device: torch.device) -> Place:
        """Make a place on a GPU."""
        return cls(torch.cuda.graph_pool_handle(), torch.cuda.Stream(device))


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
        self._place = Place.on(device) if device.type == "cuda" else None

    @property
    def n_recordings(self) -> int:
        """Count how many shapes are recorded."""
        return len(self._recordings)

    def record(self, bundle: Any) -> Recording:
        """Make ready for bundles of this shape, which takes a few runs; the state is afterwards as before."""
        key = signature(bundle)
        if key not in self._recordings:
            with preserved(self._state(), self.device):
                self._recordings[key] = Recording(self._step, bundle, self.device, self._place)
        return self._recordings[key]

    def __call__(
        self,
        bundle: Any,  # on the host, best in pinned memory, or on the device
    ) -> Tensor:
        """Return what the step gives. A new shape is recorded first."""
        return self.record(bundle)(bundle)


class Recording:
    """Run the step on buffers of one shape."""

    def __init__(self, step: Step, bundle: Any, device: torch.device, place: Place | None) -> None:
        tensors = flatten(bundle, host=False)
        self._buffer = torch.empty(buffer_starts(tensors)[-1], dtype=torch.uint8, device=device)
        self._destinations = buffer_views(self._buffer, tensors)
        self.inputs = with_tensors(bundle, self._destinations)
        self._step, self._graphs = step, None
        self._fill(bundle)
        if place is not None:
            self._graphs, self._output = _record(lambda: step(self.inputs), place)

    def __call__(self, bundle: Any) -> Tensor:
        self._fill(bundle)
        if self._graphs is None:
            return self._step(self.inputs)
        self._graphs.replay()
        return self._output.clone()  # another graph may overwrite it

    def _fill(self, bundle: Any) -> None:
        sources = flatten(bundle, host=False)
        n_packed, packed = packed_part(sources)
        if n_packed:
            self._buffer[: len(packed)].copy_(packed, non_blocking=True)
        for destination, source in zip(self._destinations[n_packed:], sources[n_packed:], strict=True):
            destination.copy_(source, non_blocking=True)


class Graphs:
    """Hold a run as graphs, one after another, with a sum over ranks between each two."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._totals: list[Tensor] = []  # summed in place after each graph but the last
        self._open = ExitStack()

    def capture(self, run: Callable[[], Tensor]) -> Tensor:
        """Record a run, in this thread alone, the backward included: a capture ends in the thread that began it."""
        with self._open, torch.autograd.set_multithreading_enabled(False), summing_by(self._cut):
            self._begin()
            return run()

    def _begin(self) -> None:
        self._graphs.append(torch.cuda.CUDAGraph())
        # of this thread alone: another one may pin a batch meanwhile, which would spoil the recording
        place = self._place._asdict()
        graph = torch.cuda.graph(self._graphs[-1], **place, capture_error_mode="thread_local")
        self._open.enter_context(graph)

    def _cut(self, total: Tensor) -> None:
        """End a graph with what it leaves to be summed; while recording there is nothing in it yet."""
        self._totals.append(total.detach())  # without the graph of the loss, which it would keep
        self._open.close()
        self._begin()

    def replay(self) -> None:
        """Launch the graphs, and what is between them."""
        for graph, total in zip_longest(self._graphs, self._totals):
            graph.replay()
            if total is not None:
                torch.distributed.all_reduce(total)


def _record(run: Callable[[], Tensor], place: Place) -> tuple[Graphs, Tensor]:
    with torch.cuda.device(place.stream.device):  # which need not be the current one
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(N_WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graphs = Graphs(place)
        return graphs, graphs.capture(run)


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
