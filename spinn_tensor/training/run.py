"""A training run from its settings to its results: corpus, model, loop, scores of the best checkpoint.

    run.json        settings; a folder that has it is a run
    metrics.jsonl   see `loop`
    tensorboard/    the same for TensorBoard, where asked for
    best/, last/    checkpoints
    results.json    scores of `best` on every split but train, and how many lines were skipped and why
    corpus/         the generated corpus, where the run has no files of its own
    .launch         which start of torchrun the run belongs to, so that a restart of it goes on

`execute` is all of it, for the command line and for a program alike, and for each of several processes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from spinn_tensor.bundle import load_weights, read_config, read_object
from spinn_tensor.config import SPINN_KINDS, ConfigError, ModelConfig, TextSettings
from spinn_tensor.data_prep.corpora.generated import GENERATORS, generate_corpus
from spinn_tensor.data_prep.corpora.splits import (
    Splits,
    load_splits,
    rules_of,
    task_of,
    with_prepared_options,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped, atomic_write, write_json
from spinn_tensor.data_prep.folders import readable, recover
from spinn_tensor.data_prep.temporary import alone_in
from spinn_tensor.data_prep.vectors import read_vectors
from spinn_tensor.hub import CONFIG, WEIGHTS
from spinn_tensor.model.classifiers import Model, build_model, load_checkpoint
from spinn_tensor.model.encoder import leaf_dim
from spinn_tensor.model.own_classes import imported, make_part
from spinn_tensor.parsers import tree_source
from spinn_tensor.tensor_files import CheckpointError
from spinn_tensor.toolchain import check_compile
from spinn_tensor.training.checkpoint import Progress, read_training_state
from spinn_tensor.training.config import RunConfig, classifier_config, differences, encoder_config
from spinn_tensor.training.distributed import ALONE, Ranks, launch_id, n_restarts
from spinn_tensor.training.evaluate import Evaluation, evaluate
from spinn_tensor.training.loop import Observer, Task, Trainer
from spinn_tensor.training.metrics_log import BOARD, METRICS, check_tensorboard
from spinn_tensor.training.presets import without_vectors
from spinn_tensor.training.step import check_precision

RUN, RESULTS, BEST, LAST = "run.json", "results.json", "best", "last"
LAUNCH = ".launch"
CORPUS = "corpus"  # the generated one, where a run has no files of its own; it outlives --overwrite

# What a resumed run may change: how long it goes on and how often it writes, never what a step computes.
CHANGEABLE = tuple(
    f"training.{name}" for name in ("epochs", "save_every", "log_every", "prefetch", "tensorboard")
)


class Results(NamedTuple):
    """Tell what a finished run achieved."""

    progress: Progress
    evaluations: dict[str, Evaluation]  # of the best checkpoint: dev, test, …
    n_parameters: int  # trained ones


def is_run(output: Path) -> bool:
    """Tell whether the folder holds a training run, or files that one would overwrite."""
    return any((output / name).exists() for name in (RUN, METRICS, RESULTS, BEST, LAST))


def clear_run(output: Path) -> None:
    """Delete what a run wrote there, and nothing else."""
    for name in (BEST, LAST, BOARD):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in (RUN, METRICS, RESULTS, LAUNCH):
        (output / name).unlink(missing_ok=True)


def find_runs(named: Iterable[Path]) -> list[Path]:
    """Return the folders of the runs in folders, or that these are, by name and each once. Raises DataError."""
    found: dict[Path, Path] = {}  # as it was named first, by where it is
    for folder in named:
        holds_run = False
        for root, folders, files in os.walk(folder):
            folders.sort()
            if not {RUN, METRICS}.isdisjoint(files):
                folders.clear()
                found.setdefault(Path(root).resolve(), Path(root))
                holds_run = True
        if not holds_run:
            raise DataError("holds no run" if folder.is_dir() else "no such folder", path=folder)
    return list(found.values())


def saved_run(output: Path) -> RunConfig | None:
    """Return the settings of the run in the folder; None if none was begun. Raises CheckpointError."""
    path = output / RUN
    if not path.is_file():
        if is_run(output):
            raise CheckpointError(f"{path}: missing, so the run in {output} cannot be resumed")
        return None
    try:
        return RunConfig.from_dict(read_object(path))
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def is_own_restart(output: Path) -> bool:
    """Tell whether torchrun started this process again and the run in the folder is the one that it had begun."""
    path = output / LAUNCH
    return n_restarts() > 0 and path.is_file() and path.read_text(encoding="utf-8") == launch_id()


def check_same_run(saved: RunConfig, wanted: RunConfig) -> None:
    """Raise ConfigError naming the first key in which a resumed run would differ from the saved one."""
    for key, old, new in differences(saved.with_absolute_paths(), wanted.with_absolute_paths()):
        text = f"--resume: {key} differs: the run has {old!r}, now {new!r}"
        if key not in CHANGEABLE:
            raise ConfigError(text)
        if key == "training.epochs" and saved.training.rate_needs_length:
            raise ConfigError(f"{text}; the learning rate of each step depends on it")


def execute(
    run: RunConfig,
    output: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
    skipped: Skipped | None = None,
    ranks: Ranks = ALONE,
) -> Results:
    """Train (or go on training) in `output` and evaluate the best checkpoint on every split.

    Where the corpus is one of `GENERATORS` and no file is given, it is generated in `output/corpus`. But for that
    nothing is written or deleted before all examples, and the checkpoint to resume, are read. Raises ConfigError
    for a folder that holds a run unless `resume` or `overwrite` is said, for steps to be compiled where that cannot
    work and for a precision that the device has not, DataError (of an output that another process writes, too),
    CheckpointError, TrainingError, feeding.LostMaker, distributed.Interrupted and, of several processes,
    distributed.LostRank.
    """
    if resume and overwrite:
        raise ConfigError("a run is either resumed or overwritten")
    if not (resume or overwrite):
        ranks.from_first(lambda: _refuse_run(output))
    observer, skipped = observer or Observer(), Skipped() if skipped is None else skipped
    run, resume = ranks.from_first(lambda: _prepare(run, output, device, resume, observer))
    splits = read_splits(run, device, skipped, observer.note)
    if run.data.dev_fraction:
        how = f"dev_fraction {run.data.dev_fraction:g}, split_seed {run.data.split_seed}"
        observer.note(f"dev: {len(splits.dev.labels):,} examples held out of the training files ({how})")
    # what a killed run left behind
    ranks.from_first(lambda: list(map(recover, (output / BEST, output / LAST))))
    torch.manual_seed(run.training.seed)
    model = make_model(run, splits, with_vectors=not resume, note=observer.note).to(device)
    task = Task(model, splits.vocabulary, splits.train, splits.dev, splits.rules)
    trainer = Trainer(task, run, output, observer, ranks)
    with alone_in(output) if ranks.is_first else nullcontext():
        if overwrite and ranks.is_first:
            clear_run(output)
        if resume:
            _resume(trainer, output / LAST)
        elif text := without_vectors(run):
            observer.note(text)
        if ranks.is_first:
            _begin(output, run)
        progress = trainer.fit()
        return ranks.from_first(lambda: _finish(output, progress, splits, device, skipped))


def _refuse_run(output: Path) -> None:
    if is_run(output):
        raise ConfigError(f"{output}: holds a run already; --resume goes on with it, --overwrite deletes it")


def _prepare(
    run: RunConfig, output: Path, device: str, resume: bool, observer: Observer
) -> tuple[RunConfig, bool]:
    """Return the run with its corpus, and whether there is a checkpoint to resume. Raises as `execute` does."""
    device_type = torch.device(device).type
    check_parts(run)
    if run.training.compile:
        check_compile(device_type)
    if run.training.tensorboard:
        check_tensorboard()
    goes_on = resume and readable(output / LAST).exists()
    if not goes_on:
        check_precision(run.training.precision, device_type)
    elif run.training.precision == "tf32" and device_type != "cuda":
        observer.note(
            f"precision: tf32 is a way in which GPUs multiply; on {device_type} products are float32"
        )
    if not goes_on and run.data.vectors is not None and not Path(run.data.vectors).exists():
        raise DataError("no such file", path=run.data.vectors)  # said before the corpus is read
    return with_corpus(run, output, goes_on, observer), goes_on


def check_parts(run: RunConfig) -> None:
    """Raise ConfigError for a cell that cannot be made, and for other parts that cannot, whatever the corpus is.

    How many words and labels that has is guessed here: what a class may say of them waits until the corpus is read.
    """
    of_sizes = ValueError, LookupError, ArithmeticError, AssertionError, RuntimeError
    encoder, classifier = encoder_config(run.encoder, vocabulary_size=2), classifier_config(run.classifier, 2)
    with _possible_sizes():
        width = leaf_dim(encoder)
    parts = (
        ("leaf_encoder", encoder.leaf_encoder, encoder, width),
        ("head", classifier.head, width, classifier),
    )
    for setting, name, *arguments in parts:
        if ":" in name:
            imported(setting, name)
            try:
                make_part(setting, name, {}, *arguments)
            except ConfigError as error:
                if not isinstance(error.__cause__, of_sizes):
                    raise


@contextmanager
def _possible_sizes() -> Iterator[None]:
    """Have torch's errors about sizes, of memory or of integers, raised as ConfigError."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]  # where in C++ it was follows
        raise ConfigError(f"no model can have these sizes ({reason})") from error


def read_splits(
    run: RunConfig, device: str, skipped: Skipped, note: Callable[[str], object] = lambda text: None
) -> Splits:
    """Read the examples of a run, as `load_splits`; text gets trees, and how much of it there is is noted.

    Its trees are those of a SPINN that was taught to parse, or made without a parser.
    """
    data, kind = run.data, encoder_config(run.encoder, vocabulary_size=2).kind
    are_looked_at = kind in SPINN_KINDS or data.parser is not None
    trained = TextSettings(data.branching, data.fields, parser=data.parser)
    source = tree_source(trained, rules_of(data), are_looked_at=are_looked_at)
    # from a corpus of trees a parser is to learn: not from another's
    is_refused = task_of(data) == "parse" and are_looked_at and not source.replaces
    trees = None if is_refused else source.text_trees(device)
    splits = load_splits(data, skipped, trees)
    if skipped:
        note(str(skipped))
    if trees is not None and trees.note is not None and data.branching is None:
        note(trees.note)
    return splits


def _resume(trainer: Trainer, folder: Path) -> None:
    """Put weights and state of a `last` checkpoint into what trains."""
    if read_config(folder / CONFIG).vocabulary_sha256 != trainer.task.vocabulary.sha256:
        raise CheckpointError(f"{folder / CONFIG}: the run was started with another vocabulary")
    load_weights(trainer.task.model, folder / WEIGHTS)
    trainer.resume(read_training_state(folder), folder)


def _begin(output: Path, run: RunConfig) -> None:
    write_json(output / RUN, run.to_dict())
    if launch_id():
        with atomic_write(output / LAUNCH) as file:
            file.write(launch_id())


def with_corpus(run: RunConfig, output: Path, resume: bool, observer: Observer) -> RunConfig:
    """Return the run with absolute paths, and with the generated corpus where it has no files of its own."""
    run = run.with_absolute_paths()
    run = replace(run, data=with_prepared_options(run.data))
    has_files = run.data.train and (run.data.dev or run.data.dev_fraction)
    if run.data.corpus not in GENERATORS or run.data.data is not None or has_files:
        return run
    folder = Path(os.path.abspath(output / CORPUS))
    # a run goes on with the corpus that it began with, even if this version would generate another
    if not (resume and folder.exists()) and generate_corpus(run.data.corpus, folder):
        observer.note(f"generated the corpus in {folder}")
    return run.changed(data__data=str(folder))


def make_model(
    run: RunConfig,
    splits: Splits,
    with_vectors: bool = True,
    note: Callable[[str], object] = lambda text: None,  # told how many words have a vector
) -> Model:
    """Make the model that a run trains, freshly initialised; without vectors where weights will follow."""
    encoder = encoder_config(run.encoder, len(splits.vocabulary))
    if len(splits.labels) == 1:
        raise DataError(f"got the label {splits.labels[0]!r} alone, expected two or more")
    classifier = classifier_config(run.classifier, len(splits.labels)) if splits.labels else None
    with _possible_sizes():
        model = build_model(
            ModelConfig(splits.task, splits.labels, encoder, classifier, run.data.node_labels)
        )
    leaves = model.encoder.leaves
    if with_vectors and hasattr(leaves, "set_vocabulary"):  # of a leaf encoder of somebody's own
        leaves.set_vocabulary(splits.vocabulary)
    if with_vectors and run.data.vectors is not None:
        try:
            embedding = model.encoder.embedding
        except TypeError as error:
            raise ConfigError(f"vectors: {error}") from None
        vectors = read_vectors(run.data.vectors, splits.vocabulary, encoder.embedding_dim)
        note(str(vectors))
        with torch.no_grad():
            embedding.weight.copy_(torch.from_numpy(vectors.scaled(run.data.vector_norm).matrix))
    return model


def _finish(output: Path, progress: Progress, splits: Splits, device: str, skipped: Skipped) -> Results:
    model = load_checkpoint(readable(output / BEST), device).model
    corpora = {"dev": splits.dev, **splits.others}
    evaluations = {name: evaluate(model, corpus) for name, corpus in corpora.items()}
    n_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    content: dict[str, Any] = {
        "steps": progress.step,
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 3),
        "best_step": progress.best_step,
        "n_parameters": n_parameters,
        "skipped": dict(skipped),
        "splits": {name: evaluation.to_dict() for name, evaluation in evaluations.items()},
    }
    write_json(output / RESULTS, content)
    return Results(progress, evaluations, n_parameters)
