"""Corpora from where their authors keep them: fetched, and checked before they get their name.

A file under its name is whole, whatever happened before: until then it has a temporary name beside it, which is deleted
on an error, and after a kill by the next call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, NamedTuple

from spinn_tensor.data_prep.corpora.store import sha256_of
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import StrPath, atomic_write

BLOCK_BYTES = 1 << 18
TIMEOUT = 60.0  # seconds without a byte
_HEADERS = {"User-Agent": "spinn_tensor", "Accept-Encoding": "identity"}


# told of the bytes there so far, and of the whole file, if the server says it
OnBytes = Callable[[int, int | None], object]


class Archive(NamedTuple):
    """Describe a file that somebody publishes."""

    url: str
    file_name: str
    sha256: str  # hex digest
    size: int  # bytes


# Digests and sizes are those that HF `datasets` and ParlAI had recorded for the same addresses.
OFFICIAL: Mapping[str, Archive] = MappingProxyType(
    {
        "snli": Archive(
            "https://nlp.stanford.edu/projects/snli/snli_1.0.zip",
            "snli_1.0.zip",
            "afb3d70a5af5d8de0d9d81e2637e0fb8c22d1235c2749d83125ca43dab0dbd3e",
            94_550_081,
        ),
        "multinli": Archive(
            "https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip",
            "multinli_1.0.zip",
            "049f507b9e36b1fcb756cfd5aeb3b7a0cfcb84bf023793652987f7e7e0957822",
            226_850_426,
        ),
        "sst": Archive(
            "https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip",
            "trainDevTestTrees_PTB.zip",
            "5c613a4f673fc74097d523a2c83f38e0cc462984d847b82c7aaf36b01cbbbfcc",
            789_539,
        ),
    }
)


def download(
    url: str,  # http:// or https://
    path: StrPath,
    sha256: str,  # hex digest of the whole file
    *,
    on_bytes: OnBytes = lambda n_done, n_whole: None,  # called at the start and after each block
) -> Path:
    """Fetch a file, unless it is there, and return its path.

    Raises DataError of one line for a file of that name with another digest, which is left alone, for a digest that is
    wrong once all has arrived, and if the connection, the server or the disk fails.
    """
    import requests  # takes a moment

    path, sha256 = Path(path), sha256.lower()
    if not url.startswith(("http://", "https://")):
        raise DataError(f"expected an address that begins with http:// or https://, got {url!r}")
    try:
        if path.exists():
            if (got := sha256_of(path)) != sha256:
                reason = f"is there already, with SHA-256 {got}, expected {sha256}; move it away to download"
                raise DataError(reason, path=path)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as file:
            got = _fetch(url, file, on_bytes)
            if got != sha256:
                raise DataError(f"got SHA-256 {got}, expected {sha256}", field=url)
    except DataError:
        raise
    except (requests.RequestException, ValueError) as error:  # ValueError: of an odd address
        raise DataError(_first_cause(error), field=url) from error
    except OSError as error:
        raise DataError(error.strerror or str(error), path=path) from error
    return path


def _fetch(url: str, file: IO[bytes], on_bytes: OnBytes) -> str:
    """Write what the server sends, and return its SHA-256 as hex digits."""
    import requests

    digest = hashlib.sha256()
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=_HEADERS) as response:
        response.raise_for_status()
        n_done, n_whole = 0, int(response.headers.get("Content-Length", 0)) or None
        on_bytes(n_done, n_whole)
        for block in response.iter_content(BLOCK_BYTES):
            digest.update(block)
            n_done += file.write(block)
            on_bytes(n_done, n_whole)
    return digest.hexdigest()


def _first_cause(error: BaseException) -> str:
    """Say what went wrong at first: what requests and urllib3 make of it names the address thrice."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error) or type(error).__name__
