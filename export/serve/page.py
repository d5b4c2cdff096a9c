"""The page `GET /ui`, where a model is tried in a browser: the files of `ui/`, which load nothing else.

It asks `GET /info` for the kind of model and `POST /detail` for what that says.
"""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FILES = {  # by path: a file of ui/, and its type
    "/ui": ("index.html", "text/html"),
    "/ui/app.js": ("app.js", "text/javascript"),
    "/ui/tree.js": ("tree.js", "text/javascript"),
    "/ui/style.css": ("style.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes() -> list[Route]:
    """Return the routes of the page's files."""
    return [Route(path, _answer, methods=["GET"]) for path in FILES]


async def _answer(request: Request) -> Response:
    name, media_type = FILES[request.url.path]
    body = (resources.files(__package__) / "ui" / name).read_bytes()
    return Response(body, headers=HEADERS, media_type=media_type)
