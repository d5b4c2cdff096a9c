"""`spinn train`: from files (or the generated corpus) to a run's folder with checkpoints and results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spinn_tensor.cli.arguments import (
    add_command,
    add_device,
    add_limits,
    add_skip_bad,
    choose_device,
    positive,
)
from spinn_tensor.cli.report import TerminalObserver, gold_trees, print_evaluations
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.training.config import CORPORA, PRECISIONS, DataConfig, RunConfig, parse_setting, settable
from spinn_tensor.training.corpora import prepared_from
from spinn_tensor.training.distributed import joined
from spinn_tensor.training.hardware import missing_to_compile
from spinn_tensor.training.presets import DEFAULT_PRESETS, corpus_of, preset_table, run_config
from spinn_tensor.training.run import Results, check_same_run, execute, is_own_restart, saved_run

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

  torchrun --nproc-per-node 4 --max-restarts 3 -m spinn_tensor train --corpus snli --data snli_1.0.zip
      on four GPUs (or, without any, by four processes), and again if one fails

  spinn train --output runs/pi --resume
      goes on with a run that was killed; its settings are read from its folder

presets (dropout: embedding / classifier; L2 is RMSprop's weight decay, on matrices only):
{presets}

keys for --set:
  training    {training}
  encoder     {encoder}
  classifier  {classifier}
  parsing     {parsing}
  data        {data}
"""

FLAGS = {  # flag's destination: keyword of RunConfig.changed
    "epochs": "training__epochs",
    "batch_size": "training__batch_size",
    "batch_tokens": "training__batch_tokens",
    "accumulate": "training__accumulate",
    "lr": "training__learning_rate",
    "weight_decay": "training__weight_decay",
    "clip": "training__clip_norm",
    "patience": "training__patience",
    "evaluate_every": "training__evaluate_every",
    "save_every": "training__save_every",
    "seed": "training__seed",
    "compile": "training__compile",
    "precision": "training__precision",
    "embedding": "encoder__embedding_dim",
    "hidden": "encoder__hidden_dim",
    "tracker": "encoder__tracker_dim",
    "leaf_encoder": "encoder__leaf_encoder",
}
DATA_FLAGS = tuple(settable("data"))  # each has a flag of its name


def add_parser(subparsers: Any) -> None:
    keys = {
        section: ", ".join(settable(section))
        for section in ("training", "encoder", "classifier", "parsing", "data")
    }
    table = "\n".join("  " + line for line in preset_table().splitlines())
    epilog = EPILOG.format(presets=table, **keys)
    parser = add_command(subparsers, "train", "train a model", DESCRIPTION, epilog)
    _add_run(parser)
    add_data(parser, generated="OUTPUT/corpus")
    add_settings(parser)
    parser.set_defaults(run=run)


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the run")
    group.add_argument("--output", type=Path, metavar="DIR", help="folder of the run (default: runs/PRESET)")
    add_preset(group, "see the table below")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --output (begin one if there is none); settings other than its own are "
        "refused, but for epochs, save_every, log_every and prefetch",
    )
    either.add_argument("--overwrite", action="store_true", help="delete the run in --output first")
    add_device(parser)


def add_data(
    parser: argparse.ArgumentParser,
    generated: str,  # where
) -> None:
    """The files, and what training makes of them."""
    group = add_files(parser, generated)
    group.add_argument(
        "--vectors",
        metavar="FILE",
        help="word vectors: GloVe text (plain, .gz or .zip), word2vec .bin, or .safetensors (default: from scratch)",
    )
    group.add_argument("--min-count", type=int, metavar="N", help="rarer words become <unk> (default: 1)")
    group.add_argument("--lower", action="store_true", default=None, help="words in lower case")
    group.add_argument(
        "--node-labels", action="store_true", default=None, help="sst: learn the label of every node"
    )


def add_files(parser: argparse.ArgumentParser, generated: str | None = None) -> argparse._ArgumentGroup:
    """Which files, and how they are read."""
    otherwise, corpus_default = "", ""
    if generated is not None:
        corpus_default = (
            " (default: that of a prepared folder, or the preset's, else logic, which is generated)"
        )
        otherwise = (
            f", or what spinn prepare wrote (default for logic and listops: one generated in {generated})"
        )
    group = parser.add_argument_group("data")
    group.add_argument(
        "--corpus",
        choices=CORPORA,
        help="kind of files" + corpus_default,
    )
    group.add_argument(
        "--data",
        metavar="PATH",
        help="folder of the corpus, or its official zip (SNLI, MultiNLI, SST)" + otherwise,
    )
    for split in ("train", "dev", "test"):
        group.add_argument(
            f"--{split}",
            action="append",
            metavar="FILE",
            help=f"{split} examples, plain or .gz, instead of --data's; repeatable",
        )
    group.add_argument(
        "--extra",
        action="append",
        metavar="NAME=FILE",
        help="another file to evaluate at the end; repeatable",
    )
    group.add_argument("--limit", type=int, metavar="N", help="only the first N examples of every split")
    group.add_argument(
        "--binary", action="store_true", default=None, help="sst: two classes, neutral sentences left out"
    )
    group.add_argument(
        "--phrases",
        action="store_true",
        default=None,
        help="sst: every phrase of the training trees is an example",
    )
    group.add_argument(
        "--fields",
        nargs="+",
        metavar="PART=NAME",
        help="pairs: what the records call premise, hypothesis, label and pair_id (default: as SNLI does)",
    )
    group.add_argument(
        "--labels", nargs="+", metavar="LABEL", help="pairs: in this order (default: those of --train)"
    )
    group.add_argument(
        "--branching",
        choices=BRANCHINGS,
        help="trees made without a parser, instead of those of the files; sentences without a parse are read "
        "from their text then (pairs: sentence1, sentence2; trees: sentence, or a line)",
    )
    add_skip_bad(group)
    add_limits(group)
    return group


def add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings (default: the preset's)")
    group.add_argument(
        "--batch-size",
        "--global-batch",
        type=positive,
        metavar="N",
        help="pairs or sentences a step, over all processes",
    )
    group.add_argument(
        "--batch-tokens",
        type=positive,
        metavar="N",
        help="instead: words a step at most (a longer pair is a step by itself), so that short sentences come in "
        "larger batches",
    )
    for name, kind, text in (
        ("epochs", positive, "passes over the training examples"),
        ("accumulate", positive, "parts that each process computes its share of a step in, to save memory"),
        ("lr", float, "learning rate of RMSprop"),
        ("weight-decay", float, "L2, on matrices only"),
        ("clip", float, "largest global norm of the gradient; 0 = no clipping"),
        ("dropout", float, "of the embedding and of the classifier"),
        ("patience", int, "stop after so many evaluations without a better one; 0 = never"),
        ("evaluate-every", int, "steps; the end of an epoch is always evaluated"),
        ("save-every", int, "steps; the end of an epoch is always saved"),
        ("seed", int, "of initialisation, dropout and the order of the examples"),
        ("embedding", positive, "width of the word vectors"),
        ("hidden", positive, "width of an encoding"),
        ("tracker", positive, "width of the tracker's state"),
    ):
        group.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    group.add_argument(
        "--leaf-encoder", choices=("projection", "bilstm"), help="what makes leaves of word vectors"
    )
    group.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="torch.compile the training step; on CUDA (where it is the default, but for LSTMs and "
        "without Triton or a C compiler) replay it as a graph",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of matrix products in training; weights, checkpoints and evaluation are float32 (the default)",
    )
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any key listed below; repeatable"
    )


def add_preset(group: argparse._ActionsContainer, where: str) -> None:
    """`where` says what lists them."""
    defaults = ", ".join(f"{preset} for {corpus}" for corpus, preset in DEFAULT_PRESETS.items())
    group.add_argument("--preset", metavar="NAME", help=f"default: {defaults}; {where}")


def run(args: argparse.Namespace) -> int:
    corpus = args.corpus or prepared_from(args.data) or "logic"
    output = args.output or Path("runs") / (args.preset or DEFAULT_PRESETS[corpus])
    with joined(choose_device(args)) as ranks:
        settings, resume = ranks.from_first(lambda: _settings(args, output))
        gold = gold_trees(settings.data.branching)
        n_epochs = settings.training.epochs
        with TerminalObserver(gold=gold, silent=not ranks.is_first, n_epochs=n_epochs) as observer:
            results = execute(
                settings,
                output,
                device=ranks.device,
                resume=resume,
                overwrite=args.overwrite and not resume,
                observer=observer,
                ranks=ranks,
            )
    if ranks.is_first:
        print_evaluations(results.evaluations, gold)
        _print_summary(results, output)
    return 0


def _settings(args: argparse.Namespace, output: Path) -> tuple[RunConfig, bool]:
    """The run's settings, and whether it may go on with the one in its folder."""
    resume = args.resume or is_own_restart(output)
    saved = saved_run(output) if resume else None
    if args.resume and saved is None:
        print(f"nothing to resume in {output}: beginning a new run")
    return new_run(args) if saved is None else resumed_run(args, saved), resume


def _print_summary(results: Results, output: Path) -> None:
    progress = results.progress
    why = (
        "early stopping"
        if progress.stopped
        else f"{progress.epoch} epoch{'s' if progress.epoch != 1 else ''}"
    )
    print(
        f"{why}: {progress.step:,} steps in {progress.seconds:,.0f} s, "
        f"{results.n_parameters:,} trained parameters; "
        f"best at step {progress.best_step:,}, in {output / 'best'}"
    )


def new_run(args: argparse.Namespace) -> RunConfig:
    """The settings of a new run: preset, then flags, then --set. Raises ConfigError."""
    given = given_data(args)
    data = DataConfig(**{"corpus": prepared_from(given.get("data")) or corpus_of(args.preset), **given})
    preset = run_config(args.preset or DEFAULT_PRESETS[data.corpus], data)
    data = _with_flags(preset, args).data
    if data.vectors is None and not preset.encoder["train_embedding"]:
        preset = preset.changed(train_embedding=True)
    settings = _with_flags(preset, args)
    return _compiled(settings, preset, args) if choose_device(args) == "cuda" else settings


def _compiled(settings: RunConfig, preset: RunConfig, args: argparse.Namespace) -> RunConfig:
    """The settings with compiled steps, CUDA's default, unless the command line, the model or the machine says no."""
    if settings.training.compile or settings.not_compilable is not None:
        return settings
    compiled = _with_flags(preset, args, training__compile=True)
    if not compiled.training.compile:  # --no-compile, or --set
        return settings
    if (missing := missing_to_compile("cuda")) is not None:
        print(f"note: steps are not compiled: {missing}")
        return settings
    return compiled


def resumed_run(args: argparse.Namespace, saved: RunConfig) -> RunConfig:
    """The saved settings; raises ConfigError where the command line would change them."""
    if args.preset is not None and args.preset != saved.preset:
        raise ConfigError(f"--resume: preset differs: the run has {saved.preset!r}, now {args.preset!r}")
    given = {f"data__{name}": value for name, value in given_data(args).items()}
    wanted = _with_flags(saved.changed(**given), args)
    check_same_run(saved, wanted)
    return wanted


def given_data(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of DataConfig that the command line sets."""
    given = {name: value for name in DATA_FLAGS if (value := getattr(args, name, None)) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _with_flags(settings: RunConfig, args: argparse.Namespace, **defaults: Any) -> RunConfig:
    """Changes the settings by flags, then --set, all at once; `defaults` hold where neither says anything."""
    given = {key: getattr(args, flag) for flag, key in FLAGS.items() if getattr(args, flag) is not None}
    changes = {**defaults, **given}
    if args.dropout is not None:
        changes["encoder__embedding_dropout"] = changes["classifier__mlp_dropout"] = args.dropout
    changes.update(parse_setting(text) for text in args.set)
    return settings.changed(**changes)
