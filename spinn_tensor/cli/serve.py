"""`spinn serve`: a model over HTTP."""

from __future__ import annotations

import argparse
import os
import sys

from spinn_tensor.cli.arguments import CommandParser
from spinn_tensor.export.serve.settings import add_flags, as_arguments, given_settings

DESCRIPTION = """\
Serves a model over HTTP: text in; encodings, labels and trees out. FOLDER is an export of
`spinn export` (onnx formats; the server then has no torch in it), or a checkpoint, run or
bundle. The interface is that of text-embeddings-inference, so that its clients do:

  POST /embed /predict /similarity /tokenize /decode    and POST /, /predict or /embed
  POST /v1/embeddings      OpenAI's, encoding_format float or base64
  POST /parse              trees: binary, penn, nested, json or svg, and their log-probability
  GET  /health /info /metrics /docs /ui

Sentences of all requests that wait are run in one batch of --max-batch-tokens, whatever their
lengths. What is refused says why: 400 no input, 413 too large a body, 422 invalid or too many
inputs, 424 another kind of model, 429 overloaded, 503 not ready. It is ready when the model
has run once. SIGTERM: what was taken is answered, then it exits with 0.
"""

EPILOG = """\
examples:
  spinn serve exported/spinn
  curl 127.0.0.1:3000/predict -d '{"inputs": ["A dog barks.", "An animal barks."]}'
  curl 127.0.0.1:3000/parse -d '{"inputs": "The dog barks.", "format": "penn"}'

  API_KEY=secret spinn serve exported/spinn --hostname 0.0.0.0 --workers 4
      for others, who send Authorization: Bearer secret

  spinn serve
      the models that come with the package, NLI (a demonstration) and the parser
"""


def add_arguments(parser: CommandParser) -> None:
    add_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Become the server: a process that has not loaded what the other commands need."""
    settings = given_settings(args)
    if settings.api_key is not None:  # which other users would see among the arguments
        os.environ["API_KEY"] = settings.api_key
    sys.stdout.flush()
    command = [sys.executable, "-m", "spinn_tensor.export.serve", *as_arguments(settings)]
    os.execv(sys.executable, command)
