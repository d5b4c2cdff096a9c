"""Models of other cells than the TreeLSTM, exported: a cell that traces is in the loop, any other is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spinn_tensor.export.interface import ExportError, describe
from spinn_tensor.export.job import write_artefact
from spinn_tensor.export.parity import compare, random_cases
from spinn_tensor.export.scripts import script
from tests.any_cells import RunningMean
from tests.contract import Artefact, ArtefactContract
from tests.tiny_models import exports_lanes, tiny_model

pytestmark = pytest.mark.numerical


class Wide(nn.Module):
    """Compose states wider than their encodings, by a layer whose weight is also read, dropout and a buffer."""

    def __init__(self, hidden_dim: int, tracker_dim: int | None) -> None:
        super().__init__()
        self.state_dim, self.output_dim = hidden_dim + 1, hidden_dim
        self.layer = nn.Linear(2 * self.state_dim + (tracker_dim or 0), self.state_dim, bias=False)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("factor", torch.tensor(0.75), persistent=False)

    def forward(self, left: Tensor, right: Tensor, *tracker: Tensor) -> Tensor:
        of_right = right @ self.layer.weight[:, : self.state_dim]
        return self.factor * self.drop(self.layer(torch.cat((left, right, *tracker), 1)) + of_right).tanh()


class Choosy(Wide):
    """A cell that looks at its numbers before it says what to do."""

    def forward(self, left: Tensor, right: Tensor, *tracker: Tensor) -> Tensor:
        return left if left.sum() > 0 else right


class Attending(Wide):
    """A cell by torch's attention, which asks whether there is one row."""

    def __init__(self, hidden_dim: int, tracker_dim: int | None) -> None:
        super().__init__(hidden_dim, tracker_dim)
        self.attention = nn.MultiheadAttention(self.state_dim, 1, batch_first=True)

    def forward(self, left: Tensor, right: Tensor, *tracker: Tensor) -> Tensor:
        pair = torch.stack((left, right), 1)
        return self.attention(pair, pair, pair)[0].sum(1)


class Asking(Wide):
    """A cell by torch's function of attention, which does not ask."""

    def forward(self, left: Tensor, right: Tensor, *tracker: Tensor) -> Tensor:
        pair = torch.stack((left, right), 1)
        return nn.functional.scaled_dot_product_attention(pair, pair, pair).mean(1)


class Noisy(Wide):
    """A cell that draws random numbers in evaluation, too."""

    def forward(self, left: Tensor, right: Tensor, *tracker: Tensor) -> Tensor:
        return left + torch.randn_like(right)


TABLES = {"spinn": "own", "spinn-pi": "given", "spinn-pi-nt": "forest"}
WIDE = f"{__name__}:Wide"
# form, kind, cell
FILES: list = [
    ("onnx", "spinn-pi", WIDE),
    ("torchscript", "spinn", "grc"),
    ("torchscript", "spinn-pi", WIDE),
    ("torchscript", "spinn-pi-nt", "tree-gru"),
    ("pt2", "spinn-pi-nt", "grc"),
    pytest.param(("pt2", "spinn", WIDE), marks=[exports_lanes, pytest.mark.slow]),
    pytest.param(("onnx", "spinn", "grc"), marks=pytest.mark.slow),  # below in single precision
    pytest.param(("onnx", "spinn", "rntn"), marks=pytest.mark.slow),
    pytest.param(("onnx", "spinn-pi-nt", "rntn"), marks=pytest.mark.slow),
    pytest.param(("onnx", "spinn-pi", "sum"), marks=pytest.mark.slow),
]


def export(model, form: str, path: Path):
    """Write a model; return what runs it."""
    if form.startswith("onnx"):
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    return write_artefact(model, path, describe(model, form))


@pytest.fixture(scope="module", params=FILES, ids=str)
def artefact(request, tmp_path_factory) -> Artefact:
    """Give files in double precision."""
    form, kind, cell = request.param
    model = tiny_model("pair", kind, cell=cell).double()
    path = tmp_path_factory.mktemp("cell") / "model"
    return Artefact(model, TABLES[kind], export(model, form, path), path)


@pytest.mark.once
class TestFiles(ArtefactContract):
    """Expect the formats to say what a model of each of these cells says."""


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_grc_in_single_precision(form: str, tmp_path: Path) -> None:
    model = tiny_model("pair", "spinn", cell="grc")
    report = compare(model, export(model, form, tmp_path / "model"), random_cases(model))
    assert report.largest_difference < 1e-5


@pytest.mark.parametrize("precision, most", [("float16", 0.02), ("int8", 0.3)])
def test_linear_layers_of_a_cell_are_products_of_the_precision(
    precision: str, most: float, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    model = tiny_model("sentence", "spinn-pi", cell="grc", hidden_dim=64)
    form = {"float16": "onnx-fp16", "int8": "onnx-int8"}[precision]
    run = export(model, form, tmp_path / "model")
    assert 1e-5 < compare(model, run, random_cases(model, batch_sizes=(3,))).largest_difference < most
    tensors = onnx.load(tmp_path / "model").graph.initializer
    types = {tensor.data_type for tensor in tensors if len(tensor.dims) == 2 and min(tensor.dims) >= 64}
    assert types == {onnx.TensorProto.DataType.Value(precision.upper())}


@pytest.mark.parametrize("kind", TABLES)
def test_a_cell_that_does_not_trace_is_refused(kind: str) -> None:
    model = tiny_model("pair", kind, cell=f"{__name__}:Choosy")
    message = (
        r"cell '\S+:Choosy' is not exported: torch.export cannot trace it for any number n of states \(Could"
    )
    with pytest.raises(ExportError, match=message) as error:
        script(model, describe(model))
    assert "\n" not in str(error.value)


def test_what_a_cell_asked_of_the_number_of_states_is_told(tmp_path: Path) -> None:
    model = tiny_model("pair", "spinn-pi", cell=f"{__name__}:Attending")
    with pytest.raises(ExportError, match=r"\(Not all values of n = .* satisfy the generated guard .* != 1"):
        script(model, describe(model))
    model = tiny_model("pair", "spinn-pi", cell=f"{__name__}:Asking")
    report = compare(model, export(model, "torchscript", tmp_path / "model"), random_cases(model))
    assert report.largest_difference < 1e-5


def test_a_cell_that_draws_and_a_tracker_of_ones_own_are_refused() -> None:
    model = tiny_model("pair", "spinn-pi", cell=f"{__name__}:Noisy")
    with pytest.raises(ExportError, match="nondeterministic"):
        script(model, describe(model))
    model.encoder.composer.tracker = RunningMean(9)
    with pytest.raises(ExportError, match="tracker RunningMean is not exported, only Tracker is"):
        describe(model)
