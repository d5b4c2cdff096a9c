"""The code that inductor generates for a training step on an H100: all on the device, and nothing reads a number."""

from __future__ import annotations

import re

import pytest
import torch

from spinn_tensor.config import SPINN_KINDS
from spinn_tensor.data_prep.columns import select
from spinn_tensor.fixed_shapes import batches_of
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.methods import make_method
from spinn_tensor.training.objective import Totals, count_rows
from spinn_tensor.training.optimizer import make_optimizer
from spinn_tensor.training.step import TrainStep
from tests.compiled_steps import COMPILED, corpora, corpus_of, small_model

pytest.importorskip("triton")
from tests.cuda_code import code_for_an_h100, collected

pytestmark = pytest.mark.slow


STEPS = {
    **{kind: (kind, ParsingConfig(), "stack_machine") for kind in SPINN_KINDS},
    "sampled": ("spinn", ParsingConfig(scheduled_sampling=0.5), "stack_machine_own"),
    "reinforce": ("spinn", ParsingConfig(learning="reinforce", n_samples=2), "stack_machine_own"),
}


@pytest.mark.parametrize("kind, parsing, operator", STEPS.values(), ids=STEPS)
def test_a_step_is_on_the_device_alone_and_draws_dropout_anew(
    kind: str, parsing: ParsingConfig, operator: str
) -> None:
    """Forward, backward and update of a batch of fixed shape, as they are captured."""
    torch._dynamo.reset()
    corpus, _ = corpus_of(corpora()[-4:])
    rows = batches_of(corpus, batch_size=12, seed=1, epoch=0, token_budget=0)[0]
    model = small_model("pair", kind).float()
    model.mlp.dropout.p = 0.5
    with collected() as graphs:
        method = make_method(model, parsing, compiled=True)
        step = TrainStep(method, make_optimizer(model, COMPILED), COMPILED, captures=False)
        assert method.plan(corpus, batch_size=12, seed=1)
        step.update.make_state()
        batch = method.collate(select(corpus, rows), 0)
        assert batch.row_mask is not None
        step([batch], Totals.of(count_rows(corpus, node_labels=False)[rows]), 0, 1e-3)
    torch._dynamo.reset()
    forward, backward, update = map(code_for_an_h100, graphs)
    for code in (forward, backward, update):
        assert "triton_" in code
        assert not re.search(r"cpp_fused|\.item\(|\.tolist\(|empty_strided_cpu\(|device='cpu'", code)
    assert len(re.findall(r"aten\.randint\.low_out\(", forward)) == 1
    assert "randint" not in backward + update
    assert f"{operator}.default(" in forward
    assert "stack_machine_backward.default(" in backward
