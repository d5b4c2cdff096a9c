"""Signals end a command as Ctrl-C does, without temporary files; those that train takes itself let it save."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from spinn_tensor.cli.main import main
from spinn_tensor.cli.progress import TerminalObserver
from spinn_tensor.training.checkpoint import Progress
from tests.processes import HANGS

Capture = pytest.CaptureFixture[str]
HANGUP = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # Windows has none


@pytest.fixture
def ends_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], int]:
    """Run a command that a signal hits while a temporary file of its output is there; return its status."""
    monkeypatch.chdir(tmp_path)

    def run(number: int) -> int:
        def end(settings: object) -> None:
            assert os.listdir(".")[0].startswith(".page.html.")
            signal.raise_signal(number)
            raise OSError("went on")

        monkeypatch.setattr("spinn_tensor.cli.inspect.inspect", end)
        return main(["inspect", "--html", "page.html"])

    return run


@contextmanager
def handled(number: int, handler: Any) -> Iterator[None]:
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)


@pytest.mark.parametrize("number", [signal.SIGTERM, *HANGUP])
def test_signals_end_a_command_without_temporary_files(
    number: signal.Signals, ends_itself: Callable[[int], int], tmp_path: Path, capsys: Capture
) -> None:
    with handled(number, signal.SIG_DFL):  # under nohup a process ignores SIGHUP from the start
        assert ends_itself(number) == 128 + number
    assert os.listdir(tmp_path) == []
    assert capsys.readouterr().err == "spinn: interrupted; nothing more was saved\n"


@pytest.mark.skipif(not HANGUP, reason="no SIGHUP")
def test_nohup_is_respected(ends_itself: Callable[[int], int], capsys: Capture) -> None:
    with handled(signal.SIGHUP, signal.SIG_IGN):
        assert ends_itself(signal.SIGHUP) == 1
    assert "went on" in capsys.readouterr().err


def test_a_program_that_calls_main_keeps_its_signal_handlers() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, *HANGUP, signal.SIGINT)}
    assert main(["presets"]) == 0
    with ThreadPoolExecutor(1) as pool:  # of which Python lets no thread but the first handle signals

        def in_thread() -> int:
            with TerminalObserver():
                return main(["presets"])

        assert pool.submit(in_thread).result() == 0
    assert before == {number: signal.getsignal(number) for number in before}


SERVER = """
import runpy, signal, sys
from spinn_tensor.export.serve.engine import Engine
Engine.find = lambda settings: signal.raise_signal(signal.SIGINT)
sys.argv[1:] = ["folder"]
runpy.run_module("spinn_tensor.export.serve", run_name="__main__")
"""


@pytest.mark.skipif(not HANGUP, reason="no signals of POSIX")
def test_ctrl_c_while_a_server_reads_its_model_is_no_traceback() -> None:
    pytest.importorskip("uvicorn")
    found = subprocess.run([sys.executable, "-c", SERVER], capture_output=True, text=True, timeout=HANGS)
    assert (found.returncode, found.stdout, found.stderr) == (-signal.SIGINT, "", "")


class Outer(Exception):
    """What the handler raises that is there before training."""


@pytest.mark.parametrize("number", [signal.SIGTERM, *HANGUP, signal.SIGINT])
def test_training_takes_one_signal_and_leaves_the_others(number: signal.Signals) -> None:
    def outer(number: int, frame: FrameType | None) -> None:
        raise Outer

    with handled(number, outer):
        with TerminalObserver(silent=True) as observer:
            with pytest.raises(Outer):
                signal.raise_signal(number)  # there is nothing to save yet
            observer.begin(Progress(), steps_per_epoch=1, unit="pairs")
            signal.raise_signal(number)
            assert observer.pending_signal() == number
            with pytest.raises(Outer):
                signal.raise_signal(number)
        assert signal.getsignal(number) is outer
