"""The step for scikit-learn."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.numerical

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402

from spinn_tensor import CheckpointError, Pipeline, SpinnTransformer  # noqa: E402
from tests.tiny_bundles import TEXTS, tiny_bundle  # noqa: E402


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", "bow")


def test_it_gives_the_pipelines_encodings(bundle) -> None:
    transformer = SpinnTransformer(bundle, device="cpu")
    expected = Pipeline.from_pretrained(bundle, device="cpu").encode(TEXTS)
    assert np.array_equal(transformer.transform(TEXTS), expected)
    assert np.array_equal(transformer.fit_transform(TEXTS), expected)
    assert list(transformer.get_feature_names_out()) == [f"spinn{k}" for k in range(expected.shape[1])]


def test_a_classifier_learns_from_it(bundle) -> None:
    sentences = [
        f"{article} {noun} {verb}."
        for article in ("the", "a", "old")
        for noun in ("dog", "cat", "dogs")
        for verb in ("barks", "sings")
    ]
    labels = ["noise" if "barks" in sentence else "music" for sentence in sentences]
    model = make_pipeline(SpinnTransformer(bundle, device="cpu"), LogisticRegression(C=100.0, max_iter=1000))
    assert model.fit(sentences, labels).score(sentences, labels) > 0.9
    assert model[:-1].get_feature_names_out()[0] == "spinn0"
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(sentences), model.predict_proba(sentences))


def test_a_clone_or_pickle_holds_the_parameters_alone(bundle) -> None:
    transformer = SpinnTransformer(bundle, device="cpu").fit()
    assert clone(transformer).get_params() == transformer.get_params()
    assert len(pickle.dumps(transformer)) < 1000 < (bundle / "model.safetensors").stat().st_size
    assert transformer.get_params() == {
        "path_or_hub_id": bundle,
        "device": "cpu",
        "trees": None,
        "revision": None,
        "allow_custom_code": False,
        "normalize_embeddings": False,
        "on_error": "raise",
    }


def test_another_bundle_is_read_anew(bundle, tmp_path) -> None:
    other = tiny_bundle(tmp_path / "other", "bilstm")
    transformer = SpinnTransformer(bundle, device="cpu").fit()
    assert transformer.transform(TEXTS).shape == (5, 8)
    assert transformer.set_params(path_or_hub_id=other).transform(TEXTS).shape == (5, 16)


def test_its_errors_are_the_pipelines(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        SpinnTransformer(tmp_path / "nowhere").fit(TEXTS)
