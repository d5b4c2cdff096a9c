"""`spinn parse` and `spinn encode` as filters: a line in is a line out, in order, and before the input ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinn_tensor.cli.main import main
from spinn_tensor.data_prep import stream
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import open_text
from spinn_tensor.data_prep.stream import line_blocks
from spinn_tensor.encoding import read_manifest, read_shards
from tests.command_line import standard_input
from tests.processes import HANGS, ROOT, forked

pytest.importorskip("datasets")


def lines_with_faults(n_lines: int) -> list[bytes]:
    """Every 97th blank, every 101st broken, each other one with its number in it."""
    lines = []
    for number in range(1, n_lines + 1):
        line = f"( dogs ( bark {number} ) )".encode()
        if number % 97 == 0:
            line = b""
        elif number % 101 == 0:
            line = (b"( dogs", b"\xff", b"(S (NP dogs)")[number // 101 % 3]
        lines.append(line)
    return lines


def process(*arguments: str | Path) -> subprocess.Popen[bytes]:
    return forked(lambda: main([*map(str, arguments), "--device", "cpu"]))


@contextmanager
def ended(running: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End a process that hangs, so that the test fails."""
    killer = threading.Timer(HANGS, running.kill)
    killer.start()
    try:
        yield running
    finally:
        killer.cancel()
        running.kill()
        running.communicate()


def test_a_file_gives_the_lines_before_one_that_cannot_be_read(tmp_path: Path) -> None:
    """As a pipe does."""
    path, found = tmp_path / "in.txt", []
    path.write_bytes(b"a\nb\n\xff\nc\n")
    blocks = line_blocks(path, lambda: open_text(path))
    found += next(blocks)
    with pytest.raises(DataError, match=r"in\.txt:3: not UTF-8"):
        next(blocks)
    assert found == ["a\n", "b\n"]


def test_parse_gives_a_line_for_every_line(parser_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_with_faults(3_000)
    with standard_input(b"\n".join(lines) + b"\n"):
        assert main(["parse", "--model", str(parser_run), "--input", "-", "--on-error", "empty"]) == 0
    out, err = capsys.readouterr()
    got = out.splitlines()
    assert len(got) == len(lines)
    for number, (line, text) in enumerate(zip(got, lines, strict=True), start=1):
        is_bad = number % 97 == 0 or number % 101 == 0
        words = [] if is_bad else ["dogs", "bark", str(number)]
        assert line.replace("(", "").replace(")", "").split() == words, text
    assert err.startswith("spinn: 59 lines have no tree: 30 x a blank line; ")


def test_encode_gives_a_row_for_every_line(
    pair_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = lines_with_faults(3_000)
    arguments = ["encode", str(pair_run), "--input", "-", "--output", str(tmp_path / "out")]
    with standard_input(b"\n".join(lines) + b"\n"):
        assert main([*arguments, "--shard-size", "1000", "--on-error", "nan"]) == 0
    out, err = capsys.readouterr()
    assert out == f"3,000 encodings of width 8 in {tmp_path / 'out'}, 3 shards\n"
    rows = np.concatenate(list(read_shards(tmp_path / "out")))
    bad = [number for number in range(1, 3_001) if number % 97 == 0 or number % 101 == 0]
    assert (1 + np.flatnonzero(np.isnan(rows).any(1))).tolist() == bad
    manifest = read_manifest(tmp_path / "out")
    assert [line for shard in manifest["shards"] for line in shard["nan_lines"]] == bad
    assert "spinn: 59 of 3,000 rows are NaN: 30 x a blank line; " in err


@pytest.mark.parametrize(
    "form, first, whole",
    [
        ("binary", "( dogs bark )", False),
        pytest.param("json", '{"text": "dogs bark"', True, marks=pytest.mark.slow),
    ],
)
def test_the_first_result_comes_before_the_input_ends(
    form: str, first: str, whole: bool, parser_run: Path
) -> None:
    """Of a fork of this process, or of a whole one."""
    arguments = ["parse", "--model", str(parser_run), "--input", "-", "--format", form]
    pipe, environment = subprocess.PIPE, {**os.environ, "OMP_NUM_THREADS": "1"}
    options: Any = {"cwd": ROOT, "env": environment, "stdin": pipe, "stdout": pipe, "stderr": pipe}
    command = [sys.executable, "-m", "spinn_tensor", *arguments]
    started = subprocess.Popen(command, **options) if whole else process(*arguments)
    with ended(started) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for line in (b"dogs bark\n", b"(S (NP dogs) (VP bark))\n"):
            running.stdin.write(line)
            running.stdin.flush()
            assert running.stdout.readline().decode().startswith(first if line[:1] == b"d" else first[:3])
        running.stdin.write(b"a good film")
        rest, err = running.communicate(timeout=HANGS)
        assert rest.count(b"\n") == 1
        assert (running.returncode, err) == (0, b"")


def test_the_first_shard_comes_before_the_input_ends(pair_run: Path, tmp_path: Path) -> None:
    first = tmp_path / "out" / "shard-00000.npy"
    arguments = ["encode", pair_run, "--input", "-", "--output", tmp_path / "out", "--shard-size", "2"]
    with ended(process(*arguments)) as running:
        assert running.stdin is not None
        running.stdin.write(b"dogs\n\n")
        running.stdin.flush()
        while not first.exists() and running.poll() is None:
            time.sleep(0.05)
        assert running.poll() is None
        assert np.isnan(np.load(first)).any(1).tolist() == [False, True]
        running.communicate(b"cats\n", timeout=HANGS)
        assert running.returncode == 0


def test_an_error_ends_it_while_the_input_goes_on(parser_run: Path) -> None:
    with ended(process("parse", "--model", parser_run, "--input", "-")) as running:
        assert running.stdin is not None
        running.stdin.write(b"dogs bark\n\xe2\x80\x8b\n")
        running.stdin.flush()
        assert running.wait(timeout=HANGS) == 1
        assert running.stdout is not None
        assert running.stdout.read() == b"( dogs bark )\n"
        assert running.stderr is not None
        assert running.stderr.read().startswith(b"spinn: error: /dev/stdin:2: a sentence without words")


def test_whoever_reads_no_further_ends_it(parser_run: Path) -> None:
    with ended(process("parse", "--model", parser_run, "--input", "-")) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"dogs bark\n")
        running.stdin.flush()
        running.stdout.readline()
        running.stdout.close()
        running.stdin.write(b"dogs bark\n")
        running.stdin.flush()
        assert running.wait(timeout=HANGS) == 1


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A pipe by name; a test that waits for it for ever fails."""
    os.mkfifo(tmp_path / "pipe")

    def fail(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(HANGS)
    yield tmp_path / "pipe"
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_blocks_of_a_pipe_are_what_is_there(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK_LINES", 4)
    blocks = line_blocks(pipe, lambda: open_text(pipe))
    # for reading, too, or it would wait for who reads
    with os.fdopen(os.open(pipe, os.O_RDWR), "wb", buffering=0) as file:
        for _ in range(3):
            file.write(b"a\n")
            assert next(blocks) == ["a\n"]  # each is given before the next is written
        file.write(b"b\n" * 100)
        many: list[str] = []
        while len(many) < 100:
            block = next(blocks)
            assert 1 <= len(block) <= 4
            many += block
    assert many == ["b\n"] * 100
    assert list(blocks) == []


def test_blocks_of_long_lines_have_few(pipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK_CHARACTERS", 100)
    lines = ["a" * 59 + "\n"] * 9
    (tmp_path / "file").write_text("".join(lines))
    with os.fdopen(os.open(pipe, os.O_RDWR), "wb", buffering=0) as file:
        file.write("".join(lines).encode())
        blocks = line_blocks(pipe, lambda: open_text(pipe))
        of_pipe: list[str] = []
        while len(of_pipe) < 9:
            block = next(blocks)
            assert len(block) <= 2
            of_pipe += block
    assert of_pipe == lines
    of_file = list(line_blocks(tmp_path / "file", lambda: open_text(tmp_path / "file")))
    assert list(map(len, of_file)) == [2, 2, 2, 2, 1]


@pytest.mark.parametrize("n_lines", [0, 1, 4, 9])
def test_blocks_of_a_file_are_full(n_lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK_LINES", 4)
    path = tmp_path / "in.txt"
    path.write_text("a\n" * n_lines + "b")
    blocks = list(line_blocks(path, lambda: open_text(path)))
    assert [len(block) for block in blocks[:-1]] == [4] * (n_lines // 4)
    assert [line for block in blocks for line in block] == ["a\n"] * n_lines + ["b"]


def test_lines_before_an_error_are_given(pipe: Path) -> None:
    given: list[list[str]] = []
    with os.fdopen(os.open(pipe, os.O_RDWR), "wb", buffering=0) as file:
        file.write(b"a\nb\n\xff\n")
        with pytest.raises(DataError, match="pipe:3: not UTF-8"):
            given.extend(line_blocks(pipe, lambda: open_text(pipe)))
    assert [line for block in given for line in block] == ["a\n", "b\n"]


def test_whoever_takes_no_more_lines_ends_the_reading(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread does not wait for ever for room."""
    monkeypatch.setattr(stream, "BLOCK_LINES", 4)
    before = set(threading.enumerate())
    with os.fdopen(os.open(pipe, os.O_RDWR), "wb", buffering=0) as file:
        file.write(b"a\n" * 100)
        blocks = line_blocks(pipe, lambda: open_text(pipe))
        next(blocks)
        (reader,) = set(threading.enumerate()) - before
        blocks.close()
        reader.join(HANGS / 2)
        assert not reader.is_alive()
