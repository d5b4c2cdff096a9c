"""Sentences that a command is given: trees or text, in arguments and in files.

What is no tree by the rule of `data_prep.text` is read through the checkpoint's tokenizer. A model that parses for
itself needs no tree, nor one that looks at none (LSTM, BiLSTM, bag of words); for others --branching or a parser makes
those of text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from spinn_tensor.cli.report import tell
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.columns import SentenceColumns, node_offsets, sentence_columns
from spinn_tensor.data_prep.corpora.formats import SentenceFields, named_fields
from spinn_tensor.data_prep.corpora.text_trees import TextTrees
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.limits import Limits
from spinn_tensor.data_prep.text import SentenceReader, Words, tree_of
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.data_prep.vocabulary import WordList
from spinn_tensor.inference import predict_transitions
from spinn_tensor.model.classifiers import Checkpoint
from spinn_tensor.parsers import GIVEN, TreeSource, tree_source


def record_fields(checkpoint: Checkpoint, given: Sequence[str] | None) -> SentenceFields:
    """Return what records call a sentence and its name: as those that the model was trained on, and as `given` says."""
    is_pair = checkpoint.config.model.task == "pair"
    trained = () if is_pair else checkpoint.config.text.fields
    return named_fields(SentenceFields(), (*trained, *(given or ())))


def sentence_field(
    checkpoint: Checkpoint, field: str | None, given: Sequence[str] | None = None
) -> str | None:
    """Return the field that --field names, else the one that `record_fields` does; None for the usual ones."""
    text = record_fields(checkpoint, given).text
    return field or (text if text != SentenceFields().text else None)


def source_for(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    are_scored: bool = False,  # a model's own trees are held against the trees of the sentences
) -> TreeSource:
    """Return who makes the trees of the sentences of this command, as --branching and --parser say.

    Raises ConfigError for either where it would do nothing.
    """
    kind = checkpoint.model.encoder.table_kind
    parses = kind == "own"
    are_looked_at = are_scored if parses else kind != "sequence"  # which reads words in a row
    asked = args.parser or args.branching
    if asked in BRANCHINGS and parses and not are_scored:
        raise ConfigError(f"--branching {asked}: {args.checkpoint} composes by trees of its own")
    if args.parser in (*BRANCHINGS, GIVEN):
        raise ConfigError(f"--parser {args.parser}: is no parser; --branching {args.parser} is what there is")
    if args.parser is not None and (args.branching in BRANCHINGS or not are_looked_at):
        why = "it looks at no given tree" if not are_looked_at else "trees are made by --branching"
        raise ConfigError(f"--parser: has nothing to do for this model: {why}")
    text, rules = checkpoint.config.text, checkpoint.tokenizer.rules
    source = tree_source(text, rules, asked, are_looked_at=are_looked_at)
    source = source._replace(of_all=source.of_all or args.parser is not None)
    if parses and not source.replaces:  # text has no trees to score against
        return TreeSource(are_looked_at=False)
    return source


def reading_for(
    args: argparse.Namespace, checkpoint: Checkpoint, device: str
) -> tuple[TreeSource, TextTrees | None, SentenceReader]:
    """Return who makes the trees of this command's sentences, what does for text, and what reads for this model."""
    source = source_for(args, checkpoint)
    trees = source.text_trees(device)
    tokenize = None if trees is None else checkpoint.tokenizer.tokenize
    reader = SentenceReader(tokenize, checkpoint.config.text.binarize, args.notation or "auto")
    return source, trees, reader


def tell_of_text(source: TreeSource, trees: TextTrees | None, where: str = "") -> None:
    """Say on stderr how many sentences were text, where a parser made their trees."""
    if trees is not None and trees.note is not None and source.parser is not None:
        tell(f"{where}{trees.note}")


def parse_argument(text: str, name: str, reader: SentenceReader, limits: Limits) -> Tree | Words:
    """Read a parse, or text, given on the command line. Raises DataError naming the option."""
    try:
        sentence = reader.read(text)
        found = sentence if isinstance(sentence, Words) else tree_of(sentence)
        limits.check_words(found.tokens)
        return found
    except DataError as error:
        raise error.at(field=name) from None


def composed(checkpoint: Checkpoint, sentences: SentenceColumns) -> SentenceColumns:
    """Return sentences under the trees that the model composes them by: its own, if it parses."""
    encoder = checkpoint.model.encoder
    if not encoder.config.parses:
        return sentences
    return sentences._replace(transitions=predict_transitions(encoder, sentences))


def trees_of(
    sentences: list[Tree],  # n of them
    columns: SentenceColumns,  # the same n sentences under other trees
) -> list[Tree]:
    """Return the words under the trees of the columns."""
    bounds = node_offsets(columns)
    return [
        Tree(sentence.tokens, columns.transitions[start:end])
        for sentence, start, end in zip(sentences, bounds, bounds[1:], strict=False)
    ]


def under_trees(
    sentences: Sequence[Tree | Words],
    trees: TextTrees | None,  # None: none of them is text
) -> list[Tree]:
    """Return the sentences under their trees, or those that are made for them."""
    flat, words = list(map(tree_of, sentences)), WordList()
    columns = sentence_columns(flat, words)
    if trees is not None:
        text_mask = np.array([isinstance(sentence, Words) for sentence in sentences])
        columns = trees.put(columns, words.words, text_mask)
    return trees_of(flat, columns)
