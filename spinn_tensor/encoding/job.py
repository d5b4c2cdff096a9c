"""What encodings depend on: model, input and options. Two jobs that agree in these give the same vectors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from spinn_tensor.config import AT_LEAST_1, ConfigError, Settings, one_of, setting
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.corpora.store import sha256_of
from spinn_tensor.data_prep.files import STDIN
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.data_prep.penn import BINARIZE, DEFAULT_BINARIZE
from spinn_tensor.data_prep.record_files import open_lines
from spinn_tensor.data_prep.text import NOTATIONS
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.model.encoder import SentenceEncoder

FORMATS = ("npy", "safetensors")
DTYPES = ("float32", "float16")
# at a bad line an error, or no row, for blank ones neither, or a row of NaN; with the first and last, blank lines are
# rows of NaN
ON_ERROR = ("raise", "skip", "nan")


@dataclass(frozen=True)
class EncodingOptions(Settings):
    """Say how lines are read and vectors written."""

    field: str | None = None  # of records: that with the parse or text
    branching: str | None = setting(None, "trees of this kind instead of those given", one_of(*BRANCHINGS))
    parser: str | None = None  # the SHA-256 of the weights of what makes all trees
    notation: str = setting("auto", "what a sentence is", one_of(*NOTATIONS))
    binarize: str = setting(DEFAULT_BINARIZE, "how Penn trees become binary", one_of(*BINARIZE))
    on_error: str = setting("raise", "what becomes of a line without a sentence", one_of(*ON_ERROR))
    format: str = setting("npy", "of the shards; numpy.load maps npy into memory", one_of(*FORMATS))
    dtype: str = setting("float32", "of the vectors", one_of(*DTYPES))
    # a shard with lines that are left out has fewer rows
    shard_size: int = setting(40_000, "lines of the input for each shard", AT_LEAST_1)
    max_line_bytes: int = setting(DEFAULT_LIMITS.max_line_bytes, "of a line", AT_LEAST_1)
    max_words: int = setting(DEFAULT_LIMITS.max_words, "of a sentence", AT_LEAST_1)

    @property
    def limits(self) -> Limits:
        """Tell how long a line and a sentence may be."""
        return Limits(self.max_line_bytes, self.max_words)


class Part(NamedTuple):
    """Say what one of n processes does of a job: part i has the shards i - 1, i - 1 + n, and so on."""

    number: int = 1  # i, from 1 on
    n_parts: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read "i/n". Raises ConfigError for numbers that do not fit."""
        number, separator, n_parts = text.partition("/")
        if not (
            separator and number.isdecimal() and n_parts.isdecimal() and 1 <= int(number) <= int(n_parts)
        ):
            raise ConfigError(f"expected i/n, a part from 1 to n of n parts, got {text!r}")
        return cls(int(number), int(n_parts))

    @classmethod
    def from_environment(cls) -> Part:
        """Return this process's part under torchrun, else the whole. Raises ConfigError for numbers that do not fit."""
        rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
            raise ConfigError(
                f"RANK and WORLD_SIZE: expected a rank below the number of ranks, got {rank}, {world}"
            )
        return cls(int(rank) + 1, int(world))

    def has(self, shard: int) -> bool:
        """Tell whether a shard, counted from 0, is one of this part's."""
        return shard % self.n_parts == self.number - 1


def describe_job(
    encoder: SentenceEncoder, vocabulary: Vocabulary, source: Path, options: EncodingOptions
) -> dict[str, Any]:
    """Return the job as JSON values. Raises DataError for an input that cannot be opened."""
    return {
        "model_sha256": model_sha256(encoder, vocabulary),
        "input": _identity(source),
        "options": options.to_dict(),
    }


def model_sha256(encoder: SentenceEncoder, vocabulary: Vocabulary) -> str:
    """Return the hex digest of all that an encoding depends on: settings, weights and words."""
    digest = hashlib.sha256(json.dumps([encoder.config.to_dict(), vocabulary.sha256]).encode("ascii"))
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say the first thing in which two jobs differ; None if they give the same vectors."""
    if then["input"]["path"] == now["input"]["path"] == "-":
        return "standard input, which cannot be read again"
    if then["model_sha256"] != now["model_sha256"]:
        return "another model"
    for key in ("sha256", "form"):
        if then["input"][key] is None or then["input"][key] != now["input"][key]:
            return f"another input, {then['input']['path']}"
    # a later option was what it is by default, but that blank lines had no row
    options = {**EncodingOptions(on_error="skip").to_dict(), **then["options"]}
    for name, value in now["options"].items():
        if options[name] != value:
            return f"{name} was {options[name]!r}, now {value!r}"
    return None


def _identity(source: Path) -> dict[str, Any]:
    """Tell what the input is; of stdin, which cannot be read twice, nothing is known."""
    if source == STDIN:
        return {"path": "-", "form": "text", "bytes": None, "sha256": None}
    source = expanded(source)
    with open_lines(source) as opened:  # says what is wrong with it
        form = opened.form
    n_bytes = None if form == "rows" else source.stat().st_size
    return {"path": str(source), "form": form, "bytes": n_bytes, "sha256": sha256_of(source)}
