"""One run for each of several seeds: what differs between them is luck, which their mean and spread tell apart.

seed-1/, seed-2/, ...   a run each, as `spinn train --seed` leaves it
corpus/                 the generated corpus, where they have no files of their own
seeds.json              for each split each score of every seed, with mean, standard deviation (n - 1) and range
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spinn_tensor.cli.report import console, percent, plain_table
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.files import write_json
from spinn_tensor.training.config import parse_setting
from spinn_tensor.training.evaluate import Evaluation
from spinn_tensor.training.metrics_log import scores_of
from spinn_tensor.training.run import is_run

SUMMARY = "seeds.json"


def folder_of(output: Path, seed: int) -> Path:
    """Return where the run of a seed is."""
    return output / f"seed-{seed}"


def check_seeds(args: argparse.Namespace, output: Path, n_processes: int) -> None:
    """Raise ConfigError where the runs of --seeds could not all be made, before the first one is begun."""
    seeds: Sequence[int] = args.seeds
    if n_processes > 1:
        raise ConfigError("--seeds is for one process; under torchrun train a seed a job")
    if args.seed is not None or any(parse_setting(text)[0] == "training__seed" for text in args.set):
        raise ConfigError("--seeds goes without --seed: it says all seeds")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds: got one twice: {' '.join(map(str, seeds))}")
    if not (args.resume or args.overwrite):
        for folder in (folder_of(output, seed) for seed in seeds):
            if is_run(folder):
                raise ConfigError(
                    f"{folder}: holds a run already; --resume goes on with it, --overwrite deletes it"
                )


def summarise(evaluations: Mapping[int, Mapping[str, Evaluation]], output: Path) -> None:
    """Write and print the mean and the spread of the scores over the seeds."""
    seeds, found = list(evaluations), list(evaluations.values())
    splits = {name: _scores([of_seed[name] for of_seed in found]) for name in found[0]}
    write_json(output / SUMMARY, {"seeds": seeds, "splits": splits})
    columns = "split", "score", *(f"seed {seed}" for seed in seeds), "mean", "std"
    rows = [
        (split, name, *map(percent, (*score["values"], score["mean"], score["std"])))
        for split, scores in splits.items()
        for name, score in scores.items()
    ]
    console().print(plain_table(*columns, rows=rows, text_columns=(0, 1)))
    print(f"{len(seeds)} seeds: {output / SUMMARY}")


def _scores(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, Any]]:
    """Return each score that all of the evaluations have, and how far it spreads."""
    found = [scores_of(evaluation.to_dict()) for evaluation in evaluations]
    of_seeds = {name: [figures[name] for figures in found] for name in found[0]}
    return {
        name: {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "min": min(values),
            "max": max(values),
            "values": values,
        }
        for name, values in of_seeds.items()
    }
