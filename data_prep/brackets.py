"""Parsing measured: the unlabelled brackets of binary trees.

A tree over N words has a bracket, the span [start, end) of words, for every REDUCE: N-1 of them, no two alike. One of
them is the whole sentence, which is in every tree; the other N-2 are its **inner** brackets. Single words are no
brackets. With A and B the brackets of two trees over one sentence, |A| = |B|, hence

    F1 = precision = recall = |A and B| / |A|,

and with m matches of N-1, the whole sentence among them, F1 is m / (N-1) with the whole sentence and
(m-1) / (N-2) without. Over a corpus there are thus four figures, all of them in use, which differ a lot: on short
sentences the whole sentence is a large share of the brackets, all of it right.

                                with whole sentences      inner brackets only
    all brackets pooled         f1                        inner_f1
    mean over the sentences     sentence_f1               inner_sentence_f1

A mean is over the sentences that have such brackets: of two words or more, of three words or more. evalb pools, and
keeps whole sentences. Williams, Drozdov & Bowman (TACL 2018) take the mean with whole sentences (their code:
scripts/parse_comparison.py of nyu-mll/spinn), with one difference: there a sentence of one word counts as 1. Grammar
induction since Klein (2005) leaves trivial brackets out; Kim, Dyer & Rush (ACL 2019) take the mean without them.

**Punctuation.** EVALB leaves out words whose tag is , : `` '' or . before it counts; `is_punctuation` does so by the
tags of a Penn tree, other treebanks' among them, and, where there are none, by the tokens that have these tags in the
Treebank, or are Unicode's punctuation beyond ASCII. A binary tree without some of its words is a binary tree again, and
all of the above holds.

**Trees as they are.** Trees of a treebank have phrases of more than two words that are not split further, and a binary
tree that is right about all of them has brackets inside them that nobody marked. So their own brackets are compared,
too (`phrase_scores`), pooled over the corpus and as a mean over the sentences, by precision, recall and
F1 = 2 matching / (predicted + gold). A parser's binary trees cannot reach a precision of 1 there; what the gold trees
reach when they are binarised is the most that can be had.

    unlabelled    the spans of two words and more, each once
    labelled      as EVALB with COLLINS.prm: every phrase, those of one word and those over the same words as well;
                  the outermost (ROOT, TOP, S1 or without a label) is none, what follows the label after - = or | is
                  dropped, and PRT is ADVP

**Spans without recursion.** The words of all sentences are counted through. The state that transition p pushes ends
after the `shifted[p]` words taken so far, and begins where the state beneath it on the stack ends, or, at the bottom
of the stack, where its sentence begins: [shifted[below[p]], shifted[p]).

**Depth.** A word lies as deep as there are brackets around it, the whole sentence included. Summed over the words of a
tree, that is the sum of the widths of its brackets.

Transitions are flat, (M,) int8, sentence after sentence, beside `lengths`, (n,) tokens of each, as `trace_stack` takes
them; M = sum of 2N-1, C = sum of N-1. Where there is nothing to average a score is NaN, and None in `to_dict`.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from spinn_tensor.data_prep.branching import branching_transitions
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.penn import PennTree, plain_label
from spinn_tensor.data_prep.statistics import share
from spinn_tensor.data_prep.tables.trace import trace_stack
from spinn_tensor.data_prep.trees import Tree

# the tags that EVALB leaves out, those of other treebanks (Chinese, French, TIGER, UD), and words that have the first
PUNCTUATION_TAGS = frozenset((",", ":", "``", "''", ".", "PU", "PONCT", "$,", "$.", "$(", "PUNCT"))
MARKS = frozenset((",", ":", ";", "-", "--", "...", "`", "``", "''", '"', ".", "!", "?"))
_OUTERMOST = frozenset(("", "ROOT", "TOP", "S1"))


class Spans(NamedTuple):
    """Hold the brackets of n sentences, in the order of their REDUCEs."""

    sentence: np.ndarray  # (C,) int64, sentence of each bracket
    start: np.ndarray  # (C,) int64, its first word, the words of all sentences counted through from 0
    end: np.ndarray  # (C,) int64, the word after its last


class BracketScores(NamedTuple):
    """Count brackets of n trees against those of n others. For binary trees F1 = precision = recall."""

    n_sentences: int
    n_trivial: int  # sentences of one or two words: they have no inner bracket
    n_brackets: int  # C, in each of the two sets of trees, whole sentences included
    n_matching: int  # of these, in both trees of a sentence
    n_inner: int  # without whole sentences
    n_inner_matching: int
    f1: float  # n_matching / n_brackets
    inner_f1: float  # n_inner_matching / n_inner
    sentence_f1: float  # mean over the sentences of two words or more
    inner_sentence_f1: float  # mean over the sentences of three words or more

    def to_dict(self) -> dict[str, int | float | None]:
        """Return plain JSON values."""
        return _plain(self)


class PhraseScores(NamedTuple):
    """Count the brackets of n trees against those of n others that may have more or fewer."""

    n_predicted: int
    n_gold: int
    n_matching: int
    precision: float  # n_matching / n_predicted
    recall: float  # n_matching / n_gold
    f1: float  # 2 n_matching / (n_predicted + n_gold)
    sentence_f1: float  # mean over the sentences that have brackets


class ParseScores(NamedTuple):
    """Hold scores of predicted trees against gold trees and against trees made without a parser."""

    transition_accuracy: float  # see `transition_accuracy`
    gold: BracketScores
    left: BracketScores  # against left-branching trees
    right: BracketScores  # against right-branching trees
    balanced: BracketScores  # against balanced trees
    average_depth: float  # of the predicted trees, see `average_depth`
    gold_average_depth: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; bracket scores are dicts of their own."""
        return _plain(self)


def bracket_spans(
    transitions: np.ndarray,  # (M,) int8, SHIFT or REDUCE, sentence after sentence
    lengths: np.ndarray,  # (n,) tokens of each sentence, each >= 1
) -> Spans:
    """Find the brackets of n >= 1 sentences; raises DataError naming the example that is not a tree."""
    trace = trace_stack(transitions, lengths)
    reduces = trace.reduces
    return Spans(trace.sentence[reduces], trace.first_words(reduces), trace.shifted[reduces])


def bracket_scores(
    predicted: np.ndarray,  # (M,) int8
    gold: np.ndarray,  # (M,) int8
    lengths: np.ndarray,  # (n,)
    kept_mask: np.ndarray | None = None,  # (L,) bool, words that count; None: all
) -> BracketScores:
    """Score the brackets of predicted trees against those of gold trees.

    Raises DataError naming `predicted` or `gold` and the example that is not a tree.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    spans = _named("predicted", predicted, lengths), _named("gold", gold, lengths)
    if kept_mask is not None:
        sentence = np.repeat(np.arange(len(lengths)), lengths)
        spans = _without_words(spans[0], kept_mask), _without_words(spans[1], kept_mask)
        lengths = np.bincount(sentence[kept_mask], minlength=len(lengths))
    return _compare(*spans, lengths)


def is_punctuation(tree: Tree) -> list[bool]:  # N
    """Tell which words of a tree EVALB leaves out: by their tags, or where they have none by themselves."""
    tags = ("",) * tree.n_tokens if tree.penn is None else tree.penn.tags
    return [
        tag in PUNCTUATION_TAGS if tag else token in MARKS or _is_mark(token)
        for token, tag in zip(tree.tokens, tags, strict=True)
    ]


def _is_mark(token: str) -> bool:
    """Tell whether a word is nothing but punctuation of other writing than ASCII's, whose marks are EVALB's."""
    return not token.isascii() and all(unicodedata.category(character)[0] == "P" for character in token)


def phrase_scores(
    predicted: Sequence[PennTree],  # n trees without traces
    gold: Sequence[PennTree],  # n
    left_out: Sequence[Sequence[bool]] | None = None,  # n times N words; None: none
    *,
    labelled: bool = False,
) -> PhraseScores:
    """Score the brackets of predicted trees as they are against those of gold trees."""
    n_predicted = n_gold = n_matching = 0
    f1s = []
    if left_out is None:
        left_out = [[False] * len(tree.tokens) for tree in gold]
    for *trees, words in zip(predicted, gold, left_out, strict=True):
        ours, theirs = (_phrases(tree, words, labelled) for tree in trees)
        n_both = (ours & theirs).total()
        n_predicted += ours.total()
        n_gold += theirs.total()
        n_matching += n_both
        if ours or theirs:
            f1s.append(2 * n_both / (ours.total() + theirs.total()))
    return PhraseScores(
        n_predicted,
        n_gold,
        n_matching,
        precision=share(n_matching, n_predicted),
        recall=share(n_matching, n_gold),
        f1=share(2 * n_matching, n_predicted + n_gold),
        sentence_f1=share(sum(f1s), len(f1s)),
    )


def _phrases(
    tree: PennTree,
    left_out: Sequence[bool],  # N words
    labelled: bool,
) -> Counter[tuple[str, int, int]]:
    """Return the brackets that count, over the words that do."""
    places = list(accumulate((not out for out in left_out), initial=0))
    spans = [(label, places[start], places[end]) for label, start, end in tree.phrases]
    if not labelled:
        return Counter({("", start, end) for _, start, end in spans if end - start > 1})
    found: Counter[tuple[str, int, int]] = Counter()
    for label, start, end in spans:
        label = plain_label(label)
        if end > start and label not in _OUTERMOST:
            found["ADVP" if label == "PRT" else label, start, end] += 1
    return found


def transition_accuracy(
    predicted: np.ndarray,  # (M,) int8
    gold: np.ndarray,  # (M,) int8
) -> float:
    """Share of equal transitions, the measure of Bowman et al. (2016).

    Transitions without a choice count like any other: the first two, which are SHIFT, and all after the last word.
    Raises ValueError if the shapes differ.
    """
    predicted, gold = np.asarray(predicted), np.asarray(gold)
    if predicted.shape != gold.shape:
        raise ValueError(f"got predicted transitions of shape {predicted.shape}, expected {gold.shape}")
    return share((predicted == gold).sum(), gold.size)


def average_depth(
    transitions: np.ndarray,  # (M,) int8
    lengths: np.ndarray,  # (n,)
) -> float:
    """Return the mean over the sentences of the mean depth of their words (Williams, Drozdov & Bowman 2018).

    The depth of a word is the number of edges from the root to it: 0 in a sentence of one word, log2 N in a full
    tree, (N-1)(N+2) / 2N on average in a chain. Raises as `bracket_spans`.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    return _average_depth(bracket_spans(transitions, lengths), lengths)


def self_f1(
    parses: Sequence[np.ndarray],  # (M,) int8 each, one for every run, two runs or more
    lengths: np.ndarray,  # (n,)
    *,
    whole: bool = False,  # with whole sentences, as Williams, Drozdov & Bowman have it
) -> float:
    """Measure how far runs agree: the mean of `inner_sentence_f1`, or `sentence_f1`, over all pairs of runs.

    The "self F1" of Williams, Drozdov & Bowman (2018). A bracket that k runs have matches in k(k-1)/2 pairs, so that
    the pairs need not be visited. Raises ValueError for fewer than two runs, DataError naming the run, counted from
    0, and the example that is not a tree.
    """
    if len(parses) < 2:
        raise ValueError(f"got {len(parses)} runs, expected two or more")
    lengths = np.asarray(lengths, dtype=np.int64)
    n_tokens = int(lengths.sum())
    runs = [_named(f"run {run}", transitions, lengths) for run, transitions in enumerate(parses)]
    keys, n_runs = np.unique(np.concatenate([_keys(spans, n_tokens) for spans in runs]), return_counts=True)
    # A bracket's key tells its first word, and that its sentence.
    sentence = np.repeat(np.arange(len(lengths)), lengths)[keys // (n_tokens + 1)]
    n_pairs = len(runs) * (len(runs) - 1) // 2
    matching = np.bincount(sentence, n_runs * (n_runs - 1) / 2, minlength=len(lengths))  # (n,) in all pairs
    return _sentence_mean(matching / n_pairs, lengths, whole=whole)


def score_parses(
    predicted: np.ndarray,  # (M,) int8
    gold: np.ndarray,  # (M,) int8
    lengths: np.ndarray,  # (n,)
) -> ParseScores:
    """Score a parser's trees in all ways at once; raises as `bracket_scores`."""
    lengths = np.asarray(lengths, dtype=np.int64)
    predicted_spans, gold_spans = _named("predicted", predicted, lengths), _named("gold", gold, lengths)
    left, right, balanced = (
        _compare(predicted_spans, bracket_spans(branching_transitions(lengths, kind), lengths), lengths)
        for kind in ("left", "right", "balanced")
    )
    return ParseScores(
        transition_accuracy=transition_accuracy(predicted, gold),
        gold=_compare(predicted_spans, gold_spans, lengths),
        left=left,
        right=right,
        balanced=balanced,
        average_depth=_average_depth(predicted_spans, lengths),
        gold_average_depth=_average_depth(gold_spans, lengths),
    )


def _named(name: str, transitions: np.ndarray, lengths: np.ndarray) -> Spans:
    """Find the brackets of trees that an error calls by this name."""
    try:
        return bracket_spans(transitions, lengths)
    except DataError as error:
        raise error.at(field=name) from None


def _without_words(
    spans: Spans,
    kept_mask: np.ndarray,  # (L,) bool
) -> Spans:
    """Return the brackets over the words that are kept: those of two and more, each once."""
    places = np.concatenate(([0], np.cumsum(kept_mask)))
    mapped = Spans(spans.sentence, places[spans.start], places[spans.end])
    _, first = np.unique(_keys(mapped, int(places[-1])), return_index=True)
    first = first[mapped.end[first] - mapped.start[first] > 1]
    return Spans(*(values[first] for values in mapped))


def _keys(spans: Spans, n_tokens: int) -> np.ndarray:
    """Number every bracket, (C,) int64: the same in two trees if and only if the bracket is."""
    return spans.start * (n_tokens + 1) + spans.end


def _compare(a: Spans, b: Spans, lengths: np.ndarray) -> BracketScores:
    n_tokens = int(lengths.sum())
    matches = np.isin(_keys(a, n_tokens), _keys(b, n_tokens))
    matching = np.bincount(a.sentence[matches], minlength=len(lengths))  # (n,), whole sentences included
    n_whole = int((lengths >= 2).sum())
    n_brackets, n_matching = len(matches), int(matches.sum())
    return BracketScores(
        n_sentences=len(lengths),
        n_trivial=int((lengths <= 2).sum()),
        n_brackets=n_brackets,
        n_matching=n_matching,
        n_inner=n_brackets - n_whole,
        n_inner_matching=n_matching - n_whole,
        f1=share(n_matching, n_brackets),
        inner_f1=share(n_matching - n_whole, n_brackets - n_whole),
        sentence_f1=_sentence_mean(matching, lengths, whole=True),
        inner_sentence_f1=_sentence_mean(matching, lengths, whole=False),
    )


def _sentence_mean(
    matching: np.ndarray,  # (n,) matching brackets of each sentence, its whole sentence included
    lengths: np.ndarray,  # (n,) int64
    *,
    whole: bool,
) -> float:
    """Return the mean F1 of the sentences that have brackets, with or without whole sentences."""
    left_out = 0 if whole else 1
    n_brackets = lengths - 1 - left_out
    some = n_brackets > 0
    return share(((matching[some] - left_out) / n_brackets[some]).sum(), some.sum())


def _average_depth(spans: Spans, lengths: np.ndarray) -> float:
    widths = spans.end - spans.start
    depths = np.bincount(spans.sentence, widths, minlength=len(lengths))  # (n,) summed over words
    return float((depths / lengths).mean())


def _plain(value: Any) -> Any:
    if isinstance(value, BracketScores | ParseScores):
        return {name: _plain(part) for name, part in value._asdict().items()}
    return None if math.isnan(value) else value
