"""What a notebook shows of a bundle of arrays: their types and shapes, not their numbers."""

from __future__ import annotations

import reprlib
from typing import Any, TypeVar

T = TypeVar("T", bound=tuple)


def in_short(cls: type[T]) -> type[T]:
    """Give a NamedTuple a short `repr`.

    >>> from typing import NamedTuple
    >>> import numpy as np
    >>> @in_short
    ... class Pair(NamedTuple):
    ...     left: np.ndarray
    ...     right: int
    >>> Pair(np.zeros((2, 3)), 4)
    Pair(left=float64 (2, 3), right=4)
    """
    cls.__repr__ = _named  # type: ignore[method-assign]
    return cls


def _named(bundle: Any) -> str:
    fields = (f"{name}={_short(value)}" for name, value in zip(bundle._fields, bundle, strict=True))
    return f"{type(bundle).__name__}({', '.join(fields)})"


def _short(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if hasattr(value, "_fields"):
        return repr(value)
    text = reprlib.repr(value) if isinstance(value, str | tuple | list | dict) else repr(value)
    return text if "\n" not in text and len(text) < 200 else f"{type(value).__name__}(...)"
