"""`spinn train --seeds`: a run a seed, mean and spread."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from spinn_tensor.cli import train
from spinn_tensor.cli.main import build_parser, main
from spinn_tensor.cli.seeds import check_seeds
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.corpora.generated import GENERATORS
from tests.command_line import Spinn
from tests.tiny_runs import PRESET, SMALL, TINY_LOGIC, assert_same_run, pair_arguments
from tests.tiny_training import Stop

pytest.importorskip("datasets")


def test_a_run_a_seed_with_mean_and_spread(tmp_path: Path, spinn: Spinn) -> None:
    output = tmp_path / "runs"
    arguments = [*pair_arguments(tmp_path), *PRESET, "--epochs", "3"]
    printed = spinn(*arguments, "--seeds", "4", "2", "--output", output).out
    summary = json.loads((output / "seeds.json").read_text())
    assert summary["seeds"] == [4, 2]
    values = []
    for seed in (4, 2):
        folder = output / f"seed-{seed}"
        assert json.loads((folder / "run.json").read_text())["training"]["seed"] == seed
        values.append(json.loads((folder / "results.json").read_text())["splits"]["dev"]["macro_f1"])
    found = summary["splits"]["dev"]["macro_f1"]
    assert found == {
        "values": values,
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values),
        "min": min(values),
        "max": max(values),
    }
    for text in ("seed 4", "mean", "std", f"{found['mean']:.2%}", f"{found['std']:.2%}"):
        assert text in printed
    alone = tmp_path / "alone"
    spinn(*arguments, "--seed", "2", "--output", alone)
    assert_same_run(output / "seed-2", alone)
    # nothing is begun where one of the folders holds a run
    spinn.fails(*arguments, "--seeds", "5", "2", "--output", output)
    assert not (output / "seed-5").exists()
    spinn("train", "--resume", "--seeds", "2", "4", "7", "--output", output, *arguments[1:])
    assert json.loads((output / "seeds.json").read_text())["seeds"] == [2, 4, 7]
    assert_same_run(output / "seed-2", alone)


def test_seeds_that_were_stopped_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spinn: Spinn) -> None:
    arguments = [*pair_arguments(tmp_path), *PRESET, "--epochs", "2", "--seeds", "1", "2"]
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "runs"
    spinn(*arguments, "--output", undisturbed)
    stop, execute = Stop(after=11), train.execute  # of 16 steps: in the second run

    def stopped(*args: object, **kwargs: object) -> object:
        return execute(*args, **{**kwargs, "observer": stop})

    monkeypatch.setattr(train, "execute", stopped)
    assert main([*arguments, "--output", str(output)]) != 0
    assert not (output / "seeds.json").exists()
    monkeypatch.undo()
    spinn(*arguments, "--output", output, "--resume")
    assert (output / "seeds.json").read_text() == (undisturbed / "seeds.json").read_text()
    for seed in (1, 2):
        assert_same_run(output / f"seed-{seed}", undisturbed / f"seed-{seed}")


def test_a_generated_corpus_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spinn: Spinn
) -> None:
    monkeypatch.setitem(GENERATORS, "logic", GENERATORS["logic"]._replace(default=TINY_LOGIC))
    output = tmp_path / "runs"
    arguments = ["train", "--seeds", "1", "2", "--output", str(output), *SMALL, *PRESET]
    spinn(*arguments, "--epochs", "1")
    assert sorted(path.name for path in output.iterdir()) == ["corpus", "seed-1", "seed-2", "seeds.json"]
    assert not (output / "seed-1" / "corpus").exists()
    assert set(json.loads((output / "seeds.json").read_text())["splits"]) == {"dev", "test", "long"}
    spinn(*arguments, "--resume", "--epochs", "2")


@pytest.mark.parametrize(
    "options", [["--seeds", "1", "1"], ["--seeds", "1", "--seed", "2"], ["--seeds", "1", "--set", "seed=2"]]
)
def test_seeds_that_contradict(options: list[str], tmp_path: Path, spinn: Spinn) -> None:
    output = tmp_path / "runs"
    spinn.fails(*pair_arguments(tmp_path), *PRESET, *options, "--output", output)
    assert not output.exists()


def test_other_seeds_may_be_set(tmp_path: Path) -> None:
    args = build_parser().parse_args(["train", "--seeds", "1", "2", "--set", "split_seed=3"])
    check_seeds(args, tmp_path, n_processes=1)


def test_one_seed_has_no_spread(tmp_path: Path, spinn: Spinn) -> None:
    output = tmp_path / "runs"
    arguments = [*pair_arguments(tmp_path), *PRESET, "--epochs", "1", "--seeds", "3"]
    spinn(*arguments, "--output", output)
    assert json.loads((output / "seeds.json").read_text())["splits"]["dev"]["accuracy"]["std"] is None


def test_seeds_are_for_one_process(tmp_path: Path) -> None:
    args = build_parser().parse_args(["train", "--seeds", "1", "2"])
    with pytest.raises(ConfigError, match="one process"):
        check_seeds(args, tmp_path, n_processes=2)
    check_seeds(args, tmp_path, n_processes=1)
