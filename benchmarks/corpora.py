"""Whether training ever waits for its data: a corpus of SNLI's size, from JSON lines to batches with their tables.

    python -m benchmarks.corpora            about ten minutes, and 1 GB in the folder for temporary files
    python -m benchmarks.corpora --quick    seconds, numbers without meaning

The corpus is made: the slice of SNLI at hand, repeated with names of its own (without the slice, generated pairs).

preparation    a process reads it into a store; what the parts of that take, one by one, and the plain way of reading
               a line at a time (json.loads, `parse_binary` and lists of numbers), on a part of the lines
feeding        batches with all their tables, made by one thread, against training steps on another (SPINN-PI, H = 300,
               batch norm and dropout as in the paper's preset); and which part of the time training waits, with
               batches made ahead and without
padding        of an epoch, in the shapes that are planned for captured CUDA graphs
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import harness
from benchmarks.data import add_snli, is_usual, snli_file
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.files import Skipped, open_text, parse_record
from spinn_tensor.data_prep.pairs import PairFormat
from spinn_tensor.data_prep.parse_chunks import parse_chunk
from spinn_tensor.data_prep.reading import BLOCK
from spinn_tensor.data_prep.words import WordList
from spinn_tensor.training.config import DataConfig

if TYPE_CHECKING:
    from spinn_tensor.training.loop import Trainer

KINDS = ("forest", "lanes")
QUICK = {
    "pairs": 2_000,
    "plain": 500,
    "steps": 4,
    "repeats": 1,
    "hidden": 16,
    "batch": 16,
    "tokens": 400,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    import torch

    options = _parse(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = make_corpus(folder, options.pairs, options.snli)
        preparation = [harness.in_a_process(prepare, folder) for _ in range(options.repeats)]
        result = {
            "source": source,
            "n_pairs": options.pairs,
            "file_bytes": (folder / "train.jsonl").stat().st_size,
            "preparation": preparation,
            "plain_pairs_per_s": [plain_rate(folder, options.plain) for _ in range(options.repeats)],
            "feeding": measure_feeding(folder, options),
            "padding": measure_padding(folder, options),
        }
    notes = [
        f"{options.pairs:,} pairs ({source}, repeated), {result['file_bytes'] / 1e6:,.0f} MB of JSON; "
        f"{options.repeats} rounds, medians; one thread, and one that feeds"
    ]
    tables = [
        _preparation_table(result),
        _feeding_table(result["feeding"]),
        _padding_table(result["padding"]),
    ]
    harness.publish(options, result, notes, tables)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = harness.argument_parser("corpora", __doc__)
    add = parser.add_argument
    add("--pairs", type=int, default=550_000, help="in the training file")
    add("--plain", type=int, default=20_000, help="of these, read the plain way")
    add("--batch", type=int, default=128, help="pairs of a batch")
    add("--tokens", type=int, default=3_000, help="of a batch, where batches have a budget instead")
    add("--hidden", type=int, default=300, help="H")
    add("--steps", type=int, default=40, help="training steps, and batches, that are timed")
    add("--repeats", type=int, default=3, help="rounds of the preparation")
    add_snli(parser, otherwise="generated pairs")
    return harness.parse(parser, arguments, "corpora", QUICK)


def make_corpus(folder: Path, n_pairs: int, snli: str = "auto") -> str:
    """Write train.jsonl with so many pairs, dev.jsonl with a few; return what they are made of."""
    if snli != "auto" or is_usual(snli):
        path, member = snli_file(snli)
        name = path.name
    else:
        from spinn_tensor.data_prep.logic import LogicConfig, write_corpus

        write_corpus(folder / "logic", LogicConfig(n_train=2_000, n_dev=10, n_test=10, n_long=10))
        path, member, name = folder / "logic" / "train.jsonl", None, "generated logic corpus"
    with open_text(path, member=member) as lines:
        records = [parse_record(line) for line in lines]
    for split, count in {"train": n_pairs, "dev": len(records)}.items():
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for number, record in zip(range(count), itertools.cycle(records), strict=False):
                file.write(json.dumps({**record, "pairID": f"{split} {number}"}) + "\n")
    return name


def prepare(folder: Path) -> dict[str, Any]:
    """Measure the seconds of the whole preparation, of loading what it wrote, and of its parts, one by one.

    For a process of its own.
    """
    from spinn_tensor.training.corpora import load_splits
    from spinn_tensor.training.preparation import prepare_store

    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)  # of the round before
    train, dev = (str(folder / f"{split}.jsonl") for split in ("train", "dev"))
    data = DataConfig(corpus="snli", train=(train,), dev=(dev,))
    start = time.perf_counter()
    manifest, _ = prepare_store(data, store, Skipped())
    whole = time.perf_counter() - start
    memory = harness.peak()
    again = harness.stopwatch(lambda: prepare_store(data, store, Skipped()))()
    load = harness.stopwatch(lambda: load_splits(DataConfig(corpus="snli", data=str(store)), Skipped()))()
    json_seconds, parse_seconds, n_parsed = _parts(folder / "train.jsonl")
    return {
        "seconds": whole,
        "json_seconds": json_seconds,
        "parse_seconds": parse_seconds,
        "pairs_parsed_per_s": n_parsed / parse_seconds,
        "again_seconds": again,
        "load_seconds": load,
        "peak_bytes": memory,
        "store_bytes": sum(path.stat().st_size for path in store.rglob("*") if path.is_file()),
        "examples": {name: counts["examples"] for name, counts in manifest["splits"].items()},
    }


def _parts(path: Path) -> tuple[float, float, int]:
    """Return the seconds of reading the lines and their JSON, of parse strings to columns, and the number of pairs."""
    line_format, words = PairFormat(), WordList()
    json_seconds = parse_seconds = 0.0
    n_parsed = 0
    with open_text(path) as lines:
        while True:
            start = time.perf_counter()
            block = list(itertools.islice(lines, BLOCK))
            if not block:
                return json_seconds, parse_seconds, n_parsed
            peeked = line_format.peek(block)
            json_seconds += time.perf_counter() - start
            assert peeked is not None, "the corpus is of good lines"
            start = time.perf_counter()
            for parses in peeked.parses:
                parse_chunk(parses, words)
            parse_seconds += time.perf_counter() - start
            n_parsed += len(peeked.labels)


def plain_rate(folder: Path, n_pairs: int) -> float:
    """Return the pairs/s, from parse strings to columns, of a pair at a time; the JSON is read before."""
    with open_text(folder / "train.jsonl") as lines:
        records = [parse_record(line) for line in itertools.islice(lines, n_pairs)]
    columns, words = PairFormat(), WordList()
    start = time.perf_counter()
    examples = [
        [columns.tree(record, name) for name in ("sentence1", "sentence2")]
        for record in records
        if record["gold_label"] != "-"
    ]
    for side in (0, 1):
        sentence_columns((trees[side] for trees in examples), words)
    return len(examples) / (time.perf_counter() - start)


def measure_feeding(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure batches/s of one thread that makes them, steps/s of training, and the part of the time that it waits."""
    trainer = make_trainer(folder, options)
    batches = trainer.batches(0)[: options.steps + 2]
    for rows in batches[:2]:
        trainer.take_step(rows)
    made, steps = [], []
    for number, rows in enumerate(batches[2:]):
        start = time.perf_counter()
        feed = trainer.feed((number, rows))
        made.append(time.perf_counter() - start)
        start = time.perf_counter()
        trainer.take_feed(feed)
        steps.append(time.perf_counter() - start)
    return {
        "model": f"SPINN-PI, H = {options.hidden}",
        "batch": options.batch,
        "ms_a_batch": 1e3 * statistics.median(made),
        "ms_a_step": 1e3 * statistics.median(steps),
        "times_as_fast": harness.ratio(steps, made),
        "waiting": {str(n_ahead): _waiting(trainer, batches[2:], n_ahead) for n_ahead in (0, 2)},
    }


def _waiting(trainer: Trainer, batches: Sequence[np.ndarray], n_ahead: int) -> float:
    """Return the part of the time of so many steps on end that training waits."""
    from spinn_tensor.training.feeding import made_ahead

    waited = 0.0
    start = asked = time.perf_counter()
    with closing(made_ahead(trainer.feed, enumerate(batches), n_ahead)) as feeds:
        for feed in feeds:
            waited += time.perf_counter() - asked
            trainer.take_feed(feed)
            asked = time.perf_counter()
    return waited / (time.perf_counter() - start)


def make_trainer(folder: Path, options: argparse.Namespace) -> Trainer:
    """Make what trains on the prepared corpus."""
    import torch

    from spinn_tensor.training.corpora import load_splits
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


def measure_padding(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the padding of an epoch that the shapes are not planned from."""
    from spinn_tensor.fixed_shapes import shape_use

    corpus = make_trainer(folder, options).task.train
    rows = []
    for kind, budget in itertools.product(KINDS, (0, options.tokens)):
        use = shape_use(corpus, kind, options.batch, seed=1, token_budget=budget)
        n_batches, n_tokens, n_slots, n_used, n_steps = (
            sum(column) for column in list(zip(*use, strict=True))[1:]
        )
        rows.append(
            {
                "tables": kind,
                "batches": f"{budget:,} words" if budget else f"{options.batch} pairs",
                "n_shapes": len(use),
                "n_batches": n_batches,
                "empty_leaf_rows": 1 - n_tokens / n_slots,
                "empty_steps": 1 - n_used / n_steps,
            }
        )
    return rows


def _preparation_table(result: dict[str, Any]) -> harness.Table:
    runs, plain = result["preparation"], result["plain_pairs_per_s"]
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0] if name != "examples"}
    longest, most = (max(run[name] for run in runs) for name in ("seconds", "peak_bytes"))
    faster = harness.ratio([run["pairs_parsed_per_s"] for run in runs], plain)
    rows = {
        "parse strings to columns, one process": f"{middle['pairs_parsed_per_s']:,.0f} pairs/s",
        "the same a pair at a time": f"{statistics.median(plain):,.0f} pairs/s",
        "times as fast": f"{faster:.1f}×",
        "from the file to the finished store": f"{middle['seconds']:.1f} s, longest {longest:.1f} s",
        "of that, lines and JSON": f"{middle['json_seconds']:.1f} s",
        "peak memory": f"{most / 1e6:,.0f} MB",
        "size of the store": f"{middle['store_bytes'] / 1e6:,.0f} MB",
        "a second time: nothing to do": f"{middle['again_seconds']:.2f} s",
        "from the store to columns and vocabulary": f"{middle['load_seconds']:.2f} s",
    }
    return harness.Table(["preparation", ""], list(rows.items()))


def _feeding_table(feeding: dict[str, Any]) -> harness.Table:
    rows = {
        "a batch with its tables": f"{feeding['ms_a_batch']:.1f} ms",
        "a training step": f"{feeding['ms_a_step']:.1f} ms",
        "batches are made": f"{feeding['times_as_fast']:.1f}× as fast as training takes them",
        "training waits, batches made when it asks": f"{feeding['waiting']['0']:.1%} of the time",
        "training waits, two batches made ahead": f"{feeding['waiting']['2']:.1%} of the time",
    }
    title = f"feeding: {feeding['model']}, {feeding['batch']} pairs a batch"
    return harness.Table([title, ""], list(rows.items()))


def _padding_table(rows: Sequence[dict[str, Any]]) -> harness.Table:
    names = ["tables", "batches of", "shapes", "batches laid into them", "empty leaf rows", "empty steps"]
    cells = [
        [
            row["tables"],
            row["batches"],
            str(row["n_shapes"]),
            f"{row['n_batches']:,}",
            f"{row['empty_leaf_rows']:.1%}",
            f"{row['empty_steps']:.1%}",
        ]
        for row in rows
    ]
    return harness.Table(names, cells, 2)


if __name__ == "__main__":
    harness.run(main)
