"""Ask a server that `spinn serve runs/demo/spinn` started: python examples/serve_client.py [http://127.0.0.1:3000]"""

from __future__ import annotations

import sys

import requests

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3000"


def ask(route: str, inputs: object) -> list:
    """Return the server's answer. Raises requests.HTTPError, whose response says what is wrong."""
    response = requests.post(f"{URL}/{route}", json={"inputs": inputs}, timeout=30)
    response.raise_for_status()
    return response.json()


premises, hypotheses = ["all dogs run", "some cats do not sleep"], ["all poodles move", "no cats sleep"]
for best, *_ in ask("predict", [list(pair) for pair in zip(premises, hypotheses, strict=True)]):
    print(f"{best['label']}: {best['score']:.2f}")
for vector, tree in zip(ask("embed", premises), ask("parse", premises), strict=True):
    print(len(vector), tree)
