"""What the routes are, as OpenAPI 3.1 and as a page that loads nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import msgspec
import orjson

from spinn_tensor import __version__
from spinn_tensor.export.serve.errors import ErrorResponse, OpenAIErrorResponse
from spinn_tensor.export.serve.service import Call

REFUSALS = {
    400: "there is no input",
    401: "the API key is missing or wrong",
    408: "the request did not arrive in time",
    413: "the body is too large",
    422: "the request is invalid, a text cannot be used, or there are too many",
    424: "the model is of another kind, or inference failed",
    429: "Model is overloaded",
    503: "not ready",
}


class Route(NamedTuple):
    """Describe a route for POST."""

    path: str
    asked: type[msgspec.Struct]  # what it takes
    answer: Callable[[Call, Any], Awaitable[Any]]
    given: Any  # the type of what it gives
    example: dict[str, Any]


def openapi(routes: Sequence[Route], has_key: bool) -> dict[str, Any]:
    """Return the OpenAPI description of the routes."""
    types = [kind for route in routes for kind in (route.asked, route.given)]
    types += [ErrorResponse, OpenAIErrorResponse]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for number, route in enumerate(routes):
        error = schemas[-1 if route.path.startswith(("/v1", "/embeddings")) else -2]
        asked, given = schemas[2 * number : 2 * number + 2]
        paths[route.path] = {"post": _operation(route, asked, given, error)}
    for path, (text, media) in GETS.items():
        paths.setdefault(path, {})["get"] = {
            "summary": text,
            "operationId": f"get_{path.strip('/').replace('.', '_')}",
            "responses": {
                "200": {"description": text, "content": {media: {}}},
                "default": _refusal("refused", schemas[-2]),
            },
        }
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "spinn serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }
    if has_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


GETS = {  # what they are, and their type
    "/health": ("Tell whether it is ready, and how many workers are", "application/json"),
    "/info": ("Tell what is served", "application/json"),
    "/metrics": ("Count for Prometheus", "text/plain"),
}


def _operation(
    route: Route, asked: dict[str, Any], given: dict[str, Any], error: dict[str, Any]
) -> dict[str, Any]:
    return {
        "summary": (route.answer.__doc__ or "").partition("\n")[0],
        "operationId": "post_" + (route.path.strip("/").replace("/", "_") or "root"),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": asked, "example": route.example}},
        },
        "responses": {
            "200": {"description": "Success", "content": {"application/json": {"schema": given}}},
            **{str(status): _refusal(text, error) for status, text in REFUSALS.items()},
        },
    }


def _refusal(text: str, error: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": error}}}


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
pre{overflow-x:auto;padding:.6rem;border:1px solid #8886;border-radius:.3rem}summary{cursor:pointer}
"""


def docs_page(document: dict[str, Any], host: str) -> str:
    """Return a page of HTML that says what openapi.json does."""
    parts = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation['summary'])}</p>")
            body = operation.get("requestBody")
            if body is not None:
                asked = body["content"]["application/json"]
                example = orjson.dumps(asked["example"]).decode()
                line = f"curl -s {host}{path} -H 'Content-Type: application/json' -d '{example}'"
                name = asked["schema"]["$ref"].rpartition("/")[2]
                schema = orjson.dumps(
                    document["components"]["schemas"][name], option=orjson.OPT_INDENT_2
                ).decode()
                parts.append(f"<pre>{escape(line)}</pre><details><summary>{escape(name)}</summary>")
                parts.append(f"<pre>{escape(schema)}</pre></details>")
    refusals = "".join(f"<li>{status}: {escape(text)}</li>" for status, text in REFUSALS.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>spinn serve</title><style>{STYLE}</style>'
        f'<main><h1>spinn serve {escape(document["info"]["version"])}</h1><p>The same as <a href="openapi.json">'
        f"OpenAPI</a>. What is refused has a body with <code>error</code> and <code>error_type</code>:</p>"
        f"<ul>{refusals}</ul>{''.join(parts)}</main></html>"
    )
