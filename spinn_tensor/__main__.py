"""`python -m spinn_tensor` is the `spinn` command."""

import sys

from spinn_tensor.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
