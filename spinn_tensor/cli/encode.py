"""`spinn encode`: the encodings of the sentences of a file, as one array or, of any number, as a folder of shards."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from spinn_tensor.cli.arguments import (
    CommandParser,
    add_checkpoint,
    add_inference,
    add_input,
    check_outputs,
    choose_device,
    given_limits,
    on_error,
    positive,
)
from spinn_tensor.cli.progress import counters
from spinn_tensor.cli.report import print_skipped, tell, tell_unknown
from spinn_tensor.cli.sentences import reading_for, sentence_field, tell_of_text
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.archives import COMPRESSED
from spinn_tensor.data_prep.files import STDIN, Skipped
from spinn_tensor.data_prep.record_files import has_records
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.encoding import EncodingOptions, Part, Reading, encode_to_array, encode_to_shards
from spinn_tensor.encoding.shards import DTYPES, FORMATS, write_array
from spinn_tensor.inference import BATCH_TOKENS, SHARING_TOKENS
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.model.encoder import SentenceEncoder

DESCRIPTION = """\
Encodes sentences: h of the root of each tree, (lines, width), in the order of the input. A
line is a row, of NaN where it is blank or, with --on-error nan, bad; the lines of one Penn
tree are one row.

A jsonl file, or any other of records, has a parse a line, in the field
sentence_binary_parse, binary_parse or sentence_parse; --field names another, with or
without its ending. Any other file has a parse a line, binary or as in the Penn Treebank, and
nothing else. Text will do as well, in the field sentence or the one that --field names: the
package's parser makes its trees where the model needs them, or --parser or --branching does.

One array, NAME.npy or NAME.safetensors, is made in memory. A folder takes any number of
sentences at a constant memory: a shard for every --shard-size lines, and at the end
manifest.json, which names the shards, their rows and the lines that were left out. The same
command goes on where it was killed. Processes that know nothing of each other share a job
by --shard, on one machine or several with the folder in common, at the same time or one
after another; torchrun does it by itself. Whichever ends last writes manifest.json.
"""

EPILOG = """\
examples:
  spinn encode runs/logic --input sentences.jsonl --output encodings.npy

  spinn encode runs/pi --input snli_1.0_dev.jsonl.gz --field sentence1 --output premises.npy
      the premises of an SNLI file

  zcat parses.txt.gz | spinn encode runs/pi --input - --output encodings --dtype float16
      parses, one a line, into shards

  torchrun --nproc-per-node 8 -m spinn_tensor encode runs/pi --input parses.txt --output encodings
      eight processes, or GPUs

  spinn encode runs/pi --input parses.txt --output encodings --shard 3/8
      the third of eight processes, wherever they run

  python -c "import numpy; print(numpy.load('premises.npy', mmap_mode='r').shape)"
"""

OF_FOLDERS = ("format", "shard_size", "overwrite", "shard")  # options that one array has no use for
# endings that are meant for one array, or for another kind of file than is written
_NO_FOLDER = """
    .npy .safetensors .npz .pt .pth .pkl .pickle .bin .h5 .hdf5 .csv .tsv .txt .json .jsonl .parquet .arrow .feather
    .zip
"""
NO_FOLDER = frozenset((*_NO_FOLDER.split(), *COMPRESSED))

Job = tuple[SentenceEncoder, Vocabulary, Path]  # and the input


def add_arguments(parser: CommandParser) -> None:
    add = parser.add_argument
    add_checkpoint(parser)
    add_input(parser, is_required=True)
    add("--output", type=Path, required=True, metavar="PATH", help="NAME.npy, NAME.safetensors, or a folder")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of the vectors (default: float32)")
    add("--format", choices=FORMATS, help="of the shards in a folder (default: npy)")
    add(
        "--shard-size",
        type=positive,
        metavar="N",
        help=f"lines of the input for each shard (default: {EncodingOptions.shard_size:,})",
    )
    add("--overwrite", action="store_true", default=None, help="replace what a folder holds of another job")
    add(
        "--shard",
        metavar="I/N",
        help="do part I of N, one process each; whichever ends last joins them (default: the whole; under torchrun, "
        "a part for each process)",
    )
    add(
        "--batch-tokens",
        type=positive,
        metavar="N",
        help=f"words of a batch, which memory grows with (default: {SHARING_TOKENS:,} for given trees, else "
        f"{BATCH_TOKENS:,})",
    )
    add_inference(parser, "not for a model that parses for itself", instead=("nan", "a row of NaN"))


def run(args: argparse.Namespace) -> int:
    part = _part(args)
    _check_usage(args, part)
    device = choose_device(args)
    if device == "cuda" and part.n_parts > 1:  # each on a GPU of its own
        local = int(os.environ.get("LOCAL_RANK", part.number - 1))
        device = f"cuda:{local % torch.cuda.device_count()}"
    checkpoint = load_checkpoint(args.checkpoint, device)
    made, trees, reader = reading_for(args, checkpoint, device)
    is_table = args.input != STDIN and has_records(args.input)
    options = EncodingOptions(
        field=sentence_field(checkpoint, args.field) if is_table else args.field,
        branching=made.branching,
        parser=None if trees is None else trees.sha256,
        binarize=checkpoint.config.text.binarize,
        notation=args.notation or "auto",
        on_error=on_error(args),
        format=args.format or EncodingOptions.format,
        dtype=args.dtype,
        shard_size=args.shard_size or EncodingOptions.shard_size,
        **given_limits(args),
    )
    reading = Reading(reader, trees, sentence_field(checkpoint, None))
    job = checkpoint.model.encoder, checkpoint.vocabulary, args.input
    if _is_one_array(args.output):
        _to_array(args, job, options, reading)
    else:
        _to_shards(args, job, options, reading, part)
    tell_of_text(made, trees)
    return 0


def _to_array(args: argparse.Namespace, job: Job, options: EncodingOptions, reading: Reading) -> None:
    with counters("sentences encoded") as (advance,):
        encoded = encode_to_array(
            *job, options, reading=reading, batch_tokens=args.batch_tokens, advance=advance
        )
    write_array(args.output, encoded.encodings)
    tell_unknown(encoded.n_words, encoded.n_unknown)
    n_rows, width = encoded.encodings.shape
    _report(encoded.skipped, options.on_error, n_rows, width, str(args.output))


def _to_shards(
    args: argparse.Namespace, job: Job, options: EncodingOptions, reading: Reading, part: Part
) -> None:
    is_first = args.shard is not None or part.number == 1
    # what another rank of torchrun would say, too: of this one it means that all was there
    unsaid: list[str] = []
    with counters("sentences encoded") as (advance,):
        manifest = encode_to_shards(
            *job,
            args.output,
            options,
            reading=reading,
            part=part,
            batch_tokens=args.batch_tokens,
            overwrite=bool(args.overwrite),
            advance=advance,
            note=tell if is_first else unsaid.append,
        )
    if manifest is not None and not unsaid:
        n_shards = len(manifest["shards"])
        where = f"{args.output}, {n_shards:,} shard{'' if n_shards == 1 else 's'}"
        tell_unknown(manifest.get("words", 0), manifest.get("unknown_words", 0))
        skipped = Skipped(manifest["skipped"])
        _report(skipped, options.on_error, manifest["count"], manifest["width"], where)


def _is_one_array(output: Path) -> bool:
    return output.suffix in [f".{name}" for name in FORMATS]


def _check_usage(args: argparse.Namespace, part: Part) -> None:
    """Raise ConfigError for options that would do nothing, DataError for a folder that is not there."""
    if args.field is not None and args.input != STDIN and not has_records(args.input):
        raise ConfigError("--field goes with a jsonl --input, or another of records")
    if not _is_one_array(args.output):
        if args.output.suffix.lower() in NO_FOLDER:
            raise ConfigError(
                f"--output {args.output}: expected a name ending in .npy or .safetensors, for one array, or a "
                "folder, for shards; a folder's name has no ending of a file"
            )
        return
    for name in OF_FOLDERS:
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} goes with a folder as --output")
    if part.n_parts > 1:
        raise ConfigError(f"--output {args.output}: several processes write into a folder, not one array")
    check_outputs([args.output], [args.input])


def _part(args: argparse.Namespace) -> Part:
    """Return what this process does: what --shard says, else what torchrun does."""
    of_torchrun = Part.from_environment()
    if args.shard is None:
        return of_torchrun
    if of_torchrun.n_parts > 1:
        raise ConfigError("--shard: torchrun gives each process its part (WORLD_SIZE is set); leave it out")
    try:
        return Part.parse(args.shard)
    except ConfigError as error:
        raise ConfigError(f"--shard: {error}") from None


def _report(skipped: Skipped, on_error: str, count: int, width: int, where: str) -> None:
    print_skipped(skipped, "lines skipped" if on_error == "skip" else f"of {count:,} rows are NaN")
    print(f"{count:,} encodings of width {width} in {where}")
