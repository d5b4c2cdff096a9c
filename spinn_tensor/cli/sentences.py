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
from spinn_tensor.data_prep.columns import SentenceColumns, node_offsets, sentence_columns
from spinn_tensor.data_prep.corpora.text_trees import TextTrees
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.text import PACKAGED, TREES_ONLY, SentenceReader, Words, one_notation, tree_of
from spinn_tensor.data_prep.token_rules import PENN
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.data_prep.words import WordList
from spinn_tensor.model.classifiers import Checkpoint
from spinn_tensor.training.text_trees import Parser


def chosen_branching(args: argparse.Namespace, checkpoint: Checkpoint) -> str | None:
    """Return what --branching says, by default what the checkpoint's run had; None for the trees that are given."""
    chosen = checkpoint.config.text.branching if args.branching is None else args.branching
    return None if chosen == "none" else chosen


def composed_branching(args: argparse.Namespace, checkpoint: Checkpoint) -> str | None:
    """Return the same for a model that composes by the trees; None for one that parses for itself.

    Raises ConfigError for one that parses where --branching would do nothing.
    """
    if not checkpoint.config.model.encoder.parses:
        return chosen_branching(args, checkpoint)
    if args.branching not in (None, "none"):
        raise ConfigError(f"--branching {args.branching}: {args.checkpoint} composes by trees of its own")
    return None


def needs_parses(checkpoint: Checkpoint) -> bool:
    """Tell whether the model composes by the trees that it is given: it neither parses nor reads words in a row."""
    return checkpoint.model.encoder.table_kind not in ("own", "sequence")


def trees_for(
    args: argparse.Namespace, checkpoint: Checkpoint, branching: str | None, device: str
) -> TextTrees | None:
    """Return what puts text under trees for this model; None if it needs trees and nothing makes any.

    Raises ConfigError for a --parser that would do nothing.
    """
    if not needs_parses(checkpoint) or branching is not None:
        if args.parser is not None:
            why = "trees are made by --branching" if branching is not None else "it looks at no given tree"
            raise ConfigError(f"--parser: has nothing to do for this model: {why}")
        return TextTrees()
    parser = args.parser or checkpoint.config.text.parser
    if parser is not None:
        return TextTrees(Parser(parser, device), of_all=True)
    return TextTrees(Parser(PACKAGED, device)) if checkpoint.tokenizer.rules == PENN else None


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
