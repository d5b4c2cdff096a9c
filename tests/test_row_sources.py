"""Rows of Arrow, of `datasets`, of the hub and of Python objects: names of classes, and what is said of bad ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather

from spinn_tensor.data_prep.corpora.formats import (
    LabelNames,
    PairFields,
    PairFormat,
    SentenceFormat,
    named_fields,
)
from spinn_tensor.data_prep.corpora.read import read_examples_as_columns
from spinn_tensor.data_prep.corpora.store import sha256_of
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.vocabulary import WordList
from spinn_tensor.training.config import DataConfig
from tests.records import AS_TEXT, READER, records_in

CLASSES = datasets.ClassLabel(names=["neg", "pos"])
LABELLED = datasets.Dataset.from_dict(
    {"text": ["a", "b", "c", "d"], "label": [1, 0, -1, None]},
    features=datasets.Features({"text": datasets.Value("string"), "label": CLASSES}),
)


def sources_of_classes(folder: Path) -> dict[str, Any]:
    LABELLED.save_to_disk(str(folder / "saved"))
    LABELLED.to_parquet(folder / "a.parquet")
    datasets.DatasetDict({"train": LABELLED}).save_to_disk(str(folder / "several"))
    return {
        "folder": folder / "saved",
        "parquet": folder / "a.parquet",
        "object": LABELLED,
        "stream": LABELLED.to_iterable_dataset(),
        "arrow table": LABELLED.data.table,
        "of several": folder / "several" / "train",
        "a selection": LABELLED.select(range(4)),
    }


def test_names_of_classes(tmp_path: Path) -> None:
    sources = sources_of_classes(tmp_path)
    for name, source in sources.items():
        assert [record["label"] for record in records_in(source)] == ["pos", "neg", None, None], name
    assert sha256_of(tmp_path / "saved") != sha256_of(tmp_path / "several")
    with pytest.raises(DataError, match="several: holds several datasets, train: name one"):
        records_in(tmp_path / "several")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none: a folder, expected a file$"):
        records_in(tmp_path / "none")
    (tmp_path / "none" / "train-00000-of-00002.parquet").touch()
    with pytest.raises(DataError, match=r"none: a folder, expected a file; name those in it$"):
        records_in(tmp_path / "none")


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the network: what is asked of `datasets` comes from a folder."""
    asked: list[Any] = []

    def load(*names: Any, **options: Any) -> datasets.Dataset:
        asked.append((*names, options))
        if "nobody/none" in names:
            raise ConnectionError("no network\nhere")
        return LABELLED

    monkeypatch.setattr(datasets, "load_dataset", load)
    for name in ("hf://glue/sst2:train", "hf://owner/name/some.config:validation", Path("hf://imdb:test")):
        assert len(records_in(name)) == 4
    assert asked == [
        ("glue/sst2", None, {"split": "train"}),
        ("owner/name", "some.config", {"split": "validation"}),
        ("imdb", None, {"split": "test"}),
    ]
    with pytest.raises(DataError, match=r"hf:/+nobody/none:train: cannot be loaded: no network$"):
        records_in("hf://nobody/none:train")
    with pytest.raises(DataError, match="expected hf://NAME:SPLIT"):
        records_in("hf://owner/name")
    data = DataConfig(corpus="pairs", train=("hf://imdb:train", "a.csv"), dev=("hf://imdb:test",))
    absolute = data.with_absolute_paths()
    assert absolute.train == ("hf://imdb:train", os.path.abspath("a.csv"))
    assert len(sha256_of(Path("hf://imdb:test"))) == 64


FRAME = pd.DataFrame(
    {"sentence1": ["( a b )", None], "sentence2": ["c", "d"], "label": [1.0, float("nan")], "pairID": [7, 8]}
)
OBJECTS: dict[str, Any] = {
    "pandas": FRAME,
    "pandas, of categories": FRAME.astype({"label": "category"}),
    "pandas of Arrow": FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "dicts": FRAME.astype(object).where(FRAME.notna(), None).to_dict("records"),
    "a generator": None,
    "arrow": pa.Table.from_pandas(FRAME),
    "datasets": datasets.Dataset.from_pandas(FRAME),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_of_python(kind: str) -> None:
    source = OBJECTS[kind] if kind != "a generator" else (dict(row) for row in OBJECTS["dicts"])
    own = PairFormat(LabelNames([], grows=True), named_fields(PairFields(), ["label=label"]), reader=READER)
    skipped = Skipped()
    examples = read_examples_as_columns(source, own, WordList(), skipped=skipped)
    assert examples.names.to_pylist() == ["7"]
    assert own.labels.names == ["1"]
    assert skipped == {"label ''": 1}


@pytest.mark.parametrize(
    "source", [3, {"sentence": ["a"]}, datasets.DatasetDict({"train": LABELLED}), ["a b"]]
)
def test_objects_that_are_no_table(source: Any) -> None:
    with pytest.raises(DataError, match=r"^<\w+>(:1)?: got \w+, expected"):
        read_examples_as_columns(source, SentenceFormat(), WordList())


def test_a_column_of_pandas() -> None:
    assert records_in(pd.Series(AS_TEXT)) == AS_TEXT
    with pytest.raises(DataError, match="<Series>:1: got str, expected a dict"):
        records_in(pd.Series(["a b"]))


@pytest.mark.parametrize("value, kind", [(2**62, pa.timestamp("s")), (b"\xff", pa.string())])
def test_a_value_that_python_has_not_is_named(value: Any, kind: pa.DataType, tmp_path: Path) -> None:
    cells = pa.array([value], pa.binary() if kind == pa.string() else pa.int64()).view(kind)
    column = pa.concat_arrays([pa.nulls(1500, kind), cells])
    path = tmp_path / "a.arrow"
    feather.write_feather(pa.table({"text": ["x"] * 1501, "on": column}), path)
    with pytest.raises(DataError) as caught:
        records_in(path)
    assert str(caught.value).startswith(f"{path}:1501: on: cannot be read")


def test_an_object_has_rows_in_errors() -> None:
    with pytest.raises(DataError, match=r"^<list>:2: sentence_binary_parse: missing field$"):
        read_examples_as_columns([{"sentence_binary_parse": "a"}, {}], SentenceFormat(), WordList())
