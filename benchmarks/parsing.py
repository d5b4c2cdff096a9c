"""How well a SPINN parses: trained on part of SNLI's slice and SST's trees, scored on the held-back part of the slice.

    python -m benchmarks.parsing                    three seeds, some minutes each on one core
    python -m benchmarks.parsing --seeds 1          one
    python -m benchmarks.parsing --seeds 1 --ship spinn_tensor/pretrained/parser
                                                    makes the parser that comes with the package: the one of the first
                                                    seed that learnt from both, the paths of its files shortened

The slice is split by premise: a quarter of the premises with all their hypotheses is held back, an eighth chooses the
epoch; each distinct tree counts once, and whatever sentence is held back anywhere is in no other part. The files of
the split stay in --output, so that `spinn parse --gold` can score anything else on them. Scores are mean unlabelled F1
over the sentences, whole sentences included and not (see `data_prep.brackets`).
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.sentences import SNLI_SLICE, add_snli, is_usual, snli_pairs
from spinn_tensor.data_prep.brackets import score_parses, self_f1
from spinn_tensor.data_prep.branching import baseline_transitions
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import atomic_write
from spinn_tensor.data_prep.pairs import PairExample, PairFormat
from spinn_tensor.data_prep.treebank import read_treebank
from spinn_tensor.data_prep.trees import Tree, format_binary
from spinn_tensor.inference import predict_transitions
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.training.checkpoint import save_checkpoint
from spinn_tensor.training.config import DataConfig, RunConfig
from spinn_tensor.training.hardware import keep_freed_memory
from spinn_tensor.training.presets import run_config
from spinn_tensor.training.run import execute

SST_TRAIN = SNLI_SLICE.parents[1] / "sst" / "train.txt.gz"
NAME, SEEDS = "parsing", [1, 2, 3]  # of the results
N_PARTS = 8  # of the premises; the first two are held back, the third chooses the epoch
PART_OF = {0: "test", 1: "test", 2: "dev"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    files = write_split(options.output / "data", options.snli)
    gold = list(read_treebank(files["test"]))
    lengths = np.array([tree.n_tokens for tree in gold])
    transitions = np.concatenate([tree.transitions for tree in gold])
    rows: dict[str, dict[str, Any]] = {}
    for name, parse in baseline_transitions(gold).items():
        rows[name] = score_parses(parse, transitions, lengths).to_dict()
    learns_from: dict[str, tuple[Path, ...]] = {"SPINN, the slice's trees": (files["train"],)}
    if options.sst is not None:
        learns_from["SPINN, and SST's trees"] = (files["train"], options.sst)
    for name, train in learns_from.items():
        stem = "slice" if len(train) == 1 else "slice-sst"
        parses = [
            _train(train, files["dev"], options.output / f"{stem}-{seed}", seed, gold)
            for seed in options.seeds
        ]
        rows[name] = {"seeds": [score_parses(parse, transitions, lengths).to_dict() for parse in parses]}
        if len(parses) > 1:
            rows[name]["self_f1"] = self_f1(parses, lengths, whole=True)
    if options.ship is not None:
        _ship(options.output / f"slice-sst-{options.seeds[0]}", options.ship)
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.parsing", *arguments]),
        "machine": harness.machine(),
        "source": SNLI_SLICE.name if options.snli == "auto" else Path(options.snli).name,
        "sentences": {name: sum(1 for _ in read_treebank(path)) for name, path in files.items()},
        "seeds": options.seeds,
        "rows": rows,
    }
    harness.publish(result, _markdown(result), options.out)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = harness.argument_parser("benchmarks.parsing", __doc__)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=SEEDS)
    add_snli(parser, otherwise="an error")
    add(
        "--sst",
        type=Path,
        metavar="FILE",
        help="SST's train.txt, plain or .gz (default: that at hand, else nothing is learnt from SST)",
    )
    add("--output", type=Path, default=Path("runs/parsing"), help="folder of the split and of the runs")
    add("--ship", type=Path, metavar="FOLDER", help="write the parser of the first seed here")
    harness.add_out(parser, NAME)
    options = parser.parse_args(arguments)
    is_whole = (
        options.seeds == SEEDS and options.sst is None and SST_TRAIN.exists() and is_usual(options.snli)
    )
    if options.sst is None and SST_TRAIN.exists():
        options.sst = SST_TRAIN
    if options.sst is None and options.ship is not None:
        raise DataError("no such file; name SST's training trees by --sst FILE", path=SST_TRAIN)
    if options.sst is not None and not options.sst.exists():
        raise DataError("no such file", path=options.sst)
    options.out = harness.report_file(options.out, NAME, is_whole)
    return options


def write_split(folder: Path, snli: str = "auto") -> dict[str, Path]:
    """The trees of the slice, or of another SNLI file, by part, one binary parse a line."""
    parts = split(snli_pairs(snli, PairFormat(require_label=False)))
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for part, trees in parts.items():
        files[part] = folder / f"{part}.txt"
        with atomic_write(files[part]) as file:
            file.writelines(format_binary(tree) + "\n" for tree in trees)
    return files


def split(pairs: Iterable[PairExample]) -> dict[str, list[Tree]]:
    """Distinct trees by part; a sentence of test is not in dev, and neither's are in train."""
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
    """Transitions, (M,) int8, that a parser trained on these files makes of the gold trees' sentences."""
    files = tuple(str(path.resolve()) for path in train)
    data = DataConfig(corpus="trees", train=files, dev=(str(dev),), min_count=2, lower=True)
    execute(run_config("parser", data).changed(seed=seed), output, overwrite=True)
    model, vocabulary, _ = load_checkpoint(output)
    return predict_transitions(model.encoder, sentence_columns(gold, vocabulary))


def _ship(run: Path, folder: Path) -> None:
    """The run's best checkpoint, without the paths of this machine."""
    model, vocabulary, config = load_checkpoint(run)
    settings = RunConfig.from_dict(config.run)
    data = settings.data
    names = {
        f"data__{split}": tuple(Path(file).name for file in getattr(data, split))
        for split in ("train", "dev")
    }
    save_checkpoint(folder, model, vocabulary, settings.changed(**names), config.metrics)


def _markdown(result: dict[str, Any]) -> str:
    machine, counts = result["machine"], result["sentences"]
    lines = [
        f"`{result['command']}`\n",
        f"- {machine['processor']}, one thread of {machine['cores']} cores, torch {machine['torch']}, commit "
        f"{machine['commit']}, {machine['date']}",
        f"- SNLI ({result['source']}): {counts['train']:,} trees to learn from, {counts['dev']:,} to choose by, "
        f"{counts['test']:,} held back; models: mean over seeds {', '.join(map(str, result['seeds']))}\n",
        "| trees | F1 | F1 without whole sentences | transitions right | average depth | self F1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in result["rows"].items():
        runs = row.get("seeds", [row])
        figures = [
            [run["gold"]["sentence_f1"] for run in runs],
            [run["gold"]["inner_sentence_f1"] for run in runs],
        ]
        figures.append([run["transition_accuracy"] for run in runs])
        cells = [f"{statistics.mean(values):.1%}" for values in figures]
        depth = statistics.mean(run["average_depth"] for run in runs)
        agreement = f"{row['self_f1']:.1%}" if "self_f1" in row else "–"
        lines.append(f"| {name} | {' | '.join(cells)} | {depth:.2f} | {agreement} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    harness.run(main)
