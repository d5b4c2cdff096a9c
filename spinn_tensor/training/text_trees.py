"""The corpus of a run, its text under trees: made by a SPINN that was taught to parse, or without a parser."""

from __future__ import annotations

from collections.abc import Callable

from spinn_tensor.config import SPINN_KINDS, TextSettings
from spinn_tensor.data_prep.corpora.config import DataConfig
from spinn_tensor.data_prep.corpora.splits import Splits, load_splits, rules_of, task_of
from spinn_tensor.data_prep.corpora.text_trees import TextTrees
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.parsers import tree_source
from spinn_tensor.training.config import RunConfig, encoder_config


def read_splits(
    run: RunConfig, device: str, skipped: Skipped, note: Callable[[str], object] = lambda text: None
) -> Splits:
    """Read the examples of a run, as `load_splits`; text gets trees, and how much of it there is is noted."""
    trees = text_trees(run.data, encoder_config(run.encoder, vocabulary_size=2).kind, device)
    splits = load_splits(run.data, skipped, trees)
    if skipped:
        note(str(skipped))
    if trees is not None and trees.note is not None and run.data.branching is None:
        note(trees.note)
    return splits


def text_trees(
    data: DataConfig,
    kind: str,  # of the encoder that will look at them
    device: str = "cpu",
) -> TextTrees | None:
    """Return what puts text under trees for this corpus and encoder; None where text is refused."""
    trained = TextSettings(data.branching, data.fields, parser=data.parser)
    are_looked_at = kind in SPINN_KINDS or data.parser is not None
    source = tree_source(trained, rules_of(data), are_looked_at=are_looked_at)
    if task_of(data) == "parse" and are_looked_at and not source.replaces:
        return None  # from a corpus of trees a parser is to learn: not from another's
    return source.text_trees(device)
