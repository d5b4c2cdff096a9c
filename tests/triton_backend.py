"""A text front in a server: what Triton and its Python backend do around `TritonPythonModel`, and what that may use.

After `triton_python_backend_utils.py` and `pb_stub.cc` of github.com/triton-inference-server/python_backend: strings
come and go as bytes, a response holds what was asked for, and each output is as config.pbtxt has it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype


class TritonError(NamedTuple):
    message: str
    code: int
    INVALID_ARG = 3


class Tensor(NamedTuple):
    key: str
    array: np.ndarray

    def as_numpy(self) -> np.ndarray:
        return self.array


class Request(NamedTuple):
    text: Tensor
    asked: set[str]

    def requested_output_names(self) -> set[str]:
        return self.asked


class Response(NamedTuple):
    output_tensors: list[Tensor] | None = None
    error: TritonError | None = None


def on_the_wire(array: np.ndarray) -> np.ndarray:
    return deserialize_bytes_tensor(serialize_byte_tensor(array).item()).reshape(array.shape)


def tensor_of(request: Request, name: str) -> Tensor | None:
    return request.text if name == request.text.key else None


PB_UTILS = SimpleNamespace(
    Tensor=Tensor, TritonError=TritonError, InferenceResponse=Response, get_input_tensor_by_name=tensor_of
)


class Front:
    """Loads a front's folder, and asks it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", PB_UTILS)  # type: ignore[arg-type]
        text = (folder / "config.pbtxt").read_text(encoding="utf-8")
        self.config = text_format.Parse(text, model_config_pb2.ModelConfig())
        spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
        self.model = module.TritonPythonModel()
        config = json_format.MessageToJson(self.config, preserving_proto_field_name=True)
        names = {"model_repository": str(folder), "model_version": "1", "model_name": folder.name}
        kind = {"model_instance_kind": "CPU", "model_instance_device_id": "0"}
        self.model.initialize({"model_config": config, **names, **kind})

    def ask(
        self, *calls: list[list[Any]], asked: set[str] | None = None
    ) -> list[dict[str, Any] | TritonError]:
        """Return the outputs of each request, or its error; None asks for all outputs."""
        asked = asked or {output.name for output in self.config.output}
        texts = [Tensor("text", on_the_wire(np.array(rows, dtype=object))) for rows in calls]
        responses = self.model.execute([Request(text, asked) for text in texts])
        return [
            response.error or self._received(response, len(rows), asked)
            for response, rows in zip(responses, calls, strict=True)
        ]

    def _received(self, response: Response, n: int, asked: set[str]) -> dict[str, Any]:
        sent, received = {tensor.key: tensor.array for tensor in response.output_tensors or ()}, {}
        for output in self.config.output:
            if output.name in asked:
                array = sent[output.name]
                name = model_config_pb2.DataType.Name(output.data_type).removeprefix("TYPE_")
                assert array.dtype == triton_to_np_dtype("BYTES" if name == "STRING" else name)
                assert array.shape == (n, *output.dims)
                received[output.name] = on_the_wire(array) if name == "STRING" else array
        return received
