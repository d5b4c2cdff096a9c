"""Tiny corpora and the arguments of runs of a few seconds, for the tests of training and the command line."""

from __future__ import annotations

import json
import os
import random
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.corpora.generated.logic import LogicConfig
from spinn_tensor.training.checkpoint import read_training_state
from spinn_tensor.training.metrics_log import read_metrics

NOUNS, VERBS, ADJECTIVES = ("dogs", "cats", "birds", "cows"), ("bark", "sing", "sleep"), ("old", "red", "big")

# Options of every tiny run: one thread, so that sums are in one order whatever machine runs the tests.
SMALL = shlex.split(
    "--embedding 8 --hidden 8 --tracker 4 --set mlp_dim=12 --set mlp_layers=1 --batch-size 16"
)
SMALL += ["--threads", "1", "--device", "cpu", "--set", "log_every=2"]

TINY_LOGIC = LogicConfig(n_train=90, n_dev=30, n_test=30, n_long=30)
TIMES = ("seconds", "examples_per_second", "waiting")  # of the log; all else is the same in every run

PRESET = ["--preset", "logic-spinn-pi", "--lr", "0.01", "--set", "decay_every=0"]


def same_threads() -> Iterator[None]:
    """Body of a fixture that puts torch's number of threads back, which --threads changes."""
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


def pair(rng: random.Random) -> dict[str, str]:
    """An SNLI record: the same sentence follows, its negation contradicts, anything else is neutral."""
    noun, verb = rng.choice(NOUNS), rng.choice(VERBS)
    subject = f"( {rng.choice(ADJECTIVES)} {noun} )" if rng.random() < 0.5 else noun
    label = rng.choice(("entailment", "neutral", "contradiction"))
    other = verb if label != "neutral" else rng.choice([v for v in VERBS if v != verb])
    predicate = f"( do ( not {other} ) )" if label == "contradiction" else other
    premise, hypothesis = f"( {subject} {verb} )", f"( {subject} {predicate} )"
    return {
        "gold_label": label,
        "sentence1_binary_parse": premise,
        "sentence2_binary_parse": hypothesis,
        "pairID": f"p{rng.randrange(10**6)}",
    }


def write_pairs(path: Path, n_pairs: int, seed: int) -> Path:
    rng = random.Random(seed)
    path.write_text("".join(json.dumps(pair(rng)) + "\n" for _ in range(n_pairs)), encoding="utf-8")
    return path


def write_own_pairs(path: Path, n_pairs: int, seed: int) -> Path:
    """Pairs whose fields and labels have other names than SNLI's."""
    rng = random.Random(seed)
    names = {"entailment": "yes", "contradiction": "no", "neutral": "perhaps"}
    records = [
        {
            "text": made["sentence1_binary_parse"],
            "claim_binary_parse": made["sentence2_binary_parse"],
            "verdict": names[made["gold_label"]],
            "key": made["pairID"],
        }
        for made in (pair(rng) for _ in range(n_pairs))
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_trees(path: Path, n_trees: int, seed: int) -> Path:
    """SST trees whose labels say whether "good" or "bad" is in the constituent."""
    rng = random.Random(seed)
    lines = []
    for _ in range(n_trees):
        word, label = rng.choice((("good", 4), ("bad", 0), ("some", 2)))
        lines.append(f"({label} (2 a) ({label} ({label} {word}) (2 {rng.choice(('film', 'plot'))})))\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def pair_arguments(folder: Path, n_train: int = 64, n_dev: int = 24) -> list[str]:
    """`spinn train` on tiny pairs written into the folder; without --output."""
    train = write_pairs(folder / "train.jsonl", n_train, seed=1)
    dev = write_pairs(folder / "dev.jsonl", n_dev, seed=2)
    return ["train", "--corpus", "snli", "--train", str(train), "--dev", str(dev), *SMALL]


def tree_arguments(folder: Path) -> list[str]:
    """`spinn train` on tiny labelled trees written into the folder; without --output."""
    train, dev = write_trees(folder / "train.txt", 48, seed=1), write_trees(folder / "dev.txt", 16, seed=2)
    return ["train", "--corpus", "sst", "--train", str(train), "--dev", str(dev), "--node-labels", *SMALL]


def train_pairs(folder: Path) -> Path:
    """A run that learnt tiny pairs, with a further split."""
    extra = write_pairs(folder / "again.jsonl", 10, seed=3)
    options = [*PRESET, "--epochs", "20", "--extra", f"again={extra}", "--output", str(folder / "run")]
    return _run([*pair_arguments(folder), *options], folder)


def train_spinn(folder: Path) -> Path:
    """A run of few steps that learnt tiny pairs and their trees."""
    options = ["--preset", "logic-spinn", "--lr", "0.01", "--epochs", "4", "--output", str(folder / "run")]
    return _run([*pair_arguments(folder), *options], folder)


def parser_arguments(folder: Path) -> list[str]:
    """`spinn train` on the trees of tiny pairs and of tiny SST, written into the folder; without --output."""
    pairs, trees = (
        write_pairs(folder / "pairs.jsonl", 48, seed=1),
        write_trees(folder / "sst.txt", 48, seed=1),
    )
    dev = write_pairs(folder / "dev.jsonl", 24, seed=2)
    files = ["--train", str(pairs), "--train", str(trees), "--dev", str(dev)]
    return ["train", "--corpus", "trees", *files, *SMALL]


def train_parser(folder: Path) -> Path:
    """A run that learnt the trees of tiny pairs and of tiny SST."""
    options = ["--lr", "0.02", "--epochs", "10", "--dropout", "0", "--output", str(folder / "run")]
    return _run([*parser_arguments(folder), *options], folder)


def train_trees(folder: Path) -> Path:
    """A run that learnt tiny trees with a label on every node."""
    options = ["--lr", "0.01", "--epochs", "12", "--dropout", "0", "--output", str(folder / "run")]
    return _run([*tree_arguments(folder), *options], folder)


def _run(arguments: list[str], folder: Path) -> Path:
    for _ in same_threads():
        assert main(arguments) == 0
    return folder / "run"


def figures(folder: Path) -> list[dict]:
    """The run's log but for what the clock decides."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(folder)]


def assert_same_run(output: Path, undisturbed: Path) -> None:
    """Compare two runs to the last bit."""
    for name in ("best/model.safetensors", "last/model.safetensors"):
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes(), name
    ours, theirs = (read_training_state(folder / "last") for folder in (output, undisturbed))
    torch.testing.assert_close(ours[1:], theirs[1:], rtol=0, atol=0)
    by_the_clock = {"seconds": 0.0, "metrics_position": 0}
    assert replace(ours.progress, **by_the_clock) == replace(theirs.progress, **by_the_clock)
    assert figures(output) == figures(undisturbed)
    assert sorted(os.listdir(output)) == sorted(os.listdir(undisturbed))
