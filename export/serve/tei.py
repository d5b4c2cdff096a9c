"""The routes of text-embeddings-inference: what they take and give, by its names (its router/src/http/types.rs)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypedDict

import numpy as np
from msgspec import Meta, Struct

from spinn_tensor import __version__
from spinn_tensor.answers import Prediction, normalized
from spinn_tensor.data_prep.tokenizer import with_accents
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID
from spinn_tensor.export.serve.errors import invalid, wrong_model
from spinn_tensor.export.serve.service import Call, Service, one_side

Truncation = Literal["right", "Right"]  # its end is what is cut; there is no other way here
NotOffered: TypeAlias = None  # these models have no prompts


class EmbedRequest(Struct):
    """Ask for one vector a text."""

    inputs: str | list[str]
    normalize: bool | None = True
    truncate: bool | None = None
    truncation_direction: Truncation = "right"
    prompt_name: NotOffered = None


class PredictParameters(Struct):
    """Hold what huggingface_hub's InferenceClient sends."""

    function_to_apply: Literal["softmax", "none"] | None = None
    top_k: Annotated[int, Meta(ge=1)] | None = None


class PredictRequest(Struct):
    """Ask for the labels of a text, of one pair [text, text], or of a list of [text] or [text, text]."""

    inputs: str | list[str | list[str]]
    raw_scores: bool | None = False
    truncate: bool | None = None
    truncation_direction: Truncation = "right"
    parameters: PredictParameters | None = None


class LabelScore(TypedDict):
    """Hold how probable a label is; with raw_scores, its logit."""

    score: float
    label: str


class TokenizeRequest(Struct):
    """Ask for the tokens of texts."""

    inputs: str | list[str]
    add_special_tokens: bool | None = True  # there are none
    prompt_name: NotOffered = None


class SimpleToken(TypedDict):
    """Hold a token: its id, and where in the text it is, in characters."""

    id: int
    text: str
    special: bool
    start: int
    stop: int


class DecodeRequest(Struct):
    """Ask for the words of ids, or of lists of them."""

    ids: list[int | list[int]]
    skip_special_tokens: bool | None = True


class SimilarityInput(Struct):
    """Hold one sentence, and those that it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Struct):
    """Hold how they are read."""

    truncate: bool | None = None
    truncation_direction: Truncation = "right"
    prompt_name: NotOffered = None


class SimilarityRequest(Struct):
    """Ask for the cosines of one sentence with others."""

    inputs: SimilarityInput
    parameters: SimilarityParameters | None = None


async def encodings(
    call: Call, texts: list[str], name: str | Sequence[str], truncate: bool | None
) -> np.ndarray:
    """Return one vector a text, (n, D) float32."""
    sentences = await call.read(texts, name, truncate)
    return np.asarray(await call.run("encode", one_side(sentences)))


async def embed(call: Call, asked: EmbedRequest) -> np.ndarray:
    """Encode texts; of length 1, unless `normalize` is false."""
    texts = call.list_of(asked.inputs, "inputs")
    vectors = await encodings(call, texts, "inputs", asked.truncate)
    return vectors if asked.normalize is False else normalized(vectors)


async def predict(call: Call, asked: PredictRequest) -> Any:
    """Classify texts or pairs: labels and their probabilities, the best first; of many a list of such lists."""
    engine = call.service.engine
    if not engine.model.labels:
        raise wrong_model("model is not a classifier model")
    examples = _examples(call, asked.inputs)
    for example in examples:
        if len(example) != engine.n_sides:
            expected = 'a pair, ["a", "b"]' if engine.n_sides == 2 else 'one text; several are [["a"], ["b"]]'
            raise invalid(f"inputs: got {len(example)} texts, this model classifies {expected}")
    names: str | list[str] = "inputs"
    if call.method == "batch":
        names = [f"inputs[{row}][{side}]" for row, one in enumerate(examples) for side in range(len(one))]
    flat = await call.read([text for example in examples for text in example], names, asked.truncate)
    n = engine.n_sides
    sides = [tuple(flat[row : row + n]) for row in range(0, len(flat), n)]
    predictions: Sequence[Prediction] = await call.run("classify", sides)
    raw = asked.raw_scores or (asked.parameters is not None and asked.parameters.function_to_apply == "none")
    scored = [scores(prediction, bool(raw)) for prediction in predictions]
    if asked.parameters is not None:  # its client takes a list for each of its texts, one as it is
        return [one[: asked.parameters.top_k] for one in scored]
    return scored if call.method == "batch" else scored[0]


def _examples(call: Call, inputs: str | list[str | list[str]]) -> list[list[str]]:
    """Return the texts of each example. Raises Refused for what is neither one example nor a list of them."""
    if isinstance(inputs, str):
        return [[inputs]]
    texts = [one for one in inputs if isinstance(one, str)]
    if not inputs or len(texts) < len(inputs):
        call.method = "batch"
        call.check_number(len(inputs), "inputs")
        if texts:
            raise invalid("inputs: texts beside lists; expected a list of [text] or [text, text]")
        return [one for one in inputs if isinstance(one, list)]
    return [texts]


def scores(prediction: Prediction, raw: bool = False) -> list[LabelScore]:
    """Return probabilities or logits of the labels, the best first."""
    values = prediction.logits if raw else prediction.probabilities.values()
    scored = zip(values, prediction.probabilities, strict=True)
    return [{"score": score, "label": label} for score, label in sorted(scored, key=lambda one: -one[0])]


async def tokenize(call: Call, asked: TokenizeRequest) -> list[list[SimpleToken]]:
    """Split texts into the words of the model, as text whatever they look like: ids, and places in the text."""
    texts = call.list_of(asked.inputs, "inputs")
    engine = call.service.engine

    def tokens(text: str, name: str) -> list[SimpleToken]:
        encoding = engine.encoding(text, name)  # of the word <pad> 0, which is no word's
        return [
            {
                "id": number or UNKNOWN_ID,
                "text": text[start:stop],
                "special": False,
                "start": start,
                "stop": stop,
            }
            for number, (start, stop) in zip(encoding.ids, with_accents(text, encoding.offsets), strict=True)
        ]

    return await call.of_each(tokens, texts, "inputs")


async def decode(call: Call, asked: DecodeRequest) -> list[str]:
    """Join the words of ids by blanks."""
    tokens = call.service.engine.model.tokenizer.vocabulary.tokens
    lists = [one for one in asked.ids if isinstance(one, list)]
    if asked.ids and not lists:
        lists = [[one for one in asked.ids if isinstance(one, int)]]
    elif len(lists) < len(asked.ids):
        raise invalid("ids: numbers beside lists")
    call.check_number(len(lists), "ids")
    for number in (number for ids in lists for number in ids):
        if not 0 <= number < len(tokens):
            raise invalid(f"ids: {number} is no id, the vocabulary has {len(tokens):,}")
    return [" ".join(tokens[number] for number in ids) for ids in lists]


async def similarity(call: Call, asked: SimilarityRequest) -> list[float]:
    """Return the cosine of the source sentence with each of the others."""
    others = call.list_of(asked.inputs.sentences, "sentences")
    truncate = None if asked.parameters is None else asked.parameters.truncate
    texts = [asked.inputs.source_sentence, *others]
    names = ["source_sentence", *(f"sentences[{number}]" for number in range(len(others)))]
    vectors = normalized(await encodings(call, texts, names, truncate))
    cosines: list[float] = (vectors[1:] @ vectors[0]).tolist()
    return cosines


async def not_offered(call: Call, asked: None) -> Any:
    """Refuse what other models of text-embeddings-inference do."""
    raise wrong_model("model is not a re-ranker, has no sparse embeddings, and gives one vector a text")


def info(service: Service) -> dict[str, Any]:
    """Say what is served, and how much at once. Raises Refused while nothing is."""
    engine, settings = service.engine, service.settings
    labels = {str(number): label for number, label in enumerate(engine.model.labels)}
    if labels:
        by_label = {label: int(number) for number, label in labels.items()}
        model_type: dict[str, Any] = {"classifier": {"id2label": labels, "label2id": by_label}}
    else:
        model_type = {"embedding": {"pooling": "root"}}
    return {
        "model_id": engine.name,
        "model_sha": None,
        "model_dtype": engine.dtype,
        "model_type": model_type,
        "max_concurrent_requests": settings.max_concurrent_requests,
        "max_input_length": engine.max_length,
        "max_batch_tokens": settings.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_client_batch_size,
        "auto_truncate": settings.auto_truncate,
        "tokenization_workers": 1,
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "encoder": engine.model.kind,
        "task": engine.model.task,
        "offers": engine.kinds,
    }
