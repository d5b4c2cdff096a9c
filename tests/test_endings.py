"""Signals end a command as Ctrl-C does, without temporary files; those that train takes itself let it save."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest

from spinn_tensor.cli.main import main
from spinn_tensor.cli.progress import TerminalObserver
from spinn_tensor.training.resume import Progress

HANGUP = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # Windows has none

# Ends itself in the middle of a command, with the page's temporary file there.
ENDED = """
import os, signal, sys, time
from spinn_tensor.cli import inspect
from spinn_tensor.cli.main import main

def end(settings):
    print(*os.listdir("."), flush=True)
    os.kill(os.getpid(), int(sys.argv[1]))
    time.sleep(0.2)  # a signal that is ignored
    raise OSError("went on")

inspect.inspect = end
sys.exit(main(["inspect", "--html", "page.html"]))
"""


def ended(number: int, folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", before + ENDED, str(int(number))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith(".page.html."), done.stderr
    return done


@pytest.mark.parametrize("number", [signal.SIGTERM, *HANGUP])
def test_signals_end_a_command_without_temporary_files(number: signal.Signals, tmp_path: Path) -> None:
    # under nohup a process ignores SIGHUP from the start
    done = ended(number, tmp_path, f"import signal; signal.signal({int(number)}, signal.SIG_DFL)\n")
    assert os.listdir(tmp_path) == []
    assert done.returncode == 128 + number
    assert done.stderr == "spinn: interrupted; nothing more was saved\n"


@pytest.mark.skipif(not HANGUP, reason="no SIGHUP")
def test_nohup_is_respected(tmp_path: Path) -> None:
    done = ended(signal.SIGHUP, tmp_path, "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n")
    assert "went on" in done.stderr
    assert done.returncode == 1


def test_a_program_that_calls_main_keeps_its_signal_handlers() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, *HANGUP, signal.SIGINT)}
    assert main(["presets"]) == 0
    assert before == {number: signal.getsignal(number) for number in before}


class Outer(Exception):
    """What the handler raises that is there before training."""


@pytest.mark.parametrize("number", [signal.SIGTERM, *HANGUP, signal.SIGINT])
def test_training_takes_one_signal_and_leaves_the_others(number: signal.Signals) -> None:
    def outer(number: int, frame: FrameType | None) -> None:
        raise Outer

    previous = signal.signal(number, outer)
    try:
        with TerminalObserver(silent=True) as observer:
            with pytest.raises(Outer):
                signal.raise_signal(number)  # there is nothing to save yet
            observer.begin(Progress(), steps_per_epoch=1, unit="pairs")
            signal.raise_signal(number)
            assert observer.pending_signal() == number
            with pytest.raises(Outer):
                signal.raise_signal(number)
        assert signal.getsignal(number) is outer
    finally:
        signal.signal(number, previous)
