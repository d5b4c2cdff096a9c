"""The README.md of a bundle: what the model is, what it learnt from, how well, and the command that makes it again.

Its text is the template card.md.j2; it begins with the header in YAML that the Hugging Face Hub reads. Files are named
without the folders they lay in. The settings of the run are those in config.json; what is missing there was not set.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinn_tensor.config import GIVEN_KINDS, ModelConfig

if TYPE_CHECKING:
    from jinja2 import Template

KINDS = {  # name, and what it is
    "spinn-pi-nt": ("SPINN-PI-NT", "TreeLSTM over given parses"),
    "spinn-pi": ("SPINN-PI", "TreeLSTM over given parses, with a tracker"),
    "spinn": ("SPINN", "TreeLSTM over parses that it makes itself"),
    "lstm": ("LSTM", "over the words in a row"),
    "bilstm": ("BiLSTM", "over the words in a row, in both directions"),
    "bow": ("Bag of words", "the sum of the words"),
}
CELLS = {  # other cells than the TreeLSTM
    "grc": "gated recursive cell",
    "rntn": "recursive neural tensor network",
    "tree-gru": "Tree-GRU",
}
TASKS = {
    "pair": "a classifier of sentence pairs",
    "sentence": "a classifier of sentences",
    "parse": "a parser",
}
TAGS = {"pair": "sentence-pair-classification", "sentence": "sentence-classification", "parse": "parsing"}
CRITERIA = {"accuracy": "accuracy", "macro_f1": "macro-F1", "f1": "F1 of the trees"}  # by `select_by`
HUB_DATASETS = {"snli": "stanfordnlp/snli", "multinli": "nyu-mll/multi_nli", "sst": "stanfordnlp/sst"}
COMMAND = re.compile(r"^    (spinn train .*)$", re.MULTILINE)
NOT_ENGLISH = ("listops",)


def model_card(
    model: ModelConfig,
    run: Mapping[str, Any],  # its settings as JSON values, see `spinn_tensor.bundle`
    metrics: Mapping[str, Any],
    n_parameters: int,
    command: str | None = None,  # the `spinn train` that makes the model again; None: there is none
    license: str | None = None,  # of the weights; None: not said
) -> str:
    """Return the text of README.md."""
    data = without_folders(run)["data"]
    corpus = data.get("corpus")  # None: a model of a loop of somebody's own
    name, what = KINDS[model.encoder.kind]
    cell = model.encoder.cell
    what = what if cell == "treelstm" else what.replace("TreeLSTM", CELLS.get(cell, cell))
    return _template().render(
        model=model,
        encoder=model.encoder,
        name=name,
        what=what,
        task=TASKS[model.task],
        tag=TAGS[model.task],
        data=data,
        corpus=corpus,
        english=corpus not in NOT_ENGLISH,
        sentence="( ( ( [MAX 2 ) 9 ) ] )" if corpus in NOT_ENGLISH else "A dog barks.",
        criterion=CRITERIA[run.get("training", {}).get("select_by", "accuracy")],
        metrics=metrics,
        n_parameters=n_parameters,
        command=command,
        license=license,
        hub_datasets=HUB_DATASETS,
        given_kinds=GIVEN_KINDS,
    )


def read_command(card: Path) -> str | None:
    """Return the command in a model card, as `model_card` wrote it; None where there is no such one."""
    try:
        found = COMMAND.search(card.read_text(encoding="utf-8"))
        # another one could hold what its shell runs besides
        return found[1] if found is not None and shlex.join(shlex.split(found[1])) == found[1] else None
    except (OSError, ValueError):  # ValueError: no UTF-8, or quotes without an end
        return None


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # of a text for people, in which nothing is to be escaped
        loader=PackageLoader("spinn_tensor", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["json"] = json.dumps  # a JSON value is a YAML value
    environment.filters["number"] = "{:,}".format
    environment.filters["cell"] = lambda value: " ".join(str(value).replace("|", "/").split())
    return environment.get_template("card.md.j2")


def without_folders(run: Mapping[str, Any]) -> dict[str, Any]:
    """Name the files of a run's settings by their last part: where they lay is nobody's business."""
    data = dict(run.get("data", {}))
    for name in ("data", "vectors", "parser", "tokenizer"):
        data |= {name: _last_part(data[name])} if data.get(name) else {}
    for name in ("train", "dev", "test"):
        data |= {name: list(map(_last_part, data[name]))} if name in data else {}
    if "extra" in data:
        entries = [entry.partition("=") for entry in data["extra"]]
        data["extra"] = [f"{name}={_last_part(file)}" for name, _, file in entries]
    return {**run, "data": data}


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
