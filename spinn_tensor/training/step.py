"""One optimisation step, over all microbatches of all ranks.

    L = Σ losses of the step's examples / counts of the whole step           (`Totals`)
    w <- optimiser(w, clip(∂L/∂w)),    ∂L/∂w = Σ over ranks of Σ over microbatches

Each microbatch of each rank gives its part of the same sum, divided by the same counts, so the gradient is that of one
process and one batch, however the examples are shared out: a mean of means would weigh an example of a small or little
labelled share more. The gradients are added up over ranks by one all-reduce of one flat tensor. What is not the
same: batch norm's view, since ranks normalise together but the microbatches of a step one after another; and
REINFORCE's entropy, a mean over the choices of each microbatch, which then weighs by its examples.

With `compile`, loss and backward are one compiled graph each and clipping and optimiser a third. On CUDA, where batches
have few shapes, these are then captured (`capture`): the whole step, or of several ranks or microbatches loss and
backward of each, whose gradients are summed outside, and the update. Where ranks normalise together, their sums cut
what is captured into several graphs. A batch that none of the shapes holds is rare, and every one of them might be
another graph, so that its loss is then eager.

The precision of a run is the arithmetic in which its steps multiply matrices; all else, evaluation included, is in
float32, and so are weights, gradients, optimiser and checkpoints:

    float32     as is
    tf32        NVIDIA's TensorFloat-32: float32 whose factors are rounded to 10 bits of mantissa; on a CPU, where only
                a run goes on that a GPU has begun, float32
    bfloat16    factors of 8 bits, the sums in float32 (`torch.autocast`); states, batch norm and losses are float32,
                and so are the products of words' projections, of transitions' scores and of LSTMs; on a GPU that has
                TF32 these products, but for the LSTMs', are in it

(cuDNN's LSTM, of the baselines, uses TF32 under all three, as it does by torch's default.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from spinn_tensor.batch import Batch
from spinn_tensor.bundles import OnHost
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.columns import Corpus
from spinn_tensor.normalization import uncounted
from spinn_tensor.training.capture import CapturedSteps, preserved
from spinn_tensor.training.config import TrainingConfig
from spinn_tensor.training.distributed import ALONE, Ranks
from spinn_tensor.training.hardware import multiplies_in_tf32
from spinn_tensor.training.methods import Given, Method
from spinn_tensor.training.objective import Totals
from spinn_tensor.training.optimizer import Average, Update
from spinn_tensor.transfer import pinned, sent

MARK = "step: "  # before the name of a part of a step, by which every profile of torch shows it


class Phase(record_function):
    """Mark a part of a step: `with Phase("backward"): loss.backward()`. Costs microseconds where nothing profiles."""

    wait: ClassVar[Callable[[], object] | None] = None  # of a profile that tells apart what a device computes

    def __init__(self, name: str) -> None:
        super().__init__(MARK + name)

    def __enter__(self) -> Any:
        self._wait()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._wait()
        super().__exit__(*error)

    def _wait(self) -> None:
        if Phase.wait is not None:
            Phase.wait()


class Inputs(NamedTuple):
    """Hold what a captured step, or a part of one, reads beside the model."""

    batch: Batch
    totals: Totals
    given: Given
    phase: OnHost  # (1,) int64: the phases of a method are captured each by itself


class TrainStep:
    """Take a step: zero_grad, loss, backward, reduction, clip, optimiser; nothing waits for the device."""

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        config: TrainingConfig,
        ranks: Ranks = ALONE,
        captures: bool | None = None,  # whether steps may be captured; None = on CUDA
    ) -> None:
        self.method, self.optimizer, self.config, self.ranks = method, optimizer, config, ranks
        self.average = Average(method.model, config.ema_decay)
        self.update = Update(optimizer, config, self.average)
        self.parameters = [p for p in method.model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        wanted = self.device.type == "cuda" if captures is None else captures
        self._may_capture = config.compile and wanted
        self._dealt_to = ranks.size, config.accumulate
        self.captured: CapturedSteps | None = None  # whole steps, or loss and backward of their parts
        self._captured_update: CapturedSteps | None = None  # of parts
        self._reached: list[nn.Parameter] = []  # that a part has gradients of

    def warm_up(
        self,
        corpus: Corpus,
        rows: np.ndarray,  # (n,) int64, of a batch
        step: int = 0,  # the one that comes next
    ) -> None:
        """Compile and capture what the next step runs, and change nothing else; does nothing if eager."""
        if not self.config.compile:
            return
        self.update.make_state()
        config = self.config
        if self._may_capture and self.method.plan(
            corpus, config.batch_size, config.seed, config.batch_tokens, self._dealt_to
        ):
            is_whole = self._dealt_to == (1, 1)
            self.captured = CapturedSteps(self._whole if is_whole else self._part, self._state, self.device)
            if not is_whole:
                self._captured_update = CapturedSteps(self._update_by, self._state, self.device)
        kept = self.method.tensors()
        for of_step, batch in self.method.samples(corpus, rows, step):
            totals = Totals(*(torch.ones((), device=self.device) for _ in Totals._fields))
            with preserved(self._state(), self.device):
                self([self.place(batch)], totals, of_step, rate=self.config.learning_rate)
        self.method.restore(kept)
        self.optimizer.zero_grad(set_to_none=True)

    def pin(self, batch: Batch) -> Batch:
        """Copy a batch to memory from where `place` copies it without waiting; any thread may do it beforehand."""
        return batch if self.device.type == "cpu" else pinned(batch)

    def place(self, batch: Batch) -> Batch:
        """Bring a batch from the CPU to where the step wants it; nothing waits."""
        batch = self.pin(batch)
        if self.captured is not None and batch.row_mask is not None:
            return batch  # copied from there into the buffers of its shape
        return sent(batch, self.device)

    def __call__(
        self,
        batches: Sequence[Batch],  # this rank's microbatches, where `place` put them
        totals: Totals,  # of the whole step, on the model's device
        step: int,
        rate: float,  # learning rate
        counts: bool = True,  # False: a rank that has no example of this step computes one that weighs nothing
    ) -> Tensor:  # () float, the step's loss, the same on all ranks, detached
        """Change the model. Raises ScoreError, see `run_own`."""
        self.update.set_rate(rate)
        with matmul_precision(self.config.precision):
            if self.captured is None:
                return self._launch(batches, totals, step, counts)
            if not counts or any(batch.row_mask is None for batch in batches):
                batches = [sent(batch, self.device) for batch in batches]
                return self._launch(batches, totals, step, counts)
            with Phase("replay"):
                loss, seen = self._replay(self.captured, batches, totals, step).tensor_split([1])
            self.method.observe(seen)
            return loss.squeeze(0)

    def _replay(
        self, captured: CapturedSteps, batches: Sequence[Batch], totals: Totals, step: int
    ) -> Tensor:  # (1 + k,) float
        """Take a step that is captured; return its loss, and what was observed."""
        given, phase = self.method.given(step), OnHost(torch.tensor([self.method.phase(step)]))
        first, *others = (captured(Inputs(batch, totals, given, phase)) for batch in batches)
        if self._captured_update is None:
            return first
        for part in others:
            first = first + part
        return self._captured_update((self.ranks.summed(first), phase))

    def _launch(
        self, batches: Sequence[Batch], totals: Totals, step: int, counts: bool
    ) -> Tensor:  # () float
        """Take a step that is not captured."""
        loss = self._descend([partial(self.method.loss, batch, step, totals) for batch in batches], counts)
        for _ in range(self.method.further_updates(step)):
            self._descend([partial(self.method.further_loss, step, totals)], counts)
        return loss

    def _descend(self, parts: Sequence[Callable[[], Tensor]], counts: bool) -> Tensor:  # () float
        """Update the weights by the sum of some losses; return it."""
        self.optimizer.zero_grad(set_to_none=True)
        losses, observed = [], []
        for part in parts:
            with Phase("forward"), self._stance():
                loss = self._loss(part, counts)
            with Phase("backward"):
                loss.backward()
            losses.append(loss.detach())
            observed.append(self.method.observed() * counts)
        loss, seen = self._over_ranks(torch.stack(losses).sum(), torch.stack(observed).sum(0))
        self.method.observe(seen)
        with Phase("update"):
            self.update()
        return loss

    def _stance(self) -> AbstractContextManager[Any]:
        """Return the context in which a loss is eager if steps are captured, and this one is not."""
        return nullcontext() if self.captured is None else torch.compiler.set_stance("force_eager")

    def _whole(self, inputs: Inputs) -> Tensor:  # (1 + k,) float
        """Take a whole step, as it is captured; return its loss, and what was observed."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss_of(inputs)
        loss.backward()
        self.update()
        return torch.cat((loss.detach().view(1), self.method.observed()))

    def _part(self, inputs: Inputs) -> Tensor:  # (1 + k + P,) float
        """Return the loss of a microbatch, what was observed and the gradients, as it is captured."""
        loss = self._loss_of(inputs)
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        found = [pair for pair in zip(self.parameters, gradients, strict=True) if pair[1] is not None]
        self._reached = [parameter for parameter, _ in found]
        return self._laid_out(loss.detach(), self.method.observed(), [gradient for _, gradient in found])

    def _update_by(self, inputs: tuple[Tensor, OnHost]) -> Tensor:  # (1 + k,) float
        """Update by the sum of what `_part` gave, as it is captured; return all of it but the gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        before = self._taken_apart(inputs[0], self._reached)
        self.update()
        return before.clone()

    @staticmethod
    def _laid_out(loss: Tensor, observed: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """Put what is summed over ranks into one tensor; it must be alike on all of them."""
        return torch.cat((loss.view(1), observed, *(gradient.flatten() for gradient in gradients)))

    @staticmethod
    def _taken_apart(summed: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:  # (1 + k,) float
        """Give these parameters the gradients that `_laid_out` put last; return what is before them."""
        sizes = [parameter.numel() for parameter in parameters]
        before, *gradients = summed.split([summed.numel() - sum(sizes), *sizes])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype, copy=True)
        return before

    def _state(self) -> list[Tensor]:
        """List all that a step changes, but for the method's state."""
        model = self.method.model
        states = (value for state in self.optimizer.state.values() for value in state.values())
        return [*model.parameters(), *model.buffers(), *states, *self.average.averages]

    def _loss_of(self, inputs: Inputs) -> Tensor:
        (phase,) = inputs.phase.tolist()
        return self._loss(partial(self.method.loss, inputs.batch, phase, inputs.totals, inputs.given))

    def _loss(self, part: Callable[[], Tensor], counts: bool = True) -> Tensor:
        with autocast(self.config.precision, self.device.type):
            if counts:
                return part()
            with uncounted(self.method.model):
                return part() * 0

    def _over_ranks(self, loss: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over ranks by one collective, the gradients as well."""
        if self.ranks.size == 1:
            return loss, observed
        found = [(p, p.grad) for p in self.parameters if p.grad is not None]  # the same ones on every rank
        summed = self.ranks.summed(self._laid_out(loss, observed, [gradient for _, gradient in found]))
        before = self._taken_apart(summed, [parameter for parameter, _ in found])
        loss, observed = before.tensor_split([1])
        return loss.squeeze(0), observed


def check_precision(precision: str, device_type: str) -> None:
    """Raise ConfigError for a precision that the device does not know."""
    if precision == "tf32" and device_type != "cuda":
        raise ConfigError(f"precision: tf32 is a way in which GPUs multiply; this run is on {device_type}")


def autocast(precision: str, device_type: str) -> AbstractContextManager[Any]:
    """Return the context of the forward pass, loss included."""
    return torch.autocast(device_type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set the precision of a whole step; torch's setting, which is the process's, is afterwards what it was.

    Under bfloat16, what is left in float32 is multiplied in TF32, which has more digits, on GPUs that have it.
    Under TF32 torch refuses to read its older settings, which inductor does where TORCHINDUCTOR_MAX_AUTOTUNE is set:
    there bfloat16 leaves the setting alone.
    """
    if precision == "float32" or (precision == "bfloat16" and not multiplies_in_tf32()):
        yield
        return
    matmul = torch.backends.cuda.matmul  # not torch's older settings, which it refuses to mix with this one
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before
