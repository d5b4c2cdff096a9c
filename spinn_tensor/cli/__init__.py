"""The `spinn` command: one module a subcommand, with `DESCRIPTION`, `EPILOG`, `add_arguments` and `run`."""
