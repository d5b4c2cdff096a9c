"""`spinn encode` as it is used: arrays and folders, standard input, several processes, kill -9."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spinn_tensor import Pipeline
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.trees import format_binary
from spinn_tensor.encoding import read_shards, shards
from tests.closeness import FLOAT16, assert_close
from tests.command_line import Spinn, standard_input
from tests.processes import HANGS, ROOT, forked
from tests.tiny_sentences import N_LINES, trees, write_parses

pytest.importorskip("datasets")


def command(run: Path, source: Path | str, output: Path, *options: object) -> list[str]:
    small = ["--shard-size", "5", "--threads", "1", "--device", "cpu"]
    arguments = ["encode", run, "--input", source, "--output", output]
    return [*map(str, [*arguments, *(small if not output.suffix else []), *options])]


def test_the_command_writes_shards_and_goes_on(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    source, folder = tmp_path / "in.jsonl", tmp_path / "out"
    records = [{"sentence_binary_parse": format_binary(tree)} for tree in trees()]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    printed = spinn(*command(pair_run, source, tmp_path / "all.npy")).out
    assert printed == f"23 encodings of width 8 in {tmp_path / 'all.npy'}\n"
    spinn(*command(pair_run, source, tmp_path / "all.safetensors", "--dtype", "float16"))
    for note in ("", "spinn: 5 of 5 shards were there\n"):
        report = f"23 encodings of width 8 in {folder}, 5 shards\n"
        assert spinn(*command(pair_run, source, folder)) == (report, note)
    expected = np.load(tmp_path / "all.npy")
    assert_close(np.concatenate(list(read_shards(folder))), expected)
    narrow = command(pair_run, source, folder, "--dtype", "float16")
    assert f"spinn: error: {folder}: holds encodings of another job" in spinn.fails(*narrow).err
    spinn(*narrow, "--overwrite")
    halves = np.concatenate(list(read_shards(folder)))
    tensor = shards.load_file(tmp_path / "all.safetensors")["encodings"]
    assert tensor.dtype == halves.dtype == np.float16
    assert_close(halves, expected, FLOAT16)
    assert_close(tensor, expected, FLOAT16)


@pytest.mark.parametrize("output", ["out.npy", "out"])
def test_the_share_of_unknown_words_is_said(
    output: str, pair_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    (tmp_path / "in.txt").write_text("( dogs bark )\n( ( old [meow] ) bark )\n( [purr] [meow] )\n")
    said = spinn(*command(pair_run, tmp_path / "in.txt", tmp_path / output)).err
    assert said == "spinn: 3 of 7 words (42.9%) are unknown to the model's vocabulary\n"


def test_a_folder_may_have_a_dot_in_its_name(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    write_parses(tmp_path / "in.txt")
    spinn(*command(pair_run, tmp_path / "in.txt", tmp_path / "run.v2"))
    assert (tmp_path / "run.v2" / "manifest.json").exists()


PARSES = {"sentence1_binary_parse": "( dogs bark )", "label": 3, "gold_label": "neutral"}


@pytest.mark.parametrize(
    "record, options, message",
    [
        (
            PARSES,
            [],
            "sentence_binary_parse: missing field; the record has "
            "sentence1_binary_parse, label, gold_label; --field names another",
        ),
        (
            PARSES,
            ["--field", "text"],
            "missing field, expected text_binary_parse or text_parse or text; the record has sentence1_binary",
        ),
        ({f"field{i}": "x" for i in range(9)}, [], "field6, field7, …; --field"),
    ],
    ids=["no field", "another field", "many fields"],
)
def test_a_record_without_the_field_names_those_that_it_has(
    record: dict[str, Any], options: list[str], message: str, pair_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(
        json.dumps({"sentence_binary_parse": "dogs", "text": "dogs"}) + "\n" + json.dumps(record) + "\n"
    )
    error = spinn.fails(*command(pair_run, source, tmp_path / "out.npy", *options)).err
    assert error.startswith(f"spinn: error: {source}:2: ")
    assert message in error


@pytest.mark.parametrize(
    "output, options, message",
    [
        ("out.npy", ["--shard-size", "3"], "--shard-size goes with a folder"),
        ("out.npy", ["--overwrite"], "--overwrite goes with a folder"),
        ("out.npy", ["--format", "npy"], "--format goes with a folder"),
        ("out.safetensors", ["--shard", "1/3"], "--shard goes with a folder"),
        ("out", ["--field", "sentence1"], "--field goes with a jsonl --input"),
        *(
            (f"out.{ending}", [], f"out.{ending}: expected a name ending in .npy or .safetensors")
            for ending in ("npz", "pt", "csv", "json", "txt", "h5", "NPY")
        ),
    ],
)
def test_what_would_do_nothing_or_write_another_file_is_refused(
    output: str, options: list[str], message: str, pair_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    write_parses(tmp_path / "in.txt")
    encode = command(pair_run, tmp_path / "in.txt", tmp_path / output, *options)
    assert message in spinn.fails(*encode).err
    assert not (tmp_path / output).exists()


def test_several_processes_write_no_one_array(
    pair_run: Path, tmp_path: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parses(tmp_path / "in.txt")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for source, output, message in (
        (tmp_path / "in.txt", "out.npy", "several processes write into a folder"),
        ("-", "out", "standard input is read by one process"),
    ):
        assert message in spinn(*command(pair_run, source, tmp_path / output), status=1).err


def test_processes_of_torchrun_have_their_parts_and_one_voice(
    pair_run: Path, tmp_path: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parses(tmp_path / "in.txt")
    arguments = command(pair_run, tmp_path / "in.txt", tmp_path / "out")
    report = f"23 encodings of width 8 in {tmp_path / 'out'}, 5 shards\n"
    monkeypatch.setenv("WORLD_SIZE", "2")

    def said_by(rank: int) -> tuple[str, str]:
        monkeypatch.setenv("RANK", str(rank))
        return spinn(*arguments)

    out, notes = said_by(0)
    assert out == ""
    assert "part 1 of 2 is done" in notes
    assert said_by(1) == (report, "")  # which joins the shards
    assert said_by(0) == (report, "spinn: 5 of 5 shards were there\n")
    assert said_by(1) == ("", "")
    error = spinn(*arguments, "--shard", "1/2", status=1).err
    assert "--shard: torchrun gives each process its part" in error


def test_standard_input(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    write_parses(tmp_path / "in.txt")
    arguments = command(pair_run, "-", tmp_path / "out")
    with standard_input((tmp_path / "in.txt").read_bytes()):
        report = spinn(*arguments).out
    assert report == f"23 encodings of width 8 in {tmp_path / 'out'}, 5 shards\n"
    spinn(*command(pair_run, tmp_path / "in.txt", tmp_path / "all.npy"))
    got = np.concatenate(list(read_shards(tmp_path / "out")))
    assert_close(got, np.load(tmp_path / "all.npy"))
    error = spinn.fails(*arguments).err  # before anything is read
    assert "(standard input, which cannot be read again); --overwrite" in error


@pytest.mark.slow
def test_torchrun(pair_run: Path, tmp_path: Path) -> None:
    """Two processes, one of which dies of a bad line: the job ends with its cause; mended, it is done."""
    source, folder = tmp_path / "in.txt", tmp_path / "out"
    write_parses(source, {8: "( a )"})  # of shard 1, rank 1's
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "spinn_tensor"]
    run = partial(subprocess.run, capture_output=True, text=True, cwd=ROOT, timeout=HANGS)
    failed = run([*launch, *command(pair_run, source, folder)])
    assert failed.returncode != 0
    assert f"spinn: rank 1: error: {source}:8: token 3 ')': a node with one child" in failed.stderr
    assert not (folder / "manifest.json").exists()
    write_parses(source)
    done = run([*launch, *command(pair_run, source, folder, "--overwrite")], check=True)
    assert done.stdout == f"23 encodings of width 8 in {folder}, 5 shards\n"
    assert main(command(pair_run, source, tmp_path / "all.npy")) == 0
    got = np.concatenate(list(read_shards(folder)))
    assert_close(got, np.load(tmp_path / "all.npy"))


def killed_at_the_fourth_shard(arguments: list[str]) -> int:
    """Run a command that kills itself when the shard is written and about to get its name."""
    seen: list[str] = []

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event == "os.rename" and os.path.basename(values[1]).startswith("shard-"):
            seen.append(values[1])
            if len(seen) == 4:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return main(arguments)


def test_kill_9(pair_run: Path, tmp_path: Path) -> None:
    """Killed while it writes: every shard with a name is whole, and the same command does the rest."""
    source, folder = tmp_path / "in.txt", tmp_path / "out"
    lines = [format_binary(tree) + "\n" for tree in trees()]
    source.write_text("".join(lines * 10))
    with forked(lambda: killed_at_the_fourth_shard(command(pair_run, source, folder))) as killed:
        _, errors = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, errors
    assert len(list(folder.glob("shard-*"))) == 3
    assert list(folder.glob(".shard-*"))
    assert all(np.load(path).shape == (5, 8) for path in folder.glob("shard-*"))
    kept = {path: path.stat().st_mtime_ns for path in (folder / "unfinished").glob("[0-9]*.json")}
    written = {path: (folder / f"shard-{path.stem}.npy").stat().st_mtime_ns for path in kept}
    assert main(command(pair_run, source, folder)) == 0
    assert written == {path: (folder / f"shard-{path.stem}.npy").stat().st_mtime_ns for path in kept}
    assert not list(folder.glob(".*"))
    got = np.concatenate(list(read_shards(folder)))
    assert_close(got, np.tile(got[:N_LINES], (10, 1)))


def test_the_package_s_parser_encodes_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("The dog barks.\n")
    assert main(command(Path("packaged"), tmp_path / "in.txt", tmp_path / "out.npy")) == 0
    expected = Pipeline.from_pretrained().encode(["The dog barks."])
    assert_close(np.load(tmp_path / "out.npy"), expected)


def test_a_job_goes_on_with_the_parser_that_it_began_with(
    pair_run: Path, parser_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    """Its weights are what counts, not its name."""
    parser = tmp_path / "parser"
    shutil.copytree(parser_run / "best", parser)
    (tmp_path / "in.txt").write_text("dogs bark\n")
    encode = command(pair_run, tmp_path / "in.txt", tmp_path / "out", "--parser", parser)
    for _ in range(2):
        spinn(*encode)
    weights = load_file(parser / "model.safetensors")
    doubled = {name: 2 * tensor if tensor.ndim else tensor for name, tensor in weights.items()}
    save_file(doubled, parser / "model.safetensors")
    assert "parser was" in spinn.fails(*encode).err
