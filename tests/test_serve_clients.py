"""Clients of others, as they are, against a running server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("onnxscript")

from benchmarks.load import closed_loop, request
from spinn_tensor.export.predictor import OnnxPredictor
from tests.serving import TEXTS, Server, running

KEY = "secret"


@pytest.fixture(scope="module", params=["pair", "sentence"])
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def exported(task: str, made: Callable[[str, str], tuple[Path, Path]]) -> Path:
    return made("spinn", task)[1]


@pytest.fixture(scope="module")
def predictor(exported: Path) -> OnnxPredictor:
    return OnnxPredictor(exported, "cpu", threads=1)


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[Server]:
    with running(str(exported), f"--api-key={KEY}") as server:
        yield server


def close(got: object, expected: object) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("encoding_format", ["float", "base64", None])
def test_openai(server: Server, predictor: OnnxPredictor, encoding_format: str | None) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        options = {} if encoding_format is None else {"encoding_format": encoding_format}
        got = client.embeddings.create(input=TEXTS, model="spinn", **options)
        vectors = [one.embedding for one in got.data]
        if encoding_format == "base64":
            assert isinstance(vectors[0], str)
            return
        close(vectors, predictor.encode(TEXTS, normalize_embeddings=True))
        with pytest.raises(openai.BadRequestError, match="input cannot be empty"):
            client.embeddings.create(input=[], model="spinn")
        with pytest.raises(openai.UnprocessableEntityError, match="batch size 33"):
            client.embeddings.create(input=["a"] * 33, model="spinn")
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.embeddings.create(input=["a"], model="spinn")


def test_langchain_s_openai(server: Server, predictor: OnnxPredictor) -> None:
    langchain = pytest.importorskip("langchain_openai")
    embeddings = langchain.OpenAIEmbeddings(
        base_url=f"{server.url}/v1", api_key=KEY, model="spinn", check_embedding_ctx_length=False
    )
    close(embeddings.embed_documents(TEXTS), predictor.encode(TEXTS, normalize_embeddings=True))
    close(embeddings.embed_query("cats"), predictor.encode("cats", normalize_embeddings=True))


def test_huggingface_hub(server: Server, predictor: OnnxPredictor, task: str) -> None:
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError

    client = InferenceClient(token=KEY)
    expected = predictor.encode(TEXTS[0], normalize_embeddings=True)
    close(client.feature_extraction(TEXTS[0], model=f"{server.url}/embed")[0], expected)
    cosines = client.sentence_similarity(TEXTS[0], TEXTS[:3], model=f"{server.url}/similarity")
    close(cosines, predictor.similarity(TEXTS[0], TEXTS[:3]))
    if task == "sentence":
        scores = client.text_classification(TEXTS[0], model=server.url)
        prediction = predictor.classify(TEXTS[0])
        assert scores[0].label == prediction.label
        close([score.score for score in scores], sorted(prediction.probabilities.values(), reverse=True))
        assert len(client.text_classification(TEXTS[0], model=server.url, top_k=2)) == 2
    with pytest.raises(HfHubHTTPError, match="422"):
        client.feature_extraction("( ( a b )", model=f"{server.url}/embed")


@pytest.mark.slow
def test_no_answer_is_lost_or_mixed_up(exported: Path, predictor: OnnxPredictor) -> None:
    """20,000 requests of mixed lengths by 128 clients, each answer held against the predictor's."""
    rng = np.random.default_rng(0)
    words = predictor.tokenizer.vocabulary.tokens[2:]
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(1, 60, 500)]
    expected = predictor.encode(texts, normalize_embeddings=True)
    seen = []

    def check(number: int, body: bytes) -> None:
        close(json.loads(body)[0], expected[number % len(texts)])
        seen.append(number)

    with running(str(exported)) as server:
        requests = [request("/embed", {"inputs": text}) for text in texts]
        load = closed_loop(server.url, requests, 128, n_requests=20_000, check=check)
    assert load.statuses == {200: 20_000}
    assert sorted(seen) == list(range(20_000))
