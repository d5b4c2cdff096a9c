"""The text front of a model in a Triton repository, by Triton's Python backend: strings in, labels and trees out.

    text            (B, 1) sentences or (B, 2) premises and hypotheses, in UTF-8: text or trees, see `data_prep.text`
    label           (B, 1), of a classifier
    probabilities   (B, C) float32, of a classifier, in the order of labels.txt
    tree            (B, 1) or (B, 2) binary parses, of a model that looks at trees

Triton hands over all requests that wait. They run as one, whatever the lengths of their sentences; what none of them
asks for is not computed, and one with a sentence that cannot be used fails alone. The model is read from the folder
beside the front's by `OnnxPredictor`, which takes numpy, onnxruntime and tokenizers in Triton's Python, and no torch.

The API is https://github.com/triton-inference-server/python_backend#usage.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from spinn_tensor.data_prep.errors import DataError, DataWarning
from spinn_tensor.data_prep.text import Words
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.export.predictor import OnnxPredictor
from spinn_tensor.export.triton import EXPORTED

Example = list[Tree | Words]  # a sentence, or a premise and its hypothesis


class TritonPythonModel:
    """Answer requests for labels and trees of text. Triton finds the class and its methods by their names."""

    def initialize(
        self,
        args: dict[str, str],
    ) -> None:
        """Open the model that `args`, Triton's description of the front, names. Raises as `OnnxPredictor`."""
        # of unknown words: in this process, which is the front's alone
        warnings.simplefilter("ignore", DataWarning)
        name = json.loads(args["model_config"])["parameters"][EXPORTED]["string_value"]
        provider = "cuda" if args["model_instance_kind"] == "GPU" else "cpu"
        self._predictor = OnnxPredictor(Path(args["model_repository"]).parent / name, provider)

    def execute(
        self,
        requests: list[Any],  # pb_utils.InferenceRequest
    ) -> list[Any]:  # pb_utils.InferenceResponse
        """Return the response to each request: outputs, or what is wrong with its first sentence that has a fault."""
        import triton_python_backend_utils as pb_utils  # which only Triton's processes have

        read = [
            self._read(pb_utils.get_input_tensor_by_name(request, "text").as_numpy()) for request in requests
        ]
        examples = [example for one in read if not isinstance(one, DataError) for example in one]
        asked = {name for request in requests for name in request.requested_output_names()}
        outputs = self._outputs(examples, asked) if examples else {}
        responses, start = [], 0
        for one in read:
            if isinstance(one, DataError):
                error = pb_utils.TritonError(str(one), pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=error))
                continue
            rows = slice(start, start + len(one))
            tensors = [pb_utils.Tensor(name, values[rows]) for name, values in outputs.items()]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
            start = rows.stop
        return responses

    def _read(
        self,
        texts: np.ndarray,  # (B, 1) or (B, 2) bytes
    ) -> list[Example] | DataError:
        names = ("premise", "hypothesis") if self._predictor.task == "pair" else ("text",)
        examples = []
        for row, sentences in enumerate(texts.tolist()):
            try:
                examples.append(
                    [
                        self._predictor.read(_decoded(sentence, name), name)
                        for sentence, name in zip(sentences, names, strict=True)
                    ]
                )
            except DataError as error:
                return error.at(example=row)
        return examples

    def _outputs(self, examples: list[Example], asked: set[str]) -> dict[str, np.ndarray]:  # (n, ...) each
        sides = [list(side) for side in zip(*examples, strict=True)]
        outputs = {}
        if asked & {"label", "probabilities"}:
            predictions = self._predictor.classify(*sides)
            outputs["label"] = np.array([[one.label] for one in predictions], dtype=object)
            probabilities = [list(one.probabilities.values()) for one in predictions]
            outputs["probabilities"] = np.array(probabilities, dtype=np.float32)
        if "tree" in asked:  # side after side, as `classify` takes them, so that random trees are the same
            trees = self._predictor.parse([sentence for side in sides for sentence in side])
            outputs["tree"] = np.array(trees, dtype=object).reshape(len(sides), -1).T.copy()
        return outputs


def _decoded(text: bytes, name: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error})", field=name) from None
