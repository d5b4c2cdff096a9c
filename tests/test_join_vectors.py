"""Word vectors of several files side by side (benchmarks.join_vectors)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import join_vectors
from spinn_tensor.data_prep.vectors import DRAWN, EXACT, read_vectors
from spinn_tensor.data_prep.vocabulary import Vocabulary


def test_each_file_is_centred_on_what_it_has_and_none_weighs_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trees.txt").write_text(
        "(3 (2 Dogs) (2 bark))\n(3 (2 -LRB-) (2 new))\n(2 (2 zzz) (2 bark))\n"
    )
    glove = {"dogs": [1, 0, 9, 9], "bark": [0, 1, 9, 9], "(": [-1, -1, 9, 9], "unasked": [7, 7, 9, 9]}
    (tmp_path / "package.json").write_text(json.dumps({"vectors": glove}))
    (tmp_path / "other.txt").write_text("dogs 10 0 0\nbark 0 10 0\nnew 0 0 10\n")
    output = tmp_path / "joined.safetensors"
    join_vectors.main(
        [
            *("--vectors", str(tmp_path / "package.json"), "2"),
            *("--vectors", str(tmp_path / "other.txt"), "3"),
            *("--words", str(tmp_path / "trees.txt"), "--output", str(output)),
        ]
    )
    assert "6 words, 5 wide" in capsys.readouterr().out  # Dogs and -LRB- in lower case as well

    words = ("<pad>", "<unk>", "Dogs", "dogs", "bark", "-LRB-", "new", "zzz")
    joined = read_vectors(output, Vocabulary(words), 5)
    assert joined.origin[2:].tolist() == [EXACT] * 5 + [DRAWN]
    # Dogs and dogs are two of the five words of the first file, and of the four of the second
    first, second = np.array([[1, 0], [1, 0], [0, 1], [-1, -1], [-1, -1]]), np.eye(3)[[0, 0, 1, 2]] * 10
    first, second = first - first.mean(0), second - second.mean(0)
    first, second = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (first, second))
    np.testing.assert_allclose(joined.matrix[2:6, :2], first[[0, 1, 2, 3]], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(joined.matrix[[2, 3, 4, 6], 2:], second, rtol=1e-5, atol=1e-7)
    assert not joined.matrix[5, 2:].any()  # the second file has no bracket
    assert not joined.matrix[6, :2].any()  # and the first one nothing new
