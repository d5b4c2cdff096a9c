"""Files of sentences to one array, or to a folder of shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any

from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.corpora.formats import SentenceFormat
from spinn_tensor.data_prep.corpora.read import ExampleFile, open_examples
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import is_jsonl
from spinn_tensor.data_prep.text import Tokenize
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.encoding.blocks import EncodedBlock, encode_lines, joined
from spinn_tensor.encoding.job import STDIN, EncodingOptions, Part, describe_job
from spinn_tensor.encoding.shards import ShardFolder
from spinn_tensor.model.encoder import SentenceEncoder

Advance = Callable[[int], object]  # told of the sentences just encoded
Note = Callable[[str], object]  # told what there is to remark, once


def encode_to_array(
    encoder: SentenceEncoder,
    vocabulary: Vocabulary,
    source: Path,  # jsonl or text, plain or .gz
    options: EncodingOptions,
    *,
    tokenize: Tokenize | None = None,  # reads text without a parse
    batch_tokens: int | None = None,
    advance: Advance = lambda n_sentences: None,
) -> EncodedBlock:  # encodings (n, D) in the order of the lines
    """Return the encodings of a file, all in memory. Raises DataError naming the first bad line."""
    with _open(vocabulary, source, options, tokenize) as file:
        blocks = list(_encode(encoder, file, None, options, batch_tokens, advance))
    encoded = joined(blocks, file.skipped)
    if not len(encoded.encodings):
        raise DataError(f"no examples ({encoded.skipped})", path=source)
    return encoded


def encode_to_shards(
    encoder: SentenceEncoder,
    vocabulary: Vocabulary,
    source: Path,  # jsonl or text, plain or .gz
    folder: Path,
    options: EncodingOptions,
    *,
    tokenize: Tokenize | None = None,  # reads text without a parse
    part: Part = Part(),  # noqa: B008  (a tuple, which cannot change)
    batch_tokens: int | None = None,
    overwrite: bool = False,  # replace the encodings of another job
    advance: Advance = lambda n_sentences: None,
    note: Note = lambda text: None,  # where a job goes on: how many shards were there
) -> dict[str, Any] | None:
    """Encode a file of any size into a folder, going on where a job that was killed ended.

    Processes with other parts of the job know of each other by the folder alone: they may run at the same time or one
    after another, and whoever finds all shards there at its end writes the manifest. Returns the manifest (see
    `spinn_tensor.encoding.shards`); None where shards of other parts are still missing.
    Raises DataError naming the first bad line, and ConfigError for a folder that holds something else.
    """
    if source == STDIN and part.n_parts > 1:
        raise ConfigError("standard input is read by one process; give a file to several")
    output = ShardFolder(folder, describe_job(encoder, vocabulary, source, options))
    if (manifest := output.open(overwrite)) is not None:
        n_shards = len(manifest["shards"])
        note(f"{n_shards:,} of {n_shards:,} shards were there")
        return manifest
    n_there = output.count_whole()
    with _open(vocabulary, source, options, tokenize) as file:
        for shard in count():
            if not part.has(shard) or output.is_whole(shard):
                if not file.skip(options.shard_size):
                    break
                continue
            blocks = list(_encode(encoder, file, options.shard_size, options, batch_tokens, advance))
            if not blocks:
                break
            output.write(shard, joined(blocks, file.skipped))
            file.skipped.clear()  # told of now
    manifest = output.finish(shard, file.skipped)
    if n_there and part.n_parts == 1:
        note(f"{n_there:,} of {shard:,} shards were there")
    if manifest is None:
        n_whole = output.count_whole()
        note(
            f"part {part.number} of {part.n_parts} is done, {n_whole:,} of {shard:,} shards are there; "
            "the part that ends last joins them"
        )
    return manifest


def _open(
    vocabulary: Vocabulary, source: Path, options: EncodingOptions, tokenize: Tokenize | None
) -> AbstractContextManager[ExampleFile]:
    line_format = SentenceFormat(is_jsonl(source), options.field, tokenize)
    return open_examples(source, line_format, vocabulary, skip_bad=options.skip_bad, limits=options.limits)


def _encode(
    encoder: SentenceEncoder,
    file: ExampleFile,
    n_lines: int | None,  # None: all
    options: EncodingOptions,
    batch_tokens: int | None,
    advance: Advance,
) -> Iterator[EncodedBlock]:
    blocks = encode_lines(
        encoder, file, n_lines, branching=options.branching, dtype=options.dtype, batch_tokens=batch_tokens
    )
    for block in blocks:
        advance(len(block.encodings))
        yield block
