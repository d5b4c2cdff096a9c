"""Temporary files and folders: the next writer clears those of the killed, and leaves those that are being written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import atomic_write
from spinn_tensor.data_prep.folders import readable, recover, write_folder
from spinn_tensor.data_prep.temporary import alone_in
from tests.processes import HANGS
from tests.writers import write_a_file, write_a_folder

Write = Callable[[Path, Callable[[], object]], None]
HERE = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

WRITERS: dict[str, Write] = {"write_a_file": write_a_file, "write_a_folder": write_a_folder}


def process(kind: str, path: Path, meanwhile: str) -> subprocess.Popen[str]:
    """Starts one that writes `path`."""
    program = f"""
import os, signal, sys
from pathlib import Path
from tests.processes import HANGS
from tests.writers import {kind}
{kind}(Path(sys.argv[1]), lambda: {meanwhile})
"""
    arguments = [sys.executable, "-c", program, str(path)]
    return subprocess.Popen(arguments, text=True, env=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def text_of(path: Path) -> str:
    return (path / "a" / "b" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_kill_left_goes_with_the_next_writer_of_that_name(kind: str, tmp_path: Path) -> None:
    names = {
        ".other.0123abcd.tmp",
        ".out[1].tmp",
        ".out1.0123abcd.tmp",
        ".out[1].mine.tmp",
        "out[1].0123abcd.tmp",
    }
    for name in names:
        (tmp_path / name).write_text("somebody else's")
    for _ in range(2):
        with process(kind, tmp_path / "out[1]", "os.kill(os.getpid(), signal.SIGKILL)") as killed:
            assert killed.wait() == -signal.SIGKILL
        assert len(set(os.listdir(tmp_path)) - names) == 1  # the second clears what the first left
    WRITERS[kind](tmp_path / "out[1]", lambda: None)
    assert set(os.listdir(tmp_path)) == {*names, "out[1]"}
    assert text_of(tmp_path / "out[1]") == "text"


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_being_written_is_left_to_its_writer(kind: str, tmp_path: Path) -> None:
    """Holds whether that is another process or this one."""
    path = tmp_path / "out"
    with process(kind, path, "(print('writing', flush=True), input())") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        (theirs,) = os.listdir(tmp_path)

        def both_are_there() -> None:
            mine = set(os.listdir(tmp_path)) - {theirs}
            assert len(mine) == 1
            recover(path)
            assert set(os.listdir(tmp_path)) == {theirs, *mine}
            WRITERS[kind](path, lambda: None)
            assert set(os.listdir(tmp_path)) == {theirs, *mine, "out"}

        WRITERS[kind](path, both_are_there)
        assert set(os.listdir(tmp_path)) == {theirs, "out"}
        other.communicate("\n", timeout=HANGS)
    assert other.returncode == 0
    assert os.listdir(tmp_path) == ["out"]
    assert text_of(path) == "text"


def test_a_predecessor_is_left_to_the_writer_that_is_between_its_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename, seen = tmp_path / "out", os.rename, []
    write_a_folder(path, lambda: None)

    def rename_and_look(source: Path, target: Path) -> None:
        rename(source, target)
        monkeypatch.undo()
        recover(path)
        seen.append((path.exists(), text_of(readable(path))))

    monkeypatch.setattr(os, "rename", rename_and_look)
    write_a_folder(path, lambda: None)
    assert seen == [(False, "text")]
    assert os.listdir(tmp_path) == ["out"]


def make_old(path: Path) -> None:
    for part in (*path.rglob("*"), path):
        os.utime(part, (time.time() - 90_000,) * 2)


def test_a_file_system_without_locks_keeps_what_was_left_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".a.0123abcd.tmp").write_text("perhaps still written")
    with atomic_write(tmp_path / "a") as file:
        file.write("text")
    for name in ("b", ".b.old", ".b.0123abcd.tmp"):
        (tmp_path / name / "folder").mkdir(parents=True)
    monkeypatch.setattr(
        "spinn_tensor.data_prep.folders.recover", lambda folder: None
    )  # the predecessor comes after it
    write_folder(tmp_path / "b", lambda folder: None)
    assert set(os.listdir(tmp_path)) == {".a.0123abcd.tmp", "a", ".b.0123abcd.tmp", "b"}
    make_old(tmp_path / ".b.0123abcd.tmp")
    make_old(tmp_path / ".a.0123abcd.tmp")
    (tmp_path / ".b.0123abcd.tmp" / "folder" / "file").write_text("written still")
    for name, write in (("a", write_a_file), ("b", write_a_folder)):
        write(tmp_path / name, lambda: None)
    assert set(os.listdir(tmp_path)) == {"a", ".b.0123abcd.tmp", "b"}
    make_old(tmp_path / ".b.0123abcd.tmp")
    write_a_folder(tmp_path / "b", lambda: None)
    assert set(os.listdir(tmp_path)) == {"a", "b"}


def test_a_predecessor_is_kept_while_another_writes(tmp_path: Path) -> None:
    """Who may rename NAME to it at any moment."""
    path, old = tmp_path / "out", tmp_path / ".out.old"
    write_a_folder(path, lambda: None)
    with process("write_a_folder", path, "(print('writing', flush=True), input())") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        old.mkdir()
        recover(path)
        assert old.is_dir()
        other.communicate("\n", timeout=HANGS)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="descriptors have no names")
@pytest.mark.parametrize("name", ["stdout", "stderr", "/dev/fd/1", "/proc/self/fd/1", "log.txt"])
def test_redirected_output_is_written_where_it_goes(name: str, tmp_path: Path) -> None:
    """As through a pipe: what the file has stays, and so does its place in the folder."""
    if name.startswith("/proc") and not os.path.exists(name):
        pytest.skip("no /proc")
    for number, link in enumerate(
        ("stdout", "stderr"), start=1
    ):  # not those of /dev, which a fault might replace
        (tmp_path / link).symlink_to(f"/dev/fd/{number}")
    log = tmp_path / "log.txt"
    log.write_text("yesterday\n")
    program = """
import sys
from spinn_tensor.data_prep.files import atomic_write
print("before", flush=True)
with atomic_write(sys.argv[1]) as file:
    file.write("text\\n")
with atomic_write(sys.argv[1], "wb") as file:
    file.write(b"bytes\\n")
print("after")
"""
    with log.open("a") as file:
        subprocess.run(
            [sys.executable, "-c", program, name],
            cwd=tmp_path,
            env=HERE,
            stdout=file,
            stderr=file,
            check=True,
        )
    assert log.read_text() == "yesterday\nbefore\ntext\nbytes\nafter\n"
    assert set(os.listdir(tmp_path)) == {"log.txt", "stdout", "stderr"}
    assert (tmp_path / "stdout").is_symlink()
    assert (tmp_path / "stderr").is_symlink()


def test_a_descriptor_that_is_closed_is_an_error() -> None:
    if not os.path.exists("/dev/fd"):
        pytest.skip("no /dev/fd")
    with pytest.raises(DataError, match="/dev/fd/987"), atomic_write("/dev/fd/987"):
        pass


def test_the_next_page_clears_what_a_kill_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".page.html.0123abcd.tmp").write_text("half")
    Path("trees.txt").write_text("( dogs bark )\n")
    files = ["--train", "trees.txt", "--dev", "trees.txt"]
    assert main(["inspect", "--corpus", "trees", *files, "--html", "page.html"]) == 0
    assert set(os.listdir(tmp_path)) == {"trees.txt", "page.html"}


def test_a_folder_is_free_when_its_writer_is_killed_whatever_it_forked(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from spinn_tensor.data_prep.temporary import alone_in
with alone_in(Path(sys.argv[1])):
    if os.fork() == 0:
        print("there", flush=True)
        sys.stdin.read()
        os._exit(0)
    signal.pause()
"""
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(
        arguments, text=True, env=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "there\n"
        with pytest.raises(DataError, match="another process is writing there"), alone_in(tmp_path):
            pass
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
        with alone_in(tmp_path):
            pass  # the fork, which still reads
