"""`python -m spinn_tensor.export.serve FOLDER`: what `spinn serve` starts, in an environment without torch, too."""

from __future__ import annotations

import argparse
import sys

from spinn_tensor.data_prep.settings import ConfigError
from spinn_tensor.export.serve.server import serve
from spinn_tensor.export.serve.settings import add_flags, given_settings


def main() -> int:
    """Serve, and return the exit status."""
    parser = argparse.ArgumentParser(
        "spinn serve", description="Serves a model over HTTP.", allow_abbrev=False
    )
    add_flags(parser)
    try:
        return serve(given_settings(parser.parse_args()))
    except ConfigError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    print(f"spinn: error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
