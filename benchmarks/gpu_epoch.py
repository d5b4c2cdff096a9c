"""A whole training epoch of the GPU record: loading, steps, and nothing left out."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.gpu_measure import Budget, wait
from benchmarks.gpu_pairs import N_CLASSES, Pairs, repeated
from spinn_tensor.batch import Batch, TableKind, make_batch
from spinn_tensor.config import ClassifierConfig, EncoderConfig, ModelConfig
from spinn_tensor.data_prep.batching import epoch_batches
from spinn_tensor.data_prep.columns import Corpus, select
from spinn_tensor.fixed_shapes import Shape, fixed_batch
from spinn_tensor.model.classifiers import build_model
from spinn_tensor.training.config import ParsingConfig, TrainingConfig
from spinn_tensor.training.methods import Classify, make_method
from spinn_tensor.training.objective import Totals, count_rows
from spinn_tensor.training.optimizer import make_optimizer
from spinn_tensor.training.step import TrainStep

SEED = 1
LOOKED_AT = 20  # steps between two looks at the clock, for which the device is waited for


class Setting(NamedTuple):
    """What is trained and how."""

    kind: str
    hidden_dim: int
    tracker_dim: int
    mlp_dim: int
    n_pairs: int
    batch_size: int
    compile: bool
    precision: str
    n_workers: int  # processes that make batches; 0 = this one


class Batches(Dataset):
    """The batches of an epoch, each made when it is asked for, in whatever process."""

    def __init__(
        self, columns: Corpus, rows: list[np.ndarray], table_kind: TableKind, shapes: list[Shape]
    ) -> None:
        self.columns, self.rows, self.table_kind, self.shapes = columns, rows, table_kind, shapes
        self.counts = count_rows(columns, node_labels=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Batch, np.ndarray]:
        """The batch and the counts of its rows."""
        columns = select(self.columns, self.rows[number])
        batch = fixed_batch(columns, self.table_kind, self.shapes) or make_batch(columns, self.table_kind)
        return batch, self.counts[self.rows[number]]


def make_step(setting: Setting, vocabulary_size: int, device: torch.device) -> TrainStep:
    """A freshly initialised model of the published shape, fixed vectors and dropout included, and what trains it."""
    torch.manual_seed(SEED)
    encoder = EncoderConfig(
        vocabulary_size,
        setting.kind,
        setting.hidden_dim,
        setting.hidden_dim,
        tracker_dim=setting.tracker_dim,
        train_embedding=False,
    )
    classifier = ClassifierConfig(N_CLASSES, mlp_dim=setting.mlp_dim)
    model = build_model(ModelConfig("pair", ("a", "b", "c"), encoder, classifier)).to(device).train()
    config = TrainingConfig(
        batch_size=setting.batch_size, compile=setting.compile, seed=SEED, precision=setting.precision
    )
    method = make_method(model, ParsingConfig(), setting.compile)
    return TrainStep(method, make_optimizer(model, config), config)


def run_epoch(setting: Setting, pairs: Pairs, device: torch.device, budget: Budget) -> dict[str, Any]:
    """Trains an epoch, or as much of it as there is time for, and says how long it took."""
    columns = repeated(pairs.columns, setting.n_pairs)
    rows = epoch_batches(columns.lengths_key, setting.batch_size, seed=SEED, epoch=1)
    step = make_step(setting, pairs.vocabulary_size, device)
    start = time.perf_counter()
    step.warm_up(columns, rows[0])
    if step.captured is None:  # the same batches all the same
        step.method.plan(columns, setting.batch_size, SEED)
    wait(device)
    warm_up = time.perf_counter() - start
    shapes = step.method.shapes if isinstance(step.method, Classify) else []
    batches = Batches(columns, rows, step.method.model.encoder.table_kind, shapes)
    trained = _train(step, batches, setting, device, budget)
    return {**setting._asdict(), "warm_up_s": warm_up, "n_shapes": len(shapes)} | trained


def _train(
    step: TrainStep, batches: Batches, setting: Setting, device: torch.device, budget: Budget
) -> dict[str, Any]:
    on_cuda = device.type == "cuda"
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=setting.n_workers,
        pin_memory=on_cuda,
        multiprocessing_context="fork" if setting.n_workers else None,
    )
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    n_pairs = n_ragged = 0
    losses, waited = [], 0.0
    start = asked = time.perf_counter()
    for number, (batch, counts) in enumerate(loader):
        waited += time.perf_counter() - asked
        totals = Totals.of(np.asarray(counts), device)
        losses.append(step([step.place(batch)], totals, number, step.config.learning_rate))
        n_pairs += len(counts)
        n_ragged += batch.row_mask is None
        if number % LOOKED_AT == LOOKED_AT - 1 and budget.left < 0:
            break
        asked = time.perf_counter()
    wait(device)
    seconds = time.perf_counter() - start
    mean_loss = torch.stack(losses).mean().item()
    assert math.isfinite(mean_loss)
    return {
        "seconds": seconds,
        "n_trained": n_pairs,
        "pairs_per_s": n_pairs / seconds,
        "whole_epoch_s": seconds * len(batches.counts) / n_pairs,
        "waited_for_data_s": waited,
        "n_steps": len(losses),
        "n_ragged_steps": n_ragged,
        "mean_loss": mean_loss,
        "peak_bytes": torch.cuda.max_memory_reserved(device) if on_cuda else None,
    }
