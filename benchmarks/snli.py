"""Measure what trees bring on SNLI from few pairs: SPINNs, LSTMs and a sum of words under the same classifier.

    python -m benchmarks.snli                       goes on where it stopped; runs that are done are not done again
    python -m benchmarks.snli --minutes 30          begins no run after so many, and reports what there is
    python -m benchmarks.snli --ship spinn_tensor/pretrained/nli
                                                    makes the NLI model that comes with the package, too: SPINN of the
                                                    first seed on the whole corpus

The corpus is 20,000 pairs to train on and 9,842 of SNLI's dev set, raw text: the package's parser makes the trees that
SPINN-PI-NT and SPINN-PI compose by and SPINN learns to make. All read the same fixed word vectors and have the same
width, MLP, batches and schedule. A smaller corpus is the first pairs of the large one, and has one seed. The dev set
chooses the epoch and is what is reported, so that each score is the best of a few.
"""

from __future__ import annotations

import argparse
import gzip
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.data import SNLI_SLICE, TRAINING_PAIRS
from benchmarks.harness import Option
from benchmarks.ship import ship
from spinn_tensor.data_prep.corpora.preparation import prepare_store
from spinn_tensor.data_prep.corpora.text_trees import TextTrees
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped, atomic_write, read_json_object
from spinn_tensor.data_prep.text import PACKAGED
from spinn_tensor.parsers import Parser
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.presets import run_config
from spinn_tensor.training.run import RESULTS, execute

FOLDER = SNLI_SLICE.parent
DEV = "pairs_dev_9842.jsonl.gz"
VECTORS = FOLDER.parent / "vectors" / "wordllama_256.txt.gz"
KINDS = {
    "spinn": "SPINN",
    "spinn-pi": "SPINN-PI",
    "spinn-pi-nt": "SPINN-PI-NT",
    "bilstm": "BiLSTM",
    "lstm": "LSTM",
    "bow": "sum of words",
}
OPTIONS = {
    "sizes": Option([20_000, 10_000, 5_000, 2_500], [80, 40], "pairs to train on; the first has all seeds"),
    "seeds": Option([1, 2, 3], [1, 2]),
    "kinds": Option(list(KINDS), ["bow", "spinn"], choices=list(KINDS)),
    "data": Option(FOLDER, FOLDER, f"folder with {', '.join((*TRAINING_PAIRS, DEV))}"),
    "vectors": Option(VECTORS, VECTORS),
    "minutes": Option(0.0, 0.0, "begin no run after so many; 0 = do all"),
    "output": Option(Path("runs/snli"), Path("runs/snli"), "folder of the corpora and of the runs"),
    "ship": Option(None, None, "write SPINN of the first seed on the first size into this folder"),
}
EPOCHS = 3  # of 20,000 pairs; fewer come more often
SETTINGS = {
    "encoder__embedding_dim": 256,
    "encoder__hidden_dim": 128,
    "encoder__tracker_dim": 32,
    # with dropout the difference of two encodings is larger than afterwards, see docs/decisions.md
    "encoder__embedding_dropout": 0.0,
    "classifier__mlp_dim": 256,
    "classifier__mlp_layers": 1,
    "classifier__mlp_dropout": 0.1,
    "training__optimizer": "adamw",
    "training__learning_rate": 1e-3,
    "training__weight_decay": 0.1,
    "training__label_smoothing": 0.1,
    "training__lr_schedule": "cosine",
    "training__lr_warmup": 0.05,
    "training__evaluate_every": 0,
    "parsing__transition_weight": 1.0,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    start = time.monotonic()
    options = _parse(arguments)
    end = start + 60 * options.minutes if options.minutes else math.inf
    harness.as_in_training()
    epochs, parser = {str(size): _epochs(size) for size in options.sizes}, Parser(PACKAGED).sha256
    settings = {**SETTINGS, "epochs": epochs, "parser": parser}
    options.output /= parser[:8]  # another parser's trees are another corpus
    rows: dict[str, dict[str, Any]] = {}  # of earlier runs, whose folders may be gone
    if options.out is not None and options.out.exists():
        before = read_json_object(options.out)
        rows = before["runs"] if before["settings"] == settings else {}
    wanted = {
        f"{kind}-{size}-{seed}": (kind, size, seed)
        for seed in options.seeds
        for size in (options.sizes if seed == options.seeds[0] else options.sizes[:1])
        for kind in options.kinds
    }
    for name, (kind, size, seed) in wanted.items():
        folder = options.output / name
        if name not in rows and ((folder / RESULTS).exists() or time.monotonic() < end):
            rows[name] = {"kind": kind, "size": size, **_train(options, kind, size, seed, folder)}
    if not rows:
        raise DataError("no run is done yet; give --minutes more", path=options.output)
    n_missing = len(wanted.keys() - rows.keys())
    _publish(options, {"settings": settings, "missing": n_missing, "runs": rows})
    if options.ship is not None:
        ship(options.output / f"spinn-{options.sizes[0]}-{options.seeds[0]}", options.ship)


def _publish(options: argparse.Namespace, result: dict[str, Any]) -> None:
    whole, *fewer = options.sizes
    notes = [
        f"the first pairs of {' and '.join(TRAINING_PAIRS)}, trees by the package's parser "
        f"({result['settings']['parser'][:8]}); vectors {options.vectors.name}, "
        f"fixed; accuracy on {DEV}, which chooses the epoch",
        f"{whole:,} pairs: mean of the seeds shown; fewer: seed {options.seeds[0]}; F1: of a SPINN's own trees against "
        "those of the parser, which taught it; minutes: of a run on the whole, by the clock, beside whatever else ran",
    ]
    if result["missing"]:
        notes.append(
            f"**{result['missing']} runs are still to be done**; `python -m benchmarks.snli` goes on with them"
        )
    columns = {
        "encoder": "{name}",
        "parameters": "{n_parameters:,}",
        **{f"{size:,} pairs": f"{{dev[{size}]:.1%}}" for size in (*reversed(fewer), whole)},
        "each seed": "{seeds}",
        "F1": "{f1:.1%}",
        "minutes": "{minutes:.1f}",
    }
    rows = [_row(whole, result["runs"].values(), kind) for kind in options.kinds]
    harness.publish(options, result, notes, [harness.Table(columns, [row for row in rows if row])])
    if options.out is not None:
        _draw(options.sizes, [row for row in rows if row], options.out.with_suffix(".svg"))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    fixed = ("sizes", "seeds", "kinds", "data", "vectors")
    options = harness.parse("snli", __doc__, arguments, OPTIONS, fixed=fixed)
    for path in (*(options.data / name for name in (*TRAINING_PAIRS, DEV)), options.vectors):
        if not path.exists():
            raise DataError("no such file", path=path)
    return options


def _epochs(size: int) -> int:
    """Return how often all pairs come: fewer pairs more often."""
    return round(EPOCHS * max(1.0, 20_000 / size) ** 0.5)


def _train(options: argparse.Namespace, kind: str, size: int, seed: int, folder: Path) -> dict[str, Any]:
    """Return what a run found, which is begun, or gone on with, where it is not done."""
    if not (folder / RESULTS).exists():
        harness.say(folder.name)
        data = DataConfig(corpus="snli", data=str(_corpus(options, size)), vectors=str(options.vectors))
        run = run_config("spinn-pi-2017", data).changed(**SETTINGS, encoder__kind=kind, training__seed=seed)
        execute(run.changed(training__epochs=_epochs(size)), folder, resume=True)
    results = read_json_object(folder / RESULTS)
    dev = results["splits"]["dev"]
    found = {"dev": dev["accuracy"], "n_parameters": results["n_parameters"], "seconds": results["seconds"]}
    return found if kind != "spinn" else {**found, "f1": dev["parse"]["gold"]["sentence_f1"]}


def _corpus(options: argparse.Namespace, size: int) -> Path:
    """Return the store of the first pairs and of dev, whose trees are made once."""
    options.output.mkdir(parents=True, exist_ok=True)
    pairs = options.output / f"pairs-{size}.jsonl"
    if not pairs.exists():
        whole = b"".join(gzip.decompress((options.data / name).read_bytes()) for name in TRAINING_PAIRS)
        with atomic_write(pairs) as file:
            file.writelines(whole.decode().splitlines(keepends=True)[:size])
    data = DataConfig(corpus="snli", train=(str(pairs),), dev=(str(options.data / DEV),), parser=PACKAGED)
    folder = options.output / f"corpus-{size}"
    prepare_store(data, folder, Skipped(), trees=TextTrees(Parser(PACKAGED), of_all=True))
    return folder


def _row(whole: int, rows: Iterable[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """Return an encoder's line of the table; None where no run of it is done."""
    by_size: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row["kind"] == kind:
            by_size.setdefault(row["size"], []).append(row)
    if not by_size:
        return None
    runs = by_size.get(whole, [])
    return {
        "name": KINDS[kind],
        "n_parameters": next(iter(by_size.values()))[0]["n_parameters"],
        "dev": {size: statistics.mean(run["dev"] for run in some) for size, some in by_size.items()},
        "seeds": ", ".join(f"{run['dev']:.1%}" for run in runs),
        "f1": statistics.mean(run["f1"] for run in runs) if kind == "spinn" and runs else None,
        "minutes": statistics.mean(run["seconds"] for run in runs) / 60 if runs else None,
    }


def _draw(sizes: Sequence[int], rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the learning curves, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        known = sorted((size, 100 * dev) for size, dev in row["dev"].items())
        axes.plot(*zip(*known, strict=True), marker="o", label=row["name"])
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xlabel("pairs to train on")
    axes.set_ylabel("accuracy on dev, %")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    harness.run(main)
