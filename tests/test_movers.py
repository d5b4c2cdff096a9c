"""Batches under what moves them in other people's training loops, which know nothing of them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only
from torch.utils.data import DataLoader

from spinn_tensor.batch import TABLE_KINDS, Batch, make_batch
from spinn_tensor.bundles import OnHost, flatten
from spinn_tensor.config import ENCODER_KINDS
from spinn_tensor.data_prep.columns import select
from spinn_tensor.model.classifiers import Model
from spinn_tensor.training.objective import training_loss
from tests.tiny_models import pair_model, some_pairs

N_PAIRS, N_EPOCHS = 10, 2


def lightning(data: Any, device: Any) -> Any:
    """Lightning's `move_data_to_device`: whatever has a method `to`, in tuples, lists and dicts."""
    if callable(getattr(type(data), "to", None)):
        options = {"non_blocking": True} if isinstance(data, Tensor) else {}
        return data.to(torch.device(device), **options)
    return in_collections(data, lambda part: lightning(part, device))


def accelerate(data: Any, device: Any) -> Any:
    """Accelerate's `send_to_device`: the same, with other arguments."""
    if hasattr(data, "to"):
        try:
            return data.to(device, non_blocking=True)
        except TypeError:
            return data.to(device)
    return in_collections(data, lambda part: accelerate(part, device))


def tensors_in_tuples(data: Any, device: Any) -> Any:
    """Move as DistributedDataParallel and Ignite do: all tensors in tuples, named ones, too."""
    if isinstance(data, Tensor):
        return data.to(device)
    return in_collections(data, lambda part: tensors_in_tuples(part, device))


def in_collections(data: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(data, dict):
        return {key: function(part) for key, part in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(function, data))
    return type(data)(map(function, data)) if isinstance(data, tuple | list) else data


MOVERS: dict[str, Callable[[Any, Any], Any]] = {
    "to": lambda batch, device: batch.to(device),
    "to, not blocking": lambda batch, device: batch.to(device, non_blocking=True),
    "Lightning": lightning,
    "Accelerate": accelerate,
    "fields, Lightning": lambda batch, device: Batch(*lightning(tuple(batch), device)),
    "fields, Accelerate": lambda batch, device: Batch(*accelerate(list(batch), device)),
    "in a dict": lambda batch, device: lightning({"batch": [batch]}, device)["batch"][0],
    "tuples": tensors_in_tuples,
    "tree_map": lambda batch, device: tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, batch),
    "tree_map_only": lambda batch, device: tree_map_only(Tensor, lambda t: t.to(device), batch),
    "tree_map of all": lambda batch, device: tree_map(lambda t: t if t is None else t.to(device), batch),
}


def host_parts(bundle: Any) -> Iterator[OnHost]:
    if isinstance(bundle, OnHost):
        yield bundle
    elif isinstance(bundle, tuple):
        for part in bundle:
            yield from host_parts(part)


@pytest.mark.parametrize("share", ["nothing", "states"])
@pytest.mark.parametrize("table_kind", TABLE_KINDS)
@pytest.mark.parametrize("mover", MOVERS)
def test_what_the_host_reads_stays_there(mover: str, table_kind: Any, share: Any) -> None:
    share = share if table_kind in ("forest", "lanes") else "nothing"
    batch = make_batch(some_pairs(), table_kind, share=share)
    moved = MOVERS[mover](batch, "meta")
    assert type(moved) is Batch
    assert {tensor.device.type for tensor in flatten(moved, host=False)} == {"meta"}
    offsets = [part.tolist() for part in host_parts(moved)]
    assert offsets == [part.tolist() for part in host_parts(batch)]
    assert len(offsets) == {"sequence": 1, "own": 2, "forest": 2, "lanes": 3}[table_kind] + (
        share == "states"
    )


@pytest.mark.parametrize("kind", ENCODER_KINDS)
@pytest.mark.parametrize("mover", MOVERS)
def test_a_model_on_another_device_takes_what_was_moved(
    mover: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device without numbers, and without autocast: whatever were read from it would be an error."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    model = pair_model(kind).to("meta")
    logits = model(MOVERS[mover](make_batch(some_pairs(), model.encoder.table_kind), "meta"))
    assert (logits.shape, logits.device.type) == ((5, 3), "meta")


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch))], ids=["copy", "pickle"]
)
def test_a_batch_goes_to_other_processes(copied: Callable[[Batch], Batch]) -> None:
    """As from the workers of a DataLoader."""
    batch = make_batch(some_pairs(), "lanes", share="states")
    found = copied(batch)
    assert [part.tolist() for part in host_parts(found)] == [part.tolist() for part in host_parts(batch)]
    assert_same(flatten(found), flatten(batch))


def loader(kind: Any) -> DataLoader:
    corpus = some_pairs(N_PAIRS)
    return DataLoader(
        range(N_PAIRS), batch_size=4, collate_fn=lambda rows: make_batch(select(corpus, np.array(rows)), kind)
    )


class Module(nn.Module):
    """What a LightningModule is to its trainer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.model = pair_model(kind)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return training_loss(self.model, batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return (self.model(batch).argmax(1) == batch.labels).float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def trained_plainly(kind: str) -> list[Tensor]:
    module = Module(kind)
    optimizer = module.configure_optimizers()
    for _ in range(N_EPOCHS):
        for number, batch in enumerate(loader(module.model.encoder.table_kind)):
            optimizer.zero_grad()
            module.training_step(batch, number).backward()
            optimizer.step()
    return weights(module.model)


def weights(model: Model) -> list[Tensor]:
    return [tensor.detach() for tensor in model.state_dict().values()]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_a_loop_like_lightnings(kind: str) -> None:
    """The trainer owns the loop: it moves batches, and the optimizer calls the step as a closure."""
    module = Module(kind)
    batches = loader(module.model.encoder.table_kind)
    optimizer = module.configure_optimizers()
    for _ in range(N_EPOCHS):
        module.train()
        for number, batch in enumerate(batches):
            moved = lightning(batch, "cpu")

            def closure(moved: Batch = moved, number: int = number) -> Tensor:
                loss = module.training_step(moved, number)
                optimizer.zero_grad()
                loss.backward()
                return loss

            optimizer.step(closure)
        module.eval()
        with torch.no_grad():
            scores = [module.validation_step(lightning(batch, "cpu"), n) for n, batch in enumerate(batches)]
        assert all(0 <= score <= 1 for score in scores)
    assert_same(weights(module.model), trained_plainly(kind))


@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_a_loop_like_accelerates(kind: str) -> None:
    """The loop is one's own: forward is wrapped in autocast, and the loader moves batches one ahead."""
    module = Module(kind)
    optimizer = module.configure_optimizers()
    forward = torch.autocast("cpu", enabled=False)(module.training_step)
    for _ in range(N_EPOCHS):
        moved = [accelerate(batch, torch.device("cpu")) for batch in loader(module.model.encoder.table_kind)]
        for number, batch in enumerate(moved):
            forward(batch, number).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1e9)
            optimizer.step()
            optimizer.zero_grad()
    assert_same(weights(module.model), trained_plainly(kind))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_lightning(kind: str) -> None:
    lightning = pytest.importorskip("pytorch_lightning")

    class LightningModule(Module, lightning.LightningModule):
        pass

    module = LightningModule(kind)
    batches = loader(module.model.encoder.table_kind)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=N_EPOCHS, accelerator="cpu", num_sanity_val_steps=0, enable_model_summary=False, **quiet
    )
    trainer.fit(module, batches, batches)
    assert_same(weights(module.model), trained_plainly(kind))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_accelerate(kind: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    module = Module(kind)
    batches = loader(module.model.encoder.table_kind)
    model, optimizer, batches = accelerator.prepare(module.model, module.configure_optimizers(), batches)
    for _ in range(N_EPOCHS):
        for batch in batches:
            with accelerator.accumulate(model):
                accelerator.backward(training_loss(model, batch))
                optimizer.step()
                optimizer.zero_grad()
    assert_same(weights(accelerator.unwrap_model(model)), trained_plainly(kind))
