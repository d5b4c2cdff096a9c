"""A function from batches to batches, as `datasets.map`, Ray Data and Spark call it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from spinn_tensor import BatchEncoder, Pipeline
from tests.closeness import assert_close
from tests.tiny_bundles import TEXTS, tiny_bundle

pytestmark = pytest.mark.numerical


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", "spinn", "sentence")


def test_a_batch_gets_a_column_of_encodings(bundle) -> None:
    encoder = BatchEncoder(bundle, column="text", output="vector", device="cpu")
    batch = {"text": TEXTS, "id": np.arange(len(TEXTS))}
    made = encoder(batch)
    assert list(made) == ["text", "id", "vector"]
    assert batch.keys() == {"text", "id"}
    expected = Pipeline.from_pretrained(bundle, device="cpu").encode(TEXTS)
    assert made["vector"].dtype == np.float32
    assert_close(made["vector"], expected)


def test_a_pickle_holds_no_model(bundle) -> None:
    encoder = BatchEncoder(bundle, device="cpu")
    before = pickle.dumps(encoder)
    expected = encoder({"sentence": TEXTS})["encoding"]
    assert pickle.dumps(encoder) == before
    np.testing.assert_array_equal(pickle.loads(before)({"sentence": TEXTS})["encoding"], expected)


def test_a_dataset_is_mapped(bundle) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"sentence": TEXTS})
    mapped = data.map(BatchEncoder(bundle, device="cpu"), batched=True, batch_size=2, keep_in_memory=True)
    expected = Pipeline.from_pretrained(bundle, device="cpu").encode(TEXTS)
    assert mapped["sentence"] == TEXTS or list(mapped["sentence"]) == TEXTS
    assert_close(np.array(mapped["encoding"], dtype=np.float32), expected)
