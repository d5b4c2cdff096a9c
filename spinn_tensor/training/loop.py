"""The training loop: epochs of batches, evaluations, checkpoints, early stopping.

Into the run's folder (`run`) it writes checkpoints, of the average of the weights where the run has one, and lines of
metrics.jsonl: "train" every `log_every` steps, "dev" at every evaluation, and "epoch"; a SPINN's "train" has
`task_loss` and `transition_loss`, means over the same steps as `loss`.

Losses stay on the device and are read every `log_every` steps, and before anything is evaluated or written:
a model that is no longer finite never becomes a checkpoint.

Of several processes (`distributed`) each trains on its share of every batch, and counts, evaluates, logs and writes as
if it were alone, but that only rank 0 really does the last three.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spinn_tensor.data_prep.batching import epoch_batches, shares
from spinn_tensor.data_prep.columns import Corpus, lengths, select
from spinn_tensor.data_prep.errors import Interrupted, SpinnError
from spinn_tensor.data_prep.token_rules import PENN, Rules
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.machine import ScoreError
from spinn_tensor.model.classifiers import Model
from spinn_tensor.normalization import synchronise
from spinn_tensor.training.checkpoint import (
    Progress,
    TrainingState,
    corpus_sha256,
    finite_parameters,
    restore,
    save_checkpoint,
    seed_rank,
    training_state,
)
from spinn_tensor.training.config import RunConfig, TrainingConfig
from spinn_tensor.training.distributed import ALONE, Ranks, SignalPoll
from spinn_tensor.training.evaluate import Evaluation, evaluate
from spinn_tensor.training.feeding import Feed, feeds_of
from spinn_tensor.training.methods import make_method
from spinn_tensor.training.metrics_log import MetricsLog
from spinn_tensor.training.objective import Totals, count_rows
from spinn_tensor.training.optimizer import learning_rate, make_optimizer
from spinn_tensor.training.step import Phase, TrainStep
from spinn_tensor.training.weighting import class_weights


class TrainingError(SpinnError, RuntimeError):
    """Raised where training cannot go on; its text is one line."""


class Observer:
    """Hear what the loop tells whoever watches; every method may be overridden."""

    def begin(self, progress: Progress, steps_per_epoch: int, unit: str) -> None:
        """Is called before the first step of a session; `unit` is what an example is: "pairs" or "sentences"."""

    def note(self, text: str) -> None:
        """Take a remark."""

    def trained(self, progress: Progress, batch_size: int) -> None:
        """Is called after each step; `progress` lags behind in nothing but the losses."""

    def measured(
        self,
        progress: Progress,
        loss: float,  # mean over the window
        rate: float,  # learning rate
        examples_per_second: float,
        figures: Mapping[str, float],  # what else the log says of the window, see `Method.figures`
    ) -> None:
        """Is called after each reading of the loss."""

    def evaluated(self, progress: Progress, evaluation: Evaluation, is_best: bool) -> None:
        """Is called after each evaluation on dev."""

    def end(self) -> None:
        """Is called after the last step of the run."""

    def pending_signal(self) -> int:
        """Return the number of a signal that asked the run to end; 0 = go on."""
        return 0


class Task(NamedTuple):
    """Say what is trained on what."""

    model: Model
    vocabulary: Vocabulary
    train: Corpus
    dev: Corpus
    rules: Rules = PENN  # that make words of text for the model


class Trainer:
    """Train a model; `fit` returns when the epochs are done or early stopping ends the run.

    Raises TrainingError where no evaluation could be the best one.
    """

    def __init__(
        self,
        task: Task,
        run: RunConfig,
        output: Path,
        observer: Observer | None = None,
        ranks: Ranks = ALONE,  # this process among others
    ) -> None:
        if run.training.select_by == "f1" and lengths(task.dev.sentences).max(initial=0) < 2:
            raise TrainingError(
                "select_by: f1 needs a dev sentence of two words or more; single words have no trees"
            )
        self.task, self.run, self.output = task, run, output
        self.config: TrainingConfig = run.training
        self.observer, self.ranks = observer or Observer(), ranks
        self.progress = Progress(
            n_threads=torch.get_num_threads(), corpus_sha256=corpus_sha256(task.train, task.dev)
        )
        if self.ranks.size > 1:
            synchronise(task.model)
            self.ranks.equalise([*task.model.parameters(), *task.model.buffers()])
            seed_rank(self.config.seed, self.ranks.rank)
        self.optimizer = make_optimizer(task.model, self.config)
        model = task.model.config
        weights = class_weights(self.config.class_weights, model.labels, task.train, model.node_labels)
        if weights is not None:
            pairs = zip(model.labels, weights.tolist(), strict=True)
            self.observer.note(
                f"class weights: {', '.join(f'{label} {weight:.4g}' for label, weight in pairs)}"
            )
        smoothing = self.config.label_smoothing
        self.method = make_method(task.model, run.parsing, self.config.compile, weights, smoothing)
        self.step = TrainStep(self.method, self.optimizer, self.config, self.ranks)
        self._counts = count_rows(task.train, model.node_labels, weights)
        self._lengths, self._n_tokens = task.train.lengths_key, task.train.n_tokens
        self._n_steps = self._count_steps() if self.config.rate_needs_length else 0
        self._rate = 0.0  # of the last step
        self._signals = SignalPoll(self.ranks)
        self._unread: list[Tensor] = []  # losses of the steps since the last reading
        self._window_start, self._window_examples, self._window_waited = 0.0, 0, 0.0

    def resume(self, state: TrainingState, folder: Path) -> None:
        """Continue where the `last` checkpoint in `folder` stopped; the model has its weights already."""
        progress, note = state.progress, self.observer.note
        if progress.corpus_sha256 != self.progress.corpus_sha256:
            raise TrainingError(f"{folder}: the run was started with other training or dev examples")
        if state.n_processes != self.ranks.size:
            seed_rank(self.config.seed, self.ranks.rank, progress.step)
            processes = f"{state.n_processes} processes before, {self.ranks.size} now"
            note(f"{processes}: the same optimisation with other noise")
        restore(state, folder, self.step)
        if state.was_on_cuda != (self.step.device.type == "cuda"):
            now = f"now on {self.step.device.type}, before not"
            note(f"{now}: the weights will differ from those of one device")
        n_threads = torch.get_num_threads()
        if progress.n_threads != n_threads:
            threads = f"{progress.n_threads} threads before, {n_threads} now"
            note(f"{threads}: the last digits of the weights may differ")
        self.progress = progress
        progress.n_threads = n_threads

    def fit(self) -> Progress:
        """Train to the end. Raises TrainingError if the loss is not finite, Interrupted on a signal, LostMaker."""
        progress = self.progress
        folder = self.output if self.ranks.is_first else None
        position, board = progress.metrics_position, self.config.tensorboard
        with MetricsLog(folder, position, board, self.observer.note) as self.log:
            batches = self.batches(progress.epoch)
            self._session_start = time.perf_counter() - progress.seconds
            self.task.model.train()
            if progress.epoch < self.config.epochs and not progress.stopped:
                self.step.warm_up(self.task.train, self._parts(batches[0])[0][0], progress.step)
            self._open_window()
            unit = "pairs" if self.task.train.n_sides == 2 else "sentences"
            self.observer.begin(progress, len(batches), unit)
            while progress.epoch < self.config.epochs and not progress.stopped:
                self._run_epoch()
        self._signals.finish()
        self.observer.end()
        return progress

    def _run_epoch(self) -> None:
        progress, config = self.progress, self.config
        batches = self.batches(progress.epoch)
        rest = batches[progress.batch :]
        items = enumerate(rest, progress.step)
        with feeds_of(self.feed, items, self.step, config.prefetch) as feeds:
            self._run_batches(feeds, len(batches))
        if progress.batch < len(batches):
            return
        self._read_losses()
        self.log.write(
            kind="epoch",
            step=progress.step,
            epoch=progress.epoch + 1,
            loss=progress.epoch_loss / len(batches),
        )
        progress.epoch, progress.batch, progress.epoch_loss = progress.epoch + 1, 0, 0.0
        self.method.end_epoch()
        self._evaluate()
        self._save_last()

    def _run_batches(self, feeds: Iterator[Feed], n_batches: int) -> None:
        """Train on the rest of an epoch, or on what early stopping leaves of it."""
        progress, config = self.progress, self.config
        while progress.batch < n_batches:
            if signal_number := self._signals.agreed(self.observer.pending_signal()):
                self._save_last()
                self._signals.finish()
                done = f"stopped at step {progress.step:,}; saved {self.output / 'last'}"
                self.observer.note(done)
                raise Interrupted(signal_number, done)
            asked = time.perf_counter()
            feed = next(feeds)
            self._window_waited += time.perf_counter() - asked
            self._train_step(feed)
            if progress.batch == n_batches:
                break
            if config.evaluate_every and progress.step % config.evaluate_every == 0:
                self._evaluate()
                if progress.stopped:
                    self._save_last()
                    return
            if config.save_every and progress.step % config.save_every == 0:
                self._save_last()

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the rows of each step of an epoch."""
        config, (shortest, longest) = self.config, self.method.lengths
        rows = np.flatnonzero((self._lengths >= shortest) & (self._lengths <= (longest or np.inf)))
        if not len(rows):
            raise TrainingError(f"first_length: no example has sentences of {shortest} to {longest} words")
        batches = epoch_batches(
            self._lengths[rows],
            config.batch_size,
            seed=config.seed,
            epoch=epoch,
            n_tokens=self._n_tokens[rows],
            token_budget=config.batch_tokens,
        )
        return [rows[batch] for batch in batches]

    def _count_steps(self) -> int:
        """Count the steps of the whole run; only by words a step do epochs differ in them."""
        n_epochs = self.config.epochs
        if not self.config.batch_tokens:
            return n_epochs * len(self.batches(0))
        return sum(len(self.batches(epoch)) for epoch in range(n_epochs))

    def _parts(self, rows: np.ndarray) -> tuple[list[np.ndarray], bool]:
        """Return this rank's microbatches of a batch, and whether they count: without a share it computes any row."""
        parts = shares(rows, self._lengths, self.ranks.size, self.config.accumulate)[self.ranks.rank]
        return parts or [rows[:1]], bool(parts)

    def feed(self, numbered: tuple[int, np.ndarray]) -> Feed:
        """Make what this rank's step on these rows runs on; a thread or a process may do it, any time before."""
        step, rows = numbered
        parts, counts = self._parts(rows)
        with Phase("data"):
            corpora = [select(self.task.train, part) for part in parts]
        with Phase("tables"):
            batches = [self.method.collate(corpus, step) for corpus in corpora]
        return Feed(rows, batches, counts)

    def _train_step(self, feed: Feed) -> None:
        progress, rows = self.progress, feed.rows
        loss = self.take_feed(feed)
        self._unread.append(loss)
        progress.step += 1
        progress.batch += 1
        progress.examples += len(rows)
        self._window_examples += len(rows)
        self.observer.trained(progress, len(rows))
        if progress.step % self.config.log_every == 0:
            self._read_losses()
            self._log_window()

    def take_step(self, rows: np.ndarray) -> Tensor:
        """Take the step on these rows; return its loss."""
        return self.take_feed(self.feed((self.progress.step, rows)))

    def take_feed(self, feed: Feed) -> Tensor:
        """Take the step on what was made for it; return its loss."""
        progress = self.progress
        with Phase("transfer"):
            batches = [self.step.place(batch) for batch in feed.batches]
        totals = Totals.of(self._counts[feed.rows], self.step.device)
        rate = learning_rate(self.config, progress.step, progress.epoch, self._n_steps)
        self._rate = rate * self.method.rate_factor(progress.step)
        try:
            return self.step(batches, totals, progress.step, self._rate, feed.counts)
        except ScoreError as error:
            self._require_finite()  # what made the score no number, if the losses tell
            raise TrainingError(f"step {progress.step + 1:,}: {error}; {self._kept()}") from None

    def _read_losses(self) -> None:
        """Add the losses of the steps since the last reading: the only host sync of the loop."""
        if not self._unread:
            return
        losses = torch.stack(self._unread).tolist()
        first_step = self.progress.step - len(losses) + 1
        self._unread.clear()
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise TrainingError(f"step {first_step + offset:,}: the loss is {loss}; {self._kept()}")
            self.progress.epoch_loss += loss
            self.progress.window_loss += loss
            self.progress.window_steps += 1

    def _log_window(self) -> None:
        progress, now = self.progress, time.perf_counter()
        loss = progress.window_loss / max(progress.window_steps, 1)
        seconds = max(now - self._window_start, 1e-9)
        speed, waiting = self._window_examples / seconds, self._window_waited / seconds  # waiting: for data
        figures = {name: value.item() for name, value in self.method.figures().items()}
        self.log.write(
            kind="train",
            step=progress.step,
            epoch=progress.epoch + 1,
            loss=loss,
            learning_rate=self._rate,
            **figures,
            examples_per_second=round(speed, 1),
            waiting=round(waiting, 4),
            seconds=round(now - self._session_start, 3),
        )
        self.observer.measured(progress, loss, self._rate, speed, figures)
        progress.window_loss, progress.window_steps = 0.0, 0
        self._open_window()

    def _open_window(self) -> None:
        self._window_start, self._window_examples, self._window_waited = time.perf_counter(), 0, 0.0

    def _evaluate(self) -> None:
        progress = self.progress
        self._require_finite()
        start = time.perf_counter()
        with self.step.average.in_place():
            evaluation = self.ranks.from_first(lambda: evaluate(self.task.model, self.task.dev))
        if not math.isfinite(evaluation.loss or 0):
            raise TrainingError(
                f"step {progress.step:,}: the loss on dev is {evaluation.loss}; {self._kept()}"
            )
        score = evaluation.criterion(self.config.select_by)
        is_best = score > progress.best_score
        if is_best:
            progress.best_score, progress.best_step, progress.bad_evaluations = score, progress.step, 0
        else:
            progress.bad_evaluations += 1
        progress.stopped = 0 < self.config.patience <= progress.bad_evaluations
        self.log.write(
            kind="dev",
            step=progress.step,
            epoch=progress.epoch,
            **evaluation.to_dict(),
            best=is_best,
            seconds=round(time.perf_counter() - self._session_start, 3),
        )
        if is_best and self.ranks.is_first:
            self._save("best")
        progress.seconds = time.perf_counter() - self._session_start
        self.observer.evaluated(progress, evaluation, is_best)
        self._window_start += time.perf_counter() - start  # examples per second are about training

    def _save_last(self) -> None:
        self._require_finite()
        progress, start = self.progress, time.perf_counter()
        state = training_state(progress, self.step)
        if not self.ranks.is_first:
            return
        progress.metrics_position = self.log.position()
        progress.seconds = time.perf_counter() - self._session_start
        self._save("last", also=state.write)
        self._window_start += time.perf_counter() - start

    def _save(self, name: str, **also: Any) -> None:
        model, vocabulary, *_, rules = self.task
        step, epoch, score = self.progress.step, self.progress.epoch, self.progress.best_score
        metrics = {"step": step, "epoch": epoch, "best_dev_score": score}
        with self.step.average.in_place():
            save_checkpoint(self.output / name, model, vocabulary, self.run, metrics, rules=rules, **also)

    def _require_finite(self) -> None:
        self._read_losses()
        if not finite_parameters(self.task.model):
            raise TrainingError(f"step {self.progress.step:,}: a weight is not finite; {self._kept()}")

    def _kept(self) -> str:
        last = self.output / "last"
        kept = f"the checkpoint in {last} is kept" if last.exists() else "no checkpoint was written yet"
        return f"{kept}; a smaller --lr or --clip may help"
