"""What choosing costs: own transitions against given ones, and a step of RL-SPINN against a supervised step.

    python -m benchmarks.own                a few minutes
    python -m benchmarks.own --quick        seconds, numbers without meaning

Forward: the encoder alone, without gradients, on batches of 128 sentences of SNLI's slice. The own transitions are
forced to be those of the corpus, so that both compose the same trees; and, beside it, what the scores choose. Steps:
a SPINN over pairs of sentences (embedding, encoder, classifier, loss, backward), supervised by teacher forcing, and by
reinforcement with 8 sampled parses a sentence under either baseline. Ratios are medians of those within each round.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import candidates, harness
from benchmarks.sentences import Setting, add_snli, is_usual, load_sentences, settings
from spinn_tensor import (
    ClassifierConfig,
    EncoderConfig,
    ModelConfig,
    TransitionWeights,
    build_model,
    forcing_noise,
    run_given,
    run_own,
    to_torch,
)
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns
from spinn_tensor.data_prep.tables import own_tables
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.hardware import keep_freed_memory
from spinn_tensor.training.methods import make_method

GIVEN, FORCED, CHOSEN = "given", "own, forced to the same trees", "own, as the scores choose"
SUPERVISED, GREEDY, LEAVE_ONE_OUT = "supervised", "RL, greedy baseline", "RL, leave-one-out baseline"
N_WORDS = 10_000
NAME = "own_cpu"  # of the results
Case = dict[str, Callable[[], float]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    sentences = load_sentences(options.snli)
    made = settings(
        sentences, [options.batch], options.batch, options.batch * options.n_batches, options.n_batches
    )
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.own", *arguments]),
        "machine": harness.machine(),
        "sentences": sentences.source,
        "repeats": options.repeats,
        "samples": options.samples,
        "rows": [],
    }
    for n_hidden in options.dim:
        for setting in made:
            forward = [_forward(batch, n_hidden, options.tracker) for batch in setting.batches]
            result["rows"].append(_row("forward", GIVEN, n_hidden, setting, forward, options.repeats))
            steps = [_steps(batch, n_hidden, options) for batch in setting.batches[: options.n_step_batches]]
            result["rows"].append(_row("step", SUPERVISED, n_hidden, setting, steps, options.repeats))
    harness.publish(result, _markdown(result), options.out)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = harness.argument_parser("benchmarks.own", __doc__)
    add = parser.add_argument
    add("--batch", type=int, default=128, help="sentences of a forward pass; pairs are half as many")
    add("--dim", type=int, nargs="+", default=[300, 100], help="hidden sizes")
    add("--tracker", type=int, default=64, help="tracker size")
    add("--samples", type=int, default=8, help="parses of each sentence in RL")
    add("--repeats", type=int, default=7, help="recorded rounds")
    add_snli(parser, "--sentences", otherwise="generated sentences", others=", or 'random'")
    harness.add_out(parser, NAME)
    add("--quick", action="store_true", help="tiny sizes and one round: does it run?")
    options = parser.parse_args(arguments)
    options.n_batches, options.n_step_batches = 6, 2
    options.out = harness.report_file(options.out, NAME, not options.quick and is_usual(options.snli))
    if options.quick:
        options.batch, options.dim, options.tracker, options.repeats, options.n_batches = 4, [8], 4, 1, 1
    return options


def _forward(transitions: Sequence[np.ndarray], n_hidden: int, n_tracker: int) -> Case:
    """The encoder on one batch, under given and under own transitions."""
    weights, batch = (
        candidates.make_weights(n_hidden, n_tracker),
        candidates.make_batch(transitions, n_hidden),
    )
    assert weights.tracker is not None
    generator = torch.Generator().manual_seed(3)
    transition = TransitionWeights(torch.randn(2, n_tracker, generator=generator) * 3, torch.zeros(2))
    own = to_torch(own_tables(batch.lengths))
    forced = forcing_noise(torch.from_numpy(batch.flat_transitions))
    machine = batch.leaves, weights.compose, weights.tracker
    runs = {
        GIVEN: lambda: run_given(*machine, batch.lanes),
        FORCED: lambda: run_own(*machine, transition, own, forced).encodings,
        CHOSEN: lambda: run_own(*machine, transition, own).encodings,
    }
    difference = (_no_gradient(runs[GIVEN])() - _no_gradient(runs[FORCED])()).abs().max().item()
    if not difference <= candidates.TOLERANCE:
        raise RuntimeError(f"forced to the same trees, the encodings differ by {difference:.1e}")
    return {name: harness.stopwatch(_no_gradient(run)) for name, run in runs.items()}


def _no_gradient(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    return torch.no_grad()(run)


def _steps(transitions: Sequence[np.ndarray], n_hidden: int, options: argparse.Namespace) -> Case:
    """Forward and backward of a whole model on one batch of pairs, under each way to learn."""
    columns = _pairs(transitions)
    torch.manual_seed(0)
    encoder = EncoderConfig(
        N_WORDS, "spinn", n_hidden, n_hidden, tracker_dim=options.tracker, train_embedding=False
    )
    classifier = ClassifierConfig(3, mlp_dim=1024 if n_hidden >= 300 else 200)
    model = build_model(ModelConfig("pair", ("e", "n", "c"), encoder, classifier))
    learning = {
        SUPERVISED: ParsingConfig(),
        GREEDY: ParsingConfig(learning="reinforce", n_samples=options.samples, baseline="greedy"),
        LEAVE_ONE_OUT: ParsingConfig(
            learning="reinforce", n_samples=options.samples, baseline="leave-one-out"
        ),
    }
    return {name: harness.stopwatch(_step(model, config, columns)) for name, config in learning.items()}


def _step(model, config: ParsingConfig, columns: Corpus) -> Callable[[], None]:
    method = make_method(model, config)
    batch = method.collate(columns, 0)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        method.loss(batch, 0).backward()

    return step


def _pairs(transitions: Sequence[np.ndarray]) -> Corpus:
    """Every two sentences a pair, their words drawn at random."""
    rng = np.random.default_rng(0)
    half = len(transitions) // 2

    def side(codes: Sequence[np.ndarray]) -> SentenceColumns:
        lengths = np.array([(len(code) + 1) // 2 for code in codes])
        ids = rng.integers(2, N_WORDS, lengths.sum()).astype(np.int32)
        return SentenceColumns(ids, np.concatenate(([0], np.cumsum(lengths))), np.concatenate(codes), None)

    sides = side(transitions[:half]), side(transitions[half : 2 * half])
    return Corpus.of_pairs(*sides, rng.integers(0, 3, half))


def _row(
    what: str, baseline: str, n_hidden: int, setting: Setting, cases: list[Case], repeats: int
) -> dict[str, Any]:
    """Milliseconds of a batch, and ratios to the baseline within each round, both as medians."""
    seconds = harness.interleaved(cases, range(-1, repeats))
    names = list(cases[0])
    whole = {
        name: [sum(of_round) for of_round in zip(*(case[name] for case in seconds), strict=True)]
        for name in names
    }
    return {
        "what": what,
        "dim": n_hidden,
        "batching": setting.batching,
        "batch_size": setting.batch_size,
        "milliseconds": {name: statistics.median(whole[name]) / len(cases) * 1e3 for name in names},
        "ratio": {name: harness.ratio(whole[name], whole[baseline]) for name in names},
    }


def _markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"`{result['command']}`\n",
        f"- {machine['processor']}, one thread of {machine['cores']} cores, torch {machine['torch']}, commit "
        f"{machine['commit']}, {machine['date']}, load {machine['load_average']}",
        f"- {result['sentences']}, {result['repeats']} rounds; RL with {result['samples']} samples a sentence\n",
    ]
    for what, title in (("forward", "Encoder, forward"), ("step", "Model, forward + backward, pairs")):
        rows = [row for row in result["rows"] if row["what"] == what]
        names = list(rows[0]["ratio"])
        lines += [
            f"**{title}**: ms a batch, and times the first\n",
            "| H | batch | " + " | ".join(names) + " |",
        ]
        lines.append("| --- | --- |" + " ---: |" * len(names))
        for row in rows:
            size = row["batch_size"] // (2 if what == "step" else 1)
            cells = [f"{row['milliseconds'][name]:.1f} ({row['ratio'][name]:.2f}×)" for name in names]
            lines.append(f"| {row['dim']} | {size} {row['batching']} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    harness.run(main)
