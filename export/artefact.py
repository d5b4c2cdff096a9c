"""An exported folder: the artefact, its one description, and what raw text for it is to be read through.

    model.onnx ...   the artefact, see ARTEFACTS
    export.json      format version, format, task, kind, tables, labels, the vocabulary's sha256, ...: `Exported`
    tokenizer.json   that of the checkpoint: from text to ids
    parser/          beside the artefact: another such folder, of a parser that makes trees, where there is one

It is read without torch, and strictly, as a checkpoint is. Names and shapes of what goes in:

    pair        premise_ids (batch, length) int64, premise_lengths (batch,) int64, hypothesis_ids, hypothesis_lengths
    sentence    token_ids, lengths
    parse       token_ids, lengths
    sequence    the same, of an encoder that looks at no tree
    given       and premise_transitions, hypothesis_transitions or transitions (batch, 2 length - 1) int64, -1 padding
    forest      token_ids (tokens,) of all sentences, premises first; left_index, right_index (steps, width) int64 and
                root_index (sentences,) int64, of `spinn_tensor.data_prep.tables.forest_tables` with `padded`

What comes out is logits (batch, classes), encodings or premise_encodings and hypothesis_encodings (batch, hidden), and
of a model that parses transitions, or premise_transitions and hypothesis_transitions, as above, and as many
log_probabilities of them, floats, 0 where nothing was to choose: a tree's is the sum. Earlier versions wrote graphs
without these.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.columns import SentenceColumns, concatenate, lengths
from spinn_tensor.data_prep.errors import DataError, SpinnError
from spinn_tensor.data_prep.files import read_json_object, write_json
from spinn_tensor.data_prep.folders import readable
from spinn_tensor.data_prep.penn import BINARIZE, DEFAULT_BINARIZE
from spinn_tensor.data_prep.settings import NOT_NEGATIVE, ConfigError, Settings, one_of
from spinn_tensor.data_prep.tables import forest_tables
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import PADDING
from spinn_tensor.data_prep.vocabulary import PAD_ID

FORMAT_VERSION = 1  # of export.json and of the metadata inside the artefact
EXPORT, TOKENIZER, PARSER = "export.json", "tokenizer.json", "parser"
VERSION_KEY = "spinn_format_version"  # of the metadata inside the artefact
PRECISIONS = {"onnx-fp16": "float16", "onnx-int8": "int8"}  # of formats; others are in float32
ARTEFACTS = {  # file of each format
    "onnx": "model.onnx",
    "onnx-fp16": "model.onnx",
    "onnx-int8": "model.onnx",
    "torchscript": "model.ts",
    "pt2": "model.pt2",
    "aoti": "model.aoti.pt2",
    "triton": "1/model.onnx",
}

OF_FOLDER = ("format", "branching", "parser_of_all", "binarize")  # what the artefact itself does not say


class ArtefactError(SpinnError, ValueError):
    """Raised for an exported folder that cannot be used; its text is one line that names the file and what is wrong."""


@dataclass(frozen=True)
class Exported(Settings):
    """Hold what export.json says, the format version aside."""

    format: str = field(metadata={"allowed": one_of(*ARTEFACTS)})
    task: str  # "pair", "sentence" or "parse"
    kind: str  # of the encoder: "spinn", "spinn-pi", "spinn-pi-nt", "lstm", "bilstm", "bow"
    # what it composes by: "own" transitions, "given" ones, a "forest" schedule; or it reads the words as a "sequence"
    tables: str = field(metadata={"allowed": one_of("own", "given", "forest", "sequence")})
    labels: list[str]  # names of the classes, in the order of the logits; none for a model that only parses
    # trees that it was trained with, where these were made without a parser
    branching: str | None = field(metadata={"allowed": one_of(*BRANCHINGS)})
    vocabulary_sha256: str
    # tokens of a sentence at most; 0 = any number
    max_length: int = field(metadata={"allowed": NOT_NEGATIVE})
    hidden_dim: int = field(metadata={"allowed": NOT_NEGATIVE})  # width of an encoding: H, of a bilstm 2H
    precision: str  # "float32", "float16" or "int8"
    folded: bool  # whether the words' leaf states are one table
    # whether a parser made all trees that it was trained with: the one beside it does, else of text alone
    parser_of_all: bool = False
    # how it reads Penn trees; folders of before the option have none in them
    binarize: str = field(default=DEFAULT_BINARIZE, metadata={"allowed": one_of(*BINARIZE)})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.labels, list) or not all(isinstance(name, str) for name in self.labels):
            raise ConfigError(f"labels: expected a list of names, got {self.labels!r:.60}")

    @property
    def metadata(self) -> dict[str, str]:
        """Return what the artefact says of itself inside, where all values are text: all but what is of its folder."""
        fields = {key: value for key, value in self.to_dict().items() if key not in OF_FOLDER}
        return {VERSION_KEY: str(FORMAT_VERSION)} | {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in fields.items()
        }

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the inputs, in order, with the names of their axes."""
        return input_axes(self.task, self.tables)

    @property
    def outputs(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the outputs, in order, with the names of their axes."""
        return output_axes(self.task, self.tables)


def write_export(folder: Path, exported: Exported, tokenizer: Tokenizer) -> None:
    """Write export.json and tokenizer.json into a folder that is there."""
    write_json(folder / EXPORT, {"format_version": FORMAT_VERSION, **exported.to_dict()})
    tokenizer.save(folder / TOKENIZER)


def read_export(folder: str | Path) -> tuple[Exported, Tokenizer, Path]:
    """Return what the folder says of its artefact, its tokenizer, and the path of the artefact.

    Raises ArtefactError for a folder that is none, damaged, newer than this program, or whose vocabulary is another.
    """
    folder = readable(Path(folder))
    if not folder.is_dir():
        raise ArtefactError(f"{folder}: no such folder")
    exported = _checked(folder / EXPORT)
    try:
        tokenizer = Tokenizer.load(folder / TOKENIZER)
    except DataError as error:
        raise ArtefactError(str(error)) from error
    if tokenizer.vocabulary.sha256 != exported.vocabulary_sha256:
        raise ArtefactError(
            f"{folder / TOKENIZER}: not the vocabulary of the exported model "
            f"(sha256 {tokenizer.vocabulary.sha256[:12]}…, {EXPORT} says {exported.vocabulary_sha256[:12]}…)"
        )
    return exported, tokenizer, folder / ARTEFACTS[exported.format]


def _checked(path: Path) -> Exported:
    if not path.is_file():
        raise ArtefactError(f"{path.parent}: no exported model here ({path.name} is missing)")
    try:
        values = read_json_object(path)
    except DataError as error:
        raise ArtefactError(str(error)) from error
    version = values.pop("format_version", None)
    if type(version) is not int or version < 1:
        raise ArtefactError(f"{path}: format_version is {version!r}, expected a number from 1 on")
    check_version(path, version)
    try:
        return Exported.from_dict(values)
    except (ConfigError, TypeError) as error:
        raise ArtefactError(f"{path}: {error}") from error


def check_version(path: Path, version: int) -> None:
    """Raise ArtefactError for a file of a newer version of the format."""
    if version > FORMAT_VERSION:
        raise ArtefactError(
            f"{path}: format version {version}; this program reads {FORMAT_VERSION}: update spinn_tensor"
        )


def sides_of(task: str) -> tuple[str, ...]:
    """Return the prefixes of names: one for each sentence of an example."""
    return ("premise_", "hypothesis_") if task == "pair" else ("",)


def _ids_of(side: str) -> str:
    return f"{side}ids" if side else "token_ids"


def input_axes(task: str, table_kind: str) -> dict[str, tuple[str, ...]]:
    """Return the names of the inputs, in order, with the names of their axes."""
    if table_kind == "forest":
        schedule = ("steps", "width")
        return {
            "token_ids": ("tokens",),
            "left_index": schedule,
            "right_index": schedule,
            "root_index": ("sentences",),
        }
    axes: dict[str, tuple[str, ...]] = {}
    for side in sides_of(task):
        axes |= {_ids_of(side): ("batch", "length"), f"{side}lengths": ("batch",)}
    if table_kind == "given":
        axes |= {f"{side}transitions": ("batch", "transitions") for side in sides_of(task)}
    return axes


def output_axes(task: str, table_kind: str) -> dict[str, tuple[str, ...]]:
    """Return the names of the outputs, in order, with the names of their axes."""
    batch = "sentences" if table_kind == "forest" and task != "pair" else "batch"
    axes: dict[str, tuple[str, ...]] = {} if task == "parse" else {"logits": (batch, "classes")}
    axes |= {f"{side}encodings": (batch, "hidden") for side in sides_of(task)}
    if table_kind == "own":
        told = ("transitions", "log_probabilities")
        axes |= {f"{side}{name}": (batch, "transitions") for name in told for side in sides_of(task)}
    return axes


def graph_inputs(
    sides: Sequence[SentenceColumns],  # the sentences, or premises and hypotheses, as many of each; n >= 1
    tables: str,  # "own", "given", "forest" or "sequence"
    pad_id: int = PAD_ID,  # what stands in the place of a word behind a sentence's end
) -> dict[str, np.ndarray]:
    """Return the inputs of a graph, by name, all int64."""
    if tables == "forest":
        return _forest_inputs(concatenate(*sides))
    n_words = max(int(lengths(side).max()) for side in sides)
    inputs = {}
    for prefix, side in zip(sides_of("pair" if len(sides) == 2 else "sentence"), sides, strict=True):
        n_tokens = lengths(side)
        inputs[_ids_of(prefix)] = _padded(side.token_ids, n_tokens, n_words, pad_id)
        inputs[f"{prefix}lengths"] = n_tokens
        if tables == "given":
            transitions = _padded(side.transitions, 2 * n_tokens - 1, 2 * n_words - 1, PADDING)
            inputs[f"{prefix}transitions"] = transitions
    return inputs


def _forest_inputs(sentences: SentenceColumns) -> dict[str, np.ndarray]:
    tables = forest_tables(sentences.transitions, lengths(sentences), padded=True)
    n_steps = len(tables.step_offsets) - 1
    children = tables.left_index, tables.right_index
    if n_steps == 0:
        # sentences of one word each: a graph has at least one step, and this one composes null states
        n_steps, children = 1, (np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    left_index, right_index = (index.reshape(n_steps, -1) for index in children)
    return {
        "token_ids": sentences.token_ids.astype(np.int64),
        "left_index": left_index,
        "right_index": right_index,
        "root_index": tables.root_index,
    }


def _padded(
    values: np.ndarray,  # (sum of counts,) integers, row after row
    counts: np.ndarray,  # (n,) int64
    width: int,
    padding: int,
) -> np.ndarray:  # (n, width) int64
    rows = np.full((len(counts), width), padding, dtype=np.int64)
    rows[np.arange(width) < counts[:, None]] = values
    return rows
