"""Any text and any file: tokens, or one error. How many are tried says the environment (see `fuzzing`)."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from spinn_tensor.config import EncoderConfig, ModelConfig
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.model.classifiers import build_model, load_checkpoint
from spinn_tensor.tensor_files import CheckpointError
from spinn_tensor.training.checkpoint import save_checkpoint
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.presets import run_config
from tests.fuzzing import changes, damaged, fuzz

pytest.importorskip("tokenizers")
N_EXAMPLES = 200

TOKENIZER = Tokenizer(Vocabulary.build([["A", "dog", "’", "犬", "-LRB-"]], lower=True))
with tempfile.TemporaryDirectory() as _folder:
    TOKENIZER.save(Path(_folder) / "tokenizer.json")
    WHOLE = (Path(_folder) / "tokenizer.json").read_bytes()


def test_any_text_gives_tokens_or_one_error() -> None:
    def check(text: str) -> None:
        try:
            tokens, reason = TOKENIZER.tokenize(text), ""
        except DataError as error:
            tokens, reason = (), str(error)
        if not tokens:
            assert reason in ("a sentence without words", "half of a surrogate pair")
            return
        assert all(tokens)
        assert not any(re.search(r"[\s()]", token) for token in tokens)
        assert TOKENIZER.backend.encode(text).ids == TOKENIZER.vocabulary.encode(tokens).tolist()

    for text in ("\ud800", "\x00", "\U0010ffff"):
        check(text)
    fuzz(st.text(st.characters(exclude_categories=())), check, N_EXAMPLES)  # lone surrogates included


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3),
    max_leaves=6,
)


def containers(value: Any) -> Iterator[Any]:
    """Every list and object in a JSON value that has something in it."""
    if isinstance(value, dict | list) and value:
        yield value
        for child in value.values() if isinstance(value, dict) else value:
            yield from containers(child)


@st.composite
def mutated_json(draw: st.DrawFn) -> bytes:
    """The file's JSON with one or two values replaced, left out, or added."""
    content = json.loads(WHOLE)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(list(containers(content))))
        key = draw(st.sampled_from(range(len(place)) if isinstance(place, list) else list(place)))
        change = draw(st.sampled_from(("replace", "leave out", "add")))
        if change == "replace":
            place[key] = draw(JSON)
        elif change == "leave out":
            del place[key]
        elif isinstance(place, list):
            place.insert(key, draw(JSON))
        else:
            place[draw(st.text(max_size=3))] = draw(JSON)
    return json.dumps(content).encode()


PIECES = (
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"\\ud800",
    b"\0",
    b"\xef\xbb\xbf",
    b"9" * 5_000,
    b'{"a":',
)
DAMAGED = st.builds(damaged, st.just(WHOLE), st.lists(changes(PIECES), min_size=1, max_size=3))
ANY_FILE = st.one_of(st.binary(), DAMAGED, mutated_json(), JSON.map(json.dumps).map(str.encode))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that has learnt nothing."""
    folder = tmp_path_factory.mktemp("fuzz") / "checkpoint"
    encoder = EncoderConfig(len(TOKENIZER.vocabulary), "spinn", 2, 2, tracker_dim=2)
    run = run_config("parser", DataConfig(corpus="trees"))
    save_checkpoint(
        folder, build_model(ModelConfig("parse", (), encoder, None)), TOKENIZER.vocabulary, run, {}
    )
    return folder


def test_any_file_is_the_tokenizer_that_was_saved_or_one_error(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            loaded, reason = Tokenizer.load(path), ""
        except DataError as error:
            loaded, reason = None, str(error)
        if loaded is None:
            assert reason.startswith(f"{path}:")
            assert len(reason.splitlines()) == 1
            with pytest.raises(CheckpointError, match=re.escape(str(path))):
                load_checkpoint(checkpoint)
            return
        assert loaded.tokenize("A (dog)") == ("A", "-LRB-", "dog", "-RRB-")
        if loaded.vocabulary == TOKENIZER.vocabulary:
            assert load_checkpoint(checkpoint).vocabulary == TOKENIZER.vocabulary
        else:
            with pytest.raises(CheckpointError, match="not the vocabulary the model was trained with"):
                load_checkpoint(checkpoint)

    check(WHOLE)
    check(b"\xef\xbb\xbf" + WHOLE)
    check(b'{"model": ' * 100_000)
    check(WHOLE.replace(b'"added_tokens": []', b'"added_tokens": ' + b"9" * 5_000))
    fuzz(ANY_FILE, check, N_EXAMPLES)
