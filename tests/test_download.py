"""Downloads from a server in this process: whole, broken off and gone on with, refused, and wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import FileIO
from pathlib import Path

import numpy as np
import pytest

from spinn_tensor.data_prep import download as module
from spinn_tensor.data_prep.download import OFFICIAL, download
from spinn_tensor.data_prep.errors import DataError

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
        self.takes_range = True
        self.range_shift = 0  # the part that is sent begins so many bytes too early
        self.ends_after: int | None = None  # bytes of an answer, then the connection is closed
        self.is_chunked = False
        self.status = 200
        self.waiting = threading.Event()  # set: where the answer would end early, the connection stays open
        self.ranges: list[str | None] = []  # what was asked for

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.zip"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.ranges.append(wanted)
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        start = int(match[1]) if match and server.takes_range else 0
        self.close_connection = True
        if server.status != 200 or start >= len(server.content):
            self.send_error(server.status if server.status != 200 else 416)
            return
        start = max(0, start - server.range_shift)
        self.send_response(206 if match and server.takes_range else 200)
        if match and server.takes_range:
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        body = server.content[start:]
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
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.waiting.clear()
        running.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.zip"


def part_of(path: Path) -> Path:
    return path.parent / ".file.zip.part"


def assert_whole(path: Path) -> None:
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_whole_file(server: Server, path: Path, is_chunked: bool) -> None:
    server.is_chunked = is_chunked
    calls = []
    digest = SHA256.upper()
    assert download(server.url, path, digest, on_bytes=lambda *numbers: calls.append(numbers)) == path
    assert_whole(path)
    whole = None if is_chunked else len(CONTENT)
    assert calls[0] == (0, whole)
    assert calls[-1] == (len(CONTENT), whole)
    assert calls == sorted(set(calls), key=lambda call: call[0])


def test_a_file_that_is_there_is_not_asked_for(server: Server, path: Path) -> None:
    path.write_bytes(CONTENT)
    assert download(server.url, path, SHA256) == path
    assert server.ranges == []


def test_another_file_of_the_name_is_left_alone(server: Server, path: Path) -> None:
    path.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"file.zip: is there already, with SHA-256"):
        download(server.url, path, SHA256)
    assert path.read_bytes() == b"mine"
    assert server.ranges == []


@pytest.mark.parametrize("is_chunked", [False, True])
def test_broken_off_and_gone_on_with(server: Server, path: Path, is_chunked: bool) -> None:
    server.is_chunked, server.ends_after = is_chunked, HALF
    with pytest.raises(DataError, match="the same command goes on") as caught:
        download(server.url, path, SHA256)
    assert "\n" not in str(caught.value)
    arrived = part_of(path).read_bytes()
    assert 0 < HALF - len(arrived) < 20 if is_chunked else len(arrived) == HALF
    assert arrived == CONTENT[: len(arrived)]
    server.ends_after = None
    calls: list[int] = []
    download(server.url, path, SHA256, on_bytes=lambda n_done, _: calls.append(n_done))
    assert_whole(path)
    assert calls[0] == len(arrived)
    assert server.ranges == [None, f"bytes={len(arrived)}-"]


@pytest.mark.parametrize("change", [{"takes_range": False}, {"range_shift": 100}])
def test_a_server_without_the_rest_sends_all(server: Server, path: Path, change: dict[str, int]) -> None:
    part_of(path).write_bytes(CONTENT[:HALF])
    vars(server).update(change)
    download(server.url, path, SHA256)
    assert_whole(path)
    assert server.ranges[0] == f"bytes={HALF}-"


def test_a_whole_part_only_gets_its_name(server: Server, path: Path) -> None:
    part_of(path).write_bytes(CONTENT)
    download(server.url, path, SHA256)
    assert_whole(path)
    assert server.ranges == []


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 1])
def test_a_part_that_has_nothing_to_follow_is_checked(server: Server, path: Path, size: int) -> None:
    part_of(path).write_bytes(b"x" * size)
    with pytest.raises(DataError, match=f"got SHA-256 .*, expected {SHA256}"):
        download(server.url, path, SHA256)
    assert os.listdir(path.parent) == []
    download(server.url, path, SHA256)
    assert_whole(path)


@pytest.mark.parametrize("part", [None, b"x" * HALF])
def test_a_wrong_digest_deletes_the_part(server: Server, path: Path, part: bytes | None) -> None:
    if part is None:
        server.content = b"<html>log in first</html>"
    else:
        part_of(path).write_bytes(part)
    with pytest.raises(DataError, match=f"got SHA-256 .*, expected {SHA256}"):
        download(server.url, path, SHA256)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    "status, message",
    [(404, r"the server says 404 Not Found$"), (503, r"the server says 503 .*the same command goes on")],
)
def test_a_refusal_leaves_the_part_as_it_is(server: Server, path: Path, status: int, message: str) -> None:
    server.status = status
    with pytest.raises(DataError, match=message):
        download(server.url, path, SHA256)
    assert os.listdir(path.parent) == []
    part_of(path).write_bytes(CONTENT[:HALF])
    with pytest.raises(DataError, match=message):
        download(server.url, path, SHA256)
    assert part_of(path).read_bytes() == CONTENT[:HALF]


def test_no_server(server: Server, path: Path) -> None:
    with Server() as other:
        url = other.url
    with pytest.raises(DataError, match=r"refused.*the same command goes on"):
        download(url, path, SHA256)
    assert os.listdir(path.parent) == []


def test_a_server_that_says_nothing_more(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 5)  # much longer than a busy machine takes for the half that comes
    server.ends_after = HALF
    server.waiting.set()
    with pytest.raises(DataError, match=r"timed out.*the same command goes on"):
        download(server.url, path, SHA256)
    assert part_of(path).read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "snli.zip", "http://[", "http://h:x/"])
def test_no_address(path: Path, url: str) -> None:
    with pytest.raises(DataError, match=re.escape(url)) as caught:
        download(url, path, SHA256)
    assert "goes on" not in str(caught.value)
    assert os.listdir(path.parent) == []


def test_no_folder_or_no_file(path: Path) -> None:
    path.mkdir()
    with pytest.raises(DataError, match=r"file\.zip: Is a directory$"):
        download("http://127.0.0.1/", path, SHA256)
    with pytest.raises(DataError, match="no such folder"):
        download("http://127.0.0.1/", path.parent / "none" / "file.zip", SHA256)


def test_a_full_disk_keeps_the_part(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(FileIO):
        def write(self, block) -> int:
            room = HALF - self.tell()
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(block[:room])

    with monkeypatch.context() as patch:
        patch.setattr(module, "FileIO", Full)
        with pytest.raises(DataError, match=r"file.zip.part: No space left on device; .*goes on"):
            download(server.url, path, SHA256)
    assert part_of(path).read_bytes() == CONTENT[:HALF]
    download(server.url, path, SHA256)
    assert_whole(path)
    assert server.ranges[1] == f"bytes={HALF}-"


def test_a_disk_that_takes_little_at_a_time(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(FileIO):
        def write(self, block) -> int:
            return super().write(block[:1000])

    monkeypatch.setattr(module, "FileIO", Slow)
    download(server.url, path, SHA256)
    assert_whole(path)


def test_killed_in_between(server: Server, path: Path) -> None:
    server.ends_after = HALF
    server.waiting.set()
    program = "import sys; from spinn_tensor.data_prep.download import download; download(*sys.argv[1:])"
    command = [sys.executable, "-c", program, server.url, str(path), SHA256]
    with subprocess.Popen(command, cwd=ROOT) as process:
        deadline = time.monotonic() + 600
        while not (part_of(path).exists() and part_of(path).stat().st_size == HALF):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert not path.exists()
    server.waiting.clear()
    server.ends_after = None
    download(server.url, path, SHA256)
    assert_whole(path)
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_the_official_archives_are_named_once() -> None:
    assert OFFICIAL.keys() == {"snli", "multinli", "sst"}
    for archive in OFFICIAL.values():
        assert archive.url.startswith("https://")
        assert archive.url.endswith(archive.file_name)
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
        assert archive.size > 0
