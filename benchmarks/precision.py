"""What training in bfloat16 or TF32 costs in accuracy, on the embedded corpus of logical inference.

    python -m benchmarks.precision
    python -m benchmarks.precision --device cuda --precisions float32 tf32 bfloat16
    python -m benchmarks.precision --kinds spinn-pi --seeds 1 --epochs 1      a quick look

Each kind of encoder is trained by its preset (`logic-KIND`) from every seed in every precision, evaluated in float32.
The differences are in points of accuracy to the first precision, averaged over the seeds; how far two seeds of the
first are apart says how much of a difference is chance.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from benchmarks.harness import Option
from spinn_tensor.data_prep.corpora.generated import generate_corpus
from spinn_tensor.training.config import PRECISIONS, DataConfig
from spinn_tensor.training.hardware import keep_freed_memory
from spinn_tensor.training.presets import run_config
from spinn_tensor.training.run import execute

OPTIONS = {
    "kinds": Option(["spinn-pi-nt", "spinn-pi", "spinn"], ["bow"], "of encoders"),
    "precisions": Option(
        ["float32", "bfloat16"], ["float32", "bfloat16"], "the first is compared with", PRECISIONS
    ),
    "seeds": Option([1, 2, 3], [1, 2]),
    "epochs": Option(0, 1, "0: as many as the presets say"),
    "limit": Option(0, 0, "only the first examples of every split"),
    "device": Option("cpu", "cpu", choices=("cpu", "cuda")),
    "resume": Option(False, False, "go on with the runs in --output, instead of anew"),
    "output": Option(Path("runs/precision"), Path("runs/precision"), "folder of the corpus and of the runs"),
}
SETTINGS = ("kinds", "precisions", "seeds", "epochs", "limit", "device")  # that results depend on
SPLITS = ("dev", "test", "long")

Accuracies = dict[str, dict[str, list[float]]]  # precision -> split -> of each seed


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    corpus = options.output / "corpus"
    generate_corpus("logic", corpus)
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    kinds = {kind: train(kind, corpus, options) for kind in options.kinds}
    notes = [
        f"device {device}; mean accuracy over seeds {', '.join(map(str, options.seeds))}, and in brackets the points "
        "to the first precision of the kind; range: of dev accuracy, over the seeds"
    ]
    rows = [_row(kind, precision, kinds[kind]) for kind in kinds for precision in options.precisions]
    columns = {"encoder": "{kind}", "precision": "{precision}", **{split: f"{{{split}}}" for split in SPLITS}}
    table = harness.Table({**columns, "range": "{range:.2f}"}, rows, 2)
    harness.publish(options, {"device": device, "kinds": kinds}, notes, [table])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    return harness.parse("precision", __doc__, arguments, OPTIONS, fixed=SETTINGS)


def train(kind: str, corpus: Path, options: argparse.Namespace) -> Accuracies:
    """Train one kind of encoder in every precision, and return the accuracies of the best checkpoint of every run."""
    accuracies: Accuracies = {precision: {split: [] for split in SPLITS} for precision in options.precisions}
    data = DataConfig(corpus="logic", data=str(corpus), limit=options.limit)
    for seed in options.seeds:
        for precision in options.precisions:
            run = run_config(f"logic-{kind}", data).changed(seed=seed, precision=precision)
            if options.epochs:
                run = run.changed(epochs=options.epochs)
            folder = options.output / f"{kind}-{precision}-{seed}"
            results = execute(
                run, folder, device=options.device, resume=options.resume, overwrite=not options.resume
            )
            for split in SPLITS:
                accuracies[precision][split].append(results.evaluations[split].criterion("accuracy"))
            harness.say(f"{folder}: dev {accuracies[precision]['dev'][-1]:.2%}")
    return accuracies


def _row(kind: str, precision: str, accuracies: Accuracies) -> dict[str, Any]:
    splits, first = accuracies[precision], next(iter(accuracies.values()))
    means = {split: statistics.mean(values) for split, values in splits.items()}
    points = {split: 100 * (mean - statistics.mean(first[split])) for split, mean in means.items()}
    cells = {
        split: f"{mean:.2%}" if splits is first else f"{mean:.2%} ({points[split]:+.2f})"
        for split, mean in means.items()
    }
    spread = 100 * (max(splits["dev"]) - min(splits["dev"]))
    return {"kind": kind, "precision": precision, **cells, "range": spread}


if __name__ == "__main__":
    harness.run(main)
