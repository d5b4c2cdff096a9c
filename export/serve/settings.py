"""The options of the server. Names and defaults are those of text-embeddings-inference, where it has them."""

from __future__ import annotations

import argparse
import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.flags import add_flag, with_default
from spinn_tensor.data_prep.settings import AT_LEAST_1, Allowed, Settings, kinds_of, one_of, setting
from spinn_tensor.data_prep.text import PACKAGED_NLI

A_PORT = Allowed("a port, 0 to 65535", lambda value: 0 <= value <= 65_535)
LOCAL = "127.0.0.1"


@dataclass(frozen=True)
class ServeSettings(Settings):
    """Say what is served, where, and how much at once."""

    folder: str = setting(
        PACKAGED_NLI,
        "an export of spinn export (onnx formats), or a checkpoint, run or bundle, which takes torch (default: the "
        "models that come with the package: packaged-nli, and packaged, the parser of its sentences)",
        metavar="FOLDER",
    )
    hostname: str = setting(
        LOCAL,
        "address to listen on; 0.0.0.0 = all of this machine's, for others to reach it",
        metavar="ADDRESS",
    )
    port: int = setting(3000, "port to listen on; 0 = any that is free", A_PORT, flags=("-p",))
    max_batch_tokens: int = setting(16_384, "tokens that are run in one batch at most", AT_LEAST_1)
    max_client_batch_size: int = setting(32, "inputs of a request at most", AT_LEAST_1)
    max_concurrent_requests: int = setting(
        512, "requests at once; one more is refused with 429, of each worker", AT_LEAST_1
    )
    payload_limit: int = setting(2_000_000, "bytes of a request's body at most", AT_LEAST_1, metavar="BYTES")
    max_length: int = setting(512, "tokens of a sentence at most", AT_LEAST_1)
    auto_truncate: bool = setting(
        False, "cut longer texts, where a request does not say whether to (truncate)"
    )
    request_timeout: int = setting(
        30, "time for a request to arrive whole; a slower client is cut off", AT_LEAST_1, metavar="SECONDS"
    )
    workers: int = setting(1, "processes, each with the model; one that dies is replaced", AT_LEAST_1)
    threads: int = setting(1, "CPU threads of a worker's model", AT_LEAST_1)
    device: str = setting(
        "auto",
        "where it computes; auto = cuda where there is one",
        one_of("auto", "cpu", "cuda"),
    )
    trees: str | None = setting(
        None,
        "trees made without a parser instead of those given (default: as the model was trained)",
        one_of(*BRANCHINGS),
    )
    allow_custom_code: bool = setting(
        False,
        "a bundle from the hub may name module:Class, which is imported from what is installed here; one in a folder "
        "may",
    )
    api_key: str | None = setting(
        None,
        "what clients must send as Authorization: Bearer KEY (default: the environment's API_KEY, which other users "
        "of this machine do not see; none: all may ask)",
        Allowed("a key", bool),
        metavar="KEY",
    )
    cors_allow_origin: tuple[str, ...] = setting(
        (), "a web page's origin that may ask from a browser; * = any (default: none)", metavar="ORIGIN"
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add FOLDER, and a flag of each other option."""
    kinds = kinds_of(ServeSettings)
    for item in dataclasses.fields(ServeSettings):
        text = with_default(item.metadata["help"], item)
        if item.name == "folder":
            parser.add_argument("folder", nargs="?", metavar="FOLDER", help=text)
            continue
        names = (f"--{item.name.replace('_', '-')}", *item.metadata["flags"])
        add_flag(parser, item, kinds[item.name], item.name, names, text)


def given_settings(args: argparse.Namespace) -> ServeSettings:
    """Return the options that the flags of `add_flags` and the environment give. Raises ConfigError."""
    names = [item.name for item in dataclasses.fields(ServeSettings)]
    given: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}
    if "api_key" not in given and os.environ.get("API_KEY"):
        given["api_key"] = os.environ["API_KEY"]
    return ServeSettings.from_dict(given)


def as_arguments(settings: ServeSettings) -> list[str]:
    """Return the flags that give these options, but for the API key."""
    arguments = []
    for item in dataclasses.fields(ServeSettings):
        value = getattr(settings, item.name)
        if value == item.default or item.name == "api_key":
            continue
        flag = f"--{item.name.replace('_', '-')}"
        if item.name == "folder":
            arguments.append(value)
        elif isinstance(value, tuple):
            arguments += [f"{flag}={one}" for one in value]
        else:
            arguments.append(flag if value is True else f"{flag}={value}")
    return arguments
