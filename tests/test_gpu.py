"""The machine on a CUDA device: the same numbers as on the CPU, no host synchronisation, and compiled as eager."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from spinn_tensor import TransitionWeights, logistic_noise, make_batch, move, run_own, to_torch
from spinn_tensor.bundles import flatten
from spinn_tensor.config import ENCODER_KINDS, SPINN_KINDS
from spinn_tensor.data_prep.columns import select
from spinn_tensor.data_prep.tables import own_tables
from spinn_tensor.inference import predict_logits
from spinn_tensor.machine.choice import CHOICES, VARIABLE
from spinn_tensor.training.evaluate import evaluate
from spinn_tensor.training.feeding import Feed, feeds_of
from spinn_tensor.training.objective import Totals, count_rows, training_loss
from spinn_tensor.training.optimizer import learning_rate
from tests.compiled_steps import (
    ADAMW,
    COMPILED,
    CONFIG,
    assert_same_training,
    corpora,
    corpus_of,
    train,
    train_step,
)
from tests.machines import (
    MACHINES,
    TABLES,
    every_machine,
    gradients,
    parameters,
    random_leaves,
    random_transitions,
    random_weights,
    relative_error,
    run_tables,
)
from tests.tiny_models import LSTMS, encoder_and_batch, pair_model, some_pairs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning"),
    # inductor's advice on speed
    pytest.mark.filterwarnings(r"ignore:\s*Online softmax is disabled:UserWarning"),
]
HIDDEN, TRACKER = 24, 8


@contextmanager
def nothing_may_wait() -> Iterator[None]:
    """Make every wait for the device an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def batch() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [random_transitions(rng, n) for n in (1, 9, 30, 4, 17, 2, 30, 60)]


def on_cuda(name, batch, tracked, dtype):
    """Leaves, weights and tables on the device."""
    leaves = random_leaves(batch, HIDDEN, dtype).detach().cuda().requires_grad_()
    bundles = random_weights(HIDDEN, TRACKER if tracked else None, dtype)
    compose, tracker = (
        None
        if bundle is None
        else type(bundle)(*(None if w is None else w.detach().cuda().requires_grad_() for w in bundle))
        for bundle in bundles
    )
    return leaves, compose, tracker, move(TABLES[name](batch), "cuda")


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=str
)
@every_machine
def test_cuda_is_the_cpu_in_float64(name, tracked, dtype, tolerance, batch) -> None:
    leaves, (compose, tracker) = (
        random_leaves(batch, HIDDEN),
        random_weights(HIDDEN, TRACKER if tracked else None),
    )
    exact = run_tables(TABLES[name](batch), leaves, compose, tracker, batch)
    exact_gradients = gradients(exact, parameters(leaves, compose, tracker))
    inputs = on_cuda(name, batch, tracked, dtype)
    output = run_tables(inputs[3], *inputs[:3], batch)
    assert relative_error(output.cpu(), exact) < tolerance
    weighting_generator = torch.Generator().manual_seed(2)
    weighting = torch.randn(output.shape, generator=weighting_generator, dtype=torch.float64).to(output)
    got = torch.autograd.grad((output * weighting).sum(), parameters(*inputs[:3]), materialize_grads=True)
    for ours, expected in zip(got, exact_gradients, strict=True):
        assert relative_error(ours.cpu(), expected) < tolerance


@pytest.mark.parametrize("kernels", CHOICES[1:])
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16], ids=str)
@every_machine
def test_kernels_compute_what_torch_does(name, tracked, products, kernels, batch, monkeypatch) -> None:
    results = []
    for asked in ("off", kernels):
        monkeypatch.setenv(VARIABLE, asked)
        *inputs, tables = on_cuda(name, batch, tracked, torch.float32)
        with torch.autocast("cuda", products, enabled=products == torch.bfloat16):
            output = run_tables(tables, *inputs, batch, every_node=True)
        weighting = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).cuda()
        grads = torch.autograd.grad((output * weighting).sum(), parameters(*inputs), materialize_grads=True)
        results.append((output, *grads))
    tolerance = 1e-5 if products == torch.float32 else 0.03
    for expected, got in zip(*results, strict=True):
        assert relative_error(got, expected) < tolerance


@pytest.mark.parametrize("kernels", CHOICES[1:])
@pytest.mark.parametrize("name, tracked", [("forest", False), ("given, padded", True)])
def test_kernels_give_the_same_bits(name, tracked, kernels, batch, monkeypatch) -> None:
    """Where tables share nothing."""
    monkeypatch.setenv(VARIABLE, kernels)
    *inputs, tables = on_cuda(name, batch, tracked, torch.float32)
    runs = [
        torch.autograd.grad(run_tables(tables, *inputs, batch).sum(), parameters(*inputs)) for _ in range(5)
    ]
    for first, *others in zip(*runs, strict=True):
        assert all(torch.equal(first, other) for other in others)


def own_on(device, batch, dtype):
    """Own transitions, sampled under fixed noise, and all that the run depends on."""
    leaves = random_leaves(batch, HIDDEN, dtype).detach().to(device).requires_grad_()
    compose, tracker = (
        type(bundle)(*(weight.detach().to(device).requires_grad_() for weight in bundle))
        for bundle in random_weights(HIDDEN, TRACKER, dtype)
    )
    generator = torch.Generator().manual_seed(4)
    transition = TransitionWeights(
        torch.randn(2, TRACKER, generator=generator, dtype=dtype).to(device).requires_grad_(),
        torch.zeros(2, dtype=dtype, device=device, requires_grad=True),
    )
    lengths = np.array([(len(transitions) + 1) // 2 for transitions in batch])
    noise = logistic_noise(torch.rand(int((2 * lengths - 1).sum()), generator=generator, dtype=torch.float64))
    tables = move(to_torch(own_tables(lengths)), device)
    inputs = [*parameters(leaves, compose, tracker), *transition]
    return (leaves, compose, tracker, transition, tables, noise.to(device)), inputs


def test_own_transitions_are_those_of_the_cpu(batch) -> None:
    """float64: the same choices, encodings, log-probabilities and gradients, composing densely."""
    results = []
    for device in ("cpu", "cuda"):
        arguments, inputs = own_on(device, batch, torch.float64)
        run = run_own(*arguments)
        output = torch.cat((run.encodings.flatten(), run.log_probabilities())).cpu()
        weighting = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        grads = torch.autograd.grad((output * weighting).sum(), inputs, materialize_grads=True)
        results.append((run.transitions.cpu(), output.detach(), [grad.cpu() for grad in grads]))
    assert torch.equal(results[0][0], results[1][0])
    assert relative_error(results[1][1], results[0][1]) < 1e-10
    for expected, got in zip(results[0][2], results[1][2], strict=True):
        assert relative_error(got, expected) < 1e-10


def test_choosing_waits_for_nothing(batch) -> None:
    arguments, _ = own_on("cuda", batch, torch.float32)
    run_own(*arguments).encodings.sum().backward()
    with nothing_may_wait():
        run = run_own(*arguments)
        (run.encodings.sum() + run.log_probabilities().sum()).backward()


@pytest.mark.parametrize("kernels", CHOICES)
@pytest.mark.parametrize("name, tracked", [case for case in MACHINES if not case[0].startswith("own")])
def test_nothing_waits_for_the_device(name, tracked, kernels, batch, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, kernels)
    inputs = on_cuda(name, batch, tracked, torch.float32)
    run_tables(inputs[3], *inputs[:3], batch).sum().backward()
    with nothing_may_wait():
        run_tables(inputs[3], *inputs[:3], batch).sum().backward()


@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_every_model_is_the_same_on_the_device(kind) -> None:
    model = pair_model(kind).double()
    batch = make_batch(some_pairs(), model.encoder.table_kind)
    expected = training_loss(model, batch)
    model.cuda()
    got = training_loss(model, move(batch, "cuda"))
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind, leaf_encoder", LSTMS)
def test_lstms_are_in_float32_under_autocast(kind, leaf_encoder) -> None:
    """Guards against float16, in which cuDNN's LSTMs are under autocast to bfloat16."""
    encoder, batch = encoder_and_batch(kind, leaf_encoder)
    encoder.cuda()
    batch = move(batch, "cuda")
    expected = encoder.leaves(batch) if kind == "spinn-pi" else encoder(batch)
    with torch.autocast("cuda", torch.bfloat16):
        got = encoder.leaves(batch) if kind == "spinn-pi" else encoder(batch)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", SPINN_KINDS)
def test_a_compiled_step_is_the_eager_one_on_the_device(kind) -> None:
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        model = pair_model(kind).double().cuda()
        step = torch.compile(training_loss, fullgraph=True, dynamic=True) if compiled else training_loss
        for n in (5, 8, 6):
            loss = step(model, move(make_batch(some_pairs(n), model.encoder.table_kind), "cuda"))
            loss.backward()
        results.append((loss.detach(), {name: weight.grad for name, weight in model.named_parameters()}))
    torch.testing.assert_close(results[1], results[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "kind, config",
    [
        *((kind, CONFIG) for kind in SPINN_KINDS),
        ("spinn-pi", ADAMW),
        ("spinn-pi", dataclasses.replace(CONFIG, accumulate=3)),
    ],
)
def test_compiled_training_is_eager_training_on_the_device(kind, config) -> None:
    """Captured: losses, weights, batch norm's statistics, averages and optimiser state."""
    corpus, batches = corpus_of(corpora())
    eager, step = (
        train_step(kind, dataclasses.replace(config, compile=compiled), device="cuda")
        for compiled in (False, True)
    )
    expected, got = train(eager, corpus, batches), train(step, corpus, batches)
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    assert_same_training(step, eager)
    assert step.captured.n_recordings > 0


def test_the_device_trains_as_the_cpu() -> None:
    corpus, batches = corpus_of(corpora())
    losses = [
        train(train_step("spinn-pi", CONFIG, device=device), corpus, batches) for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-7)


@pytest.mark.parametrize(
    "config",
    [CONFIG, COMPILED, ADAMW, dataclasses.replace(ADAMW, compile=True)],
    ids=["eager", "compiled", "adamw", "compiled adamw"],
)
@pytest.mark.parametrize("kind", SPINN_KINDS)
def test_no_step_waits_for_the_device(kind, config) -> None:
    """From the batch on the CPU to the changed weights."""
    corpus, batches = corpus_of(corpora())
    step = train_step(kind, config, device="cuda")
    train(step, corpus, batches)
    counts = count_rows(corpus, node_labels=False)
    with nothing_may_wait():
        for number, rows in enumerate(batches):
            batch = step.place(step.method.collate(select(corpus, rows), number))
            step([batch], Totals.of(counts[rows], step.device), number, 1e-3)


def test_replays_draw_new_dropout() -> None:
    """One batch, a rate of zero: what differs between two losses is which features were dropped."""
    corpus, batches = corpus_of(corpora())
    step = train_step("spinn-pi", COMPILED, device="cuda")
    step.method.model.mlp.dropout.p = 0.5
    step.warm_up(corpus, batches[0])
    batch = step.method.collate(select(corpus, batches[0]), 0)
    totals = Totals.of(count_rows(corpus, node_labels=False)[batches[0]], step.device)
    losses = [step([step.place(batch)], totals, 0, 0.0).item() for _ in range(4)]
    assert step.captured.n_recordings
    assert len(set(losses)) == 4


def test_a_batch_comes_to_a_captured_step_by_one_copy() -> None:
    """From one buffer in pinned memory, in which it lies already when a step comes to it."""
    corpus, batches = corpus_of(corpora())
    step = train_step("spinn-pi", COMPILED, device="cuda")
    step.warm_up(corpus, batches[0])
    batch = step.pin(step.method.collate(select(corpus, batches[0]), 0))
    tensors = flatten(batch, host=False)
    assert all(tensor.is_pinned() for tensor in tensors)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    assert step.place(batch) is batch


# of Python 3.12 and newer, as in test_feeding
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_feed_captured_steps() -> None:
    """Forked beside a device that is in use; the losses are those of batches made between the steps."""
    corpus, batches = corpus_of(corpora())
    expected = train(train_step("spinn-pi", COMPILED, device="cuda"), corpus, batches)
    step = train_step("spinn-pi", COMPILED, device="cuda")
    step.warm_up(corpus, batches[0])
    counts = count_rows(corpus, node_labels=False)

    def make(numbered: tuple[int, np.ndarray]) -> Feed:
        number, rows = numbered
        return Feed(rows, [step.method.collate(select(corpus, rows), number)], True)

    losses = []
    with feeds_of(make, enumerate(batches), step, 2) as feeds:
        for number, feed in enumerate(feeds):
            totals, rate = (
                Totals.of(counts[feed.rows], step.device),
                learning_rate(step.config, number, epoch=0),
            )
            losses.append(step([step.place(feed.batches[0])], totals, number, rate))
    np.testing.assert_allclose([loss.item() for loss in losses], expected, rtol=1e-8)


@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_evaluation_is_that_of_the_cpu(kind) -> None:
    """Its batches are made ahead, in pinned memory, and its results read one late."""
    model, (corpus, _) = pair_model(kind).double(), corpus_of(corpora())
    expected = evaluate(model, corpus, batch_size=16).loss, predict_logits(model, corpus, batch_size=16)
    model.cuda()
    got = evaluate(model, corpus, batch_size=16).loss, predict_logits(model, corpus, batch_size=16)
    assert got[0] == pytest.approx(expected[0], rel=1e-9)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-5, atol=1e-5)
