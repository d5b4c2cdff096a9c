"""Measure a parser in onnxruntime against the same in eager PyTorch, on the CPU, and what 8 bits cost in accuracy.

    python -m benchmarks.export             a few minutes
    python -m benchmarks.export --quick     seconds, numbers without meaning

Time: a SPINN that parses for itself (random weights, so that its trees are of all kinds), single sentences and pairs,
the words random. Eager is what a user calls: `make_batch` on columns and the model on the batch, without gradients;
beside it the same without making the batch. onnxruntime runs the files of `export_onnx` on padded ids. Every form runs
once a round, after a pause in which the threads of the one before fall asleep, and a run that is not timed, which wakes
its own; ratios are medians of those within a round.

Growth: the time at N = 80 to that at N = 20, over 4: 1 is linear.

Accuracy: a run of `spinn train --preset logic-spinn` of one epoch (--run; it is made if it is not there), each file on
the run's dev, test and longer sentences.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.data import random_corpus, random_trees
from benchmarks.harness import Option
from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model
from spinn_tensor.batch import make_batch
from spinn_tensor.data_prep.columns import select
from spinn_tensor.data_prep.corpora.splits import load_splits
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.export.interface import Candidate, describe
from spinn_tensor.export.onnx_file import export_onnx
from spinn_tensor.export.parity import TOLERANCES, compare, make_case, random_cases, require
from spinn_tensor.export.session import onnx_function
from spinn_tensor.inference import EVALUATION_BATCH, predict_logits
from spinn_tensor.model.classifiers import Model, load_checkpoint
from spinn_tensor.model.machine import StackMachine
from spinn_tensor.training.config import DataConfig, RunConfig
from spinn_tensor.training.presets import run_config
from spinn_tensor.training.run import execute, is_run

EAGER, MODEL_ALONE = "eager", "eager, batch made"
FORMS: dict[str, dict[str, Any]] = {  # of files: options of `describe`
    "float32": {"form": "onnx"},
    "folded": {"form": "onnx", "fold_leaves": True},
    "int8": {"form": "onnx-int8"},
    "float16": {"form": "onnx-fp16"},
}
TIMED = ["float32", "folded", "int8"]  # float16 is for GPUs: most CPUs have no products in it
NAMES = [EAGER, MODEL_ALONE, *TIMED]
N_WORDS = 10_000
SHORT, LONG = 20, 80  # words, of the growth
PAUSE = 0.25  # seconds, in which the threads of the form before stop spinning; OpenMP's do for 0.2
FIXED = ("batch", "length", "dim", "tracker", "threads", "repeats")
OPTIONS = {
    "batch": Option([1, 32, 128], [1, 4], "examples of a batch"),
    "length": Option(14, 14, "words of a sentence"),
    "dim": Option(300, 8, "hidden size"),
    "tracker": Option(64, 4, "tracker size"),
    "threads": Option([1, 2], [1, 2]),
    "repeats": Option(7, 1, "recorded rounds"),
    "run": Option(Path("runs/export"), Path("runs/export"), "folder of a run, or to train one in"),
    "limit": Option(0, 40, "only the first examples of every split of the run"),
    "pause": Option(PAUSE, 0.0, "seconds before each call"),
}
_parse = partial(harness.parse, "export", __doc__, options=OPTIONS, device="cpu", fixed=FIXED)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    import onnxruntime

    options = _parse(arguments)
    rows, growth = [], []
    with tempfile.TemporaryDirectory() as folder:
        for task in ("sentence", "pair"):
            model = _random_model(task, options)
            files = write_forms(model, Path(folder) / task, TIMED)
            for n_threads in options.threads:
                torch.set_num_threads(n_threads)
                sessions = {form: onnx_function(path, n_threads) for form, path in files.items()}
                name = {"task": task, "threads": n_threads}
                for n in options.batch:
                    case = _case(model, sessions, n, options.length, options.pause)
                    seconds = harness.interleaved([case], range(-2, options.repeats))
                    measured = harness.compare(seconds, EAGER)
                    rows.append({**name, "batch": n, "length": options.length, **measured})
                if task == "sentence" and n_threads == options.threads[0]:
                    growth += [name | _growth(model, sessions, n, options) for n in options.batch[:2]]
        torch.set_num_threads(1)
        accuracy = _accuracy(options, Path(folder))
    result = {
        "machine": {"onnxruntime": onnxruntime.__version__},
        "rows": rows,
        "growth": growth,
        "accuracy": accuracy,
    }
    notes = [
        f"H = {options.dim}, K = {options.tracker}, {N_WORDS:,} words, {options.repeats} rounds, onnxruntime "
        f"{onnxruntime.__version__}"
    ]
    harness.publish(options, result, notes, _tables(result))


def _random_model(task: str, options: argparse.Namespace) -> Model:
    torch.manual_seed(0)
    encoder = EncoderConfig(
        N_WORDS, "spinn", options.dim, hidden_dim=options.dim, tracker_dim=options.tracker
    )
    classifier = ClassifierConfig(3, mlp_dim=1024 if options.dim >= 300 else 16)
    model = build_model(ModelConfig(task, ("e", "n", "c"), encoder, classifier)).eval()
    machine = model.encoder.composer
    assert isinstance(machine, StackMachine)
    assert machine.transition is not None
    with torch.no_grad():
        machine.transition.weight.normal_(std=3)  # else it would shift, or reduce, whenever it can
    return model


def write_forms(model: Model, folder: Path, forms: Sequence[str]) -> dict[str, Path]:
    """Write a file of each form, and hold those of float32 against the model."""
    folder.mkdir(exist_ok=True)
    files = {}
    for form in forms:
        files[form] = folder / f"{form}.onnx"
        export_onnx(model, files[form], describe(model, **FORMS[form]))
        if FORMS[form]["form"] == "onnx":
            cases = random_cases(model, batch_sizes=(8,))
            require(compare(model, onnx_function(files[form], 1), cases), TOLERANCES["float32"])
    return files


def _case(
    model: Model, sessions: Mapping[str, Candidate], n: int, length: int, pause: float
) -> dict[str, Callable[[], float]]:
    """Return what times each form on one batch."""
    n_sides = 2 if model.config.task == "pair" else 1
    corpus = random_corpus(random_trees(np.full(n * n_sides, length)), N_WORDS, n_sides)
    inputs = make_case(model, corpus).inputs
    share = model.encoder.sharing("own")
    batch = make_batch(corpus, "own", share=share)
    runs: dict[str, Callable[[], object]] = {
        EAGER: lambda: model(make_batch(corpus, "own", share=share)),
        MODEL_ALONE: lambda: model(batch),
    }
    for form, session in sessions.items():
        runs[form] = lambda session=session: session(inputs)  # type: ignore[misc]

    def after_a_pause(timed: Callable[[], float]) -> Callable[[], float]:
        def run() -> float:
            time.sleep(pause)
            timed()
            return timed()

        return run

    return {name: after_a_pause(harness.stopwatch(torch.no_grad()(run))) for name, run in runs.items()}


def _growth(
    model: Model, sessions: Mapping[str, Candidate], n: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Return how much slower than linear the time of each form grows with the length."""
    cases = [_case(model, sessions, n, length, options.pause) for length in (SHORT, LONG)]
    short, long = harness.interleaved(cases, range(-1, options.repeats))
    growth = {name: harness.ratio(long[name], short[name]) * SHORT / LONG for name in NAMES}
    return {"batch": n, "growth": growth}


def _accuracy(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Return the accuracy in percent of eager and of each form on every split of the run."""
    run_folder = folder / "run" if options.quick else options.run
    if not is_run(run_folder):
        data = DataConfig(corpus="logic", limit=options.limit)
        execute(run_config("logic-spinn", data).changed(epochs=1), run_folder)
    checkpoint = load_checkpoint(run_folder)
    model = checkpoint.model
    splits = load_splits(RunConfig.from_dict(checkpoint.config.run).data, Skipped())
    files = write_forms(model, folder / "trained", list(FORMS))
    sessions = {form: onnx_function(path, 1) for form, path in files.items()}
    accuracies = {}
    for name, corpus in {"dev": splits.dev, **splits.others}.items():
        order = np.argsort(corpus.lengths_key, kind="stable")
        parts = np.split(order, range(EVALUATION_BATCH, len(order), EVALUATION_BATCH))
        cases = [make_case(model, select(corpus, rows)) for rows in parts]
        logits = {EAGER: predict_logits(model, corpus)[order]}
        for form, session in sessions.items():
            logits[form] = np.concatenate([session(case.inputs)["logits"] for case in cases])
        right = corpus.labels[order]
        accuracies[name] = {form: 100 * float(np.mean(x.argmax(1) == right)) for form, x in logits.items()}
    return accuracies


def _tables(result: dict[str, Any]) -> list[harness.Table]:
    sizes = {"": "{task}s", "threads": "{threads}", "batch": "{batch}", "N": "{length}"}
    growth = {
        "threads": "{threads}",
        "batch": "{batch}",
        **{name: f"{{growth[{name}]:.2f}}" for name in NAMES},
    }
    forms = {"split": "{split}", **{name: f"{{{name}:.2f}}" for name in (EAGER, *FORMS)}}
    accuracies = [{"split": split, **of_form} for split, of_form in result["accuracy"].items()]
    titles = [
        "Own transitions: ms a batch, and times eager",
        f"Growth from N = {SHORT} to {LONG}, sentences; 1 is linear",
        "Accuracy, % of the embedded corpus of logical inference",
    ]
    return [
        harness.Table({**sizes, **harness.compared(NAMES)}, result["rows"], 1, titles[0]),
        harness.Table(growth, result["growth"], 0, titles[1]),
        harness.Table(forms, accuracies, 1, titles[2]),
    ]


if __name__ == "__main__":
    harness.run(main)
