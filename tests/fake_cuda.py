"""Tensors that say they are on CUDA where there is no GPU: they have shape, type and device, and no numbers.

What mixes devices raises, and so does whatever would read a number of the device on the host. There is no autograd: a
torch without CUDA ends the process where it would look for the device of a gradient.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from spinn_tensor.machine.choice import VARIABLE

CUDA = torch.device("cuda", 0)
ANSWERS = {  # of what is asked of CUDA
    "torch.cuda.amp.common.amp_definitely_not_available": False,
    "torch.cuda.is_bf16_supported": True,
    "torch.cuda._exchange_device": 0,
    "torch.cuda._maybe_exchange_device": 0,
}


def on_fake_cuda(tensor: Tensor) -> Tensor:
    """Return a tensor like this one on the device. To be called under `fake_cuda`."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Make new tensors fake, inside; those that were there before stay what they are, on the CPU."""
    methods = {
        "tolist": _of_the_host(Tensor.tolist),
        "diff": _of_the_host(Tensor.diff),
        "copy_": lambda tensor, source, non_blocking=False: torch.ops.aten.copy_(
            tensor, source, non_blocking
        ),
        "contiguous": lambda tensor: (
            tensor if tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)
        ),
        "__invert__": lambda tensor: torch.bitwise_not(tensor),
        "__getitem__": _part,
        "__setitem__": lambda tensor, key, value: _assign(_part(tensor, key), value),
    }
    with ExitStack() as stack:
        for name, method in methods.items():
            stack.enter_context(mock.patch.object(Tensor, name, method))
        for name, answer in ANSWERS.items():
            stack.enter_context(mock.patch(name, return_value=answer))
        stack.enter_context(mock.patch.dict(os.environ, {VARIABLE: "off"}))  # kernels would want numbers
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(torch._C._AutoDispatchBelowAutograd())
        yield


def _of_the_host(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let the machine read its offsets, which are on the host and no fake tensors."""

    def call(tensor: Tensor, **options: Any) -> Any:
        if isinstance(tensor, FakeTensor):
            return method(tensor, **options)  # which raises if it reads
        with unset_fake_temporarily():
            return method(tensor, **options)

    return call


def _part(tensor: Tensor, key: Any) -> Tensor:
    """Index by whole numbers and slices; torch's own way looks for the device."""
    dim = 0
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, slice):
            start, stop, step = part.indices(tensor.shape[dim])
            tensor = torch.ops.aten.slice(tensor, dim, start, max(start, stop), step)
            dim += 1
        else:
            tensor = torch.ops.aten.select(tensor, dim, part)
    return tensor


def _assign(part: Tensor, value: Any) -> None:
    if isinstance(value, Tensor):
        part.copy_(value)
    elif not part.shape:  # where torch makes a tensor on the host of the number, and copies it
        raise RuntimeError("a number assigned to one element is a copy from the host; use fill_")
    else:
        part.fill_(value)


def module_on_fake_cuda(module: torch.nn.Module) -> None:
    """Give a module weights and statistics on the device, without gradients. To be called under `fake_cuda`."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = on_fake_cuda(tensor)  # type: ignore[assignment]
