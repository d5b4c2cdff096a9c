"""The README.md of a checkpoint: what the model is, what it learnt from, how well, and the command that makes it again.

It begins with the header in YAML that the Hugging Face Hub reads. Files are named without the folders they lay in.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from spinn_tensor.config import GIVEN_KINDS, ModelConfig
from spinn_tensor.training.config import DataConfig, RunConfig, differences, locate
from spinn_tensor.training.presets import PRESETS, run_config

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
SEVERAL_VALUES = ("fields", "labels")  # flags that take all their values at once; others are repeated


def model_card(
    model: ModelConfig,
    run: RunConfig,
    metrics: Mapping[str, Any],
    n_parameters: int,
    license: str | None = None,  # of the weights; None: not said
) -> str:
    """The text of README.md."""
    run = dataclasses.replace(run, data=without_folders(run.data))
    sections = [
        _header(model, run, license),
        f"# {KINDS[model.encoder.kind][0]}: {TASKS[model.task]}\n\n"
        "Weights for `spinn_tensor`, which reads them strictly and runs no code of this folder.",
        "## Use\n\n" + _use(model, run.data.corpus),
        "## Model\n\n" + _table(_model_rows(model, n_parameters)),
        "## Data\n\n" + _table(_data_rows(run.data)),
        "## Scores\n\n" + _table(_score_rows(run, metrics)),
        "## Made by\n\n" + _made_by(run),
        "## Not for\n\n" + "\n".join(f"- {text}" for text in _limits(model, run)),
    ]
    return "\n\n".join(sections) + "\n"


def without_folders(data: DataConfig) -> DataConfig:
    """The same data with files named by their last part: where they lay is nobody's business."""
    extra = [entry.partition("=") for entry in data.extra]
    return dataclasses.replace(
        data,
        data=data.data and _last_part(data.data),
        vectors=data.vectors and _last_part(data.vectors),
        train=tuple(map(_last_part, data.train)),
        dev=tuple(map(_last_part, data.dev)),
        test=tuple(map(_last_part, data.test)),
        extra=tuple(f"{name}={_last_part(file)}" for name, _, file in extra),
    )


def train_command(
    run: RunConfig,  # files as they are to be named
) -> str | None:
    """The `spinn train` that has these settings; None for a preset that there is not."""
    if run.preset not in PRESETS:
        return None
    words = ["spinn", "train", "--preset", run.preset, "--corpus", run.data.corpus]
    for item in dataclasses.fields(DataConfig):
        value = getattr(run.data, item.name)
        if item.name == "corpus" or value == item.default:
            continue
        flag = "--" + item.name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif item.name in SEVERAL_VALUES:
            words += [flag, *value]
        else:
            words += [word for one in _as_tuple(value) for word in (flag, str(one))]
    preset = run_config(run.preset, run.data)
    for key, _, value in differences(preset, run):
        words += ["--set", f"{_short(key)}={value}"]
    return shlex.join(words)


def _header(model: ModelConfig, run: RunConfig, license: str | None) -> str:
    corpus = run.data.corpus
    values: dict[str, Any] = {
        "library_name": "spinn_tensor",
        "license": license,
        "language": None if corpus in NOT_ENGLISH else "en",
        "pipeline_tag": None if model.task == "parse" else "text-classification",
        "tags": sorted({"spinn", model.encoder.kind, TAGS[model.task]}),
        "datasets": [HUB_DATASETS[corpus]] if corpus in HUB_DATASETS else None,
        "metrics": ["f1" if run.training.select_by == "f1" else "accuracy"],
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


def _data_rows(data: DataConfig) -> dict[str, str]:
    files = {"data": data.data, "train": data.train, "dev": data.dev, "word vectors": data.vectors}
    rows = {"corpus": _code(data.corpus)}
    rows |= {name: ", ".join(map(_code, _as_tuple(value))) for name, value in files.items() if value}
    if data.limit:
        rows["limit"] = f"the first {data.limit:,} examples of each split"
    if data.branching is not None:
        rows["trees"] = f"{_code(data.branching)}, made without a parser"
    return rows


def _score_rows(run: RunConfig, metrics: Mapping[str, Any]) -> dict[str, str]:
    name = "F1 of the trees" if run.training.select_by == "f1" else "accuracy"
    rows = {}
    for key, value in metrics.items():
        if key == "best_dev_score" and isinstance(value, int | float):
            rows[f"{name} on dev, the best of the run"] = (
                f"{value:.1%}" if value >= 0 else "not evaluated yet"
            )
        else:
            rows[_cell(key)] = f"{value:,}" if isinstance(value, int) else _cell(str(value))
    return rows


def _made_by(run: RunConfig) -> str:
    command = train_command(run)
    if command is None:
        return "A program of its own, not a preset of `spinn train`; its settings are in config.json."
    return (
        f"    {command}\n\n"
        "Files are named without their folders; all settings are in config.json. Without `--data`, the corpora `logic` "
        "and `listops` are generated."
    )


def _limits(model: ModelConfig, run: RunConfig) -> list[str]:
    texts = [
        f"Words that it does not know: all of them are one, `<unk>`. It knows those of `{run.data.corpus}`."
    ]
    if run.data.corpus not in NOT_ENGLISH:
        texts.append("Languages other than English: its tokens are those of the Penn Treebank.")
    if model.task == "pair":
        texts.append("Finding out what is true: a label is about two sentences, not about the world.")
    if model.task != "parse":
        texts.append("Decisions about people. It learnt from its corpus whatever is one-sided in it.")
    if model.encoder.kind in GIVEN_KINDS and run.data.branching is None:
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


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _short(key: str) -> str:
    """The key without its section, where `--set` takes that."""
    name = key.rpartition(".")[2]
    try:
        locate(name)
    except ValueError:  # ambiguous
        return key
    return name
