"""The page `GET /ui`, where a model is tried in a browser; it asks `POST /detail` (see `trees`)."""

from __future__ import annotations


def page() -> str:
    """Return the HTML of the page, which loads nothing from elsewhere."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>spinn serve</title>'
        '<main><h1>spinn serve</h1><p>See <a href="docs">docs</a>.</p></main></html>'
    )
