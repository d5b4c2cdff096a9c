"""Presets that say how their corpus is read, and word vectors of one length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spinn_tensor import ConfigError
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.vectors import read_vectors
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.presets import preset_table, preset_toml, read_preset, run_config, without_vectors
from tests.command_line import words_of
from tests.tiny_runs import SMALL, write_trees
from tests.tiny_training import run_of
from tests.vector_files import write


def test_a_named_preset_says_how_its_corpus_is_read_and_flags_overrule_it() -> None:
    data = run_of("--preset", "sst2-spinn-pi-nt").data
    assert (data.corpus, data.binary, data.node_labels, data.lower) == ("sst", True, True, True)
    assert data.vector_norm == run_of("--preset", "sst-spinn-pi-nt").data.vector_norm > 0
    data = run_of("--preset", "sst2-spinn-pi-nt", "--no-binary", "--vector-norm", "0").data
    assert (data.binary, data.node_labels, data.vector_norm) == (False, True, 0)


def test_a_norm_without_vectors_is_an_error_and_that_of_a_preset_is_told() -> None:
    message = r"^vector_norm 3: there are no word vectors to scale; --vectors FILE names them$"
    for options in (("--vector-norm", "3"), ("--preset", "sst-spinn-pi-nt", "--set", "vector_norm=3")):
        with pytest.raises(ConfigError, match=message):
            run_of(*options)
        run_of(*options, "--set", "vectors=x.txt")
    run = run_of("--preset", "sst-spinn-pi-nt")
    told = "no --vectors: the embedding is trained from scratch; vector_norm 4 has no effect"
    assert without_vectors(run) == told
    assert without_vectors(run.changed(vectors="x.txt")) is without_vectors(run_of()) is None


def test_the_table_has_every_dropout() -> None:
    lines = {line.split()[0]: line for line in preset_table().splitlines()}
    assert " 0.1 / 0.25 / 0.5 " in lines["sst-spinn-pi-nt"]
    assert " 0.14 / 0 / 0.06 " in lines["spinn"]
    assert " 0.3 / 0  " in lines["parser"]  # which has no classifier


def test_of_another_corpus_and_unnamed_a_preset_says_nothing() -> None:
    assert run_of("--preset", "sst-spinn-pi-nt", "--corpus", "snli").data == DataConfig(corpus="snli")
    assert not run_of("--corpus", "sst").data.node_labels
    given = DataConfig(corpus="sst")
    assert run_config("sst-spinn-pi-nt", given).data == given


def test_a_file_copied_from_a_preset_reads_the_corpus_alike(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(preset_toml("sst2-spinn-pi-nt"))
    assert run_of("--preset", str(own)).data == run_of("--preset", "sst2-spinn-pi-nt").data
    own.write_text('base = "sst2-spinn-pi-nt"\n[data]\nbinary = false')
    assert run_of("--preset", str(own)).data == run_of("--preset", "sst-spinn-pi-nt").data


@pytest.mark.parametrize(
    "table, message",
    [
        ("lowr = true", r"data: unknown key 'lowr' \(did you mean lower\?\)"),
        ("hidden_dim = 9", "data: unknown key 'hidden_dim'; it is in encoder"),
        ("lower = 3", "DataConfig.lower: expected bool, got 3"),
        ("vector_norm = -1.0", "vector_norm: "),
    ],
)
def test_a_bad_table_is_named_with_the_key(table: str, message: str, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(f'base = "sst-spinn-pi-nt"\n[data]\n{table}')
    with pytest.raises(ConfigError, match=f"own.toml: {message}"):
        read_preset(own)


def test_vectors_of_one_length_point_where_they_did(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", "dog", "cat", "null"))
    path = write(tmp_path / "v.txt", "dog 3 4\ncat 0 -2\nnull 0 0\n")
    vectors = read_vectors(path, vocabulary, 2)
    scaled = vectors.scaled(10.0)
    assert scaled.matrix[[0, 2, 3, 4]].tolist() == [[0, 0], [6, 8], [0, -10], [0, 0]]
    assert np.linalg.norm(scaled.matrix[1]) == pytest.approx(10)
    assert scaled.matrix.dtype == np.float32
    assert vectors.scaled(0.0).matrix is vectors.matrix


def test_a_run_begins_with_vectors_of_the_length_that_is_said(tmp_path: Path) -> None:
    trees = write_trees(tmp_path / "trees.txt", 8, seed=1)
    words = sorted(
        {word for word in trees.read_text().replace("(", " ").replace(")", " ").split() if word.isalpha()}
    )
    vectors = write(
        tmp_path / "v.txt",
        "".join(f"{word.lower()} {i} {' '.join('1' * 7)}\n" for i, word in enumerate(words)),
    )
    options = "--train TREES --dev TREES --vectors VECTORS --output HERE/run"
    files = words_of(options, TREES=trees, VECTORS=vectors, HERE=tmp_path)
    still = ["--no-train-embedding", "--epochs", "1"]
    assert main(["train", "--preset", "sst-spinn-pi-nt", *SMALL, *files, *still]) == 0
    model, vocabulary, _ = load_checkpoint(tmp_path / "run")
    norms = model.encoder.embedding.weight.norm(dim=1)
    torch.testing.assert_close(norms[1:], torch.full((len(vocabulary) - 1,), 4.0))
    assert len(vocabulary) > len(words)
