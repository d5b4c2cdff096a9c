"""Batches made ahead by a thread: the same ones, in order, and errors when their turn comes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from spinn_tensor.bundles import OnHost, flatten
from spinn_tensor.data_prep.batching import epoch_batches, shares
from spinn_tensor.data_prep.errors import Interrupted
from spinn_tensor.training import feeding
from spinn_tensor.training.checkpoint import Progress
from spinn_tensor.training.feeding import Feed, LostMaker, made_by_processes
from spinn_tensor.training.loop import Observer, Trainer
from spinn_tensor.training.methods import Batch, Classify, Corpus
from spinn_tensor.transfer import Parcel, SharedSlots, made_ahead, packed
from tests import tiny_training
from tests.processes import HANGS
from tests.processes import forked as in_a_fork
from tests.tiny_training import Stop, go_on, trainer

pytestmark = pytest.mark.numerical


@pytest.mark.parametrize("n_ahead", [0, 1, 3, 100])
def test_in_order(n_ahead: int) -> None:
    assert list(made_ahead(lambda n: n * n, range(20), n_ahead)) == [n * n for n in range(20)]
    assert list(made_ahead(lambda n: n, [], n_ahead)) == []


def test_so_many_are_made_ahead_and_no_more() -> None:
    made: list[int] = []
    four = threading.Event()

    def make(n: int) -> int:
        made.append(n)
        if len(made) == 4:
            four.set()
        return n

    tasks = iter(range(20))
    numbers = made_ahead(make, tasks, 3)
    assert next(numbers) == 0
    assert four.wait(HANGS)
    assert next(tasks) == 4  # which nobody has asked for
    numbers.close()
    assert made == [0, 1, 2, 3]
    assert "feeding" not in " ".join(thread.name for thread in threading.enumerate())


def test_what_is_made_for_a_gpu_is_made_with_that_one_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a thread, which begins on the first one: where it pins memory it would open a context there."""
    chosen: list[tuple[str, torch.device]] = []

    def choose(device: torch.device) -> None:
        chosen.append((threading.current_thread().name, device))

    def make(n: int) -> int:
        assert [name for name, _ in chosen] == [threading.current_thread().name]
        return n

    monkeypatch.setattr(torch.cuda, "set_device", choose)
    second = torch.device("cuda", 1)
    assert list(made_ahead(make, range(5), 2, second)) == [*range(5)]
    assert chosen == [("feeding_0", second)]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes are forked here, which all must have ended when the test does."""
    with warnings.catch_warnings():
        # of Python 3.12 and newer: the threads that there are hold no lock that these processes would need
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        yield
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("forked")
def test_processes_make_them_in_order() -> None:
    """Whose random numbers are not the program's."""
    state = torch.get_rng_state()
    made = list(made_by_processes(lambda n: (n * n, os.getpid()), range(20), 2, 3))
    assert [square for square, _ in made] == [n * n for n in range(20)]
    assert len({process for _, process in made}) == 3
    assert os.getpid() not in {process for _, process in made}
    assert torch.equal(torch.get_rng_state(), state)


def _bundle(n: int) -> tuple[torch.Tensor | OnHost, ...]:
    """With what is on the host, and tensors of several types and of no size."""
    return torch.full((3,), n), OnHost(torch.arange(n)), torch.empty(0, 2), torch.full((2,), n / 2)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("n_processes", [1, 3])
@pytest.mark.parametrize("slot_bytes, has_room", [(256, True), (192, False)])
def test_what_processes_send_comes_in_one_buffer(n_processes: int, slot_bytes: int, has_room: bool) -> None:
    """Two bundles at a time, of 128 bytes each; where a slot has room for one, the other goes beside it."""
    n_ahead = 2
    slots = SharedSlots((n_processes + 1) * n_ahead + 1, slot_bytes)

    def send(n: int) -> list[Parcel]:
        slots.turn_to(n)
        return [slots.packed(_bundle(n)), slots.packed(_bundle(n + 1))]

    sent = made_by_processes(send, range(40), n_ahead, n_processes)
    kept: deque[list[Parcel]] = deque()
    for n in range(40):
        while len(kept) <= n_ahead and (parcels := next(sent, None)) is not None:
            kept.append(parcels)  # as many as wait to be pinned
        parcels = kept.popleft()
        assert [isinstance(parcel.place, np.ndarray) for parcel in parcels] == [False, not has_room]
        for m, parcel in enumerate(parcels, n):
            opened = slots.opened(parcel)
            assert packed(opened) is opened
            for got, expected in zip(flatten(opened), flatten(_bundle(m)), strict=True):
                assert got.dtype == expected.dtype
                assert torch.equal(got, expected)


@pytest.mark.usefixtures("forked")
def test_an_error_of_a_process_comes_in_its_turn() -> None:
    numbers = made_by_processes(lambda n: 1 // (3 - n), range(20), 1, 2)
    assert [next(numbers) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(numbers)


@pytest.mark.usefixtures("forked")
def test_closing_ends_the_processes() -> None:
    numbers = made_by_processes(lambda n: n, range(1_000), 1, 2)
    assert next(numbers) == 0
    assert len(multiprocessing.active_children()) == 2
    numbers.close()


@pytest.mark.parametrize(
    "device, n_ahead, n_ranks, expected",
    [
        ("cuda", 2, 1, 4),
        ("cuda", 2, 4, 3),
        ("cuda", 2, 16, 0),
        ("cuda", 0, 1, 0),
        ("cpu", 2, 1, 0),
    ],
)
def test_processes_feed_gpus_where_there_are_cores(
    device: str, n_ahead: int, n_ranks: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(n_ranks))
    assert feeding.n_processes(device, n_ahead) == expected


@pytest.mark.parametrize("n_ahead", [0, 2])
def test_an_error_comes_in_its_turn(n_ahead: int) -> None:
    numbers = made_ahead(lambda n: 1 // (3 - n), range(20), n_ahead)
    assert [next(numbers) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(numbers)


def trainer_of(folder: Path, kind: str = "spinn-pi-nt", **options: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    return trainer(folder, kind, n_pairs=90, **options)


def test_made_ahead_the_weights_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the model does meanwhile: it is evaluated after every step, without dropout."""
    collate = Classify.collate

    def slowly(self: Classify, columns: Corpus, step: int) -> Batch:
        time.sleep(0.03)  # longer than a step: the model is evaluated meanwhile
        return collate(self, columns, step)

    monkeypatch.setattr(Classify, "collate", slowly)
    monkeypatch.setitem(tiny_training.ENCODER, "embedding_dropout", 0.3)
    weights = []
    for prefetch in (0, 1, 4):
        options = {"epochs": 2, "batch_size": 8, "prefetch": prefetch, "evaluate_every": 1}
        run = trainer_of(tmp_path / str(prefetch), **options)
        run.fit()
        weights.append(parameters_to_vector(run.task.model.parameters()))
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("kind", ["spinn-pi-nt", "spinn"])
def test_fed_by_processes_the_weights_are_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, over two epochs."""
    monkeypatch.setitem(tiny_training.ENCODER, "embedding_dropout", 0.3)
    weights = []
    for n in (0, 2):
        monkeypatch.setattr(feeding, "n_processes", lambda *_, n=n: n)
        run = trainer_of(tmp_path / str(n), kind=kind, epochs=2, batch_size=16)
        run.fit()
        weights.append(parameters_to_vector(run.task.model.parameters()))
    assert torch.equal(weights[0], weights[1])


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("batch_tokens, n_processes", [(0, 0), (150, 0), (0, 2)])
def test_a_run_that_goes_on_sees_the_pairs_it_had_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_tokens: int, n_processes: int
) -> None:
    monkeypatch.setattr(feeding, "n_processes", lambda *_: n_processes)
    seen: list[list[int]] = []
    take_feed = Trainer.take_feed

    def noting(self: Trainer, feed: Feed) -> torch.Tensor:
        seen.append(feed.rows.tolist())
        return take_feed(self, feed)

    monkeypatch.setattr(Trainer, "take_feed", noting)
    options = {"epochs": 2, "batch_size": 8, "batch_tokens": batch_tokens}
    with pytest.raises(Interrupted):
        trainer_of(tmp_path, observer=Stop(5), **options).fit()
    assert len(seen) == 5
    again = go_on(trainer_of(tmp_path, **options))
    again.fit()
    n_batches = len(again.batches(0))
    first_epoch = [row for rows in seen[:n_batches] for row in rows]
    assert sorted(first_epoch) == list(range(90))
    assert [rows.tolist() for rows in again.batches(0)] == seen[:n_batches]
    assert [rows.tolist() for rows in again.batches(1)] == seen[n_batches:]


class Kill(Observer):
    """Kill a process that makes batches, after so many steps."""

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def trained(self, progress: Progress, batch_size: int) -> None:
        if progress.step == self.n_steps:
            process = multiprocessing.active_children()[0].pid
            assert process is not None
            os.kill(process, signal.SIGKILL)


@pytest.mark.usefixtures("forked")
def test_a_process_that_is_killed_ends_the_run_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, when its turn comes; what is written meanwhile is whole, and the run goes on from it."""
    monkeypatch.setattr(feeding, "n_processes", lambda *_: 2)
    options = {"epochs": 2, "batch_size": 4, "save_every": 3}
    undisturbed = trainer_of(tmp_path / "undisturbed", **options)
    undisturbed.fit()
    with pytest.raises(
        LostMaker, match=r"makes batches is gone: pid \d+ was ended by signal 9 \(Killed\)"
    ) as lost:
        trainer_of(tmp_path, observer=Kill(5), **options).fit()
    assert len(str(lost.value).splitlines()) == 1
    again = go_on(trainer_of(tmp_path, **options))
    again.fit()
    for got, expected in zip(again.step.parameters, undisturbed.step.parameters, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.usefixtures("forked")
def test_a_process_that_is_gone_interrupts_nothing_that_has_what_it_made() -> None:
    with closing(made_by_processes(str, range(100), n_ahead=2, n_processes=1)) as made:
        assert next(made) == "0"
        (process,) = multiprocessing.active_children()
        process.kill()
        process.join()
        with pytest.raises(LostMaker, match=f"pid {process.pid} was ended by signal 9"):
            list(made)


@pytest.mark.usefixtures("forked")
def test_a_process_that_dies_while_it_writes_is_not_waited_for() -> None:
    """In a connection that others have, too, the rest of what it wrote would never come."""
    made = made_by_processes(lambda n: bytes(n), [1, 50_000_000, 1, 1], n_ahead=1, n_processes=2)
    assert next(made) == b"\0"
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(LostMaker, match=r"pid \d+ was ended by signal 9"):
        next(made)


@pytest.mark.usefixtures("forked")
def test_ctrl_c_is_heard_by_training_alone() -> None:
    """A terminal sends it to all processes."""
    with closing(made_by_processes(str, range(20), n_ahead=1, n_processes=2)) as made:
        assert [next(made), next(made)] == ["0", "1"]
        for process in multiprocessing.active_children():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGINT)
        assert list(made) == [str(number) for number in range(2, 20)]


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_of_a_process_is_told_with_its_code(code: int) -> None:
    with pytest.raises(LostMaker, match=rf"pid \d+ exited with {code}"):
        list(made_by_processes(os._exit, [code], n_ahead=1, n_processes=1))


def test_processes_end_with_the_one_that_forked_them() -> None:
    """However it ends: each finds its connection closed, though the later ones have forked the ends of it."""

    def make_some() -> int:
        made = made_by_processes(lambda n: n if n < 2 else time.sleep(0.1), range(99), 1, 3)
        next(made)
        print(len(multiprocessing.active_children()), flush=True)
        signal.pause()
        return 0

    with in_a_fork(make_some) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"3\n"
        process.kill()
        assert process.stdout.read() == b""  # to its end: nobody has it any more


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("token_budget", [0, 900])
def test_every_pair_once_over_all_ranks(n_ranks: int, token_budget: int) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 1_003)
    batches = epoch_batches(lengths, 32, seed=3, epoch=1, n_tokens=2 * lengths, token_budget=token_budget)
    of_rank: list[list[int]] = [[] for _ in range(n_ranks)]
    for rows in batches:
        for rank, parts in enumerate(shares(rows, lengths, n_ranks)):
            of_rank[rank].extend(row for part in parts for row in part.tolist())
    assert sorted(row for rows in of_rank for row in rows) == list(range(1_003))
    sizes = [len(rows) for rows in of_rank]
    assert max(sizes) - min(sizes) <= len(batches)
