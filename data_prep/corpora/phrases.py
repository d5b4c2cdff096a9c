"""The phrases of labelled trees as sentences."""

from __future__ import annotations

import numpy as np

from spinn_tensor.data_prep.columns import NO_LABEL, Corpus, SentenceColumns, lengths
from spinn_tensor.data_prep.segments import ragged_arange
from spinn_tensor.data_prep.tables.trace import trace_stack
from spinn_tensor.data_prep.trees import SHIFT


def phrases(corpus: Corpus) -> Corpus:
    """Return every labelled node of the trees as a sentence of its own, words among them, in the transitions' order."""
    sentences = corpus.sentences
    assert sentences.node_labels is not None, "trees with labels"
    n_tokens = lengths(sentences)
    trace = trace_stack(sentences.transitions, n_tokens)
    shifts = np.flatnonzero(sentences.transitions == SHIFT)  # of each word
    nodes = np.flatnonzero(sentences.node_labels != NO_LABEL)
    first_word = trace.first_words(nodes)
    starts = shifts[first_word]  # the transitions of a node's tree are those from its first word on
    n_nodes = nodes + 1 - starts
    token_index = ragged_arange(first_word, (n_nodes + 1) // 2)
    node_index = ragged_arange(starts, n_nodes)
    columns = SentenceColumns(
        sentences.token_ids[token_index],
        np.concatenate(([0], np.cumsum((n_nodes + 1) // 2))),
        sentences.transitions[node_index],
        sentences.node_labels[node_index],
    )
    return Corpus(columns, sentences.node_labels[nodes])
