"""Measure how well a SPINN parses: trained on part of SNLI's slice and SST's trees, scored on the held-back part.

    python -m benchmarks.parsing                    three seeds, some minutes each on one core
    python -m benchmarks.parsing --seeds 1          one
    python -m benchmarks.parsing --seeds 1 --ship spinn_tensor/pretrained/parser
                                                    makes the parser that comes with the package: the one of the first
                                                    seed that learnt from both, the paths of its files shortened

The slice is split by premise: a quarter of the premises with all their hypotheses is held back, an eighth chooses the
epoch; each distinct tree counts once, and whatever sentence is held back anywhere is in no other part. The files of
the split stay in --output, so that `spinn parse --gold` can score anything else on them. Scores are mean unlabelled F1
over the sentences, whole sentences included and not (see `spinn_tensor.data_prep.brackets`).
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.data import SNLI_SLICE, snli_pairs
from benchmarks.harness import Option
from spinn_tensor.data_prep.brackets import score_parses, self_f1
from spinn_tensor.data_prep.branching import baseline_transitions
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.corpora import Example, PairFormat, TreebankFormat, read_line_examples
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import atomic_write
from spinn_tensor.data_prep.trees import Tree, format_binary
from spinn_tensor.inference import predict_transitions
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.training.checkpoint import save_checkpoint
from spinn_tensor.training.config import DataConfig, RunConfig
from spinn_tensor.training.hardware import keep_freed_memory
from spinn_tensor.training.presets import run_config
from spinn_tensor.training.run import execute

SST_TRAIN = SNLI_SLICE.parents[1] / "sst" / "train.txt.gz"
N_PARTS = 8  # of the premises; the first two are held back, the third chooses the epoch
PART_OF = {0: "test", 1: "test", 2: "dev"}
OPTIONS = {
    "seeds": Option([1, 2, 3], [1]),
    "sst": Option(
        None, None, "SST's train.txt, plain or .gz (default: that at hand, else nothing is learnt from SST)"
    ),
    "output": Option(Path("runs/parsing"), Path("runs/parsing"), "folder of the split and of the runs"),
    "ship": Option(None, None, "write the parser of the first seed into this folder"),
}
COLUMNS = {
    "trees": "{trees}",
    "F1": "{f1:.1%}",
    "F1 without whole sentences": "{inner_f1:.1%}",
    "transitions right": "{right:.1%}",
    "average depth": "{depth:.2f}",
    "self F1": "{self_f1:.1%}",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    files = write_split(options.output / "data", options.snli)
    trees = {part: read_trees(path) for part, path in files.items()}
    gold = trees["test"]
    lengths = np.array([tree.n_tokens for tree in gold])
    transitions = np.concatenate([tree.transitions for tree in gold])
    rows: dict[str, dict[str, Any]] = {}
    for name, parse in baseline_transitions(gold).items():
        rows[name] = score_parses(parse, transitions, lengths).to_dict()
    learns_from = {"SPINN, the slice's trees": ("slice", [files["train"]])}
    if options.sst is not None:
        learns_from["SPINN, and SST's trees"] = ("slice-sst", [files["train"], options.sst])
    for name, (stem, train) in learns_from.items():
        parses = [
            _train(train, files["dev"], options.output / f"{stem}-{seed}", seed, gold)
            for seed in options.seeds
        ]
        rows[name] = {"seeds": [score_parses(parse, transitions, lengths).to_dict() for parse in parses]}
        if len(parses) > 1:
            rows[name]["self_f1"] = self_f1(parses, lengths, whole=True)
    if options.ship is not None:
        _ship(options.output / f"slice-sst-{options.seeds[0]}", options.ship)
    source = SNLI_SLICE.name if options.snli == "auto" else Path(options.snli).name
    counts = {part: len(found) for part, found in trees.items()}
    notes = [
        f"SNLI ({source}): {counts['train']:,} trees to learn from, {counts['dev']:,} to choose by, "
        f"{counts['test']:,} held back; models: mean over seeds {', '.join(map(str, options.seeds))}"
    ]
    result = {"source": source, "sentences": counts, "rows": rows}
    harness.publish(options, result, notes, [harness.Table(COLUMNS, _rows(rows))])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = harness.parse(
        "parsing",
        __doc__,
        arguments,
        OPTIONS,
        snli="an error",
        fixed=("seeds", "sst"),
        is_usual_otherwise=SST_TRAIN.exists(),
    )
    if options.sst is None and SST_TRAIN.exists():
        options.sst = SST_TRAIN
    if options.sst is None and options.ship is not None:
        raise DataError("no such file; name SST's training trees by --sst FILE", path=SST_TRAIN)
    if options.sst is not None and not options.sst.exists():
        raise DataError("no such file", path=options.sst)
    return options


def write_split(folder: Path, snli: str = "auto") -> dict[str, Path]:
    """Write the trees of the slice, or of another SNLI file, by part, one binary parse a line; return the files."""
    parts = split(snli_pairs(snli, PairFormat(require_label=False)))
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for part, trees in parts.items():
        files[part] = folder / f"{part}.txt"
        with atomic_write(files[part]) as file:
            file.writelines(format_binary(tree) + "\n" for tree in trees)
    return files


def read_trees(path: Path) -> list[Tree]:
    """Read the trees of a file with a parse a line."""
    return [example.trees[0] for example in read_line_examples(path, TreebankFormat())]


def split(pairs: Iterable[Example]) -> dict[str, list[Tree]]:
    """Divide the distinct trees into parts; a sentence of test is not in dev, and neither's are in train."""
    parts: dict[str, dict[str, Tree]] = {"test": {}, "dev": {}, "train": {}}
    for pair in pairs:
        digest = hashlib.sha256(" ".join(pair.premise.tokens).encode()).hexdigest()
        part = parts[PART_OF.get(int(digest, 16) % N_PARTS, "train")]
        part.update({format_binary(tree): tree for tree in (pair.premise, pair.hypothesis)})
    seen: set[tuple[str, ...]] = set()
    chosen = {}
    for name, trees in parts.items():
        chosen[name] = [tree for tree in trees.values() if tree.tokens not in seen]
        seen.update(tree.tokens for tree in trees.values())
    return chosen


def _train(train: Sequence[Path], dev: Path, output: Path, seed: int, gold: list[Tree]) -> np.ndarray:
    """Train a parser on these files, and return its transitions, (M,) int8, of the gold trees' sentences."""
    files = tuple(str(path.resolve()) for path in train)
    data = DataConfig(corpus="trees", train=files, dev=(str(dev),), min_count=2, lower=True)
    execute(run_config("parser", data).changed(seed=seed), output, overwrite=True)
    model, vocabulary, _ = load_checkpoint(output)
    return predict_transitions(model.encoder, sentence_columns(gold, vocabulary))


def _ship(run: Path, folder: Path) -> None:
    """Write the run's best checkpoint without the paths of this machine."""
    model, vocabulary, config = load_checkpoint(run)
    settings = RunConfig.from_dict(config.run)
    data = settings.data
    names = {
        f"data__{split}": tuple(Path(file).name for file in getattr(data, split))
        for split in ("train", "dev")
    }
    save_checkpoint(folder, model, vocabulary, settings.changed(**names), config.metrics)


def _rows(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the row of each parser for the table, means over its seeds."""
    found = []
    for name, row in rows.items():
        runs = row.get("seeds", [row])
        means = {
            "f1": statistics.mean(run["gold"]["sentence_f1"] for run in runs),
            "inner_f1": statistics.mean(run["gold"]["inner_sentence_f1"] for run in runs),
            "right": statistics.mean(run["transition_accuracy"] for run in runs),
            "depth": statistics.mean(run["average_depth"] for run in runs),
        }
        found.append({"trees": name, **means, "self_f1": row.get("self_f1")})
    return found


if __name__ == "__main__":
    harness.run(main)
