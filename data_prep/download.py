"""Corpora from where their authors keep them: a download that goes on where it broke off, and is checked.

What has arrived lies in `.NAME.part` beside the file; it takes its name once all of it is there and its SHA-256 is the
one expected. So a file under its name is whole, whatever happened before.
"""

from __future__ import annotations

import hashlib
import http
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import StrPath

BLOCK_BYTES = 1 << 20
TIMEOUT = 60.0  # seconds without a byte
GOES_ON = "what has arrived is kept, and the same command goes on from there"

OnBytes = Callable[
    [int, int | None], object
]  # bytes there so far, and of the whole file, if the server says it


class Archive(NamedTuple):
    """A file that somebody publishes."""

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
    on_bytes: OnBytes | None = None,  # called at the start and after each block
) -> Path:
    """Fetch a file, unless it is there; returns its path.

    A part that an earlier call has left is gone on with, if the server can send the rest, and else begun anew. Two
    calls for the same path must not run at once.

    Raises DataError: for a file of that name with another digest, which is left alone; for a digest that is wrong
    once all has arrived, when the part is deleted; if the connection or the server fails, or nothing can be written,
    when the part stays and another call goes on with it.
    """
    path, sha256 = Path(path), sha256.lower()
    if not url.startswith(("http://", "https://")):
        raise DataError(f"expected an address that begins with http:// or https://, got {url!r}")
    if path.exists():
        _check_existing(path, sha256)
        return path
    if not path.parent.is_dir():
        raise DataError(f"no such folder: {path.parent}", path=path)
    part = path.with_name(f".{path.name}.part")
    with _disk_errors(part):
        file = FileIO(part, "a+")
    try:
        with file:
            _complete(url, file, part, sha256, on_bytes or (lambda n_done, n_whole: None))
    except BaseException:
        if part.exists() and not part.stat().st_size:
            part.unlink()
        raise
    with _disk_errors(path):
        os.replace(part, path)
    return path


def _check_existing(path: Path, sha256: str) -> None:
    with _disk_errors(path), path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != sha256:
        raise DataError(
            f"is there already, with SHA-256 {got}, expected {sha256}; move it away to download", path=path
        )


def _complete(
    url: str,
    file: FileIO,  # what has arrived before
    part: Path,  # its name
    sha256: str,
    on_bytes: OnBytes,
) -> None:
    """Fetch what is missing and check the whole; raises DataError."""
    with _disk_errors(part):
        digest = _digest(file)
    if digest.hexdigest() != sha256:  # or all was there, and the last call ended before the file got its name
        digest = _fetch(url, file, part, digest, on_bytes)
    got = digest.hexdigest()
    if got != sha256:
        part.unlink()
        raise DataError(
            f"got SHA-256 {got}, expected {sha256}; what has arrived is deleted, and the same command begins anew",
            field=url,
        )
    with _disk_errors(part):
        os.fsync(file.fileno())


def _digest(file: FileIO) -> hashlib._Hash:
    """Of what is in the file, which is left at its end."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest


def _fetch(
    url: str, file: FileIO, part: Path, digest: hashlib._Hash, on_bytes: OnBytes
) -> hashlib._Hash:  # of all that is there now
    """Add what is missing; raises DataError."""
    response, n_done = _request(url, file.tell())
    if response is None:
        return digest
    with response:
        n_whole = None if response.length is None else n_done + response.length
        if not n_done:
            digest = hashlib.sha256()
            with _disk_errors(part):
                file.truncate(0)
        on_bytes(n_done, n_whole)
        while n_done != n_whole and (block := _next_block(url, response)):
            with _disk_errors(part, f"; {GOES_ON}"):
                _write(file, block)
            digest.update(block)
            n_done += len(block)
            on_bytes(n_done, n_whole)
    if n_whole is not None and n_done != n_whole:
        raise DataError(f"the connection ended after {n_done:,} of {n_whole:,} bytes; {GOES_ON}", field=url)
    return digest


def _request(
    url: str,
    n_done: int,  # bytes that are there
) -> tuple[http.client.HTTPResponse | None, int]:  # and the bytes that the answer goes on after
    """Ask for the rest; no answer if there is none. Raises DataError."""
    headers = {"User-Agent": "spinn_tensor", "Accept-Encoding": "identity"}
    if n_done:
        headers["Range"] = f"bytes={n_done}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and n_done:
            return None, n_done
        again = f"; {GOES_ON}" if error.code >= 500 else ""
        raise DataError(f"the server says {error.code} {error.reason}{again}", field=url) from error
    except (ValueError, http.client.InvalidURL) as error:
        raise DataError(f"no address: {error}", field=url) from error
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(url, error) from error
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return response, 0
    if response.headers.get("Content-Range", "").startswith(f"bytes {n_done}-"):
        return response, n_done
    response.close()
    if not n_done:
        raise DataError("the server sent a part, expected the whole", field=url)
    return _request(url, 0)


def _next_block(url: str, response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(BLOCK_BYTES)  # what is there, so that nothing of it is lost with the connection
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(url, error) from error


def _write(file: FileIO, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


def _network_error(url: str, error: Exception) -> DataError:
    reason = getattr(error, "reason", None) or error
    return DataError(f"{reason or type(error).__name__}; {GOES_ON}", field=url)


@contextmanager
def _disk_errors(path: Path, then: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.strerror or error}{then}", path=path) from error
