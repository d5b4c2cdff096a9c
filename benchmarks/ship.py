"""Write a trained model as one of those that come with the package."""

from __future__ import annotations

from pathlib import Path

from spinn_tensor.bundle import write_bundle
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.hub import WEIGHTS
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.tensor_files import read_tensors, write_tensors


def ship(run: Path, folder: Path) -> None:
    """Write the best checkpoint of a run without the paths of this machine, its word vectors as float16."""
    if not run.is_dir():
        raise DataError("the run to ship is gone; without its row in the results it is done again", path=run)
    model = load_checkpoint(run).model
    assert model.provenance is not None  # of what was loaded
    write_bundle(folder, model, model.provenance, license="cc-by-sa-4.0", names_folders=False)
    tensors = read_tensors(folder / WEIGHTS)
    write_tensors(folder / WEIGHTS, {n: t.half() if "embedding" in n else t for n, t in tensors.items()})
