"""The README.md of a bundle: what the model is, what it learnt from, how well, and the command that makes it again.

It begins with the header in YAML that the Hugging Face Hub reads. Files are named without the folders they lay in. The
settings of the run are those in config.json; what is missing there was not set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from spinn_tensor.config import GIVEN_KINDS, ModelConfig

KINDS = {  # name, and what it is
    "spinn-pi-nt": ("SPINN-PI-NT", "TreeLSTM over given parses"),
    "spinn-pi": ("SPINN-PI", "TreeLSTM over given parses, with a tracker"),
    "spinn": ("SPINN", "TreeLSTM over parses that it makes itself"),
    "lstm": ("LSTM", "over the words in a row"),
    "bilstm": ("BiLSTM", "over the words in a row, in both directions"),
    "bow": ("Bag of words", "the sum of the words"),
}
TASKS = {
    "pair": "a classifier of sentence pairs",
    "sentence": "a classifier of sentences",
    "parse": "a parser",
}
TAGS = {"pair": "sentence-pair-classification", "sentence": "sentence-classification", "parse": "parsing"}
HUB_DATASETS = {"snli": "stanfordnlp/snli", "multinli": "nyu-mll/multi_nli", "sst": "stanfordnlp/sst"}
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
    run = without_folders(run)
    data = run.get("data", {})
    corpus, selects_by_f1 = str(data.get("corpus")), run.get("training", {}).get("select_by") == "f1"
    sections = [
        _header(model, corpus, "f1" if selects_by_f1 else "accuracy", license),
        f"# {KINDS[model.encoder.kind][0]}: {TASKS[model.task]}\n\n"
        "Weights for `spinn_tensor`, which reads them strictly and runs no code of this folder.",
        "## Use\n\n" + _use(model, corpus),
        "## Model\n\n" + _table(_model_rows(model, n_parameters)),
        "## Data\n\n" + _table(_data_rows(data)),
        "## Scores\n\n" + _table(_score_rows("F1 of the trees" if selects_by_f1 else "accuracy", metrics)),
        "## Made by\n\n" + _made_by(command),
        "## Not for\n\n" + "\n".join(f"- {text}" for text in _limits(model, corpus, data.get("branching"))),
    ]
    return "\n\n".join(sections) + "\n"


def without_folders(run: Mapping[str, Any]) -> dict[str, Any]:
    """Name the files of a run's settings by their last part: where they lay is nobody's business."""
    data = dict(run.get("data", {}))
    for name in ("data", "vectors"):
        data |= {name: _last_part(data[name])} if data.get(name) else {}
    for name in ("train", "dev", "test"):
        data |= {name: list(map(_last_part, data[name]))} if name in data else {}
    if "extra" in data:
        entries = [entry.partition("=") for entry in data["extra"]]
        data["extra"] = [f"{name}={_last_part(file)}" for name, _, file in entries]
    return {**run, "data": data}


def _header(model: ModelConfig, corpus: str, metric: str, license: str | None) -> str:
    values: dict[str, Any] = {
        "library_name": "spinn_tensor",
        "license": license,
        "language": None if corpus in NOT_ENGLISH else "en",
        "pipeline_tag": None if model.task == "parse" else "text-classification",
        "tags": sorted({"spinn", model.encoder.kind, TAGS[model.task]}),
        "datasets": [HUB_DATASETS[corpus]] if corpus in HUB_DATASETS else None,
        "metrics": [metric],
    }
    # a JSON value is a YAML value
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items() if value is not None]
    return "\n".join(["---", *lines, "---"])


def _use(model: ModelConfig, corpus: str) -> str:
    sentence = "( ( ( [MAX 2 ) 9 ) ] )" if corpus in NOT_ENGLISH else "A dog barks."
    calls = {
        "pair": f'pipeline.classify(["{sentence}"], ["An animal makes a noise."])[0].label',
        "sentence": f'pipeline.classify(["{sentence}"])[0].label',
        "parse": f'pipeline.parse(["{sentence}"])  # binary parses',
    }
    lines = [
        "```python",
        "from spinn_tensor import Pipeline",
        "",
        'pipeline = Pipeline.from_pretrained("FOLDER OR HUB ID")',
        calls[model.task],
        f'pipeline.encode(["{sentence}"])  # one vector a sentence, float32',
        "```",
    ]
    return "\n".join(lines)


def _model_rows(model: ModelConfig, n_parameters: int) -> dict[str, str]:
    encoder = model.encoder
    rows = {
        "encoder": f"{_code(encoder.kind)}, {KINDS[encoder.kind][1]}",
        "words it knows": f"{encoder.vocabulary_size:,}, padding and unknown word included",
        "width of word vectors, of encodings": f"{encoder.embedding_dim}, {encoder.hidden_dim}",
        "parameters": f"{n_parameters:,}",
    }
    if encoder.kind in ("spinn", "spinn-pi"):
        rows["width of the tracker"] = str(encoder.tracker_dim)
    if encoder.leaf_encoder != "projection":
        rows["leaves"] = _code(encoder.leaf_encoder)
    if model.labels:
        rows["labels"] = ", ".join(map(_code, model.labels))
    return rows


def _data_rows(data: Mapping[str, Any]) -> dict[str, str]:
    files = {
        "data": data.get("data"),
        "train": data.get("train"),
        "dev": data.get("dev"),
        "word vectors": data.get("vectors"),
    }
    rows = {"corpus": _code(str(data.get("corpus")))}
    rows |= {
        name: ", ".join(map(_code, [value] if isinstance(value, str) else value))
        for name, value in files.items()
        if value
    }
    if data.get("limit"):
        rows["limit"] = f"the first {data['limit']:,} examples of each split"
    if data.get("branching") is not None:
        rows["trees"] = f"{_code(data['branching'])}, made without a parser"
    return rows


def _score_rows(criterion: str, metrics: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    for key, value in metrics.items():
        if key == "best_dev_score" and isinstance(value, int | float):
            score = f"{value:.1%}" if value >= 0 else "not evaluated yet"
            rows[f"{criterion} on dev, the best of the run"] = score
        else:
            rows[_cell(key)] = f"{value:,}" if isinstance(value, int) else _cell(str(value))
    return rows


def _made_by(command: str | None) -> str:
    if command is None:
        return "A program of its own, not a preset of `spinn train`; its settings are in config.json."
    return (
        f"    {command}\n\n"
        "Files are named without their folders; all settings are in config.json. Without `--data`, the corpora `logic` "
        "and `listops` are generated."
    )


def _limits(model: ModelConfig, corpus: str, branching: str | None) -> list[str]:
    texts = [f"Words that it does not know: all of them are one, `<unk>`. It knows those of `{corpus}`."]
    if corpus not in NOT_ENGLISH:
        texts.append("Languages other than English: its tokens are those of the Penn Treebank.")
    if model.task == "pair":
        texts.append("Finding out what is true: a label is about two sentences, not about the world.")
    if model.task != "parse":
        texts.append("Decisions about people. It learnt from its corpus whatever is one-sided in it.")
    if model.encoder.kind in GIVEN_KINDS and branching is None:
        texts.append(
            "Text unlike what the package's parser knows (captions, reviews), unless it comes with parses."
        )
    return texts


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])


def _code(text: str) -> str:
    return f"`{_cell(text).replace('`', ' ')}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
