"""Downloads from a server in this process: whole, broken off, refused, and wrong."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import numpy as np
import pytest

from spinn_tensor.cli import prepare as command
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep import files
from spinn_tensor.data_prep.corpora import download as module
from spinn_tensor.data_prep.corpora.download import OFFICIAL, Archive, download
from spinn_tensor.data_prep.errors import DataError
from tests.processes import HANGS
from tests.tiny_runs import write_pairs

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
ROOT = Path(__file__).resolve().parents[1]


class Server(ThreadingHTTPServer):
    """Sends CONTENT, as its attributes say."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ends_after: int | None = None  # bytes of an answer, then the connection is closed
        self.is_chunked = False
        self.status = 200
        self.waiting = threading.Event()  # set: where the answer would end early, the connection stays open
        self.n_requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.zip"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        server, body = self.server, self.server.content
        server.n_requests += 1
        self.close_connection = True
        if server.status != 200:
            self.send_error(server.status)
            return
        self.send_response(200)
        if server.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.ends_after])
        if server.waiting.is_set():
            self.wfile.flush()
            while server.waiting.is_set():
                time.sleep(0.01)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.waiting.clear()
        running.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "file.zip"


def assert_refused(url: str, path: Path, message: str, sha256: str = SHA256) -> None:
    """One line, and nothing is left."""
    with pytest.raises(DataError, match=message) as caught:
        download(url, path, sha256)
    assert len(str(caught.value).splitlines()) == 1
    assert not path.parent.exists() or os.listdir(path.parent) == []


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_whole_file_is_fetched_once(server: Server, path: Path, is_chunked: bool) -> None:
    server.is_chunked = is_chunked
    calls: list[tuple[int, int | None]] = []
    for _ in range(2):
        assert download(server.url, path, SHA256.upper(), on_bytes=lambda *n: calls.append(n)) == path
        assert path.read_bytes() == CONTENT
        assert os.listdir(path.parent) == [path.name]
    assert server.n_requests == 1
    whole = None if is_chunked else len(CONTENT)
    assert (calls[0], calls[-1]) == ((0, whole), (len(CONTENT), whole))
    assert calls == sorted(set(calls), key=lambda call: call[0])


def test_another_file_of_the_name_is_left_alone(server: Server, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"file.zip: is there already, with SHA-256"):
        download(server.url, path, SHA256)
    assert path.read_bytes() == b"mine"
    assert server.n_requests == 0


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_connection_that_breaks_off_leaves_nothing(server: Server, path: Path, is_chunked: bool) -> None:
    server.is_chunked, server.ends_after = is_chunked, HALF
    assert_refused(server.url, path, "IncompleteRead")
    server.ends_after = None
    assert download(server.url, path, SHA256).read_bytes() == CONTENT


def test_another_content_leaves_nothing(server: Server, path: Path) -> None:
    server.content = b"<html>log in first</html>"
    assert_refused(server.url, path, f"{re.escape(server.url)}: got SHA-256 .*{SHA256}")


def test_the_file_has_the_mode_of_any_new_file(server: Server, path: Path) -> None:
    before = os.umask(0o022)
    try:
        download(server.url, path, SHA256)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_disk_that_fills_up_leaves_nothing(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> NoReturn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_open_to_write", lambda *_: Full())
    assert_refused(server.url, path, f"^{re.escape(str(path))}: {os.strerror(errno.ENOSPC)}$")


def test_the_content_is_on_the_disk_before_it_has_its_name(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, bool]] = []  # bytes of the file, and whether it has its name
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append((os.fstat(descriptor).st_size, path.exists()))
    )
    download(server.url, path, SHA256)
    assert synced == [(len(CONTENT), False)]


@pytest.mark.parametrize("status", [404, 503])
def test_a_refusal(server: Server, path: Path, status: int) -> None:
    server.status = status
    assert_refused(server.url, path, str(status))


def test_no_server(server: Server, path: Path) -> None:
    with Server() as other:
        url = other.url
    assert_refused(url, path, "refused")


def test_a_server_that_says_nothing_more(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 1)  # longer than the half takes that comes
    server.ends_after = HALF
    server.waiting.set()
    assert_refused(server.url, path, "timed out")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "snli.zip", "http://[", "http://h:x/"])
def test_no_address(path: Path, url: str) -> None:
    assert_refused(url, path, re.escape(url))


def test_no_file(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(DataError, match=r"file\.zip: a folder, expected a file$"):
        download("http://127.0.0.1/", path, SHA256)


def test_what_a_kill_leaves_is_deleted_by_the_next_call(server: Server, path: Path) -> None:
    server.ends_after = HALF
    server.waiting.set()
    program = (
        "import sys; from spinn_tensor.data_prep.corpora.download import download; download(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, server.url, str(path), SHA256]
    with subprocess.Popen(command, cwd=ROOT) as process:
        deadline = time.monotonic() + HANGS
        while not any(found.stat().st_size for found in path.parent.glob(".*.tmp")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert not path.exists()
    server.waiting.clear()
    server.ends_after = None
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == [path.name]


def prepare(server: Server, folder: Path, sha256: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `spinn prepare` where the server is the publisher's, of a file with this digest."""
    archive = Archive(server.url, "snli_1.0.zip", sha256, len(server.content))
    monkeypatch.setattr(command, "OFFICIAL", MappingProxyType({"snli": archive}))
    folders = ["--downloads", str(folder / "got"), "--output", str(folder / "store")]
    return main(["prepare", "--download", "snli", *folders])


def test_fetched_and_prepared(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("datasets")
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
        for seed, split in enumerate(("train", "dev", "test")):
            lines = write_pairs(tmp_path / "pairs.jsonl", 12 + seed, seed).read_bytes()
            archive.writestr(f"snli_1.0/snli_1.0_{split}.jsonl", lines)
    server.content = packed.getvalue()
    for said in ("train         12", "up to date"):
        assert prepare(server, tmp_path, hashlib.sha256(server.content).hexdigest(), monkeypatch) == 0
        assert said in capsys.readouterr().out
    assert server.n_requests == 1


def test_fetched_but_not_what_was_published(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.content = b"something else"
    assert prepare(server, tmp_path, SHA256, monkeypatch) == 1
    error = capsys.readouterr().err
    assert server.url in error
    assert len(error.splitlines()) == 1
    assert list((tmp_path / "got").iterdir()) == []
    assert not (tmp_path / "store").exists()


def test_the_official_archives_are_named_once() -> None:
    assert OFFICIAL.keys() == {"snli", "multinli", "sst"}
    for archive in OFFICIAL.values():
        assert archive.url.startswith("https://")
        assert archive.url.endswith(archive.file_name)
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
        assert archive.size > 0
