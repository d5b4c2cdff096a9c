"""`spinn parse --gold`: models, other parsers' trees and trees made without a parser, held against a treebank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spinn_tensor.cli.report import (
    bracket_table,
    comparison_table,
    console,
    parse_counts,
    parse_summary,
    parse_table,
    percent,
    phrase_table,
    print_skipped,
)
from spinn_tensor.cli.sentences import composed, trees_of
from spinn_tensor.data_prep.brackets import (
    bracket_scores,
    is_punctuation,
    phrase_scores,
    score_parses,
    self_f1,
)
from spinn_tensor.data_prep.branching import baseline_transitions
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.corpora.formats import TreebankFormat
from spinn_tensor.data_prep.corpora.read import read_line_examples
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.limits import Limits
from spinn_tensor.data_prep.penn import PennTree
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.model.classifiers import Checkpoint

AS_THEY_ARE = "the corpus's, binarised"


def score(
    gold_file: Path,
    predicted_files: Sequence[Path],
    models: dict[str, Checkpoint],  # by the name to print
    binarize: str,  # Penn trees
    skip_bad: bool,
    limits: Limits,
) -> None:
    """Print how trees agree with those of a file. Raises DataError for a bad line, and for files of other sentences."""
    gold = _trees(gold_file, binarize, skip_bad, limits)
    others = {str(path): _trees(path, binarize, skip_bad, limits) for path in predicted_files}
    for path, trees in others.items():
        _check_sentences(path, trees, gold, gold_file)
    parsed = {
        name: trees_of(gold, composed(model, sentence_columns(gold, model.vocabulary)))
        for name, model in models.items()
    } | others
    _print_binary(gold, parsed)
    if all(tree.penn is not None for tree in gold):
        _print_phrases(gold, parsed)


def _trees(path: Path, binarize: str, skip_bad: bool, limits: Limits) -> list[Tree]:
    skipped = Skipped()
    line_format = TreebankFormat(SentenceReader(binarize=binarize))
    examples = read_line_examples(path, line_format, skip_bad=skip_bad, skipped=skipped, limits=limits)
    trees = [tree for example in examples for tree in example.trees]
    print_skipped(skipped)
    return trees


def _check_sentences(path: str, trees: Sequence[Tree], gold: Sequence[Tree], gold_file: Path) -> None:
    if len(trees) != len(gold):
        raise DataError(f"{len(trees):,} trees, expected the {len(gold):,} of {gold_file}", path=path)
    for example, (tree, expected) in enumerate(zip(trees, gold, strict=True)):
        if tree.tokens != expected.tokens:
            words = " ".join(tree.tokens)
            raise DataError(f"other words than in {gold_file}: {words:.60}", path=path, example=example)


def _print_binary(gold: list[Tree], parsed: dict[str, list[Tree]]) -> None:
    """Print scores of binary trees, with punctuation and without."""
    lengths = np.array([tree.n_tokens for tree in gold])
    gold_transitions = np.concatenate([tree.transitions for tree in gold])
    parses = {name: np.concatenate([tree.transitions for tree in trees]) for name, trees in parsed.items()}
    compared = {**parses, **baseline_transitions(gold)}
    scores = {name: score_parses(parse, gold_transitions, lengths) for name, parse in compared.items()}
    out = console()
    print(parse_counts(next(iter(scores.values()))))
    out.print(comparison_table(scores))
    for name in parsed:
        print(f"{name}: {parse_summary(scores[name])}")
        out.print(parse_table(scores[name]))
    kept_mask = ~np.array([mark for tree in gold for mark in is_punctuation(tree)])
    if not kept_mask.all():
        print(f"without the {int((~kept_mask).sum()):,} words that are punctuation")
        rows = {
            name: bracket_scores(parse, gold_transitions, lengths, kept_mask)
            for name, parse in compared.items()
        }
        out.print(bracket_table("bracketing F1 of", rows))
    if len(parses) > 1:
        mean, inner = (percent(self_f1(list(parses.values()), lengths, whole=kind)) for kind in (True, False))
        print(f"agreement of the {len(parses)} models (self F1): mean {mean}, mean, inner {inner}")


def _print_phrases(gold: list[Tree], parsed: dict[str, list[Tree]]) -> None:
    """Print scores against the brackets of Penn trees as they are, with punctuation and without."""
    expected = [tree.penn for tree in gold if tree.penn is not None]
    marks = [is_punctuation(tree) for tree in gold]
    found = {
        name: [PennTree.of_binary(tree) if tree.penn is None else tree.penn for tree in trees]
        for name, trees in parsed.items()
    }
    found[AS_THEY_ARE] = [PennTree.of_binary(tree) for tree in gold]
    labelled = {name: trees for name, trees in found.items() if all(tree.has_labels for tree in trees)}
    has_labels = all(tree.has_labels for tree in expected)
    for trees, is_labelled in ((found, False), (labelled if has_labels else {}, True)):
        for left_out, where in ((None, ""), (marks, ", without punctuation")):
            if trees:
                rows = {
                    name: phrase_scores(of, expected, left_out, labelled=is_labelled)
                    for name, of in trees.items()
                }
                kind = "labelled brackets" if is_labelled else "brackets"
                console().print(phrase_table(f"{kind} as they are{where}", rows))
