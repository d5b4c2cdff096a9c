"""Two models of a Triton Inference Server repository, and their check against Triton's schema and the ONNX file.

    NAME/config.pbtxt        inputs and outputs, batching
    NAME/1/model.onnx        version 1
    NAME/1/parser/           of a model that takes given trees: what makes them for text, where there is one
    NAME/labels.txt          names of the classes, in the order of the logits
    NAME/tokenizer.json      text to ids, for the text front and for clients
    NAME/export.json         for the text front, and for clients that read the folder with `OnnxPredictor`
    NAME_text/config.pbtxt   the text front: strings in, labels and trees out
    NAME_text/1/model.py     imports `triton_text`, which opens NAME
    NAME_text/labels.txt     the same

Triton joins the requests of several clients to one batch where all their tensors have the same shape, and it does not
pad: clients pad sentences to a common length, such as the next multiple of 8. A client's tensors begin with the batch.
Lengths are (batch, 1), since Triton has no tensor of no axis; the model gets them as (batch,). A forest's schedule is
one of a whole batch, which cannot be joined to another: there a request is a batch, and its tensors are the graph's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spinn_tensor.export.artefact import ArtefactError, Exported, sides_of

CONFIG, LABELS, VERSION = "config.pbtxt", "labels.txt", "1"
FRONT = "_text"  # what the name of a model's text front ends in
FRONT_MODEL = f"{VERSION}/model.py"
FRONT_CODE = "from spinn_tensor.export.triton_text import TritonPythonModel  # noqa: F401\n"
EXPORTED = "exported"  # the parameter of a text front that names its model
MAX_BATCH = 256  # requests that Triton joins
DYNAMIC_BATCHING = [
    "dynamic_batching {",
    "  max_queue_delay_microseconds: 500",  # that a request may wait for others
    "  preserve_ordering: true",
    "}",
]


def write_repository_files(
    folder: Path,  # NAME, which holds 1/model.onnx
    name: str,
    exported: Exported,
) -> None:
    """Write config.pbtxt and labels.txt."""
    is_batched = exported.tables != "forest"
    sizes = {"classes": len(exported.labels), "hidden": exported.hidden_dim}
    lines = []
    for what, tensors in (("input", exported.inputs), ("output", exported.outputs)):
        for key, axes in tensors.items():
            is_number = what == "output" and not key.endswith("transitions")
            dims = [sizes.get(axis, -1) for axis in axes[is_batched:]]
            lines += _tensor(what, key, "TYPE_FP32" if is_number else "TYPE_INT64", dims)
    if is_batched:
        lines += DYNAMIC_BATCHING
    _write(folder, name, "onnxruntime", lines, exported, MAX_BATCH if is_batched else 0)


def write_front(
    folder: Path,  # NAME_text, which is empty
    name: str,  # NAME
    exported: Exported,
) -> None:
    """Write the text front; `triton_text` says what its tensors are."""
    n_sides = len(sides_of(exported.task))
    lines = _tensor("input", "text", "TYPE_STRING", [n_sides])
    if exported.labels:
        lines += _tensor("output", "label", "TYPE_STRING", [1])
        lines += _tensor("output", "probabilities", "TYPE_FP32", [len(exported.labels)])
    if exported.tables != "sequence":
        lines += _tensor("output", "tree", "TYPE_STRING", [n_sides])
    lines += [
        *DYNAMIC_BATCHING,
        "instance_group {",  # of Triton's own accord one a GPU
        "  count: 1",
        "  kind: KIND_CPU",
        "}",
    ]
    lines += ["parameters {", f'  key: "{EXPORTED}"', f'  value {{ string_value: "{name}" }}', "}"]
    _write(folder, name + FRONT, "python", lines, exported, MAX_BATCH)
    (folder / FRONT_MODEL).parent.mkdir()
    (folder / FRONT_MODEL).write_text(FRONT_CODE, encoding="utf-8")


def has_triton_schema() -> bool:
    """Tell whether tritonclient is installed, whose schema `check_repository` reads config.pbtxt by."""
    try:
        from tritonclient.grpc import model_config_pb2  # noqa: F401
    except ImportError:
        return False
    return True


def check_repository(
    folder: Path,  # NAME
    name: str,
) -> None:
    """Raise ArtefactError unless config.pbtxt is one by Triton's schema and fits the ONNX file and the labels."""
    config = _config_of(folder, name, "onnxruntime")
    import onnx

    graph = onnx.load(folder / VERSION / "model.onnx", load_external_data=False).graph
    for what, said, real in (("input", config.input, graph.input), ("output", config.output, graph.output)):
        said_by_name, real_by_name = ({item.name: item for item in items} for items in (said, real))
        for missing in sorted(said_by_name.keys() ^ real_by_name.keys()):
            where = "config.pbtxt" if missing in real_by_name else "model.onnx"
            raise ArtefactError(f"{folder}: {what} {missing!r} is not in {where}")
        for key, item in said_by_name.items():
            _check_tensor(
                f"{folder / CONFIG}: {what} {key!r}", item, real_by_name[key], config.max_batch_size
            )
            if what == "output" and item.label_filename:
                _check_labels(folder / item.label_filename, int(item.dims[-1]))


def check_front(
    folder: Path,  # NAME_text
    name: str,  # NAME
) -> None:
    """Raise ArtefactError unless the text front's config.pbtxt is one by Triton's schema and fits the labels."""
    for output in _config_of(folder, name + FRONT, "python").output:
        if output.label_filename:
            _check_labels(folder / output.label_filename, int(output.dims[-1]))


def _write(
    folder: Path,
    name: str,
    backend: str,
    lines: list[str],  # of config.pbtxt, beside those that all models have
    exported: Exported,
    max_batch_size: int,  # 0 = requests are not joined
) -> None:
    lines = [f'name: "{name}"', f'backend: "{backend}"', f"max_batch_size: {max_batch_size}", *lines]
    for path, of_file in ((folder / CONFIG, lines), (folder / LABELS, exported.labels)):
        path.write_text("".join(f"{line}\n" for line in of_file), encoding="utf-8")


def _tensor(
    what: str,  # "input" or "output"
    name: str,
    data_type: str,
    dims: list[int],  # the batch's left out where there is one; -1 = any size
) -> list[str]:
    lines = [f"{what} {{", f'  name: "{name}"', f"  data_type: {data_type}"]
    # Triton has no tensor of no axis
    lines += [f"  dims: [ {', '.join(map(str, dims or [1]))} ]"]
    if not dims:
        lines += ["  reshape { shape: [ ] }"]
    if name in ("logits", "probabilities"):
        lines += [f'  label_filename: "{LABELS}"']
    return [*lines, "}"]


def _config_of(folder: Path, name: str, backend: str) -> Any:
    """Read config.pbtxt. Raises ArtefactError unless it is one by Triton's schema, of this name and backend."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    path = folder / CONFIG
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ArtefactError(f"{path}: not Triton's model configuration ({error})") from error
    if config.name != name:
        raise ArtefactError(f"{path}: name is {config.name!r}, its folder's is {name!r}")
    if config.backend != backend:
        raise ArtefactError(f"{path}: backend is {config.backend!r}, expected {backend!r}")
    return config


def _check_tensor(place: str, said: Any, real: Any, max_batch_size: int) -> None:
    """Check `said`, a ModelInput or ModelOutput of Triton, against `real`, a ValueInfoProto of ONNX."""
    import onnx
    from tritonclient.grpc import model_config_pb2

    elements = {onnx.TensorProto.INT64: "TYPE_INT64", onnx.TensorProto.FLOAT: "TYPE_FP32"}
    data_type = model_config_pb2.DataType.Name(said.data_type)
    if elements.get(real.type.tensor_type.elem_type) != data_type:
        raise ArtefactError(f"{place}: {data_type} is not the type in model.onnx")
    dims = [*said.reshape.shape] if said.HasField("reshape") else [*said.dims]
    expected = [-1, *dims] if max_batch_size else dims
    axes = real.type.tensor_type.shape.dim
    shape = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in axes]
    fits = len(shape) == len(expected) and all(
        size in (-1, dim) for size, dim in zip(shape, expected, strict=True)
    )
    if not fits:
        raise ArtefactError(f"{place}: shape {expected}, model.onnx has {shape}")


def _check_labels(path: Path, n_classes: int) -> None:
    labels = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if len(labels) != n_classes:
        raise ArtefactError(f"{path}: {len(labels)} labels for {n_classes} classes")
