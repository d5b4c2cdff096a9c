"""Why a request is refused, and what its client is told: the codes and kinds of text-embeddings-inference."""

from __future__ import annotations

from typing import Literal, TypedDict

ErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty", "Unauthorized"]


class ErrorResponse(TypedDict):
    """Say why a request was refused."""

    error: str
    error_type: ErrorType


class OpenAIErrorResponse(TypedDict):
    """Say why a request to a route of OpenAI's was refused."""

    message: str
    code: int
    type: ErrorType


class Refused(Exception):
    """Raised to refuse a request, with a status of HTTP."""

    def __init__(
        self,
        status: int,
        error_type: ErrorType,
        reason: str,
        metric: str = "validation",  # how te_request_failure counts it
    ) -> None:
        super().__init__(reason)
        self.status, self.error_type, self.reason, self.metric = status, error_type, reason, metric

    def body(self, path: str) -> ErrorResponse | OpenAIErrorResponse:
        """Return what is sent, in the form of the route's clients."""
        if path.startswith(("/v1/", "/embeddings")):
            return {"message": self.reason, "code": self.status, "type": self.error_type}
        return {"error": self.reason, "error_type": self.error_type}


def empty(what: str) -> Refused:
    return Refused(400, "Empty", f"{what} cannot be empty", "empty")


def invalid(reason: str) -> Refused:
    return Refused(422, "Validation", reason)


def untokenized(reason: str) -> Refused:
    return Refused(422, "Tokenizer", reason, "tokenization")


def wrong_model(reason: str) -> Refused:
    return Refused(424, "Backend", reason, "model_type")


def overloaded() -> Refused:
    return Refused(429, "Overloaded", "Model is overloaded", "overloaded")


def unhealthy(reason: str) -> Refused:
    return Refused(503, "Unhealthy", reason, "unhealthy")
