"""The `spinn` command: one module a subcommand, with `add_parser(parsers)` and `run(args) -> exit status`."""
