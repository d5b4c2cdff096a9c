"""`python -m spinn_tensor.export.serve FOLDER`: what `spinn serve` starts, in an environment without torch, too."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from spinn_tensor.data_prep.errors import SpinnError, one_line
from spinn_tensor.data_prep.settings import ConfigError
from spinn_tensor.export.serve.settings import add_flags, given_settings

NEEDED = ("starlette", "uvicorn", "httptools", "msgspec", "prometheus_client")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, and return the exit status."""
    parser = argparse.ArgumentParser(
        "spinn serve", description="Serves a model over HTTP.", allow_abbrev=False
    )
    add_flags(parser)
    args = parser.parse_args(arguments)
    try:
        if missing := [name for name in NEEDED if find_spec(name) is None]:
            reason = f"spinn serve needs {', '.join(missing)}: pip install 'spinn_tensor[serve,export]'"
            raise ConfigError(reason)
        settings = given_settings(args)
        if settings.workers == 1:
            # of several processes alone, and read when prometheus_client is imported
            os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        from spinn_tensor.export.serve.server import serve

        return serve(settings)
    except SpinnError as error:
        reason = one_line(error)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    print(f"spinn: error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the model is read: the end, and no traceback
    sys.exit(main())
