"""Parts of a model that settings name: a cell, a leaf encoder or a head; as `module:Class` one of somebody's own.

Its module is imported as Python finds it; that a bundle does not bring it along says `spinn_tensor.hub`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.errors import one_line
from spinn_tensor.data_prep.settings import Settings


def make_part(
    setting: str,  # that names it, for errors
    name: str,  # of the package's own, or module:Class
    ours: Mapping[str, type[nn.Module]],
    *arguments: Any,  # that the class is made of
) -> nn.Module:
    """Make a part. Raises ConfigError for a class that cannot be imported, or be made of these arguments."""
    if name in ours:
        return ours[name](*arguments)
    kind = imported(setting, name)
    try:
        return kind(*arguments)
    except Exception as error:  # whatever somebody's code raises
        shown = ", ".join("config" if isinstance(value, Settings) else repr(value) for value in arguments)
        raise ConfigError(f"{setting}: {name}({shown}) cannot be made ({one_line(error)})") from error


def is_plain(module: nn.Module) -> bool:
    """Tell whether a call of the module is its class's `forward` alone: no hook, as of pruning, and no other one."""
    before, after = module._forward_pre_hooks, module._forward_hooks
    hooks = before, after, module._backward_pre_hooks, module._backward_hooks
    return not any(hooks) and "forward" not in vars(module)


def imported(setting: str, name: str) -> type[nn.Module]:
    """Return the class that module:Class names. Raises ConfigError naming the setting."""
    module, _, attribute = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # of its syntax, say, or its own lines
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == module
        hint = f"; where {module}.py is a file here: PYTHONPATH=. spinn …" if is_missing else ""
        raise ConfigError(f"{setting}: {name} cannot be imported ({one_line(error)}){hint}") from error
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ConfigError(f"{setting}: {name} is no class of torch.nn.Module")
    return kind
