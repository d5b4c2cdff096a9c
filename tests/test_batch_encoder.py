"""A function from batches to batches, as `datasets.map`, Ray Data and Spark call it."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

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


IN_PROCESSES = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("n_processes", [None, pytest.param(2, marks=IN_PROCESSES)])
def test_a_dataset_is_mapped(n_processes, bundle) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"sentence": TEXTS * 4})
    encoder = BatchEncoder(bundle, device="cpu")
    mapped = data.map(encoder, batched=True, batch_size=3, num_proc=n_processes, keep_in_memory=True)
    expected = Pipeline.from_pretrained(bundle, device="cpu").encode(TEXTS * 4)
    assert list(mapped["sentence"]) == TEXTS * 4
    assert_close(np.array(mapped["encoding"], dtype=np.float32), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_goes_on_when_a_worker_is_killed(bundle, tmp_path) -> None:
    """Two actors, of which one is killed over its first batch: it is started again, and no row is lost or double."""
    ray = pytest.importorskip("ray")

    class DiesOnce(BatchEncoder):
        def __init__(self, folder: Path, notes: Path) -> None:
            super().__init__(folder, device="cpu")
            self.notes = notes
            (notes / f"started-{os.getpid()}").touch()

        def __call__(self, batch: Any) -> dict[str, Any]:
            try:
                (self.notes / "killed").touch(exist_ok=False)
            except FileExistsError:
                return super().__call__(batch)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("it lives")

    texts = [f"{text} {number}" for number, text in enumerate(TEXTS * 8)]
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        rows = ray.data.from_items([{"sentence": text, "id": n} for n, text in enumerate(texts)])
        encoded = rows.repartition(8).map_batches(
            DiesOnce, fn_constructor_args=(bundle, tmp_path), concurrency=2, batch_size=5, num_cpus=0.5
        )
        found = sorted(encoded.take_all(), key=lambda row: row["id"])
    finally:
        ray.shutdown()
    assert (tmp_path / "killed").exists()
    assert len(list(tmp_path.glob("started-*"))) >= 3
    assert [row["sentence"] for row in found] == texts
    expected = BatchEncoder(bundle, device="cpu")({"sentence": texts})["encoding"]
    assert_close(np.stack([row["encoding"] for row in found]), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs java")
def test_spark_maps_frames_of_pandas(bundle, monkeypatch) -> None:
    sql = pytest.importorskip("pyspark.sql")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    folder = str(bundle)

    def encode(frames: Any) -> Any:
        encoder = BatchEncoder(folder, device="cpu")
        for frame in frames:
            yield frame.assign(encoding=list(encoder(frame)["encoding"]))

    session = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        rows = session.createDataFrame(list(enumerate(TEXTS * 4)), "id long, sentence string").repartition(3)
        made = rows.mapInPandas(encode, "id long, sentence string, encoding array<float>").collect()
    finally:
        session.stop()
    made.sort(key=lambda row: row["id"])
    assert [row["sentence"] for row in made] == TEXTS * 4
    expected = BatchEncoder(bundle, device="cpu")({"sentence": TEXTS * 4})["encoding"]
    assert_close(np.array([row["encoding"] for row in made], dtype=np.float32), expected)
