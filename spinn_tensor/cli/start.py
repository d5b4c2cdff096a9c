"""The beginning of the `spinn` command: where there is no torch, `spinn serve` of an export works alone."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> int:
    """Run the command that the arguments name, and return its exit status."""
    if find_spec("torch") is not None:
        from spinn_tensor.cli.main import main as run

        return run()
    if sys.argv[1:2] == ["serve"]:
        from spinn_tensor.export.serve.__main__ import main as serve

        return serve(sys.argv[2:])
    reason = "there is no torch here, without which spinn serve works alone: pip install torch"
    print(f"spinn: error: {reason}", file=sys.stderr)
    return 1
