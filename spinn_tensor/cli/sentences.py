"""Sentences that a command is given: parses where a model needs them, else text, in arguments and in files.

A model that parses for itself needs no parse, nor one that looks at no tree (LSTM, BiLSTM, bag of words), nor one whose
trees are made by --branching. For these, what is no tree by the rule of `data_prep.text` is read through the Penn
Treebank tokenizer.
"""

from __future__ import annotations

import argparse

from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.columns import SentenceColumns, node_offsets
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.text import TREES_ONLY, SentenceReader
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.model.classifiers import Checkpoint


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


class TextReader:
    """Tokenize sentences without a parse, and count them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.n_sentences = 0
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> tuple[str, ...]:
        self.n_sentences += 1
        return self._tokenizer.tokenize(text)


def needs_parses(checkpoint: Checkpoint) -> bool:
    """Tell whether the model composes by the trees that it is given: it neither parses nor reads words in a row."""
    return checkpoint.model.encoder.table_kind not in ("own", "sequence")


def sentence_reader_for(checkpoint: Checkpoint, branching: str | None) -> SentenceReader:
    """Return what reads sentences for this model: no text if it needs trees and none are made."""
    takes_text = branching is not None or not needs_parses(checkpoint)
    return SentenceReader(
        checkpoint.tokenizer.tokenize if takes_text else None, checkpoint.config.text.binarize
    )


def parse_argument(
    text: str, name: str, reader: SentenceReader = TREES_ONLY, limits: Limits = DEFAULT_LIMITS
) -> Tree:
    """Read a parse, or text, given on the command line. Raises DataError naming the option."""
    try:
        tree = reader.tree(text)
        limits.check_words(tree.tokens)
        return tree
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
