"""What `spinn` says of wrong usage, and how its help teaches the right one."""

from __future__ import annotations

import argparse

import pytest

from spinn_tensor.cli.main import build_parser, main

Capture = pytest.CaptureFixture[str]


def commands() -> dict[str, argparse.ArgumentParser]:
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("no subcommands")


@pytest.mark.parametrize("name", commands())
def test_help_teaches(name: str) -> None:
    text = commands()[name].format_help()
    assert text.count(f"spinn {name}") >= 3  # the usage and two examples
    assert "examples:" in text
    assert len(commands()[name].description or "") > 150


def test_no_command_is_wrong_usage_answered_by_the_help(capsys: Capture) -> None:
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == build_parser().format_help()


def help_of(command: str, option: str) -> str:
    [action] = [action for action in commands()[command]._actions if option in action.option_strings]
    return action.help or ""


def test_help_says_what_a_setting_means_to_the_command() -> None:
    assert "default" not in help_of("prepare", "--corpus")
    assert "spinn prepare" not in help_of("prepare", "--data")
    assert "spinn prepare" in help_of("train", "--data")
    assert "initialisation" not in help_of("inspect", "--seed")
    assert "processes" not in help_of("inspect", "--batch-size")
    assert "default: the preset's" in help_of("inspect", "--batch-size")
    assert "--no-skip-bad" in help_of("inspect", "--skip-bad")


@pytest.mark.parametrize(
    "arguments, prog, message",
    [
        (["train", "--no-such"], "spinn train", "unrecognized arguments: --no-such"),
        (["train", "extra"], "spinn train", "unrecognized arguments: extra"),
        (
            ["prepare", "--output", "a", "b"],
            "spinn prepare",
            "unrecognized arguments: b; --train and --dev are given once",
        ),
        (
            ["prepare", "--output", "o", "--vector-norm", "4"],
            "spinn prepare",
            "unrecognized arguments: --vector-norm",
        ),
        (["parse", "--drwa", "Dogs bark."], "spinn parse", "--drwa (did you mean --draw?)"),
        (
            ["predict", "run", "--premice=a", "--hypothesis", "b"],
            "spinn predict",
            "(did you mean --premise?)",
        ),
        (["presets", "one", "two", "--no-such"], "spinn presets", "unrecognized arguments: two --no-such"),
        (["train", "--epoch", "1"], "spinn train", "--epoch 1 (did you mean --epochs?)"),
        (["train", "--rms-decay", "1"], "spinn train", "argument --rms-decay: expected in [0, 1), got 1.0"),
        (["train", "--epochs", "0"], "spinn train", "argument --epochs: expected at least 1, got 0"),
        (
            ["train", "--lr", "1e308"],
            "spinn train",
            "--learning-rate/--lr: expected a number that 32 bits hold, got 1e+308",
        ),
        (["train", "--lr", "a"], "spinn train", "argument --learning-rate/--lr: expected float"),
        (
            ["train", "--resume", "--overwrite"],
            "spinn train",
            "--overwrite: not allowed with argument --resume",
        ),
        (["inspect", "--trees", "-1"], "spinn inspect", "argument --trees: expected 0 or more, got -1"),
        (["inspect", "--output", "x"], "spinn inspect", "unrecognized arguments: --output x"),
        (["parse", "--k=-3", "A dog"], "spinn parse", "argument --k: expected at least 1, got -3"),
        (["profile", "--steps", "0"], "spinn profile", "argument --steps: expected at least 1, got 0"),
        (["parse", "--threads", "10000", "A"], "spinn parse", "--threads: expected at most 4,096, got 10000"),
        (["parse", f"--k={10**20}", "A"], "spinn parse", "argument --k: expected at most 2,147,483,647, got"),
        (["parse", "--k", "few", "A"], "spinn parse", "argument --k: expected a whole number, got 'few'"),
        (["profile", "--resume"], "spinn profile", "unrecognized arguments: --resume"),
        (["train", "--seed", str(2**70)], "spinn train", "argument --seed: expected 0 to"),
        (["train", "--output", ""], "spinn train", "argument --output: expected a value, got ''"),
        (["evaluate", "run", "--parser="], "spinn evaluate", "argument --parser: expected a value, got ''"),
        (["generate", ""], "spinn generate", "argument DIR: expected a value, got ''"),
        (
            ["predict", "run", "--output", "-"],
            "spinn predict",
            "a path, got '-'; /dev/stdin and /dev/stdout are",
        ),
        (["predict", "run", "a.jsonl"], "spinn predict", "a.jsonl; --sentence takes one, --premise and"),
        (["evaluate", "run", "a.jsonl"], "spinn evaluate", "arguments: a.jsonl; --data takes files"),
        (["evaluate"], "spinn evaluate", "required: CHECKPOINT; the package has packaged"),
        (["encode", "--output", "a.npy"], "spinn encode", "CHECKPOINT, --input; the package has packaged"),
        (["nosuchcommand"], "spinn", "'nosuchcommand'"),
        (["trian"], "spinn", "(did you mean train?)"),
        (["train", "--device", "cdua"], "spinn train", "(did you mean cuda?)"),
        (["--no-such", "train"], "spinn", "unrecognized arguments: --no-such"),
        (["--versoin", "train"], "spinn", "--versoin (did you mean --version?)"),
    ],
)
def test_wrong_usage_is_answered_by_the_command_that_it_is_of(
    arguments: list[str], prog: str, message: str, capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as status:
        main(arguments)
    assert status.value.code == 2
    error, help = capsys.readouterr().err.splitlines()
    assert error.startswith(f"{prog}: error: ")
    assert message in error
    assert help == f"see {prog} --help"
