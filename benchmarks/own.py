"""Measure what choosing costs: own transitions against given ones, and a step of RL-SPINN against a supervised step.

    python -m benchmarks.own                a few minutes
    python -m benchmarks.own --quick        seconds, numbers without meaning

Forward: the encoder alone, without gradients, on batches of 128 sentences of SNLI's slice. The own transitions are
forced to be those of the corpus, so that both compose the same trees; and, beside it, what the scores choose. Steps:
a SPINN over pairs of sentences (embedding, encoder, classifier, loss, backward), supervised by teacher forcing, and by
reinforcement with 8 sampled parses a sentence under either baseline. Ratios are medians of those within each round.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks import candidates, harness
from benchmarks.data import Setting, load_sentences, random_corpus, settings
from benchmarks.harness import Option
from spinn_tensor import (
    ClassifierConfig,
    EncoderConfig,
    ModelConfig,
    TransitionWeights,
    build_model,
    forcing_noise,
    run_own,
    to_torch,
)
from spinn_tensor.data_prep.tables import own_tables
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.methods import make_method

GIVEN, FORCED, CHOSEN = "given", "own, forced to the same trees", "own, as the scores choose"
SUPERVISED, GREEDY, LEAVE_ONE_OUT = "supervised", "RL, greedy baseline", "RL, leave-one-out baseline"
TITLES = {"forward": "Encoder, forward", "step": "Model, forward + backward, pairs"}
N_WORDS = 10_000
OPTIONS = {
    "batch": Option(128, 4, "sentences of a forward pass; pairs are half as many"),
    "dim": Option([300, 100], [8], "hidden sizes"),
    "tracker": Option(64, 4, "tracker size"),
    "samples": Option(8, 8, "parses of each sentence in RL"),
    "batches": Option(6, 1, "batches of a kind, of which steps are taken on two"),
    "repeats": Option(7, 1, "recorded rounds"),
}
_parse = partial(harness.parse, "own", __doc__, options=OPTIONS, device="cpu", snli="the logic corpus")
Case = dict[str, Callable[[], float]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    harness.as_in_training()
    source, transitions = load_sentences(options.snli)
    size, count = options.batch, options.batches
    rows = []
    for n_hidden in options.dim:
        for setting in settings(transitions, len, [size], size, size * count, count):
            forward = [_forward(batch, n_hidden, options.tracker) for batch in setting.batches]
            rows.append(_row("forward", GIVEN, n_hidden, setting, forward, options.repeats))
            steps = [_steps(batch, n_hidden, options) for batch in setting.batches[:2]]
            rows.append(_row("step", SUPERVISED, n_hidden, setting, steps, options.repeats))
    notes = [f"{source}, {options.repeats} rounds; RL with {options.samples} samples a sentence"]
    result = {"sentences": source, "rows": rows}
    harness.publish(options, result, notes, [_table(what, rows) for what in TITLES])


def _forward(transitions: Sequence[np.ndarray], n_hidden: int, n_tracker: int) -> Case:
    """Return the encoder's runs on one batch, under given and under own transitions."""
    weights = candidates.make_weights(n_hidden, n_tracker)
    batch = candidates.make_batch(transitions, n_hidden, {GIVEN: candidates.BUILDERS[candidates.GIVEN]})
    assert weights.tracker is not None
    generator = torch.Generator().manual_seed(3)
    transition = TransitionWeights(torch.randn(2, n_tracker, generator=generator) * 3, torch.zeros(2))
    own = to_torch(own_tables(batch.lengths))
    forced = forcing_noise(torch.from_numpy(batch.flat_transitions))
    machine = batch.leaves, weights.compose, weights.tracker
    no_gradient = torch.no_grad()
    runs = {
        GIVEN: no_gradient(lambda: candidates.run_tables(*machine, batch.tables[GIVEN])),
        FORCED: no_gradient(lambda: run_own(*machine, transition, own, forced).encodings),
        CHOSEN: no_gradient(lambda: run_own(*machine, transition, own).encodings),
    }
    candidates.require_close(FORCED, [runs[FORCED]()], [runs[GIVEN]()])
    return {name: harness.stopwatch(run) for name, run in runs.items()}


def _steps(transitions: Sequence[np.ndarray], n_hidden: int, options: argparse.Namespace) -> Case:
    """Return forward and backward of a whole model on one batch of pairs, under each way to learn."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        N_WORDS, "spinn", n_hidden, n_hidden, tracker_dim=options.tracker, train_embedding=False
    )
    classifier = ClassifierConfig(3, mlp_dim=1024 if n_hidden >= 300 else 200)
    model = build_model(ModelConfig("pair", ("e", "n", "c"), encoder, classifier))
    pairs = random_corpus(transitions[: len(transitions) // 2 * 2], N_WORDS, n_sides=2)

    def step(**learning: Any) -> Callable[[], float]:
        method = make_method(model, ParsingConfig(**learning))
        batch = method.collate(pairs, 0)

        def run() -> None:
            model.zero_grad(set_to_none=True)
            method.loss(batch, 0).backward()

        return harness.stopwatch(run)

    reinforce = {"learning": "reinforce", "n_samples": options.samples}
    return {
        SUPERVISED: step(),
        GREEDY: step(**reinforce, baseline="greedy"),
        LEAVE_ONE_OUT: step(**reinforce, baseline="leave-one-out"),
    }


def _row(
    what: str, baseline: str, n_hidden: int, setting: Setting, cases: list[Case], repeats: int
) -> dict[str, Any]:
    """Time all batches of a row, and compare with the baseline."""
    seconds = harness.interleaved(cases, range(-1, repeats))
    return {
        "what": what,
        "dim": n_hidden,
        "batching": setting.batching,
        "size": setting.batch_size // (2 if what == "step" else 1),
        **harness.compare(seconds, baseline),
    }


def _table(what: str, rows: Sequence[dict[str, Any]]) -> harness.Table:
    some = [row for row in rows if row["what"] == what]
    columns = {"H": "{dim}", "batch": "{size} {batching}", **harness.compared(some[0]["ratio"])}
    return harness.Table(columns, some, 2, f"{TITLES[what]}: ms a batch, and times the first")


if __name__ == "__main__":
    harness.run(main)
