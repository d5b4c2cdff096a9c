"""`spinn train`: from files (or the generated corpus) to a run's folder with checkpoints and results."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from spinn_tensor.cli.arguments import (
    CommandParser,
    add_device,
    add_settings,
    choose_device,
    given_data,
    given_settings,
)
from spinn_tensor.cli.progress import TerminalObserver
from spinn_tensor.cli.report import gold_trees, print_evaluations
from spinn_tensor.cli.seeds import SUMMARY, check_seeds, folder_of, summarise
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.corpora.generated import MANIFEST
from spinn_tensor.data_prep.corpora.kinds import KINDS
from spinn_tensor.data_prep.corpora.splits import Splits, prepared_from, with_prepared_options
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.toolchain import missing_to_compile
from spinn_tensor.training.config import DataConfig, RunConfig, differences, parse_setting
from spinn_tensor.training.distributed import Ranks, joined
from spinn_tensor.training.hardware import multiplies_in_tf32
from spinn_tensor.training.loop import Observer
from spinn_tensor.training.presets import (
    DEFAULT_PRESETS,
    corpus_of_preset,
    data_of_preset,
    is_file,
    preset_table,
    run_config,
)
from spinn_tensor.training.run import (
    Results,
    check_parts,
    check_same_run,
    execute,
    is_own_restart,
    read_splits,
    saved_run,
    with_corpus,
)

DESCRIPTION = """\
Trains a sentence encoder and a classifier, and leaves a folder with the best and the last
checkpoint (weights in safetensors), the metrics of every step as JSON lines, and the
scores of the best checkpoint on every split. Without any option it generates a corpus of
logical inference (no download) and trains SPINN-PI on it in a few minutes. A preset sets
every hyperparameter; flags and --set key=value change single ones. A run that was killed,
at whatever moment, goes on with --resume; on the CPU, on the same machine with the same
--threads, it ends with exactly the weights of one that was not.

Under torchrun many processes train one model, each on its share of every batch, with the
optimisation of one (batch norm included; dropout draws other numbers). A batch is that of
all processes together. When a process dies torchrun ends the job and names it; with
--max-restarts it starts the job again, which then goes on from the last checkpoint.
"""

EPILOG = """\
examples:
  spinn train --output runs/logic
      SPINN-PI on the generated corpus, written to runs/logic/corpus

  spinn train --corpus snli --data snli_1.0.zip --vectors glove.txt --preset spinn-pi --output runs/pi
      SPINN-PI on SNLI with fixed GloVe vectors and the paper's published hyperparameters

  spinn train --data prepared/snli --preset spinn-pi --output runs/pi
      on what `spinn prepare` made of a corpus

  spinn train --corpus sst --train train.txt.gz --dev dev.txt.gz --node-labels --epochs 5 --output runs/sst
      sentiment, learnt on every node of the trees

  spinn train --corpus listops --output runs/listops
      nested operations on digits, generated into runs/listops/corpus

  spinn train --corpus trees --train snli_1.0_train.jsonl --train sst.txt --dev snli_1.0_dev.jsonl
      a parser, taught by trees alone; sentences without labels will do

  spinn train --corpus pairs --train a.jsonl --dev b.jsonl --fields premise=text hypothesis=claim label=verdict
      pairs of your own, with the names and labels that they have there

  spinn train --corpus snli --train text.jsonl --dev dev.jsonl --branching right --preset logic-rl-spinn
      pairs of raw text: the model finds trees of its own that help it to classify

  spinn train --corpus pairs --train all.jsonl --dev-fraction 0.1 --seeds 1 2 3 --class-weights balanced
      where there is no dev file, and classes are rare; three runs, with mean and spread of their scores

  torchrun --nproc-per-node 4 --max-restarts 3 -m spinn_tensor train --corpus snli --data snli_1.0.zip
      on four GPUs (or, without any, by four processes), and again if one fails

  spinn train --output runs/pi --resume
      goes on with a run that was killed; its settings are read from its folder

  spinn presets logic-spinn-pi > my.toml
  spinn train --preset my.toml
      with settings of your own: `spinn presets --help` shows such a file

presets (dropout: embedding / composition / classifier; L2 is the optimiser's weight decay, on matrices only):
{presets}
"""

Note = Callable[[str], object]
# What is not the same by default on CUDA and on the CPU; a resumed run has what it began with.
BY_DEVICE = {"training.compile": {False, True}, "training.precision": {"float32", "tf32"}}
GROUPS = {
    "training": "training (default: the preset's)",
    "encoder": "encoder (default: the preset's)",
    "classifier": "classifier, a multilayer perceptron (default: the preset's)",
    "parsing": "learning to parse, of SPINNs that do (default: the preset's)",
}


def add_arguments(parser: CommandParser) -> None:
    table = "\n".join("  " + line for line in preset_table().splitlines())
    parser.epilog = EPILOG.format(presets=table)
    group = parser.add_argument_group("the run")
    group.add_argument("--output", type=Path, metavar="DIR", help="folder of the run (default: runs/PRESET)")
    add_preset(group, "see the table below")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --output (begin one if there is none); settings other than its own are "
        "refused, but for epochs, save_every, log_every, prefetch and tensorboard; a --preset file that changed is "
        "told of, and not followed",
    )
    either.add_argument("--overwrite", action="store_true", help="delete the run in --output first")
    group.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="N",
        help="train once with each of these seeds, in OUTPUT/seed-N; mean and spread of the scores are printed and in "
        f"OUTPUT/{SUMMARY}",
    )
    add_device(parser)
    add_run_settings(parser, generated="OUTPUT/corpus")


def add_run_settings(parser: CommandParser, generated: str) -> None:
    """Add all settings of a run, in their groups; the corpus is made in `generated` where there are no files."""
    add_data(parser, generated)
    for section, title in GROUPS.items():
        group = parser.add_argument_group(title)
        add_settings(group, section, default=" ")
        if section == "classifier":
            group.add_argument(
                "--dropout", type=float, metavar="N", help="--embedding-dropout and --mlp-dropout at once"
            )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any of these settings, by its name with _ for -; repeatable",
    )


def add_data(
    parser: CommandParser,
    generated: str,
    texts: Mapping[str, str] = MappingProxyType({}),  # of `add_settings`
) -> None:
    """Add the files, and what training makes of them; the corpus is made in `generated` where there are none."""
    parser.of_stray_words = "; --train and --dev are given once for each file"
    of_generated = f"Where logic and listops have no files, the corpus is generated in {generated}."
    add_settings(parser.add_argument_group("data", of_generated), "data", texts=texts)


def add_preset(group: argparse._ActionsContainer, where: str) -> None:
    """Add --preset; `where` says what lists them."""
    defaults = ", ".join(f"{preset} for {corpus}" for corpus, preset in DEFAULT_PRESETS.items())
    group.add_argument(
        "--preset", metavar="NAME", help=f"or a file, FILE.toml (default: {defaults}); {where}"
    )


def run(args: argparse.Namespace) -> int:
    corpus = args.corpus or prepared_from(args.data) or "logic"
    preset = Path(args.preset or DEFAULT_PRESETS[corpus]).name.removesuffix(".toml")
    output = args.output or Path("runs") / preset
    with joined(choose_device(args)) as ranks:
        if args.seeds is None:
            results, gold = _train(args, output, ranks)
            if ranks.is_first:
                print_evaluations(results.evaluations, gold)
                _print_summary(results, output)
            return 0
        check_seeds(args, output, ranks.size)
        evaluations = {}
        for seed in args.seeds:
            folder = folder_of(output, seed)
            own = argparse.Namespace(**{**vars(args), "seed": seed})
            results, _ = _train(own, folder, ranks, f"seed {seed}: ", corpus_beside=output)
            _print_summary(results, folder)
            evaluations[seed] = results.evaluations
        summarise(evaluations, output)
    return 0


def _train(
    args: argparse.Namespace,
    output: Path,
    ranks: Ranks,
    title: str = "",
    corpus_beside: Path | None = None,  # where the corpus is made that several runs share
) -> tuple[Results, str]:
    """Train or go on with a run; return its results, and what the trees are that its own are compared with."""
    settings, resume, notes = ranks.from_first(lambda: _settings(args, output))
    data = with_prepared_options(settings.data)
    gold = gold_trees(data.branching, data.parser)
    n_epochs, silent = settings.training.epochs, not ranks.is_first
    with TerminalObserver(title, gold=gold, silent=silent, n_epochs=n_epochs, notes=notes) as observer:
        if corpus_beside is not None:
            check_parts(settings)
            settings = with_corpus(settings, corpus_beside, args.resume, observer)
        results = execute(
            settings,
            output,
            device=ranks.device,
            resume=resume,
            overwrite=args.overwrite and not resume,
            observer=observer,
            ranks=ranks,
        )
    return results, gold


def _settings(args: argparse.Namespace, output: Path) -> tuple[RunConfig, bool, list[str]]:
    """Return the run's settings, whether it may go on with the one in its folder, and what is to be said of it."""
    notes: list[str] = []
    resume = args.resume or is_own_restart(output)
    saved = saved_run(output) if resume else None
    settings = new_run(args, notes.append) if saved is None else resumed_run(args, saved, notes.append)
    if args.resume and saved is None:
        print(f"nothing to resume in {output}: beginning a new run")
    return settings, resume, notes


def _print_summary(results: Results, output: Path) -> None:
    progress = results.progress
    epochs = f"{progress.epoch} epoch{'s' if progress.epoch != 1 else ''}"
    why = "early stopping" if progress.stopped else epochs
    print(
        f"{why}: {progress.step:,} steps in {progress.seconds:,.0f} s, "
        f"{results.n_parameters:,} trained parameters; "
        f"best at step {progress.best_step:,}, in {output / 'best'}"
    )


def read_once(settings: RunConfig, device: str, skipped: Skipped) -> Splits:
    """Read the examples of a run that nobody keeps: a corpus is generated into a folder that is deleted."""
    with tempfile.TemporaryDirectory() as folder:
        return read_splits(with_corpus(settings, Path(folder), False, Observer()), device, skipped)


def new_run(args: argparse.Namespace, note: Note = lambda text: None) -> RunConfig:
    """Return the settings of a new run: preset, then flags, then --set. Raises ConfigError.

    `note` is told what the run does for want of something, as a line for its user.
    """
    given = given_data(args)
    known = given.get("corpus") or prepared_from(given.get("data"))
    if known is None and args.preset is None:
        named = next((name for name in ("train", "dev", "data") if given.get(name)), None)
        if named == "data" and not Path(given["data"]).exists():
            raise ConfigError(f"--data {given['data']}: no such folder")
        if named is not None and not (Path(given.get("data") or "") / MANIFEST).is_file():
            raise ConfigError(f"--{named}: say what is in it: --corpus {', '.join(KINDS)}")
        if named is None and getattr(args, "resume", False):
            raise ConfigError("--resume: no run to go on with, and nothing that says what to train")
    corpus = known or corpus_of_preset(args.preset)
    of_preset = data_of_preset(args.preset, corpus)
    data = DataConfig(**{**of_preset, **given, "corpus": corpus})
    settings = _of_preset(args.preset or DEFAULT_PRESETS[data.corpus], data, args, note)
    norm = settings.data.vector_norm
    if norm not in (0, of_preset.get("vector_norm")) and settings.data.vectors is None:
        raise ConfigError(
            f"vector_norm {norm:g}: there are no word vectors to scale; --vectors FILE names them"
        )
    return settings


def _of_preset(
    name: str, data: DataConfig, args: argparse.Namespace, note: Note = lambda text: None
) -> RunConfig:
    """Return the run that a preset and the flags describe."""
    preset = run_config(name, data)
    preset = run_config(name, _with_flags(preset, args).data)  # --set may have said vectors
    settings = _with_flags(preset, args)
    return _for_cuda(preset, args, note) if choose_device(args) == "cuda" else settings


def _for_cuda(preset: RunConfig, args: argparse.Namespace, note: Note) -> RunConfig:
    """Return settings with CUDA's defaults, unless command line, model or machine says no.

    A preset's float32 and eager steps are as little said as those of a run without one; its bfloat16 stays.
    """
    asked = _with_flags(preset, args)
    defaults: dict[str, Any] = {}
    if asked.training.precision == "float32" and multiplies_in_tf32():
        defaults["training__precision"] = "tf32"
    if not asked.training.compile and asked.not_compilable is None:
        defaults["training__compile"] = True
    settings = _with_flags(preset, args, **defaults)
    is_default = settings.training.compile and not asked.training.compile
    if is_default and (missing := missing_to_compile("cuda")) is not None:
        note(f"steps are not compiled: {missing}")
        settings = settings.changed(compile=False)
    if settings.training.precision != asked.training.precision:
        note(
            "matrix products are in TF32, CUDA's default, whose factors have 10 bits (--precision float32: 23)"
        )
    return settings


def resumed_run(args: argparse.Namespace, saved: RunConfig, note: Note) -> RunConfig:
    """Return the saved settings. Raises ConfigError where the command line would change them.

    `note` is told where the file of a preset would make another run of it now.
    """
    if args.preset is not None and args.preset != saved.preset:
        raise ConfigError(f"--resume: preset differs: the run has {saved.preset!r}, now {args.preset!r}")
    given = {f"data__{name}": value for name, value in given_data(args).items()}
    wanted = _with_flags(saved.changed(**given), args)
    check_same_run(saved, wanted)
    if args.preset is not None and is_file(args.preset):
        try:
            now = _of_preset(args.preset, wanted.data, args)
            changes = [
                f"{key}: {old!r}, there {new!r}"
                for key, old, new in differences(wanted, now)
                if {old, new} != BY_DEVICE.get(key)
            ]
        except ConfigError as error:
            changes = [str(error)]
        if changes:
            note(f"the run keeps its own settings, not what {args.preset} says now ({'; '.join(changes)})")
    return wanted


def _with_flags(settings: RunConfig, args: argparse.Namespace, **defaults: Any) -> RunConfig:
    """Change the settings by flags, then --set, all at once; `defaults` hold where neither says anything."""
    changes = {**defaults, **given_settings(args, *GROUPS)}
    if args.dropout is not None:
        changes["encoder__embedding_dropout"] = changes["classifier__mlp_dropout"] = args.dropout
    changes.update(parse_setting(text) for text in args.set)
    return settings.changed(**changes)
