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
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import PROJECT, peak
from benchmarks.sentences import add_snli, is_usual, snli_file
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.files import Skipped, open_text, parse_record
from spinn_tensor.data_prep.pairs import PairFormat
from spinn_tensor.data_prep.parse_chunks import parse_chunk
from spinn_tensor.data_prep.reading import BLOCK
from spinn_tensor.data_prep.words import WordList
from spinn_tensor.training.config import DataConfig

LIMIT_RATE, LIMIT_SECONDS, LIMIT_BYTES = 25_000, 60, 2_500_000_000
KINDS = ("forest", "lanes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, or the preparation alone, from the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    if options.prepare is not None:
        print(json.dumps(prepare_here(options.prepare)))
        return
    import torch

    from benchmarks import harness

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = make_corpus(folder, options.pairs, options.snli)
        preparation = [_prepare_in_a_process(folder) for _ in range(options.repeats)]
        result = {
            "command": shlex.join(["python", "-m", "benchmarks.corpora", *arguments]),
            "machine": harness.machine(),
            "source": source,
            "n_pairs": options.pairs,
            "file_bytes": (folder / "train.jsonl").stat().st_size,
            "preparation": preparation,
            "plain_pairs_per_s": [plain_rate(folder, options.plain) for _ in range(options.repeats)],
            "feeding": measure_feeding(folder, options),
            "padding": measure_padding(folder, options),
        }
    out = harness.report_file(options.out, "corpora", not options.quick and is_usual(options.snli))
    harness.publish(result, _markdown(result), out)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.corpora",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--pairs", type=int, default=550_000, help="in the training file")
    add("--plain", type=int, default=20_000, help="of these, read the plain way")
    add("--batch", type=int, default=128, help="pairs of a batch")
    add("--tokens", type=int, default=3_000, help="of a batch, where batches have a budget instead")
    add("--hidden", type=int, default=300, help="H")
    add("--steps", type=int, default=40, help="training steps, and batches, that are timed")
    add("--repeats", type=int, default=3, help="rounds of the preparation")
    add_snli(parser, otherwise="generated pairs")
    add(
        "--out",
        type=Path,
        help="JSON, its .md beside (default: benchmarks/results/corpora.json; not with --quick)",
    )
    add("--quick", action="store_true", help="tiny sizes and one round: does it run?")
    add("--prepare", type=Path, help="prepare the corpus in this folder and print what was measured")
    options = parser.parse_args(arguments)
    if options.quick:
        options.pairs, options.plain, options.steps, options.repeats = 2_000, 500, 4, 1
        options.hidden, options.batch, options.tokens = 16, 16, 400
    return options


def make_corpus(folder: Path, n_pairs: int, snli: str = "auto") -> str:
    """train.jsonl with so many pairs, dev.jsonl with a few; returns what they are made of."""
    if snli != "auto" or is_usual(snli):
        path, member = snli_file(snli)
        with open_text(path, member=member) as lines:
            records = [parse_record(line) for line in lines]
        name = path.name
    else:
        from spinn_tensor.data_prep.logic import LogicConfig, write_corpus

        write_corpus(folder / "logic", LogicConfig(n_train=2_000, n_dev=10, n_test=10, n_long=10))
        with open_text(folder / "logic" / "train.jsonl") as lines:
            records = [parse_record(line) for line in lines]
        name = "generated logic corpus"
    for split, count in {"train": n_pairs, "dev": len(records)}.items():
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for number, record in zip(range(count), itertools.cycle(records), strict=False):
                file.write(json.dumps({**record, "pairID": f"{split} {number}"}) + "\n")
    return name


def data_config(folder: Path) -> DataConfig:
    """The corpus in the folder."""
    train, dev = (str(folder / f"{split}.jsonl") for split in ("train", "dev"))
    return DataConfig(corpus="snli", train=(train,), dev=(dev,))


def prepare_here(folder: Path) -> dict[str, Any]:
    """Seconds of the whole preparation, of loading what it wrote, and of its parts, measured apart."""
    from spinn_tensor.training.corpora import load_splits
    from spinn_tensor.training.preparation import prepare_store

    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)  # of the round before
    start = time.perf_counter()
    manifest, _ = prepare_store(data_config(folder), store, Skipped())
    whole = time.perf_counter() - start
    memory = peak()
    start = time.perf_counter()
    prepare_store(data_config(folder), store, Skipped())
    again = time.perf_counter() - start
    start = time.perf_counter()
    load_splits(DataConfig(corpus="snli", data=str(store)), Skipped())
    load = time.perf_counter() - start
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
    """Seconds of reading the lines and their JSON, of parse strings to columns, and the number of pairs."""
    line_format, words = PairFormat(), WordList()
    json_seconds = parse_seconds = 0.0
    n_parsed = 0
    with open_text(path) as lines:
        while True:
            start = time.perf_counter()
            block = list(islice(lines, BLOCK))
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
    """Pairs/s, from parse strings to columns, a pair at a time; the JSON is read before."""
    with open_text(folder / "train.jsonl") as lines:
        records = [parse_record(line) for line in islice(lines, n_pairs)]
    columns, words = PairFormat(), WordList()
    start = time.perf_counter()
    examples = []
    for record in records:
        if record["gold_label"] != "-":
            trees = [columns.tree(record, name) for name in ("sentence1", "sentence2")]
            examples.append((trees, record["gold_label"]))
    for side in (0, 1):
        sentence_columns((trees[side] for trees, _ in examples), words)
    return len(examples) / (time.perf_counter() - start)


def _prepare_in_a_process(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.corpora", "--prepare", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def measure_feeding(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Batches/s of one thread that makes them, steps/s of training, and the part of the time that training waits."""
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
    waiting = {str(n): _waiting(trainer, batches[2:], n) for n in (0, 2)}
    return {
        "model": f"SPINN-PI, H = {options.hidden}",
        "batch": options.batch,
        "ms_a_batch": 1e3 * statistics.median(made),
        "ms_a_step": 1e3 * statistics.median(steps),
        "times_as_fast": statistics.median(step / batch for step, batch in zip(steps, made, strict=True)),
        "waiting": waiting,
    }


def _waiting(trainer: Any, batches: Sequence[np.ndarray], n_ahead: int) -> float:
    """The part of the time of so many steps on end."""
    from spinn_tensor.training.feeding import made_ahead

    waited = 0.0
    start = asked = time.perf_counter()
    with closing(made_ahead(trainer.feed, enumerate(batches), n_ahead)) as feeds:
        for feed in feeds:
            waited += time.perf_counter() - asked
            trainer.take_feed(feed)
            asked = time.perf_counter()
    return waited / (time.perf_counter() - start)


def make_trainer(folder: Path, options: argparse.Namespace) -> Any:
    """What trains on the prepared corpus."""
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
    """Of an epoch that the shapes are not planned from."""
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


def _markdown(result: dict[str, Any]) -> str:
    machine, runs = result["machine"], result["preparation"]
    plain, feeding = result["plain_pairs_per_s"], result["feeding"]
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0] if name != "examples"}
    faster = statistics.median(
        run["pairs_parsed_per_s"] / rate for run, rate in zip(runs, plain, strict=True)
    )
    longest, most = (max(run[name] for run in runs) for name in ("seconds", "peak_bytes"))
    lines = [
        f"`{result['command']}`\n",
        f"- {machine['processor']}, {machine['cores']} cores, one thread and one that feeds, torch {machine['torch']}, "
        f"commit {machine['commit']}, {machine['date']}, load {machine['load_average']}",
        f"- {result['n_pairs']:,} pairs ({result['source']}, repeated), {result['file_bytes'] / 1e6:,.0f} MB of JSON; "
        f"{len(runs)} rounds, medians\n",
        "| preparation | |",
        "| --- | ---: |",
        f"| parse strings to columns, one process | {middle['pairs_parsed_per_s']:,.0f} pairs/s |",
        f"| the same a pair at a time | {statistics.median(plain):,.0f} pairs/s |",
        f"| times as fast | {faster:.1f}× |",
        f"| from the file to the finished store | {middle['seconds']:.1f} s, longest {longest:.1f} s |",
        f"| of that, lines and JSON | {middle['json_seconds']:.1f} s |",
        f"| peak memory | {most / 1e6:,.0f} MB |",
        f"| size of the store | {middle['store_bytes'] / 1e6:,.0f} MB |",
        f"| a second time: nothing to do | {middle['again_seconds']:.2f} s |",
        f"| from the store to columns and vocabulary | {middle['load_seconds']:.2f} s |",
        "",
        f"| feeding: {feeding['model']}, {feeding['batch']} pairs a batch | |",
        "| --- | ---: |",
        f"| a batch with its tables | {feeding['ms_a_batch']:.1f} ms |",
        f"| a training step | {feeding['ms_a_step']:.1f} ms |",
        f"| batches are made | {feeding['times_as_fast']:.1f}× as fast as training takes them |",
        f"| training waits, batches made when it asks | {feeding['waiting']['0']:.1%} of the time |",
        f"| training waits, two batches made ahead | {feeding['waiting']['2']:.1%} of the time |",
        "",
        "| tables | batches of | shapes | batches laid into them | empty leaf rows | empty steps |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in result["padding"]:
        lines.append(
            f"| {row['tables']} | {row['batches']} | {row['n_shapes']} | {row['n_batches']:,} "
            f"| {row['empty_leaf_rows']:.1%} | {row['empty_steps']:.1%} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    from benchmarks.harness import run

    run(main)
