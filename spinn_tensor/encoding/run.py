"""Files of sentences to one array, or to a folder of shards.

Lines are read by blocks, whose sentences are sorted by length and cut into batches, so that what is in memory does not
grow with the file: the lines of a block, a batch, and the encodings of a shard. Encodings keep the order of the lines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spinn_tensor.answers import Advance
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.branching import with_branching
from spinn_tensor.data_prep.columns import renumber
from spinn_tensor.data_prep.corpora.formats import SentenceFormat
from spinn_tensor.data_prep.corpora.read import Block, ExampleFile, open_examples
from spinn_tensor.data_prep.corpora.text_trees import TextTrees
from spinn_tensor.data_prep.files import BLANK, STDIN, Skipped
from spinn_tensor.data_prep.text import TREES_ONLY, SentenceReader
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID, Vocabulary, WordList
from spinn_tensor.encoding.shards import EncodedBlock, EncodingOptions, Part, ShardFolder, describe_job
from spinn_tensor.inference import encode_columns
from spinn_tensor.model.encoder import SentenceEncoder

BLOCK_LINES = 20_000  # that are in memory at a time, and sorted by length

Note = Callable[[str], object]  # told what there is to remark, once


class Reading(NamedTuple):
    """Say what reads sentences, and what puts those that are text under trees."""

    reader: SentenceReader = TREES_ONLY
    trees: TextTrees | None = None
    field: str | None = None  # of records: that with the sentence, where options name none


TREES_GIVEN = Reading()  # text is refused


def encode_to_array(
    encoder: SentenceEncoder,
    vocabulary: Vocabulary,
    source: Path,  # whatever `record_files` reads
    options: EncodingOptions,
    *,
    reading: Reading = TREES_GIVEN,
    batch_tokens: int | None = None,
    advance: Advance = lambda n_sentences: None,
) -> EncodedBlock:  # encodings (n, D) in the order of the lines
    """Return the encodings of a file, all in memory. Raises DataError naming the first bad line."""
    job = _Job(encoder, vocabulary, options, reading.trees, batch_tokens, advance)
    with _open(source, options, reading) as file:
        encoded = job.encode(file, sys.maxsize)
    if encoded is None or len(encoded.encodings) == len(encoded.nan_lines):
        skipped = file.skipped if encoded is None else encoded.skipped
        raise skipped.no_examples().at(path=source)
    return encoded


def encode_to_shards(
    encoder: SentenceEncoder,
    vocabulary: Vocabulary,
    source: Path,  # whatever `record_files` reads
    folder: Path,
    options: EncodingOptions,
    *,
    reading: Reading = TREES_GIVEN,
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
    job = _Job(encoder, vocabulary, options, reading.trees, batch_tokens, advance)
    with _open(source, options, reading) as file:
        for shard in count():
            if not part.has(shard) or output.is_whole(shard):
                if not file.skip(options.shard_size):
                    break
                continue
            encoded = job.encode(file, options.shard_size)
            if encoded is None:
                break
            output.write(shard, encoded)
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


@contextmanager
def _open(source: Path, options: EncodingOptions, reading: Reading) -> Iterator[ExampleFile]:
    line_format = SentenceFormat(options.field or reading.field, reading.reader)
    skip_bad = options.on_error != "raise"
    with open_examples(source, line_format, WordList(), skip_bad=skip_bad, limits=options.limits) as file:
        if options.field is not None and not file.has_records:
            reason = f"--field goes with a jsonl --input, or another of records; {source} is read as text"
            raise ConfigError(reason)
        yield file


class _Job(NamedTuple):
    """Hold what encodes blocks of lines."""

    encoder: SentenceEncoder
    vocabulary: Vocabulary
    options: EncodingOptions
    trees: TextTrees | None
    batch_tokens: int | None
    advance: Advance

    def encode(
        self,
        file: ExampleFile,
        n_lines: int,  # at most
    ) -> EncodedBlock | None:
        """Encode the next lines of a file; None at its end. Raises DataError as `ExampleFile.block`."""
        parts: list[EncodedBlock] = []
        while (n_read := sum(part.n_lines for part in parts)) < n_lines:
            file.words = words = WordList()  # of the block alone: memory does not grow with the file
            block = file.block(min(n_lines - n_read, BLOCK_LINES))
            if block is None:
                break
            parts.append(self._encode_block(block, words.words))
            self.advance(len(block.examples.labels))
        if not parts:
            return None
        joined = EncodedBlock(
            encodings=np.concatenate([part.encodings for part in parts]),
            n_lines=n_read,
            left_out=np.concatenate([part.left_out for part in parts]),
            nan_lines=np.concatenate([part.nan_lines for part in parts]),
            skipped=Skipped(),
            n_words=sum(part.n_words for part in parts),
            n_unknown=sum(part.n_unknown for part in parts),
        )
        for skipped in (*(part.skipped for part in parts), file.skipped):  # the last one of a broken end
            joined.skipped.update(skipped)
        file.skipped.clear()
        return joined

    def _encode_block(self, block: Block, words: tuple[str, ...]) -> EncodedBlock:
        """Encode the sentences of a block, and put rows of NaN for lines without, unless these are left out."""
        options, columns = self.options, block.examples.sentences
        if self.trees is not None:
            columns = self.trees.put(columns, words, block.examples.text_mask)
        columns = renumber(columns, self.vocabulary.encode(words))
        if options.branching is not None:  # other random trees for every block, the same ones in every run
            columns = with_branching(columns, options.branching, seed=block.first_line - 1)
        encodings = encode_columns(self.encoder, columns, dtype=options.dtype, batch_tokens=self.batch_tokens)
        without_row, nan_lines = block.left_out, block.left_out[:0]
        if options.on_error != "skip":
            without_row, nan_lines = block.continued, np.setdiff1d(block.left_out, block.continued)
            lines = np.setdiff1d(block.first_line + np.arange(block.n_lines), without_row)
            rows = np.full((len(lines), encodings.shape[1]), np.nan, dtype=encodings.dtype)
            rows[np.isin(lines, nan_lines, invert=True)] = encodings
            encodings = rows
        if block.n_blank:
            block.skipped[BLANK] += block.n_blank
        return EncodedBlock(
            encodings,
            block.n_lines,
            without_row,
            nan_lines,
            block.skipped,
            n_words=len(columns.token_ids),
            n_unknown=int((columns.token_ids == UNKNOWN_ID).sum()),
        )
