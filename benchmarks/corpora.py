"""Measure whether training ever waits for its data: a corpus of SNLI's size, from JSON lines to batches.

    python -m benchmarks.corpora            about ten minutes, and 1 GB in the folder for temporary files
    python -m benchmarks.corpora --quick    seconds, numbers without meaning

The corpus is made: the slice of SNLI at hand, repeated with names of its own (without the slice, generated pairs).

preparation    a process reads it into a store, finds nothing to do the second time, and loads what it wrote
feeding        batches with all their tables, made by one thread, against training steps on another (SPINN-PI, H = 300,
               batch norm and dropout as in the paper's preset); and which part of the time training waits, with
               batches made ahead and without
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import harness
from benchmarks.data import pairs_file, snli_file
from benchmarks.harness import Option
from spinn_tensor.data_prep.corpora.preparation import prepare_store
from spinn_tensor.data_prep.corpora.splits import load_splits
from spinn_tensor.data_prep.files import Skipped, open_text, parse_record
from spinn_tensor.training.config import DataConfig

if TYPE_CHECKING:  # torch is not in the memory that the preparation takes
    from spinn_tensor.training.loop import Trainer

OPTIONS = {
    "pairs": Option(550_000, 2_000, "in the training file"),
    "batch": Option(128, 16, "pairs of a batch"),
    "hidden": Option(300, 16, "H"),
    "steps": Option(40, 4, "training steps, and batches, that are timed"),
    "repeats": Option(3, 1, "rounds of the preparation"),
}
_parse = partial(harness.parse, "corpora", __doc__, options=OPTIONS, snli="the logic corpus")
PREPARATION = {
    "seconds": "from the file to the finished store, s",
    "peak_mb": "peak memory, MB",
    "store_mb": "size of the store, MB",
    "again_seconds": "a second time: nothing to do, s",
    "load_seconds": "from the store to columns and vocabulary, s",
}
FEEDING = {
    "ms_a_batch": "a batch with its tables, ms",
    "ms_a_step": "a training step, ms",
    "times_as_fast": "batches are made so many times as fast as training takes them",
    "waits": "training waits, batches made when it asks, % of the time",
    "waits_made_ahead": "training waits, two batches made ahead, % of the time",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    harness.as_in_training()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = make_corpus(folder, options.pairs, options.snli)
        runs = [harness.in_a_process(prepare, folder) for _ in range(options.repeats)]
        n_bytes = (folder / "train.jsonl").stat().st_size
        feeding = measure_feeding(folder, options)
    notes = [
        f"{options.pairs:,} pairs ({source}, repeated), {n_bytes / 1e6:,.0f} MB of JSON; {options.repeats} rounds; "
        "one thread, and one that feeds"
    ]
    preparation = [
        {
            "what": text,
            "middle": statistics.median(run[name] for run in runs),
            "most": max(run[name] for run in runs),
        }
        for name, text in PREPARATION.items()
    ]
    title = f"feeding: SPINN-PI, H = {options.hidden}, {options.batch} pairs a batch"
    tables = [
        harness.Table(
            {"preparation": "{what}", "median": "{middle:,.1f}", "most": "{most:,.1f}"}, preparation
        ),
        harness.Table(
            {title: "{what}", "": "{value:.1f}"},
            [{"what": text, "value": feeding[name]} for name, text in FEEDING.items()],
        ),
    ]
    result = {"source": source, "preparation": runs, "feeding": feeding}
    harness.publish(options, result, notes, tables)


def make_corpus(folder: Path, n_pairs: int, snli: str = "auto") -> str:
    """Write train.jsonl with so many pairs, dev.jsonl with a few; return what they are made of."""
    with pairs_file(snli) as (name, pairs):
        path, member = snli_file(pairs)
        with open_text(path, member=member) as lines:
            records = [parse_record(line) for line in lines]
    for split, count in {"train": n_pairs, "dev": len(records)}.items():
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for number, record in zip(range(count), itertools.cycle(records), strict=False):
                file.write(json.dumps({**record, "pairID": f"{split} {number}"}) + "\n")
    return name


def prepare(folder: Path) -> dict[str, Any]:
    """Measure the seconds of the preparation, of finding nothing to do, and of loading what it wrote.

    For a process of its own.
    """
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)  # of the round before
    train, dev = (str(folder / f"{split}.jsonl") for split in ("train", "dev"))
    data = DataConfig(corpus="snli", train=(train,), dev=(dev,))
    preparing = harness.stopwatch(lambda: prepare_store(data, store, Skipped()))
    whole = preparing()
    memory = harness.peak()
    again = preparing()
    load = harness.stopwatch(lambda: load_splits(DataConfig(corpus="snli", data=str(store)), Skipped()))()
    return {
        "seconds": whole,
        "again_seconds": again,
        "load_seconds": load,
        "peak_mb": memory / 1e6,
        "store_mb": sum(path.stat().st_size for path in store.rglob("*") if path.is_file()) / 1e6,
    }


def measure_feeding(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure batches/s of one thread that makes them, steps/s of training, and the part of the time that it waits."""
    trainer = make_trainer(folder, options)
    batches = trainer.batches(0)[: options.steps + 2]
    for rows in batches[:2]:
        trainer.take_step(rows)
    made, steps = _fed(trainer, batches[2:], n_ahead=0)
    waited, beside = _fed(trainer, batches[2:], n_ahead=2)
    return {
        "ms_a_batch": 1e3 * statistics.median(made),
        "ms_a_step": 1e3 * statistics.median(steps),
        "times_as_fast": harness.ratio(steps, made),
        "waits": 100 * sum(made) / sum(made + steps),
        "waits_made_ahead": 100 * sum(waited) / sum(waited + beside),
    }


def _fed(trainer: Trainer, batches: Sequence[np.ndarray], n_ahead: int) -> tuple[list[float], list[float]]:
    """Return the seconds that training waits for each batch, made when it asks or ahead, and those of its step."""
    from spinn_tensor.transfer import made_ahead

    waited, steps = [], []
    asked = time.perf_counter()
    with closing(made_ahead(trainer.feed, enumerate(batches), n_ahead)) as feeds:
        for feed in feeds:
            begin = time.perf_counter()
            trainer.take_feed(feed)
            end = time.perf_counter()
            waited.append(begin - asked)
            steps.append(end - begin)
            asked = end
    return waited, steps


def make_trainer(folder: Path, options: argparse.Namespace) -> Trainer:
    """Make what trains on the prepared corpus."""
    import torch

    from spinn_tensor.training.loop import Task, Trainer
    from spinn_tensor.training.presets import run_config
    from spinn_tensor.training.run import make_model

    data = DataConfig(corpus="snli", data=str(folder / "store"))
    run = run_config("spinn-pi-2017", data).changed(
        encoder__hidden_dim=options.hidden, training__batch_size=options.batch
    )
    splits = load_splits(data, Skipped())
    torch.manual_seed(0)
    model = make_model(run, splits)
    return Trainer(Task(model, splits.vocabulary, splits.train, splits.dev), run, folder)


if __name__ == "__main__":
    harness.run(main)
