"""OpenAI's route for embeddings, for its clients."""

from __future__ import annotations

import base64
from typing import Any, Literal, TypedDict

from msgspec import Struct

from spinn_tensor.answers import normalized
from spinn_tensor.export.serve.errors import invalid
from spinn_tensor.export.serve.service import Call
from spinn_tensor.export.serve.tei import encodings


class EmbeddingsRequest(Struct):
    """Ask for one vector a text."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None
    user: str | None = None


class Embedding(TypedDict):
    """Hold a vector: numbers, or its float32 in little-endian bytes as base64."""

    object: Literal["embedding"]
    embedding: list[float] | str
    index: int


class Usage(TypedDict):
    """Count tokens."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    """Hold the vectors in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


async def embeddings(call: Call, asked: EmbeddingsRequest) -> dict[str, Any]:  # of Embeddings
    """Encode texts, as vectors of length 1."""
    given = [asked.input] if isinstance(asked.input, str) else asked.input
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        reason = (
            "ids of another tokenizer's tokens, expected text (langchain: check_embedding_ctx_length=False)"
        )
        raise invalid(f"input: {reason}")
    texts = call.list_of(asked.input if isinstance(asked.input, str) else texts, "input")
    vectors = normalized(await encodings(call, texts, "input", None))
    if asked.dimensions not in (None, vectors.shape[1]):
        raise invalid(f"dimensions: {asked.dimensions}, this model's vectors have {vectors.shape[1]}")
    coded: Any = vectors
    if asked.encoding_format == "base64":
        coded = [base64.b64encode(vector.tobytes()).decode("ascii") for vector in vectors.astype("<f4")]
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": vector, "index": index} for index, vector in enumerate(coded)
        ],
        "model": call.service.engine.name,
        "usage": {"prompt_tokens": call.n_tokens, "total_tokens": call.n_tokens},
    }
