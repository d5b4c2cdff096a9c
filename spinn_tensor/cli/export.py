"""`spinn export`: a checkpoint as ONNX, TorchScript, a torch.export program or a Triton repository."""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path

from spinn_tensor.cli.arguments import CommandParser, add_checkpoint, positive
from spinn_tensor.cli.report import console, pairs_table
from spinn_tensor.config import ConfigError
from spinn_tensor.export.artefact import ARTEFACTS, Exported
from spinn_tensor.model.classifiers import Checkpoint, load_checkpoint
from spinn_tensor.parsers import GIVEN, load_parser, model_folder
from spinn_tensor.tensor_files import CheckpointError

DESCRIPTION = """\
Writes a trained model for other programs, any batch and any length, and runs what it wrote
against the model on sentences of other lengths and in other batches than it was exported
with: it prints how far they differ, and where they differ too far it leaves no file.

  onnx          model.onnx, for onnxruntime in any language; from Python `OnnxPredictor`, see below
  onnx-fp16     the same, its tables and products in half precision: half the size
  onnx-int8     the same, its products in 8-bit integers
  torchscript   model.ts, for libtorch and for Python with torch alone
  pt2           model.pt2, a torch.export program, for torch.export.load
  aoti          model.aoti.pt2, compiled for this machine's processor; needs a C++ compiler
  triton        NAME/ in a Triton Inference Server model repository, and NAME_text/, by Triton's
                Python backend: strings in, labels and trees out

The folder also gets tokenizer.json, from text to token ids, and export.json, which says what
the artefact is. A model of kind spinn parses inside the artefact (tables own); spinn-pi takes
transitions beside the words (given); spinn-pi-nt takes the schedule of a batch (forest).
"""

EPILOG = """\
examples:
  spinn export runs/spinn --format onnx --output exported/spinn
  spinn export runs/spinn --format onnx-int8 --fold-leaves --output exported/spinn-int8
      words' leaf states as one table: no embedding, projection or batch norm is computed

  spinn export runs/spinn --format triton --name nli --output models
      then: examples/triton_server/compose.yaml; or, where this package is not in Triton's Python:
      tritonserver --model-repository models --model-control-mode explicit --load-model nli

  spinn export runs/reviews --format onnx --parser packaged --output exported/reviews
      a model that takes given trees, and the parser that makes them for text

  python -c "from spinn_tensor.export.predictor import OnnxPredictor
  print(OnnxPredictor('exported/spinn').classify(['A dog barks.'], ['An animal barks.']))"
"""


def add_arguments(parser: CommandParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("--format", choices=tuple(ARTEFACTS), required=True, help="what to write, see above")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder to write, whole or not at all; one of an earlier export is replaced "
        "(triton: the repository, in which the folders NAME and NAME_text are)",
    )
    parser.add_argument(
        "--fold-leaves",
        action="store_true",
        help="write the leaf states of all words as one table, in place of embedding, projection and batch norm: less "
        "to compute; larger where leaves are wider than embeddings",
    )
    parser.add_argument(
        "--max-length",
        type=positive,
        metavar="N",
        help="refuse longer sentences, in tokens, where they are read (default: no limit)",
    )
    parser.add_argument(
        "--tables",
        choices=("own", "given", "forest"),
        help="what it composes by (default: the model's; a model of kind spinn may also take given transitions)",
    )
    parser.add_argument(
        "--parser",
        metavar="NAME|FOLDER",
        help="onnx formats and triton, models that take given trees: a SPINN that makes them for text, put into the "
        "folder: packaged, or the folder of a checkpoint; none = not that of the run, either",
    )
    parser.add_argument("--name", metavar="NAME", help="triton: name of the model (default: spinn)")


def run(args: argparse.Namespace) -> int:
    from spinn_tensor.export.interface import describe
    from spinn_tensor.export.job import export_folder

    _check_usage(args)
    say = partial(print, flush=True)
    checkpoint = load_checkpoint(args.checkpoint)
    exported = describe(
        checkpoint.model,
        args.format,
        tables=args.tables,
        fold_leaves=args.fold_leaves,
        max_length=args.max_length or 0,
        vocabulary_sha256=checkpoint.vocabulary.sha256,
        branching=checkpoint.config.text.branching,
        parser_of_all=checkpoint.config.text.parser is not None,
        binarize=checkpoint.config.text.binarize,
    )
    parser = _parser(args, checkpoint.config.text.parser, exported)
    report = export_folder(checkpoint, args.output, exported, args.name or "spinn", say, parser)
    figures = {
        "examples compared": f"{report.n:,}",
        "largest difference (relative beyond 1)": f"{report.largest_difference:.1e}",
        "equal labels": f"{report.equal_labels:.2%}",
        "equal trees": f"{report.equal_trees:.2%}",
    }
    console().print(pairs_table(figures))
    print(f"{args.format} in {args.output}")
    if parser is None and _may_have_parser(exported):
        print(
            "it takes sentences with their trees and refuses text, unless --parser packaged puts a parser into it"
        )
    return 0


def _parser(
    args: argparse.Namespace,
    trained: str | None,  # the parser that made the trees of its run
    exported: Exported,
) -> tuple[Checkpoint, Exported] | None:
    """Load the parser that is written beside the model, and describe it. Raises ConfigError where it has no use."""
    from spinn_tensor.export.interface import describe

    if not _may_have_parser(exported):
        if args.parser is None:
            return None
        raise ConfigError(
            "--parser: is for the onnx formats and triton, of a model that takes given trees, and no --branching"
        )
    if (name := args.parser or trained) in (None, GIVEN):
        return None
    try:
        parser = load_parser(model_folder(name), "cpu")
    except CheckpointError as error:
        if args.parser is not None:
            raise
        raise ConfigError(
            f"the parser that the model was trained with: {error}; --parser {GIVEN} leaves it out"
        ) from None
    digest = parser.vocabulary.sha256
    return parser, describe(parser.model, "onnx", max_length=args.max_length or 0, vocabulary_sha256=digest)


def _may_have_parser(exported: Exported) -> bool:
    takes_trees = exported.tables not in ("own", "sequence") and exported.branching is None
    return takes_trees and ARTEFACTS[exported.format].endswith(".onnx")


def _check_usage(args: argparse.Namespace) -> None:
    if args.name is not None and args.format != "triton":
        raise ConfigError("--name goes with --format triton")
    if args.name is not None and re.fullmatch(r"\w[\w.-]*", args.name, re.ASCII) is None:
        raise ConfigError(f"--name: expected letters, digits, _ . and -, got {args.name!r}")
