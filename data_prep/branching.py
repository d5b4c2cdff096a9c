"""Trees that need no parser, for all sentences of a corpus at once: the baselines that a parser is held against.

Over the words a b c d e, as transitions:

    left        S S R S R S R S R       ( ( ( ( a b ) c ) d ) e )      S (S R)^(N-1)
    right       S S S S S R R R R       ( a ( b ( c ( d e ) ) ) )      S^N R^(N-1)
    balanced    S S R S R S S R R       ( ( ( a b ) c ) ( d e ) )      every span in halves, the odd word on the left
    random                              uniform over all Catalan(N-1) binary trees of N leaves
    right-period                        right, but for a final mark, which is the right child of the root:
                S S S S R R R S R       ( ( a ( b ( c d ) ) ) . )      S^(N-1) R^(N-2) S R

**Balanced.** A span of w words takes 2w-1 transitions, from p on: its left half of w - w//2 words, its right half of
w//2, and a REDUCE at p + 2w-2. All spans of one depth, in all sentences, are split in one pass; there are
ceil(log2 N) passes. The left half is the longer one, as in `balanced_transitions` of nyu-mll/spinn. (The evaluation
script there, scripts/parse_comparison.py, has other balanced trees: the right subtree of every node is full.)

**Right-period.** English is right-branching but for the mark that ends a sentence, which treebanks attach to the root:
in SNLI's dev slice the mean bracketing F1, whole sentences included, is 0.262 for right-branching trees and 0.549 for
these. Which words are marks is not in the lengths, so they are given, and there is no corpus under such trees.

**Random.** The cycle lemma (Dvoretzky & Motzkin 1947; Raney 1960): of the 2N-1 rotations of any row of N SHIFTs (+1)
and N-1 REDUCEs (-1), exactly one has only positive running sums, and so is a tree: the one that begins after the last
place where the running sum is least. Rotations of a row that sums to one are all different, hence every tree is made
from as many rows, 2N-1, as any other, and a shuffled row rotated so is uniform over the trees. (Merging neighbours
picked at random, as the random trees of Williams, Drozdov & Bowman, TACL 2018, are made, prefers shallow trees.)

Transitions are flat, (M,) int8, sentence after sentence, as in `SentenceColumns`; M = sum of 2N-1. There is no loop
over sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spinn_tensor.data_prep.columns import Corpus, SentenceColumns
from spinn_tensor.data_prep.columns import lengths as sentence_lengths
from spinn_tensor.data_prep.segments import places, starts
from spinn_tensor.data_prep.trees import REDUCE, SHIFT, Tree, check_lengths

BRANCHINGS = ("left", "right", "balanced", "random")
FINAL_MARKS = (".", "!", "?")  # as the Penn Treebank's tag "." has it


def branching_transitions(
    lengths: np.ndarray,  # (n,) int64, tokens of each sentence, each >= 1
    kind: str,  # one of BRANCHINGS
    seed: int = 0,  # of the random trees; the others have no use for it
) -> np.ndarray:  # (M,) int8, sentence after sentence
    """Make trees of one kind over sentences of these lengths.

    The same seed and lengths give the same random trees. Raises ValueError for an unknown kind, DataError naming the
    example for a sentence without tokens.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if kind not in BRANCHINGS:
        raise ValueError(f"unknown branching {kind!r}, expected one of {', '.join(BRANCHINGS)}")
    check_lengths(lengths)
    if kind == "balanced":
        return _balanced(lengths)
    if kind == "random":
        return _random(lengths, seed)
    time = places(2 * lengths - 1)
    after_last_word = time >= np.repeat(lengths, 2 * lengths - 1)
    reduces = after_last_word if kind == "right" else (time % 2 == 0) & (time > 0)
    return np.where(reduces, REDUCE, SHIFT).astype(np.int8)


def right_period_transitions(
    lengths: np.ndarray,  # (n,) int64, tokens of each sentence, each >= 1
    final_mark: np.ndarray,  # (n,) bool, whether the last token of each is a mark
) -> np.ndarray:  # (M,) int8, sentence after sentence
    """Make right-branching trees whose final mark is the right child of the root; raises as `branching_transitions`."""
    lengths = np.asarray(lengths, dtype=np.int64)
    transitions = branching_transitions(lengths, "right")
    moved = np.asarray(final_mark, dtype=bool) & (lengths > 2)
    # of the last word the SHIFT, which goes to the last but one place
    last_word = (starts(2 * lengths - 1) + lengths - 1)[moved]
    transitions[last_word] = REDUCE
    transitions[last_word + lengths[moved] - 2] = SHIFT
    return transitions


def baseline_transitions(trees: Sequence[Tree]) -> dict[str, np.ndarray]:  # (M,) int8 each
    """Put the words of n >= 1 trees under trees of every kind, by the name to print, to hold a parser against."""
    lengths = np.array([tree.n_tokens for tree in trees])
    final_mark = np.array([tree.tokens[-1] in FINAL_MARKS for tree in trees])
    right_period = right_period_transitions(lengths, final_mark)
    return {
        "left-branching": branching_transitions(lengths, "left"),
        "right-branching": branching_transitions(lengths, "right"),
        "right-branching, final mark at the root": right_period,
        "balanced": branching_transitions(lengths, "balanced"),
        "random": branching_transitions(lengths, "random"),
    }


def with_branching(columns: SentenceColumns, kind: str, seed: int = 0) -> SentenceColumns:
    """Put sentences under other trees.

    Node labels are dropped: they belong to the nodes of the trees that are replaced, and other trees have other nodes.
    Raises as `branching_transitions`.
    """
    transitions = branching_transitions(sentence_lengths(columns), kind, seed)
    return columns._replace(transitions=transitions, node_labels=None)


def branched(corpus: Corpus, kind: str, seed: int = 0) -> Corpus:
    """Return a corpus under other trees, as `with_branching` does for sentences; the labels of the examples stay."""
    return corpus._replace(sentences=with_branching(corpus.sentences, kind, seed))


def _balanced(lengths: np.ndarray) -> np.ndarray:
    """Make balanced trees, (M,) int8. Each pass splits all spans of one depth, those of one word being done."""
    transitions = np.full(int((2 * lengths - 1).sum()), SHIFT, dtype=np.int8)
    # of every span: its first transition, and how many words it has
    start, width = starts(2 * lengths - 1), lengths
    while start.size:
        wide = width > 1
        start, width = start[wide], width[wide]
        transitions[start + 2 * width - 2] = REDUCE
        right_width = width // 2
        left_width = width - right_width
        start = np.concatenate([start, start + 2 * left_width - 1])
        width = np.concatenate([left_width, right_width])
    return transitions


def _random(lengths: np.ndarray, seed: int) -> np.ndarray:
    """Draw trees, (M,) int8. Shuffle N SHIFTs and N-1 REDUCEs, then rotate them to the one tree among the rotations."""
    if not lengths.size:
        return np.zeros(0, dtype=np.int8)
    n_steps = 2 * lengths - 1
    first, time = starts(n_steps), places(n_steps)
    shuffled = _shuffled(lengths, time, seed)
    sentence = np.repeat(np.arange(len(lengths)), n_steps)
    height = np.cumsum(1 - 2 * shuffled) - sentence  # (M,) within each sentence, since each sums to one
    least = np.repeat(np.minimum.reduceat(height, first), n_steps)
    last_least = np.maximum.reduceat(np.where(height == least, time, -1), first)  # (n,)
    rotated = (time + np.repeat(last_least + 1, n_steps)) % np.repeat(n_steps, n_steps)
    return shuffled[np.repeat(first, n_steps) + rotated].astype(np.int8)


def _shuffled(lengths: np.ndarray, time: np.ndarray, seed: int) -> np.ndarray:
    """Shuffle the N SHIFTs and N-1 REDUCEs of each sentence, (M,) int64.

    One sort of 63-bit keys (sentence, random number, transition), from the last bit of which the transition is read.
    42 bits are random for a million sentences, so that ties, the only thing not uniform here, are of no account.
    """
    n_random_bits = 62 - len(lengths).bit_length()
    n_steps = 2 * lengths - 1
    sentence = np.repeat(np.arange(len(lengths)), n_steps)
    draws = np.random.default_rng(seed).integers(2**n_random_bits, size=len(time))
    reduces = time >= np.repeat(lengths, n_steps)
    key = (((sentence << n_random_bits) | draws) << 1) | np.where(reduces, REDUCE, SHIFT)
    key.sort()
    return key & 1
