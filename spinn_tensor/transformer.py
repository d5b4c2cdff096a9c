"""Sentences to vectors as a step of scikit-learn: `make_pipeline(SpinnTransformer("runs/snli"), LogisticRegression())`.

Imports scikit-learn, so that `spinn_tensor.SpinnTransformer` loads it only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from spinn_tensor.pipeline import LazyPipeline


@dataclass(repr=False, eq=False)
class SpinnTransformer(LazyPipeline, TransformerMixin, BaseEstimator):
    """Encode sentences by a bundle's model, which learns nothing here.

    A pickle or a clone holds the parameters alone, the bundle's place among them, and reads it anew.

    Args:
        path_or_hub_id: the bundle, as `Pipeline.from_pretrained` takes it.
        device, trees, revision, allow_custom_code: as in `Pipeline.from_pretrained`.
        normalize_embeddings: whether to scale each vector to length 1.
        on_error: "raise", or "nan": a row of NaN for a sentence that cannot be used, for an imputer.

    >>> SpinnTransformer(folder / "sentences").fit_transform(["A dog barks.", "cats sing"]).shape
    (2, 8)
    """

    def fit(self, sentences: Any = None, y: Any = None) -> Self:
        """Load the bundle, and look at no sentence. Raises as `Pipeline.from_pretrained`."""
        self._pipeline()
        return self

    def transform(self, sentences: Iterable[str]) -> np.ndarray:  # (n, output_dim) float32
        """Return one vector a sentence. Raises DataError as `Pipeline.encode`."""
        return self._encode(sentences)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:  # (output_dim,) of str objects
        """Return "spinn0", "spinn1" and so on, whatever the sentences' column is called."""
        n_features = self._pipeline().model.encoder.output_dim
        return np.array([f"spinn{number}" for number in range(n_features)], dtype=object)

    def set_params(self, **parameters: Any) -> Self:
        """Set parameters as of every estimator; another bundle is read at the next use."""
        self.__dict__.pop("_loaded", None)
        super().set_params(**parameters)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string, tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False, True
        return tags
