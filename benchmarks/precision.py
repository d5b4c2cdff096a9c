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
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from spinn_tensor.training.config import PRECISIONS, DataConfig
from spinn_tensor.training.generated import generate_corpus
from spinn_tensor.training.hardware import keep_freed_memory
from spinn_tensor.training.presets import run_config
from spinn_tensor.training.run import execute

NAME = "precision"  # of the results
SETTINGS = ("kinds", "precisions", "seeds", "epochs", "limit", "device")  # that results depend on
SPLITS = ("dev", "test", "long")
Accuracies = dict[str, dict[str, list[float]]]  # precision -> split -> of each seed


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    corpus = options.output / "corpus"
    generate_corpus("logic", corpus)
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.precision", *arguments]),
        "machine": harness.machine(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "seeds": options.seeds,
        "kinds": {},
    }
    for kind in options.kinds:
        result["kinds"][kind] = _train(kind, corpus, options)
    harness.publish(result, _markdown(result), options.out)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = harness.argument_parser("benchmarks.precision", __doc__)
    add = parser.add_argument
    add("--kinds", nargs="+", default=["spinn-pi-nt", "spinn-pi", "spinn"], help="of encoders")
    add("--precisions", nargs="+", choices=PRECISIONS, default=["float32", "bfloat16"])
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--epochs", type=int, help="default: the presets'")
    add("--limit", type=int, default=0, help="only the first examples of every split")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add(
        "--resume", action="store_true", help="go on with the runs in --output instead of beginning them anew"
    )
    add("--output", type=Path, default=Path("runs/precision"), help="folder of the corpus and of the runs")
    harness.add_out(parser, NAME)
    options = parser.parse_args(arguments)
    is_whole = all(getattr(options, name) == parser.get_default(name) for name in SETTINGS)
    options.out = harness.report_file(options.out, NAME, is_whole)
    return options


def _train(kind: str, corpus: Path, options: argparse.Namespace) -> Accuracies:
    """Accuracies of the best checkpoint of every run."""
    accuracies: Accuracies = {precision: {split: [] for split in SPLITS} for precision in options.precisions}
    data = DataConfig(corpus="logic", data=str(corpus), limit=options.limit)
    for seed in options.seeds:
        for precision in options.precisions:
            run = run_config(f"logic-{kind}", data).changed(seed=seed, precision=precision)
            if options.epochs is not None:
                run = run.changed(epochs=options.epochs)
            folder = options.output / f"{kind}-{precision}-{seed}"
            results = execute(
                run, folder, device=options.device, resume=options.resume, overwrite=not options.resume
            )
            for split in SPLITS:
                accuracies[precision][split].append(results.evaluations[split].criterion("accuracy"))
            print(f"{folder}: dev {accuracies[precision]['dev'][-1]:.2%}", flush=True)
    return accuracies


def _markdown(result: dict[str, Any]) -> str:
    machine, seeds = result["machine"], ", ".join(map(str, result["seeds"]))
    lines = [
        f"`{result['command']}`\n",
        f"- {machine['processor']}, one thread of {machine['cores']} cores, device {result['device']}, torch "
        f"{machine['torch']}, commit {machine['commit']}, {machine['date']}",
        f"- mean accuracy over seeds {seeds}, and in brackets the points to the first precision of the kind; "
        "range: of dev accuracy, over the seeds\n",
        f"| encoder | precision | {' | '.join(SPLITS)} | range |",
        f"| --- | --- | {' | '.join(['---:'] * len(SPLITS))} | ---: |",
    ]
    for kind, accuracies in result["kinds"].items():
        first = next(iter(accuracies.values()))
        for precision, splits in accuracies.items():
            cells = [_cell(splits[split], first[split], splits is first) for split in SPLITS]
            spread = 100 * (max(splits["dev"]) - min(splits["dev"]))
            lines.append(f"| {kind} | {precision} | {' | '.join(cells)} | {spread:.2f} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float], first: Sequence[float], is_first: bool) -> str:
    mean = statistics.mean(values)
    return f"{mean:.2%}" if is_first else f"{mean:.2%} ({100 * (mean - statistics.mean(first)):+.2f})"


if __name__ == "__main__":
    harness.run(main)
