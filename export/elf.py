"""The shared libraries that a Linux library is linked against: what the loader would look for."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_NEEDED, DT_STRTAB = 0, 1, 5


def needed_libraries(path: Path) -> list[str]:
    """File names, in the order of loading; [] for what is no 64-bit little-endian ELF file.

    Raises ValueError for one that is cut or damaged.
    """
    try:
        return _needed(path)
    except (ValueError, struct.error, StopIteration) as error:
        raise ValueError(f"{path}: a damaged library") from error


def _needed(path: Path) -> list[str]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        if image[:6] != b"\x7fELF\x02\x01":
            return []
        segments = list(_segments(image))
        entries = [
            entry
            for kind, start, _, size in segments
            if kind == PT_DYNAMIC
            for entry in _entries(image, start, size)
        ]
        address = next(value for tag, value in entries if tag == DT_STRTAB)
        strings = next(
            start + address - virtual
            for kind, start, virtual, size in segments
            if kind == PT_LOAD and virtual <= address < virtual + size
        )
        starts = [strings + value for tag, value in entries if tag == DT_NEEDED]
        return [image[start : image.find(b"\0", start)].decode() for start in starts]


def _segments(image: mmap.mmap) -> Iterator[tuple[int, int, int, int]]:
    """Kind, place in the file, address and size of each."""
    (table,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    for number in range(count):
        kind, _, start, virtual, _, n_bytes = struct.unpack_from("<IIQQQQ", image, table + number * size)
        yield kind, start, virtual, n_bytes


def _entries(image: mmap.mmap, start: int, size: int) -> Iterator[tuple[int, int]]:
    """Tag and value of each."""
    for place in range(start, start + size, 16):
        tag, value = struct.unpack_from("<QQ", image, place)
        if tag == DT_NULL:
            return
        yield tag, value
