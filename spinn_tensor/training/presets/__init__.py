"""Named settings in files of TOML: with the values that the paper and its PyTorch version published, and small ones.

A file has tables `encoder`, `classifier`, `training` and `parsing`, with the keys of their dataclasses; what it leaves
out is as in its `base`, another preset, or else the dataclass's default. `summary` is a line for `spinn presets`,
`corpus` the only one that it is made for; a table `data` says how that is read, as flags would, where the preset is
named. A table `without_vectors`, of any of these keys, holds where a run has no
word vectors; an embedding that is not trained otherwise is then. A file of one's own does as well: `spinn train
--preset my.toml`.
"""

from __future__ import annotations

import json
import tomllib
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from spinn_tensor.config import ConfigError, did_you_mean
from spinn_tensor.data_prep.archives import in_utf8
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.training.config import DataConfig, RunConfig, differences, locate, settable

FOLDER = Path(__file__).parent
TABLES = ("encoder", "classifier", "training", "parsing")
DATA, WITHOUT_VECTORS = "data", "without_vectors"
TEXTS = ("base", "summary", "corpus")
DEFAULT_PRESETS = {
    "logic": "logic-spinn-pi",
    "snli": "spinn-pi-2017",
    "multinli": "spinn-pi-2017",
    "pairs": "spinn-pi-2017",
    "sentences": "sentences-spinn-pi",
    "sst": "sst-spinn-pi",
    "listops": "listops-spinn-pi-nt",
    "trees": "parser",
}


class Preset(NamedTuple):
    """Hold a named starting point; every value can still be changed on the command line."""

    summary: str  # one line for `spinn presets`
    run: RunConfig  # with word vectors, on `corpus`
    corpus: str | None  # the only one that it is made for
    data: dict[str, Any]  # how that is read: fields of DataConfig
    without_vectors: dict[str, Any]  # what else is where there are none: keywords of `RunConfig.changed`


def is_file(name: str) -> bool:
    """Tell whether a preset is a file of one's own."""
    return name.endswith(".toml")


def find_preset(name: str) -> Preset:
    """Return the preset of this name, or that of a file. Raises ConfigError, naming the file and the key."""
    if is_file(name):
        return read_preset(expanded(name))
    if name not in PRESETS:
        suggestion = did_you_mean(name, PRESETS) or f"; known are {', '.join(PRESETS)}, and files *.toml"
        raise ConfigError(f"unknown preset {name!r}{suggestion}")
    return PRESETS[name]


def read_preset(path: Path) -> Preset:
    """Read a preset from its file. Raises ConfigError, naming the file and the key."""
    values = _tables(path)
    encoder, corpus = {"train_embedding": True, **values["encoder"]}, values.get("corpus")
    without_vectors = {} if encoder["train_embedding"] else {"encoder__train_embedding": True}
    without_vectors |= values[WITHOUT_VECTORS]
    tables = {table: values[table] for table in TABLES} | {"encoder": encoder}
    try:
        data = {**values[DATA], **({} if corpus is None else {"corpus": corpus})}
        run = RunConfig.from_dict({"preset": path.stem, "data": data, **tables})
        run.changed(**without_vectors)  # which checks them
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return Preset(values.get("summary", ""), run, corpus, values[DATA], without_vectors)


def _tables(path: Path) -> dict[str, Any]:
    """Read the tables of a file, over those of its base. Raises ConfigError, naming the file and the key."""
    try:
        with path.open("rb") as file:
            own = tomllib.loads(in_utf8(file).read().decode("utf-8-sig"))  # what PowerShell and Notepad write
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, DataError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from None
    whole: dict[str, Any] = {table: {} for table in (*TABLES, DATA, WITHOUT_VECTORS)}
    if (base := own.pop("base", None)) is not None:
        names = [packaged.stem for packaged in FOLDER.glob("*.toml")]
        if base not in names:
            raise ConfigError(f"{path}: base: unknown preset {base!r}{did_you_mean(str(base), names)}")
        whole = _tables(FOLDER / f"{base}.toml")
    without_vectors: dict[str, Any] = {}
    for key, value in own.items():
        if key in (*TABLES, DATA) and isinstance(value, dict):
            for name in value.keys() - settable(key).keys():
                elsewhere = [table for table in TABLES if name in settable(table)]
                suggestion = did_you_mean(name, settable(key)) or "".join(
                    f"; it is in {x}" for x in elsewhere
                )
                raise ConfigError(f"{path}: {key}: unknown key {name!r}{suggestion}")
            whole[key] = {**whole[key], **value}
            for name in value:  # said for all runs, so that what the base has for some of them ends
                whole[WITHOUT_VECTORS].pop(f"{key}__{name}", None)
        elif key == WITHOUT_VECTORS and isinstance(value, dict):
            without_vectors = {"__".join(_located(path, name)): new for name, new in value.items()}
        elif key in TEXTS and isinstance(value, str):
            whole[key] = value
        elif key in (*whole, *TEXTS):
            expected = "string" if key in TEXTS else "table"
            raise ConfigError(f"{path}: {key}: expected a {expected}, got {value!r}")
        else:
            suggestion = did_you_mean(key, (*whole, *TEXTS))
            raise ConfigError(
                f"{path}: unknown key {key!r}{suggestion}; the settings are in {', '.join((*TABLES, DATA))}"
            )
    whole[WITHOUT_VECTORS] |= without_vectors
    return whole


def _located(path: Path, name: str) -> tuple[str, str]:
    try:
        return locate(name)
    except ConfigError as error:
        raise ConfigError(f"{path}: {WITHOUT_VECTORS}: {error}") from None


def run_config(preset: str, data: DataConfig) -> RunConfig:
    """Return the run that a preset describes on the given data. Raises ConfigError for an unknown one."""
    found = find_preset(preset)
    run = replace(deepcopy(found.run), preset=preset, data=data)
    return run.changed(**found.without_vectors) if data.vectors is None else run


def without_vectors(run: RunConfig) -> str | None:
    """Say what a run has otherwise than its preset for want of word vectors; None if nothing."""
    try:
        preset = find_preset(run.preset)
    except ConfigError:  # of a file that is gone, or settings of a program
        return None
    is_other = not preset.run.encoder["train_embedding"] or run.data.vector_norm > 0
    if run.data.vectors is not None or not run.encoder.get("train_embedding", True) or not is_other:
        return None
    text = "no --vectors: the embedding is trained from scratch"
    if run.data.vector_norm:
        text += f"; vector_norm {run.data.vector_norm:g} has no effect"
    published = replace(preset.run, preset=run.preset, data=run.data)
    expected = run_config(run.preset, run.data)
    others = differences(published, run)
    for key, old, new in differences(published, expected):
        if (key, old, new) in others and key != "encoder.train_embedding":
            text += f"; {key} is {new}, since {old} is for fixed vectors"
    return text


def corpus_of_preset(preset: str | None) -> str:
    """Return the corpus that a preset is made for; "logic" for those made for any, and for none."""
    return (None if preset is None else find_preset(preset).corpus) or "logic"


def data_of_preset(preset: str | None, corpus: str) -> dict[str, Any]:
    """Return how a preset that is named has its corpus read; of another corpus it says nothing."""
    found = None if preset is None else find_preset(preset)
    return dict(found.data) if found is not None and found.corpus == corpus else {}


def preset_table() -> str:
    """List all presets as lines of text: name, learning rate, batch, decay, all dropouts, and what it is."""
    lines = [f"{'preset':<19} {'lr':>6} {'L2':>6} {'batch':>5}  {'lr decay':<18} {'dropout':<15} what it is"]
    for name, preset in PRESETS.items():
        training = preset.run.training
        decay = training.lr_schedule
        if decay == "step":
            decay = f"×{training.decay_factor:g} / {training.decay_every:,} {training.decay_unit}"
        tables = {"encoder": preset.run.encoder, "classifier": preset.run.classifier}
        dropout = " / ".join(
            f"{values.get(name, item.default):g}"
            for table, values in tables.items()
            for name, item in settable(table).items()
            if values and name.endswith("_dropout")
        )
        lines.append(
            f"{name:<19} {training.learning_rate:>6.0e} {training.weight_decay:>6.0g} "
            f"{training.batch_size:>5}  {decay:<18} {dropout:<15} {preset.summary}"
        )
    return "\n".join(lines)


def preset_toml(name: str) -> str:
    """Write a preset with every value, each with what it is, as a file to copy and change."""
    preset = find_preset(name)
    lines = [f"summary = {_toml(preset.summary)}"]
    if preset.corpus is not None:
        lines.append(f"corpus = {_toml(preset.corpus)}")
    values = preset.run.to_dict()
    for table in TABLES:
        lines += ["", f"[{table}]"]
        for key, item in settable(table).items():
            value = _toml(values[table].get(key, item.default))
            lines.append(f"{f'{key} = {value}':<28} # {item.metadata['help']}")
    if preset.data:
        lines += ["", f"[{DATA}]", *(f"{key} = {_toml(value)}" for key, value in preset.data.items())]
    if preset.without_vectors:
        lines += ["", f"[{WITHOUT_VECTORS}]"]
        values = preset.run.changed(**preset.without_vectors).to_dict()
        for section, key in (name.split("__") for name in preset.without_vectors):
            lines.append(f"{_toml(f'{section}.{key}')} = {_toml(values[section][key])}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """Write a number, string or list of these as TOML, which is JSON's but for a character that it escapes."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


PRESETS: dict[str, Preset] = dict(
    sorted(
        ((path.stem, read_preset(path)) for path in FOLDER.glob("*.toml")),
        key=lambda item: (item[1].corpus or "", item[0]),
    )
)
