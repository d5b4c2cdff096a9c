"""Measure how well a SPINN parses: trained on part of SNLI's slice and SST's trees, scored on the held-back part.

    python -m benchmarks.parsing                    three seeds, some minutes each on one core
    python -m benchmarks.parsing --seeds 1          one
    python -m benchmarks.parsing --seeds 1 --ship spinn_tensor/pretrained/parser
                                                    makes the parser that comes with the package: the last one of the
                                                    first seed, the paths of its files shortened, vectors as float16

The slice is split by premise: a quarter of the premises with all their hypotheses is held back, an eighth chooses the
epoch; each distinct tree counts once, and whatever sentence is held back anywhere is in no other part. The files of
the split stay in --output, so that `spinn parse --gold` can score anything else on them. Scores are mean unlabelled F1
over the sentences, whole sentences included and not (see `spinn_tensor.data_prep.brackets`); the best of 5 is that of
the five trees of a beam that is nearest to the gold one. Sentences a second are of processor time, on one thread.

Last comes self-training: two parsers of the first seed, one with word vectors, parse raw captions together
(`benchmarks.captions`), and others learn from these, too. No sentence of test or dev is among them.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.captions import read_captions, write_parses
from benchmarks.data import SNLI_SLICE, TRAINING_PAIRS, snli_pairs
from benchmarks.harness import Option
from benchmarks.ship import ship
from spinn_tensor.data_prep import Example, PairFormat, TreebankFormat, read_line_examples
from spinn_tensor.data_prep.brackets import bracket_scores, score_parses, self_f1
from spinn_tensor.data_prep.branching import baseline_transitions
from spinn_tensor.data_prep.columns import SentenceColumns, lengths, node_offsets, sentence_columns
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import atomic_write, open_text
from spinn_tensor.data_prep.trees import Tree, format_binary
from spinn_tensor.inference import OwnBeams, predict_beams, predict_transitions
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.presets import run_config
from spinn_tensor.training.run import execute

SHARED = SNLI_SLICE.parents[1]
SST_TRAIN = SHARED / "sst" / "train.txt.gz"
VECTORS = SHARED / "vectors" / "wordllama_256.txt.gz"
WIDTH = 128  # columns of the vectors that are used: WordLlama's first ones are vectors themselves
CAPTIONS = [SHARED / "snli" / name for name in TRAINING_PAIRS]
N_CAPTIONS = 8_000
K = 5  # trees of a beam
# of runs that learn from captions, too: fewer and larger steps
SHORT = {
    "epochs": 3,
    "batch_size": 64,
    "optimizer": "adam",
    "learning_rate": 3e-3,
    "lr_schedule": "linear",
    "lr_warmup": 0.05,
}
N_PARTS = 8  # of the premises; the first two are held back, the third chooses the epoch
PART_OF = {0: "test", 1: "test", 2: "dev"}
OPTIONS = {
    "seeds": Option([1, 2, 3], [1]),
    "sst": Option(
        None, None, "SST's train.txt, plain or .gz (default: that at hand, else nothing is learnt from SST)"
    ),
    "vectors": Option(
        None, None, f"word vectors of at least {WIDTH} columns, GloVe text (default: those at hand)"
    ),
    "captions": Option(None, None, "raw pairs to teach oneself by, jsonl (default: those at hand)"),
    "output": Option(Path("runs/parsing"), Path("runs/parsing"), "folder of the split and of the runs"),
    "ship": Option(None, None, "write the parser of the first seed into this folder"),
}
COLUMNS = {
    "trees": "{trees}",
    "F1": "{f1:.1%}",
    "F1 without whole sentences": "{inner_f1:.1%}",
    "best of 5": "{best:.1%}",
    "transitions right": "{right:.1%}",
    "average depth": "{depth:.2f}",
    "self F1": "{self_f1:.1%}",
    "sentences/s": "{per_second:,.0f}",
    "5 trees each/s": "{beams_per_second:,.0f}",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    harness.as_in_training()
    files = write_split(options.output / "data", options.snli)
    trees = {part: read_trees(path) for part, path in files.items()}
    gold = trees["test"]
    n_tokens = np.array([tree.n_tokens for tree in gold])
    transitions = np.concatenate([tree.transitions for tree in gold])
    rows: dict[str, dict[str, Any]] = {
        name: score_parses(parse, transitions, n_tokens).to_dict()
        for name, parse in baseline_transitions(gold).items()
    }
    for name, folders in _trained(options, files, trees):
        parses, scores = zip(*(_scored(folder, gold) for folder in folders), strict=True)
        rows[name] = {"seeds": list(scores)}
        if len(parses) > 1:
            rows[name]["self_f1"] = self_f1(parses, n_tokens, whole=True)
    if options.ship is not None:
        ship(folders[0], options.ship)
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
        fixed=("seeds", "sst", "vectors", "captions"),
        is_usual_otherwise=SST_TRAIN.exists(),
    )
    if options.sst is None and SST_TRAIN.exists():
        options.sst = SST_TRAIN
    if options.vectors is None and VECTORS.exists():
        options.vectors = VECTORS
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


def _trained(
    options: argparse.Namespace, files: dict[str, Path], trees: dict[str, list[Tree]]
) -> Iterator[tuple[str, list[Path]]]:
    """Train, and yield the runs of every seed by what they learnt from."""

    def train(stem: str, seeds: Sequence[int], learnt: Sequence[Path], **changes: Any) -> list[Path]:
        names = tuple(str(path.resolve()) for path in learnt)
        data = DataConfig(corpus="trees", train=names, dev=(str(files["dev"]),), min_count=2, lower=True)
        folders = [options.output / f"{stem}-{seed}" for seed in seeds]
        for seed, folder in zip(seeds, folders, strict=True):
            execute(run_config("parser", data).changed(seed=seed, **changes), folder, overwrite=True)
        return folders

    own, seeds = files["train"], options.seeds
    yield "SPINN, the slice's trees", train("slice", seeds, [own])
    if options.sst is None:
        return
    with_sst = train("slice-sst", seeds, [own, options.sst])
    yield "SPINN, and SST's trees", with_sst
    if options.vectors is None:
        return
    narrow = _narrow(options.vectors, files["train"].with_name("vectors.txt"))
    vectors = {"vectors": str(narrow.resolve()), "embedding_dim": WIDTH}
    with_vectors = train("vectors", seeds, [own, options.sst], **vectors)
    yield "SPINN, and word vectors", with_vectors
    sources = [Path(options.captions)] if options.captions else list(filter(Path.exists, CAPTIONS))
    if not sources:
        return
    held_back = {tuple(map(str.lower, tree.tokens)) for part in ("test", "dev") for tree in trees[part]}
    captions = read_captions(sources, held_back)
    parsed = files["train"].with_name("captions.txt")
    write_parses(
        parsed, [load_checkpoint(runs[0]) for runs in (with_sst, with_vectors)], captions[:N_CAPTIONS]
    )
    learnt = [own, own, options.sst, parsed]
    yield f"SPINN, and {N_CAPTIONS:,} captions", train("captions", seeds, learnt, **vectors, **SHORT)


def _narrow(source: Path, target: Path) -> Path:
    """Write the first columns of word vectors into a file; return it."""
    with open_text(source) as lines, atomic_write(target) as file:
        file.writelines(" ".join(line.split(" ")[: 1 + WIDTH]).rstrip("\n") + "\n" for line in lines)
    return target


def _scored(folder: Path, gold: list[Tree]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the transitions that a parser finds of the gold trees' sentences, (M,) int8, and its scores."""
    model, vocabulary, _ = load_checkpoint(folder)
    columns = sentence_columns(gold, vocabulary)
    n_tokens, transitions = lengths(columns), columns.transitions
    start = time.process_time()
    parse = predict_transitions(model.encoder, columns)
    greedy = time.process_time()
    beams = predict_beams(model.encoder, columns, K)
    end = time.process_time()
    return parse, {
        **score_parses(parse, transitions, n_tokens).to_dict(),
        "best": _best_f1(beams, columns),
        "per_second": len(gold) / (greedy - start),
        "beams_per_second": len(gold) / (end - greedy),
    }


def _best_f1(beams: OwnBeams, gold: SentenceColumns) -> float:
    """Return the mean F1 of the best tree of each beam, over the sentences of two words or more."""
    found = []
    for sentence, (start, end) in enumerate(pairwise(node_offsets(gold))):
        if end - start > 1:
            ranks = np.flatnonzero(beams.log_probabilities[:, sentence] > -np.inf)
            tree, n_tokens = gold.transitions[start:end], np.array([(end - start + 1) // 2])
            ranked = beams.transitions[ranks, start:end]
            found.append(max(bracket_scores(one, tree, n_tokens).f1 for one in ranked))
    return statistics.mean(found)


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
        for key in ("best", "per_second", "beams_per_second"):  # of parsers alone
            means[key] = statistics.mean(run[key] for run in runs) if key in runs[0] else None
        found.append({"trees": name, **means, "self_f1": row.get("self_f1")})
    return found


if __name__ == "__main__":
    harness.run(main)
