"""A job of encoding, and its folder of shards: what is whole in it, and the manifest that says that nothing is missing.

A job is what encodings depend on: model, input and options. Two that agree in these give the same vectors.

    shard-00000.npy ...         (rows, D) of the lines [k * shard_size, (k + 1) * shard_size); or .safetensors, with
                                the one tensor `encodings`
    manifest.json               the job, the shards with their rows, what was left out; written last
    unfinished/job.json         the job, until then
    unfinished/00000.json ...   a shard's entry of the manifest, written after the shard

Every file takes its name when it is whole, so that a shard with an entry needs no second look: a job that was killed
goes on with the shards that have none. Several processes need nothing but the folder: each writes shards of its own,
and the one that finds all of them there writes the manifest. A shard that is deleted after that is made again by the
same job. Where the file system has locks, only one of them at a time clears another job's folder, or joins the shards.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from safetensors.numpy import load_file, save

from spinn_tensor.config import AT_LEAST_1, ConfigError, Settings, one_of, setting
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.corpora.store import sha256_of
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import STDIN, Skipped, atomic_write, read_json_object, write_json
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.data_prep.penn import BINARIZE, DEFAULT_BINARIZE
from spinn_tensor.data_prep.record_files import open_lines
from spinn_tensor.data_prep.temporary import clear_temporaries
from spinn_tensor.data_prep.text import NOTATIONS
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.model.encoder import SentenceEncoder

FORMAT_VERSION = 1  # of a manifest; rises when an older reader would misread it
MANIFEST, UNFINISHED, JOB, ENTRIES = "manifest.json", "unfinished", "job.json", "[0-9]*.json"
TENSOR = "encodings"
# what readers need of what is in the files: types, objects with such fields, and lists of such values
JOB_KIND = {"model_sha256": str, "input": {"path": str, "form": str, "sha256": str | None}, "options": dict}
SHARD_KIND = {"file": str, "lines": int, "rows": int, "left_out": list}
ROWS_KIND = {"lines": int, "width": int, "skipped": dict}
ENTRY_KIND = SHARD_KIND | ROWS_KIND
MANIFEST_KIND = {"job": JOB_KIND, "count": int, "shards": [SHARD_KIND]} | ROWS_KIND
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


class EncodedBlock(NamedTuple):
    """Hold what became of n lines; m of them have a row."""

    encodings: np.ndarray  # (m, D)
    n_lines: int
    left_out: np.ndarray  # (n - m,) int64, numbers of the lines without a row
    nan_lines: np.ndarray  # (k,) int64, numbers of the lines whose row is NaN
    skipped: Skipped  # why lines have no row, or one of NaN
    n_words: int  # of all sentences
    n_unknown: int  # of these, words that the vocabulary does not have


class ShardFolder:
    """Keep the output of one job."""

    def __init__(
        self,
        folder: Path,
        job: dict[str, Any],  # of `describe_job`
    ) -> None:
        self.folder, self.job = folder, job
        self._unfinished = folder / UNFINISHED

    def open(self, overwrite: bool) -> dict[str, Any] | None:
        """Make the folder this job's; returns the manifest if there is nothing left to do.

        Raises ConfigError if it holds encodings of another job, unless they are to be overwritten, or files of no job.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(
                f"{self.folder}: a file, expected a folder, or a name ending in .npy or .safetensors"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder):
            found = self._job_there()
            reason = None if found is None else difference(found, self.job)
            has_shards = (self.folder / MANIFEST).exists() or any(self._unfinished.glob(ENTRIES))
            if reason is not None and has_shards and not overwrite:
                raise ConfigError(
                    f"{self.folder}: holds encodings of another job ({reason}); --overwrite replaces them"
                )
            if found is None or reason is not None:
                clear_temporaries(self._unfinished, JOB)
                ours = {self._unfinished} if self._unfinished.is_dir() else set()
                if found is None and set(self.folder.rglob("*")) - ours:
                    raise ConfigError(
                        f"{self.folder}: holds files, but no encodings; give a folder of its own"
                    )
                self._clear()
                self._unfinished.mkdir(exist_ok=True)
                write_json(self._unfinished / JOB, self.job)
            if (manifest := self._manifest()) is not None:
                self._tidy()
                if not all(map(self.is_whole, range(len(manifest["shards"])))):  # some were deleted
                    return None
            return manifest

    def is_whole(self, shard: int) -> bool:
        """Tell whether a shard is there and whole. Entries go when another process has written the manifest."""
        is_told_of = self._entry(shard).exists() or (self.folder / MANIFEST).exists()
        return is_told_of and (self.folder / self._name(shard)).exists()

    def count_whole(self) -> int:
        """Count the shards of the job that need no second look."""
        numbers = {path.stem.removeprefix("shard-") for path in self.folder.glob("shard-*")}
        return sum(number.isdecimal() and self.is_whole(int(number)) for number in numbers)

    def write(self, shard: int, encoded: EncodedBlock) -> None:
        """Write a whole shard, then its entry."""
        write_array(self.folder / self._name(shard), encoded.encodings)
        entry = {
            "file": self._name(shard),
            "first_line": shard * self.job["options"]["shard_size"] + 1,
            "lines": encoded.n_lines,
            "rows": len(encoded.encodings),
            "width": encoded.encodings.shape[1],
            "left_out": encoded.left_out.tolist(),
            "nan_lines": encoded.nan_lines.tolist(),
            "skipped": dict(encoded.skipped),
            "words": encoded.n_words,
            "unknown_words": encoded.n_unknown,
        }
        try:
            write_json(self._entry(shard), entry)
        except (DataError, FileNotFoundError):  # the folder of the entries is gone
            if self._manifest() is None:  # else another process did this shard, too, and the job is done
                raise

    def finish(self, n_shards: int, skipped: Skipped) -> dict[str, Any] | None:
        """Write the manifest if all shards are there; None if some are not.

        `skipped` is what no shard tells of. Raises DataError if there is not one sentence.
        """
        with _alone(self.folder):
            if not all(map(self.is_whole, range(n_shards))):
                return None
            if (manifest := self._manifest()) is not None:  # another process was here first
                return manifest
            try:
                joined = self._joined(n_shards, skipped)
            except DataError:
                if (manifest := self._manifest()) is not None:  # it came between: there are no locks here
                    return manifest
                raise
            write_json(self.folder / MANIFEST, joined)
            self._tidy()
            return self._manifest()

    def _joined(self, n_shards: int, skipped: Skipped) -> dict[str, Any]:
        """Return the manifest of all entries."""
        entries = [
            _checked(read_json_object(path), ENTRY_KIND, path) for path in map(self._entry, range(n_shards))
        ]
        widths = [entry.pop("width") for entry in entries]
        words = {name: sum(entry.pop(name, 0) for entry in entries) for name in ("words", "unknown_words")}
        for entry in entries:
            skipped.update(entry.pop("skipped"))
        count = sum(entry["rows"] for entry in entries)
        if count == sum(len(entry.get("nan_lines", [])) for entry in entries):
            raise DataError(f"no examples ({skipped})", path=self.job["input"]["path"])
        return {
            "format_version": FORMAT_VERSION,
            "job": self.job,
            "count": count,
            "width": widths[0],
            "lines": sum(entry["lines"] for entry in entries),
            "skipped": dict(skipped),
            **words,
            "shards": entries,
        }

    def _name(self, shard: int) -> str:
        return f"shard-{shard:05d}.{self.job['options']['format']}"

    def _entry(self, shard: int) -> Path:
        return self._unfinished / f"{shard:05d}.json"

    def _manifest(self) -> dict[str, Any] | None:
        return read_manifest(self.folder) if (self.folder / MANIFEST).exists() else None

    def _job_there(self) -> dict[str, Any] | None:
        """Return the job whose folder it is."""
        if (manifest := self._manifest()) is not None:
            job: dict[str, Any] = manifest["job"]
            return job
        signature = self._unfinished / JOB
        return _checked(read_json_object(signature), JOB_KIND, signature) if signature.exists() else None

    def _clear(self) -> None:
        """Delete another job's encodings, and nothing else. Whenever it is killed, the folder still has a signature."""
        if (found := self._manifest()) is not None:
            self._unfinished.mkdir(exist_ok=True)
            write_json(self._unfinished / JOB, found["job"])
            (self.folder / MANIFEST).unlink()
        for path in (*self._unfinished.glob(ENTRIES), *self.folder.glob("shard-*")):
            path.unlink(missing_ok=True)
        clear_temporaries(self.folder, "shard-*")

    def _tidy(self) -> None:
        """Take away what a finished job has no use for, that of writers that were killed included."""
        shutil.rmtree(self._unfinished, ignore_errors=True)
        clear_temporaries(self.folder, "shard-*")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what `encode_to_shards` returned. Raises DataError for a folder without a manifest that can be read."""
    manifest = read_json_object(folder / MANIFEST)
    if manifest.get("format_version") != FORMAT_VERSION:
        got = manifest.get("format_version")
        raise DataError(f"format version {got!r}, expected {FORMAT_VERSION}", path=folder / MANIFEST)
    return _checked(manifest, MANIFEST_KIND, folder / MANIFEST)


def _checked(value: Any, kind: Any, path: Path, field: str | None = None) -> Any:
    """Return a value that is of this kind. Raises DataError naming the file and the first field that is not."""
    expected: Any = type(kind) if isinstance(kind, dict | list) else kind
    if not isinstance(value, expected):
        raise DataError("not what spinn encode writes", path=path, field=field)
    if isinstance(kind, dict):
        for name, of_field in kind.items():
            _checked(value.get(name, ...), of_field, path, name)
    elif isinstance(kind, list):
        for item in value:
            _checked(item, kind[0], path, field)
    return value


def read_shards(folder: Path) -> Iterator[np.ndarray]:  # (rows, D) each
    """Yield the shards of a finished folder, in the order of the input; .npy ones are mapped into memory, not read."""
    for entry in read_manifest(folder)["shards"]:
        path = folder / entry["file"]
        if path.suffix == ".npy":
            yield np.load(path, mmap_mode="r" if entry["rows"] else None)
        else:
            yield load_file(path)[TENSOR]


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy or .safetensors file, whole or not at all."""
    with atomic_write(path, "wb") as file:
        if path.suffix == ".npy":
            # not by what NumPy does with a file, which tells of a full disk by a count alone
            np.save(cast(Any, SimpleNamespace(write=file.write)), array)
        else:
            file.write(save({TENSOR: array}))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time into the block; all at once where the file system has no locks."""
    with ExitStack() as stack:
        with suppress(ImportError, OSError):
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)  # which lets go of the lock
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
