"""What inductor generates for an H100 where there is no GPU: traced on the CPU, devices replaced, properties said.

It takes Triton, whose kernels are written but not compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from functorch.compile import make_boxed_func
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.replace_random import replace_random_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.virtualized import V
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from tests.fake_cuda import CUDA, fake_cuda

SIZES = {
    "multi_processor_count": 132,
    "regs_per_multiprocessor": 65_536,
    "max_threads_per_multi_processor": 2_048,
    "warp_size": 32,
}


@contextmanager
def collected() -> Iterator[list[fx.GraphModule]]:
    """The graphs that inductor would get of what is compiled, inside; sizes are those of the first call."""
    graphs: list[fx.GraphModule] = []
    compiled = torch.compile

    def keep(graph: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep, decompositions=select_decomp_table())
    with mock.patch(
        "torch.compile", lambda function, **_: compiled(function, fullgraph=True, backend=backend)
    ):
        yield graphs


def code_for_an_h100(graph: fx.GraphModule) -> str:
    """Generate the code of a graph whose tensors are all on the device.

    (The offsets of steps are not, but only the operators look at them.)
    """
    import triton
    from triton.backends.compiler import GPUTarget

    driver = mock.Mock()
    driver.get_current_target.return_value = GPUTarget("cuda", 90, 32)
    driver.get_current_device.return_value = 0
    properties = mock.Mock(major=9, minor=0, gcnArchName="", shared_memory_per_block_optin=232_448, **SIZES)
    h100 = DeviceProperties(type="cuda", index=0, cc=90, major=9, **SIZES)
    answers = {
        "torch._inductor.scheduler.has_triton": True,
        "torch.cuda.is_available": True,
        "torch.cuda.get_device_properties": properties,
        "torch.cuda.get_device_capability": (9, 0),
        "torch.cuda.current_device": 0,
        "torch._inductor.runtime.hints.DeviceProperties.create": h100,
    }
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(triton.runtime.driver, "_active", driver))
        for name, answer in answers.items():
            stack.enter_context(mock.patch(name, return_value=answer))
        stack.enter_context(fake_cuda())
        inputs = _moved(graph)
        mode = torch.empty(0, device=CUDA).fake_mode  # type: ignore[attr-defined]
        stack.enter_context(V.set_fake_mode(mode))
        FakeTensorProp(graph, mode).propagate_dont_convert_inputs(*inputs)
        replace_random_passes(graph)
        lowering = GraphLowering(graph, example_inputs=inputs)
        stack.enter_context(V.set_graph_handler(lowering))
        stack.enter_context(DebugContext())
        lowering.run(*inputs)
        code, _ = lowering.codegen()
    return getattr(code, "value", code)


def _moved(graph: fx.GraphModule) -> list[Any]:
    """Bring a graph to the device; return what it would be called with."""
    inputs = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            if isinstance(value, Tensor):
                sizes = tuple(map(int, value.shape)), tuple(map(int, value.stride()))
                value = torch.empty_strided(*sizes, dtype=value.dtype, device=CUDA)
            inputs.append(value)
        elif "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": CUDA}
    graph.recompile()
    return inputs
