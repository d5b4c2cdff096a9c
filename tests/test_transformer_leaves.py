"""The example of a transformer's states as leaves: what it computes; trained, saved and read without its weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from spinn_tensor import EncoderConfig, Pipeline, SentenceEncoder, make_sentence_batch
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep import Vocabulary, lengths, parse_binary, sentence_columns
from tests.processes import run_program
from tests.tiny_bundles import PARSES, WORDS
from tests.tiny_runs import PRESET, pair_arguments

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz.'",
    "dog",
    "cat",
    "##s",
    "the",
]
PIECES += [f"##{letter}" for letter in "abcdefghijklmnopqrtuvwxyz.'"]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a leaf encoder with an untrained transformer in a folder."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(PIECES),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    folder = tmp_path / "bert"
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    (tmp_path / "site").mkdir()
    text = f"from transformer_leaves import Bert\n\nclass Tiny(Bert):\n    NAME = {str(folder)!r}\n"
    (tmp_path / "site" / "tiny_leaves.py").write_text(text)
    for place in (EXAMPLES, tmp_path / "site"):
        monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "tiny_leaves", raising=False)
    return "tiny_leaves:Tiny"


def test_leaves_are_the_states_of_first_pieces(tiny: str, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    vocabulary = Vocabulary.build([WORDS])
    columns = sentence_columns(
        [parse_binary(text) for text in (*PARSES, "( xyzzy ( n't bark ) )")], vocabulary
    )
    encoder = SentenceEncoder(EncoderConfig(len(vocabulary), "spinn", hidden_dim=8, leaf_encoder=tiny))
    encoder.leaves.set_vocabulary(vocabulary)
    encoder.double().eval()
    got = encoder.leaves(make_sentence_batch(columns, "own"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "bert")
    model = transformers.AutoModel.from_pretrained(tmp_path / "bert").double().eval()
    expected, start = [], 0
    for n_words in lengths(columns).tolist():
        words = [vocabulary.tokens[number] for number in columns.token_ids[start : start + n_words]]
        words = ["[UNK]" if word == "<unk>" else word for word in words]
        start += n_words
        encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        states = model(**encoded).last_hidden_state[0]
        expected += [states[encoded.word_ids().index(number)] for number in range(n_words)]
    expected = encoder.leaves.projection(torch.stack(expected))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    assert (lengths(columns) > 1).any()


@pytest.mark.parametrize("fixed", [False, True])
def test_it_is_trained_saved_and_read(fixed: bool, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    arguments = [
        *pair_arguments(tmp_path / "data"),
        *PRESET,
        "--output",
        str(tmp_path / "run"),
        "--epochs",
        "2",
    ]
    flag = "--no-train-embedding" if fixed else "--train-embedding"
    assert main([*arguments, "--leaf-encoder", tiny, flag]) == 0
    transformers: Any = pytest.importorskip("transformers")
    pipeline = Pipeline.from_pretrained(tmp_path / "run")
    before = transformers.AutoModel.from_pretrained(tmp_path / "bert").state_dict()
    after = pipeline.model.encoder.leaves.transformer.state_dict()
    assert (
        torch.equal(
            before["encoder.layer.0.output.dense.weight"], after["encoder.layer.0.output.dense.weight"]
        )
        == fixed
    )
    (tmp_path / "bert" / "model.safetensors").unlink()  # its weights are in the bundle
    (tmp_path / "bert" / "vocab.txt").unlink(missing_ok=True)
    program = f"""
from spinn_tensor import Pipeline
print(Pipeline.from_pretrained({str(tmp_path / "run")!r}).classify(["dogs bark"], ["dogs sing"])[0].label)
"""
    printed = run_program(program, paths=(EXAMPLES.parent, EXAMPLES, tmp_path / "site"))
    assert printed.strip() == pipeline.classify(["dogs bark"], ["dogs sing"])[0].label
