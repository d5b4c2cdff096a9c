"""The application: routes, what is refused before they are asked, and what is told of what fails.

A request holds its place among `max_concurrent_requests` from its body to its answer. Bodies that are not whole have a
limit of their own, so that slow clients keep nobody out, and each is counted while it arrives. One whose client has
gone is dropped, before it runs if it still waits.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from typing import Any

import msgspec
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from spinn_tensor.export.serve import metrics, openai, tei, trees
from spinn_tensor.export.serve.engine import Engine
from spinn_tensor.export.serve.errors import Refused, invalid, overloaded, unhealthy
from spinn_tensor.export.serve.schema import Route, docs_page, openapi
from spinn_tensor.export.serve.service import Call, Service
from spinn_tensor.export.serve.settings import ServeSettings

logger = logging.getLogger(__name__)

WATCH_AFTER = 0.05  # seconds until it is looked whether the client is still there; most requests take fewer
JSON = (b"content-type", b"application/json")
PAIR = {"inputs": ["A dog barks.", "An animal barks."]}
TEXT, TEXTS = {"inputs": "A dog barks."}, {"inputs": ["A dog barks.", "Cats sing."]}
PREDICT = Route(
    "/predict", tei.PredictRequest, tei.predict, list[tei.LabelScore | list[tei.LabelScore]], TEXT
)
EMBED = Route("/embed", tei.EmbedRequest, tei.embed, list[list[float]], TEXTS)
OPENAI = Route(
    "/v1/embeddings",
    openai.EmbeddingsRequest,
    openai.embeddings,
    openai.Embeddings,
    {"input": ["A dog barks."], "encoding_format": "float"},
)
COMPARED = {"inputs": {"source_sentence": "A dog barks.", "sentences": ["Cats sing."]}}
ROUTES = [
    EMBED,
    PREDICT,
    Route("/parse", trees.ParseRequest, trees.parse, list[trees.ScoredTree | Any], TEXT),
    Route("/detail", trees.DetailRequest, trees.detail, trees.Detail, TEXTS),
    Route("/tokenize", tei.TokenizeRequest, tei.tokenize, list[list[tei.SimpleToken]], TEXT),
    Route("/decode", tei.DecodeRequest, tei.decode, list[str], {"ids": [2, 3]}),
    Route("/similarity", tei.SimilarityRequest, tei.similarity, list[float], COMPARED),
    OPENAI,
]
NONE = Route("", msgspec.Struct, tei.not_offered, None, {})  # whatever is asked
NOT_OFFERED = ("/rerank", "/embed_sparse", "/embed_all")  # 424
# the page where a model is tried in a browser, by path: a file of ui/, and its type; it asks /info and /detail
FILES = {
    "/ui": ("index.html", "text/html"),
    "/ui/app.js": ("app.js", "text/javascript"),
    "/ui/tree.js": ("tree.js", "text/javascript"),
    "/ui/style.css": ("style.css", "text/css"),
}
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
PUBLIC = frozenset(
    {"/health", "/ping", "/metrics", "/docs", "/openapi.json", "/api-doc/openapi.json", *FILES}
)


class Gone(Refused):
    """Raised where nobody waits for the answer any more, nor is told why there is none."""

    def __init__(self) -> None:
        super().__init__(499, "Validation", "the client has gone", "gone")


class Endpoint:
    """Answer the requests to one route; to none: PREDICT or EMBED, by the kind of model."""

    def __init__(self, service: Service, route: Route | None) -> None:
        self._service, self._route = service, route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, or why there is none."""
        call, counted, body = Call(self._service), self._service.metrics, b""
        refused: Refused | None = None
        try:
            body = orjson.dumps(await self._admitted(call, scope, receive), option=orjson.OPT_SERIALIZE_NUMPY)
        except Refused as error:
            refused = error.with_traceback(None)  # which holds this frame, that holds the error
        except Exception:
            logger.exception("a request failed")
            refused = Refused(500, "Backend", "internal error", "internal")
        counted.request_count.labels(call.method).inc()
        if refused is None:
            counted.request_success.labels(call.method).inc()
            await _send(send, 200, body, call.headers())
            return
        counted.request_failure.labels(refused.metric).inc()
        if not isinstance(refused, Gone):
            await _refuse(scope, send, refused)

    async def _admitted(self, call: Call, scope: Scope, receive: Receive) -> Any:
        """Answer a request, if there are not too many already."""
        service = self._service
        route = self._route or (PREDICT if "classify" in service.engine.kinds else EMBED)
        most = service.settings.max_concurrent_requests
        if service.n_active >= most:
            raise overloaded()
        limit = service.settings.payload_limit
        with service.arriving(min(limit, _length(scope, limit))):
            body = await _body(scope, receive, limit)
        if service.n_active >= most:
            raise overloaded()
        service.n_active += 1
        try:
            return await self._answer(call, route, body, scope, receive)
        finally:
            service.n_active -= 1

    async def _answer(self, call: Call, route: Route, body: bytes, scope: Scope, receive: Receive) -> Any:
        if route is NONE:
            return await route.answer(call, None)
        try:
            asked = msgspec.json.decode(body, type=route.asked)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            coding = next((value for name, value in scope["headers"] if name == b"content-encoding"), b"")
            how = f" ({coding.decode('latin-1')}, which is not undone here)" if coding else ""
            raise invalid(f"the body{how} is not what {route.path} takes: {error}") from None
        return await _unless_gone(receive, partial(route.answer, call, asked))


async def _unless_gone(receive: Receive, answer: Callable[[], Any]) -> Any:
    """Await an answer. Raises Gone as soon as its client has gone, and cancels what it waits for."""
    this, watch, gone = asyncio.current_task(), None, False
    assert this is not None

    async def wait_for_end() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        this.cancel()

    def begin() -> None:
        nonlocal watch
        watch = asyncio.ensure_future(wait_for_end())

    timer = asyncio.get_running_loop().call_later(WATCH_AFTER, begin)
    try:
        return await answer()
    except asyncio.CancelledError:
        if gone:
            raise Gone from None
        raise
    finally:
        timer.cancel()
        if watch is not None:
            watch.cancel()


def _length(scope: Scope, unsaid: int) -> int:
    """Return how long the body of a request is said to be."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), unsaid)


async def _body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the body of a request. Raises Refused as soon as it is too large, or is said to be."""
    parts, more = [], True
    too_large = Refused(413, "Validation", f"the body is larger than {limit:,} bytes", "payload")
    if _length(scope, 0) > limit:
        raise too_large
    n_bytes = 0
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        parts.append(message.get("body", b""))
        n_bytes += len(parts[-1])
        more = message.get("more_body", False)
        if n_bytes > limit:
            raise too_large
    return b"".join(parts)


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [JSON, (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(scope: Scope, send: Send, refused: Refused) -> None:
    headers = [(b"retry-after", b"1")] if refused.status in (429, 503) else []
    if any(name == b"expect" for name, _ in scope["headers"]):
        headers.append((b"connection", b"close"))  # its client may not send the body any more
    await _send(send, refused.status, orjson.dumps(refused.body(scope["path"])), headers)


class Posts:
    """Hand requests of POST to their endpoints at once: a router that tries one path after another costs more."""

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, ASGIApp]) -> None:
        self._app, self._endpoints = app, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a request."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        await ((is_post and self._endpoints.get(scope["path"])) or self._app)(scope, receive, send)


class ApiKey:
    """Refuse what has no key, but for PUBLIC paths. The time that it takes does not depend on the key."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._expected = app, b"Bearer " + key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on what may be."""
        is_public = scope["type"] != "http" or scope["path"] in PUBLIC or scope["method"] == "OPTIONS"
        if not is_public and not (scope["path"] == "/" and scope["method"] in ("GET", "HEAD")):
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, self._expected):
                reason = "expected Authorization: Bearer KEY, with this server's key"
                await _refuse(scope, send, Refused(401, "Unauthorized", reason))
                return
        await self._app(scope, receive, send)


def make_app(
    settings: ServeSettings,
    engine: Engine | None = None,  # in place of the one that the settings name
    on_ready: Callable[[], object] = metrics.announce,  # told when the model is loaded
    on_failure: Callable[[Exception], object] = logger.error,  # told why a model cannot be loaded
) -> Starlette:
    """Return the application; it is ready some time after its start."""
    service = Service(settings)

    async def load() -> None:
        try:
            await service.start(engine)
            on_ready()
        except Exception as error:
            on_failure(error)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(load())
        yield
        loading.cancel()
        await service.close()

    middleware = []
    if settings.cors_allow_origin:
        headers = ["Content-Type", "Authorization"]
        origins = list(settings.cors_allow_origin)
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=headers
            )
        )
    if settings.api_key is not None:
        middleware.append(Middleware(ApiKey, key=settings.api_key))
    by_path: dict[str, Route | None] = {route.path: route for route in ROUTES}
    by_path |= {"/embeddings": OPENAI, "/": None, "/invocations": None, **dict.fromkeys(NOT_OFFERED, NONE)}
    posts = {path: Endpoint(service, route) for path, route in by_path.items()}
    middleware.append(Middleware(Posts, endpoints=posts))
    handlers: dict[Any, Any] = dict.fromkeys((HTTPException, Refused, Exception), _failed)
    app = Starlette(
        routes=_routes(service, posts), middleware=middleware, exception_handlers=handlers, lifespan=lifespan
    )
    app.state.service = service
    return app


def _routes(service: Service, posts: dict[str, Endpoint]) -> list[StarletteRoute]:
    def get(path: str, answer: Callable[[], Response]) -> StarletteRoute:
        async def endpoint(request: Request) -> Response:
            return answer()

        return StarletteRoute(path, endpoint, methods=["GET"])

    def health() -> Response:
        if not service.is_ready:
            raise unhealthy("not ready: the model is being loaded")
        return _json({"status": "ready", **metrics.census()})

    def counts() -> Response:
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4")

    def document() -> dict[str, Any]:
        example = PAIR if service.is_ready and service.engine.n_sides == 2 else TEXT
        offered = [route._replace(example=example) if route is PREDICT else route for route in ROUTES]
        return openapi(offered, service.settings.api_key is not None)

    async def docs(request: Request) -> Response:
        return HTMLResponse(docs_page(document(), request.url.netloc))

    return [
        *(get(path, health) for path in ("/health", "/ping", "/")),
        get("/info", lambda: _json(tei.info(service))),
        get("/metrics", counts),
        *(get(path, lambda: _json(document())) for path in ("/openapi.json", "/api-doc/openapi.json")),
        StarletteRoute("/docs", docs, methods=["GET"]),
        *(StarletteRoute(path, _page, methods=["GET"]) for path in FILES),
        *(StarletteRoute(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
    ]


async def _page(request: Request) -> Response:
    name, media_type = FILES[request.url.path]
    body = (resources.files(__package__) / "ui" / name).read_bytes()
    return Response(body, headers=PAGE_HEADERS, media_type=media_type)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


async def _failed(request: Request, error: Exception) -> Response:
    """Say what is wrong; of a fault of the server no more than that: Starlette raises the error anew for the log."""
    headers = None
    if isinstance(error, HTTPException):
        headers, error = error.headers, Refused(error.status_code, "Validation", error.detail)
    elif not isinstance(error, Refused):
        error = Refused(500, "Backend", "internal error")
    return Response(orjson.dumps(error.body(request.url.path)), error.status, headers, "application/json")
