"""Sentences that a command is given: trees or text, in arguments and in files.

What is no tree by the rule of `data_prep.text` is read through the checkpoint's tokenizer. A model that parses for
itself needs no tree, nor one that looks at none (LSTM, BiLSTM, bag of words); for others --branching or a parser makes
those of text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.columns import SentenceColumns, node_offsets, sentence_columns
from spinn_tensor.data_prep.corpora.formats import SentenceFields, named_fields
from spinn_tensor.data_prep.corpora.text_trees import TextTrees
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.text import TREES_ONLY, SentenceReader, Words, one_notation, tree_of
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.data_prep.words import WordList
from spinn_tensor.model.classifiers import Checkpoint
from spinn_tensor.parsers import GIVEN, TreeSource, tree_source


def needs_parses(checkpoint: Checkpoint) -> bool:
    """Tell whether the model composes by the trees that it is given: it neither parses nor reads words in a row."""
    return checkpoint.model.encoder.table_kind not in ("own", "sequence")


def record_fields(checkpoint: Checkpoint, given: Sequence[str] | None = None) -> SentenceFields:
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
    parses = checkpoint.model.encoder.table_kind == "own"
    are_looked_at = needs_parses(checkpoint) or (parses and are_scored)
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


def sentence_reader_for(args: argparse.Namespace, checkpoint: Checkpoint, takes_text: bool) -> SentenceReader:
    """Return what reads sentences for this model."""
    tokenize = checkpoint.tokenizer.tokenize if takes_text else None
    return SentenceReader(tokenize, checkpoint.config.text.binarize, one_notation(args.notation or "auto"))


def parse_argument(
    text: str, name: str, reader: SentenceReader = TREES_ONLY, limits: Limits = DEFAULT_LIMITS
) -> Tree | Words:
    """Read a parse, or text, given on the command line. Raises DataError naming the option."""
    try:
        sentence = reader.read(text)
        found = sentence if isinstance(sentence, Words) else tree_of(sentence)
        limits.check_words(found.tokens)
        return found
    except DataError as error:
        raise error.at(field=name) from None


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
