"""A parser in onnxruntime against the same parser in eager PyTorch, on the CPU, and what 8 bits cost in accuracy.

    python -m benchmarks.export             a few minutes
    python -m benchmarks.export --quick     seconds, numbers without meaning

Time: a SPINN that parses for itself (random weights, so that its trees are of all kinds), single sentences and pairs,
the words random. Eager is what a user calls: `make_batch` on columns and the model on the
batch, without gradients; beside it the same without making the batch. onnxruntime runs the files of `export_onnx` on
padded ids. Every form runs once a round, after a pause in which the threads of the one before fall asleep, and a run
that is not timed, which wakes its own; ratios are medians of those within a round.

Growth: the time at N = 80 to that at N = 20, over 4: 1 is linear.

Accuracy: a run of `spinn train --preset logic-spinn` of one epoch (--run; it is made if it is not there), each file on
the run's dev, test and longer sentences.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model
from spinn_tensor.batch import make_batch
from spinn_tensor.data_prep.branching import branching_transitions
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns, select
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.export.interface import Candidate
from spinn_tensor.export.onnx_file import export_onnx
from spinn_tensor.export.parity import TOLERANCES, Case, compare, make_case, random_cases, require
from spinn_tensor.export.session import onnx_function
from spinn_tensor.model.classifiers import Model, load_checkpoint
from spinn_tensor.model.encoder import ParsingMachine
from spinn_tensor.training.config import DataConfig, RunConfig
from spinn_tensor.training.corpora import load_splits
from spinn_tensor.training.presets import run_config
from spinn_tensor.training.run import execute, is_run

NAME = "export_cpu"  # of the results
EAGER, MODEL_ALONE = "eager", "eager, batch made"
FORMS: dict[str, dict[str, Any]] = {  # of files: options of `export_onnx`
    "float32": {"precision": "float32"},
    "folded": {"precision": "float32", "fold_leaves": True},
    "int8": {"precision": "int8"},
    "float16": {"precision": "float16"},
}
TIMED = ["float32", "folded", "int8"]  # float16 is for GPUs: most CPUs have no products in it
NAMES = [EAGER, MODEL_ALONE, *TIMED]
N_WORDS = 10_000
SHORT, LONG = 20, 80  # words, of the growth
PAUSE = 0.25  # seconds, in which the threads of the form before stop spinning; OpenMP's do for 0.2
EVALUATION_BATCH = 128


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    import onnxruntime

    machine = harness.machine() | {"onnxruntime": onnxruntime.__version__}
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.export", *arguments]),
        "machine": machine,
        "sizes": {"H": options.dim, "K": options.tracker, "words": N_WORDS},
        "repeats": options.repeats,
        "rows": [],
        "growth": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for task in ("sentence", "pair"):
            model = _random_model(task, options)
            files = _write(model, Path(folder) / task, TIMED)
            for n_threads in options.threads:
                torch.set_num_threads(n_threads)
                sessions = {form: onnx_function(path, n_threads) for form, path in files.items()}
                measure = _Measure(model, sessions, options.repeats)
                result["rows"] += [
                    {"task": task, "threads": n_threads, **measure.row(n, options.length)}
                    for n in options.batch
                ]
                if task == "sentence" and n_threads == options.threads[0]:
                    result["growth"] += [
                        {"threads": n_threads, **measure.growth(n)} for n in options.batch[:2]
                    ]
        torch.set_num_threads(1)
        result["accuracy"] = _accuracy(options, Path(folder))
    harness.publish(result, _markdown(result), options.out)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = harness.argument_parser("benchmarks.export", __doc__)
    add = parser.add_argument
    add("--batch", type=int, nargs="+", default=[1, 32, 128], help="examples of a batch")
    add("--length", type=int, default=14, help="words of a sentence")
    add("--dim", type=int, default=300, help="hidden size")
    add("--tracker", type=int, default=64, help="tracker size")
    add("--threads", type=int, nargs="+", default=[1, 2])
    add("--repeats", type=int, default=7, help="recorded rounds")
    add("--run", type=Path, default=Path("runs/export"), help="folder of a run, or to train one in")
    harness.add_out(parser, NAME)
    add("--quick", action="store_true", help="tiny sizes and one round: does it run?")
    options = parser.parse_args(arguments)
    is_whole = not options.quick and all(
        getattr(options, name) == parser.get_default(name)
        for name in ("batch", "length", "dim", "tracker", "threads", "repeats")
    )
    options.out = harness.report_file(options.out, NAME, is_whole)
    options.limit = 0
    if options.quick:
        options.batch, options.dim, options.tracker, options.repeats, options.limit = [1, 4], 8, 4, 1, 40
    return options


def _random_model(task: str, options: argparse.Namespace) -> Model:
    torch.manual_seed(0)
    encoder = EncoderConfig(
        N_WORDS, "spinn", options.dim, hidden_dim=options.dim, tracker_dim=options.tracker
    )
    classifier = ClassifierConfig(3, mlp_dim=1024 if options.dim >= 300 else 16)
    model = build_model(ModelConfig(task, ("e", "n", "c"), encoder, classifier)).eval()
    machine = model.encoder.composer
    assert isinstance(machine, ParsingMachine)
    with torch.no_grad():
        machine.transition.weight.normal_(std=3)  # else it would shift, or reduce, whenever it can
    return model


def _write(model: Model, folder: Path, forms: Sequence[str]) -> dict[str, Path]:
    """A file of each form, those of float32 held against the model."""
    folder.mkdir(exist_ok=True)
    files = {}
    for form in forms:
        options = FORMS[form]
        files[form] = folder / f"{form}.onnx"
        export_onnx(model, files[form], vocabulary_sha256="", max_length=0, **options)
        if options["precision"] == "float32":
            cases = random_cases(model, batch_sizes=(8,))
            require(compare(model, onnx_function(files[form], 1), cases), TOLERANCES["float32"])
    return files


def _columns(model: Model, n: int, length: int) -> Corpus:
    """Random words in n sentences, or twice as many."""
    rng = np.random.default_rng(0)
    n_tokens = np.full(n, length)
    offsets = np.concatenate(([0], np.cumsum(n_tokens)))

    def side() -> SentenceColumns:
        ids = rng.integers(2, N_WORDS, n * length).astype(np.int32)
        return SentenceColumns(ids, offsets, branching_transitions(n_tokens, "right"), None)

    labels = np.zeros(n, dtype=np.int64)
    if model.config.task == "pair":
        return Corpus.of_pairs(side(), side(), labels)
    return Corpus(side(), labels)


class _Measure:
    """Times of one model in all forms."""

    def __init__(self, model: Model, sessions: dict[str, Candidate], repeats: int) -> None:
        self.model, self.sessions, self.repeats = model, sessions, repeats

    def row(self, n: int, length: int) -> dict[str, Any]:
        """Milliseconds of a batch, and ratios to eager within each round, both as medians."""
        (seconds,) = harness.interleaved([self._case(n, length)], range(-2, self.repeats))
        return {
            "batch": n,
            "length": length,
            "milliseconds": {name: statistics.median(seconds[name]) * 1e3 for name in NAMES},
            "ratio": {name: harness.ratio(seconds[name], seconds[EAGER]) for name in NAMES},
        }

    def growth(self, n: int) -> dict[str, Any]:
        """How much slower than linear the time grows with the length."""
        cases = [self._case(n, length) for length in (SHORT, LONG)]
        short, long = harness.interleaved(cases, range(-1, self.repeats))
        linear = LONG / SHORT
        return {
            "batch": n,
            "growth": {name: harness.ratio(long[name], short[name]) / linear for name in NAMES},
        }

    def _case(self, n: int, length: int) -> dict[str, Callable[[], float]]:
        model, columns = self.model, _columns(self.model, n, length)
        inputs = make_case(model, columns).inputs
        share = model.encoder.sharing("own")
        batch = make_batch(columns, "own", share=share)
        runs: dict[str, Callable[[], object]] = {
            EAGER: lambda: model(make_batch(columns, "own", share=share)),
            MODEL_ALONE: lambda: model(batch),
        }
        for form, session in self.sessions.items():
            runs[form] = lambda session=session: session(inputs)  # type: ignore[misc]
        return {name: _after_a_pause(harness.stopwatch(torch.no_grad()(run))) for name, run in runs.items()}


def _after_a_pause(timed: Callable[[], float]) -> Callable[[], float]:
    def run() -> float:
        time.sleep(PAUSE)
        timed()
        return timed()

    return run


def _accuracy(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Accuracy in percent of eager and of each form on every split of the run."""
    run_folder = folder / "run" if options.quick else options.run
    if not is_run(run_folder):
        data = DataConfig(corpus="logic", limit=options.limit)
        config = run_config("logic-spinn", data).changed(epochs=1)
        execute(config, run_folder)
    checkpoint = load_checkpoint(run_folder)
    splits = load_splits(RunConfig.from_dict(checkpoint.config.run).data, Skipped())
    files = _write(checkpoint.model, folder / "trained", list(FORMS))
    sessions = {form: onnx_function(path, 1) for form, path in files.items()}
    accuracies = {}
    for name, corpus in {"dev": splits.dev, **splits.others}.items():
        cases = [
            make_case(checkpoint.model, select(corpus, rows))
            for rows in np.split(
                np.argsort(corpus.lengths_key, kind="stable"),
                range(EVALUATION_BATCH, len(corpus.labels), EVALUATION_BATCH),
            )
        ]
        accuracies[name] = {EAGER: _score(cases, lambda case: _eager_logits(checkpoint.model, case))} | {
            form: _score(cases, lambda case, run=session: run(case.inputs)["logits"])  # type: ignore[misc]
            for form, session in sessions.items()
        }
    return accuracies


def _eager_logits(model: Model, case: Case) -> np.ndarray:
    with torch.no_grad():
        return model(make_batch(case.columns, "own")).numpy()


def _score(cases: list[Case], logits_of: Callable[[Case], np.ndarray]) -> float:
    n_right = sum(int((logits_of(case).argmax(1) == case.columns.labels).sum()) for case in cases)
    return 100 * n_right / sum(len(case.columns.labels) for case in cases)


def _markdown(result: dict[str, Any]) -> str:
    machine, sizes = result["machine"], result["sizes"]
    lines = [
        f"`{result['command']}`\n",
        f"- {machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, onnxruntime "
        f"{machine['onnxruntime']}, commit {machine['commit']}, {machine['date']}, load {machine['load_average']}",
        f"- H = {sizes['H']}, K = {sizes['K']}, {sizes['words']:,} words, {result['repeats']} rounds\n",
        "**Own transitions**: ms a batch, and times eager\n",
        "| | threads | batch | N | " + " | ".join(NAMES) + " |",
        "| --- | ---: | ---: | ---: |" + " ---: |" * len(NAMES),
    ]
    for row in result["rows"]:
        cells = [f"{row['milliseconds'][name]:.1f} ({row['ratio'][name]:.2f}×)" for name in NAMES]
        place = [f"{row['task']}s", str(row["threads"]), str(row["batch"]), str(row["length"])]
        lines.append("| " + " | ".join(place + cells) + " |")
    lines += [
        f"\n**Growth** from N = {SHORT} to {LONG}, sentences; 1 is linear\n",
        "| threads | batch | " + " | ".join(NAMES) + " |",
        "| ---: | ---: |" + " ---: |" * len(NAMES),
    ]
    for row in result["growth"]:
        cells = [f"{row['growth'][name]:.2f}" for name in NAMES]
        lines.append(f"| {row['threads']} | {row['batch']} | " + " | ".join(cells) + " |")
    names = [EAGER, *FORMS]
    lines += [
        "\n**Accuracy**, % of the embedded corpus of logical inference\n",
        "| split | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for split, of_form in result["accuracy"].items():
        lines.append(f"| {split} | " + " | ".join(f"{of_form[name]:.2f}" for name in names) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    harness.run(main)
