"""Every route of the server, and why it refuses, without a socket."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from spinn_tensor.answers import normalized
from spinn_tensor.data_prep.token_rules import WHITESPACE
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.export.serve.app import ROUTES, make_app
from spinn_tensor.export.serve.engine import Engine
from spinn_tensor.export.serve.settings import ServeSettings
from tests.serving import TEXTS, served, tiny_engine

LABELS = ["entailment", "neutral", "contradiction"]


@pytest.fixture(scope="module")
def pairs() -> Engine:
    return tiny_engine("spinn", "pair", max_length=50)


@pytest.fixture(scope="module")
def client(pairs) -> Iterator[TestClient]:
    with served(pairs, payload_limit=5000) as client:
        yield client


@pytest.fixture(scope="module")
def sentences() -> Iterator[TestClient]:
    with served(tiny_engine("lstm", "sentence")) as client:
        yield client


@pytest.fixture(scope="module")
def parser() -> Iterator[TestClient]:
    with served(tiny_engine("spinn", "parse")) as client:
        yield client


def asked(client: TestClient, path: str, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_embed(client, pairs, normalize) -> None:
    expected = pairs.model.encode(TEXTS, normalize_embeddings=normalize)
    close(asked(client, "/embed", inputs=TEXTS, normalize=normalize), expected)
    close(asked(client, "/embed", inputs=TEXTS[0], normalize=normalize), expected[:1])
    if normalize:
        close(asked(client, "/embed", inputs=TEXTS), expected)


def test_predict_takes_one_pair_or_many(client, pairs) -> None:
    expected = pairs.model.classify(TEXTS, TEXTS[::-1])
    many = asked(client, "/predict", inputs=list(map(list, zip(TEXTS, TEXTS[::-1], strict=True))))
    one = asked(client, "/predict", inputs=[TEXTS[0], TEXTS[-1]])
    raw = asked(client, "/predict", inputs=[TEXTS[0], TEXTS[-1]], raw_scores=True)
    for scores, prediction in zip([*many, one], [*expected, expected[0]], strict=True):
        assert scores[0]["label"] == prediction.label
        assert [one["score"] for one in scores] == sorted((one["score"] for one in scores), reverse=True)
        by_label = {one["label"]: one["score"] for one in scores}
        close([by_label[label] for label in LABELS], [prediction.probabilities[label] for label in LABELS])
    by_label = {one["label"]: one["score"] for one in raw}
    close([by_label[label] for label in LABELS], expected[0].logits)


def test_predict_takes_one_sentence_or_many(sentences) -> None:
    one = asked(sentences, "/predict", inputs="cats")
    assert {score["label"] for score in one} == {"bad", "so-so", "good"}
    assert asked(sentences, "/predict", inputs=["cats"]) == one
    assert asked(sentences, "/", inputs="cats") == one
    for scores in asked(sentences, "/predict", inputs=[["cats"], ["cats"]]):
        assert [score["label"] for score in scores] == [score["label"] for score in one]
        close([score["score"] for score in scores], [score["score"] for score in one])
    assert asked(sentences, "/", inputs="cats", parameters={"top_k": 2}) == [one[:2]]


@pytest.mark.parametrize("form", ["binary", "penn"])
def test_parse(parser, client, pairs, form) -> None:
    assert asked(client, "/parse", inputs=TEXTS, format=form) == pairs.model.parse(TEXTS, format=form)
    (scored,) = asked(client, "/parse", inputs=TEXTS[0], format=form, log_probability=True)
    parsed = pairs.model.parses(TEXTS[0])
    assert scored["log_probability"] == pytest.approx(parsed.log_probability, rel=1e-5, abs=5e-6)
    assert scored["tree"] == pairs.model.parse(TEXTS[0], format=form)
    assert len(asked(parser, "/parse", inputs=TEXTS)) == len(TEXTS)


def test_parse_gives_lists_objects_and_pictures(client) -> None:
    texts = ["A (big) dog.", "( ( A dog ) sings )"]
    binary = asked(client, "/parse", inputs=texts)
    lists = asked(client, "/parse", inputs=texts, format="nested")
    for tree, expected in zip(lists, binary, strict=True):
        quoted = json.dumps(tree).replace('"', "").replace("[", "( ").replace("]", " )").replace(",", "")
        assert quoted == expected
    objects = asked(client, "/parse", inputs=texts, format="json")
    assert [one["tree"] for one in objects] == binary
    assert [texts[0][start:end] for start, end in objects[0]["offsets"]] == ["A", "(", "big", ")", "dog", "."]
    assert objects[1]["text"] == "A dog sings"
    assert objects[0]["log_probability"] < 0
    pictures = asked(client, "/parse", inputs=["<b> dog"], format="svg")
    assert pictures[0].startswith("<svg")
    assert "<b>" not in pictures[0]


def test_tokenize_and_decode(client, pairs) -> None:
    text = 'He said "dogs bark", don’t (the) cats, cafe\u0301?'
    (tokens,) = asked(client, "/tokenize", inputs=text)
    assert [text[token["start"] : token["stop"]] for token in tokens] == [token["text"] for token in tokens]
    words = pairs.model.tokenizer.tokenize(text)
    assert [token["id"] for token in tokens] == pairs.model.tokenizer.vocabulary.encode(words).tolist()
    assert tokens[-2]["text"] == "cafe\u0301"
    assert asked(client, "/tokenize", inputs=["cats"] * 2)[1] == asked(client, "/tokenize", inputs="cats")[0]
    ids = pairs.model.tokenizer.vocabulary.encode(["The", "cats"]).tolist()
    assert asked(client, "/decode", ids=ids) == ["The cats"]
    assert asked(client, "/decode", ids=[ids[:1], ids]) == ["The", "The cats"]


def test_a_word_spelt_like_the_padding_is_unknown() -> None:
    engine = tiny_engine("lstm", "sentence")
    vocabulary = engine.model.tokenizer.vocabulary
    engine.model.tokenizer = Tokenizer(vocabulary, WHITESPACE)  # which keeps it whole
    with served(engine) as client:
        (tokens,) = asked(client, "/tokenize", inputs="<pad> <unk> cats")
    assert [token["id"] for token in tokens] == vocabulary.encode(["<pad>", "<unk>", "cats"]).tolist()


def test_similarity(client, pairs) -> None:
    inputs = {"source_sentence": TEXTS[0], "sentences": TEXTS[:3]}
    close(asked(client, "/similarity", inputs=inputs), pairs.model.similarity(TEXTS[0], TEXTS[:3]))


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_openai_s_embeddings(client, pairs, path) -> None:
    expected = pairs.model.encode(TEXTS, normalize_embeddings=True)
    got = asked(client, path, input=TEXTS, model="any", dimensions=8)
    close([one["embedding"] for one in got["data"]], expected)
    assert [one["index"] for one in got["data"]] == list(range(len(TEXTS)))
    assert (got["object"], got["model"]) == ("list", "tiny")
    assert got["usage"]["total_tokens"] == sum(len(pairs.read(text, "").tokens) for text in TEXTS)
    coded = asked(client, path, input=TEXTS[0], encoding_format="base64")["data"][0]["embedding"]
    close(np.frombuffer(base64.b64decode(coded), dtype="<f4"), normalized(expected[0]))


def test_what_it_says_of_itself(client, sentences, parser) -> None:
    said = client.get("/info").json()
    assert said["model_type"]["classifier"]["id2label"]["0"] == "entailment"
    assert (said["max_input_length"], said["max_client_batch_size"]) == (50, 32)
    assert parser.get("/info").json()["model_type"] == {"embedding": {"pooling": "root"}}
    for path in ("/health", "/ping", "/"):
        assert client.get(path).json() == {"status": "ready", "workers": 1, "died": 0}
    assert "<h1>" in client.get("/ui").text


def test_a_model_that_only_parses_embeds_at_the_root(parser) -> None:
    assert asked(parser, "/", inputs="cats") == asked(parser, "/embed", inputs="cats")


def test_metrics_have_the_names_of_tei(client) -> None:
    for inputs in ("cats", ["cats", "dogs"]):
        asked(client, "/embed", inputs=inputs)
    client.post("/embed", json={"inputs": []})
    found = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    for name in ('te_request_count{method="single"}', 'te_request_success{method="batch"}', "te_embed_count"):
        assert float(found[name]) >= 1
    assert float(found['te_request_failure{err="empty"}']) >= 1
    for name in (
        "te_request_duration",
        "te_request_queue_duration",
        "te_batch_next_tokens",
        "te_request_input_length",
    ):
        assert float(found[f"{name}_count"]) >= 2
    assert found["te_queue_size"] == "0.0"


def test_the_answer_tells_what_it_took(client) -> None:
    headers = client.post("/embed", json={"inputs": "zebras sleep"}).headers
    assert (headers["x-compute-tokens"], headers["x-compute-characters"]) == ("2", "12")
    assert headers["x-unknown-tokens"] == "1"
    for name in ("x-compute-type", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"):
        assert name in headers


REFUSED: list[tuple[str, Any, int, str, str]] = [
    ("/embed", {"inputs": []}, 400, "Empty", "inputs cannot be empty"),
    ("/embed", {"inputs": ""}, 400, "Empty", "inputs cannot be empty"),
    ("/embed", {"inputs": ["cats", " \n"]}, 400, "Empty", "inputs[1] cannot be empty"),
    ("/predict", {"inputs": []}, 400, "Empty", "inputs cannot be empty"),
    ("/embed", {"inputs": "a" * 5000}, 413, "Validation", "larger than 5,000 bytes"),
    ("/embed", {"inputs": ["a"] * 33}, 422, "Validation", "batch size 33 > maximum allowed batch size 32"),
    ("/predict", {"inputs": [["a", "b"]] * 33}, 422, "Validation", "batch size 33"),
    (
        "/similarity",
        {"inputs": {"source_sentence": "a", "sentences": ["a"] * 33}},
        422,
        "Validation",
        "size 33",
    ),
    ("/embed", {"inputs": 3}, 422, "Validation", "$.inputs"),
    ("/embed", {}, 422, "Validation", "inputs"),
    ("/embed", [], 422, "Validation", "object"),
    ("/embed", {"inputs": "a", "truncation_direction": "Left"}, 422, "Validation", "truncation_direction"),
    ("/embed", {"inputs": "a", "prompt_name": "query"}, 422, "Validation", "prompt_name"),
    ("/embed", {"inputs": "a " * 51}, 422, "Tokenizer", '"truncate": true'),
    ("/embed", {"inputs": "( ( a b )"}, 422, "Tokenizer", "never closed"),
    ("/predict", {"inputs": "a"}, 422, "Validation", "this model classifies a pair"),
    ("/predict", {"inputs": ["a", "b", "c"]}, 422, "Validation", "got 3 texts"),
    ("/predict", {"inputs": ["a", ["b", "c"]]}, 422, "Validation", "texts beside lists"),
    ("/predict", {"inputs": [["a", "b", "c"]]}, 422, "Validation", "got 3 texts"),
    ("/parse", {"inputs": "a", "format": "draw"}, 422, "Validation", "format"),
    ("/parse", {"inputs": "a", "k": 2}, 422, "Validation", "unknown field `k`"),
    ("/decode", {"ids": [99]}, 422, "Validation", "99 is no id"),
    ("/decode", {"ids": [-1]}, 422, "Validation", "-1 is no id"),
    ("/decode", {"ids": [1, [1]]}, 422, "Validation", "numbers beside lists"),
    ("/decode", {"ids": []}, 400, "Empty", "ids cannot be empty"),
    ("/rerank", {"query": "a", "texts": ["b"]}, 424, "Backend", "re-ranker"),
    ("/embed_sparse", {"inputs": "a"}, 424, "Backend", "sparse"),
    ("/embed_all", {"inputs": "a"}, 424, "Backend", "one vector a text"),
    ("/nowhere", {}, 404, "Validation", "Not Found"),
    ("/info", {}, 405, "Validation", "Method Not Allowed"),
]


@pytest.mark.parametrize("path, body, status, error_type, reason", REFUSED)
def test_what_is_refused(path, body, status, error_type, reason, client) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert answer.json()["error_type"] == error_type
    assert reason in answer.json()["error"]
    assert answer.json().keys() == {"error", "error_type"}


def test_a_body_that_is_coded_is_told_as_such(client) -> None:
    coded = gzip.compress(json.dumps({"inputs": "A dog"}).encode())
    answer = client.post("/embed", content=coded, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(
        "the body (gzip, which is not undone here) is not what /embed takes"
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"inputs": "\\ud800"}', b"[" * 4000, b'{"inputs": "a"} b', b'{"inputs": "\x00"}'],
)
def test_what_is_no_json(body, client) -> None:
    answer = client.post("/embed", content=body)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")


def test_a_body_without_a_length_is_counted_while_it_comes(client) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    assert client.post("/embed", content=parts()).status_code == 413


def test_openai_s_clients_get_errors_in_their_form(client) -> None:
    for body, status, reason in (
        ({"input": []}, 400, "cannot be empty"),
        ({"input": [1, 2]}, 422, "check_embedding_ctx_length=False"),
        ({"input": "a", "dimensions": 3}, 422, "this model's vectors have 8"),
        ({"input": "a", "encoding_format": "hex"}, 422, "encoding_format"),
    ):
        answer = client.post("/v1/embeddings", json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, status)
        assert reason in answer.json()["message"]


def test_a_model_of_another_kind(sentences, parser) -> None:
    for client, path, body in (
        (sentences, "/parse", {"inputs": "cats"}),
        (parser, "/predict", {"inputs": "cats"}),
    ):
        answer = client.post(path, json=body)
        assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")


def test_truncate_takes_the_beginning(client, pairs) -> None:
    whole = "the dogs " * 40
    cut = pairs.model.encode([" ".join(["the dogs"] * 25)], normalize_embeddings=True)
    close(asked(client, "/embed", inputs=whole, truncate=True), cut)
    answer = client.post("/parse", json={"inputs": "( ( " + "a " * 60 + ") )", "truncate": True})
    assert answer.status_code == 422
    with served(pairs, auto_truncate=True) as automatic:
        close(asked(automatic, "/embed", inputs=whole), cut)
        assert automatic.post("/embed", json={"inputs": whole, "truncate": False}).status_code == 422
        close(asked(automatic, "/embed", inputs="dogs " * 10_000, truncate=True).__len__(), 1)


def test_characters_are_limited_too(pairs) -> None:
    with served(pairs) as client:
        for path in ("/embed", "/tokenize"):
            answer = client.post(path, json={"inputs": "a" * 5001})
            assert (answer.status_code, answer.json()["error_type"]) == (422, "Tokenizer")
            assert client.post(path, json={"inputs": "a" * 5000}).status_code == 200


def test_inference_that_fails_is_told_without_its_reason(pairs) -> None:
    with served(pairs) as client:
        client.app.state.service._batcher._run = None  # type: ignore[attr-defined]
        answer = client.post("/embed", json={"inputs": "cats"})
    assert (answer.status_code, answer.json()) == (
        424,
        {"error": "Inference failed", "error_type": "Backend"},
    )


def test_a_route_that_breaks_tells_no_traceback(pairs, monkeypatch) -> None:
    with served(pairs) as client:
        monkeypatch.setattr(client.app.state.service.metrics, "exposition", None)  # type: ignore[attr-defined]
        answer = client.get("/metrics")
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error", "error_type": "Backend"})


def test_not_ready_before_the_model_is_there() -> None:
    client = TestClient(make_app(ServeSettings()))  # which is never started
    answers = [client.get("/health"), client.get("/info"), client.post("/embed", json={"inputs": "cats"})]
    for answer in answers:
        assert (answer.status_code, answer.json()["error_type"]) == (503, "Unhealthy")


def test_the_key_is_wanted_everywhere_but_where_nothing_is_told(pairs) -> None:
    with served(pairs, api_key="sésame") as client:
        for header in (None, "Bearer sesame", "sésame", "Bearer sésame ", "Basic sésame"):
            headers = {} if header is None else {"Authorization": header.encode()}
            answer = client.post("/embed", json={"inputs": "cats"}, headers=headers)
            assert (answer.status_code, answer.json()["error_type"]) == (401, "Unauthorized")
            assert client.get("/info", headers=headers).status_code == 401
        good = {"Authorization": "Bearer sésame".encode()}
        assert client.post("/", json={"inputs": ["cats", "dogs"]}, headers=good).status_code == 200
        for path in ("/health", "/metrics", "/docs", "/ui", "/"):
            assert client.get(path).status_code == 200
        assert client.post("/", json={"inputs": ["cats", "dogs"]}).status_code == 401


def test_other_origins_may_ask_only_where_it_is_said(client, pairs) -> None:
    headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert client.options("/embed", headers=headers).status_code == 405
    assert "access-control-allow-origin" not in client.get("/health", headers=headers).headers
    with served(pairs, cors_allow_origin=("https://a.example",), api_key="key") as other:
        answer = other.options("/embed", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        answer = other.options("/embed", headers={**headers, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in answer.headers


def test_openapi_has_every_route_and_its_examples_are_answered(client) -> None:
    document = client.get("/openapi.json").json()
    assert document == client.get("/api-doc/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert {route.path for route in ROUTES} < document["paths"].keys()
    page = client.get("/docs").text
    assert "curl -s testserver/embed" in page
    for path, methods in document["paths"].items():
        assert path in page
        for method, operation in methods.items():
            assert operation["summary"]
            if method == "post" and path != "/predict":  # whose example is of a model of sentences
                body = operation["requestBody"]["content"]["application/json"]
                assert body["schema"]["$ref"].rpartition("/")[2] in document["components"]["schemas"]
                assert client.post(path, json=body["example"]).status_code == 200
    assert "src=" not in page
    assert "//" not in page.replace("http://www.w3.org", "")
