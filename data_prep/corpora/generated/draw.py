"""Random choices that a generated corpus is made of: the same seed gives the same ones on every Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Draw:
    """Draw random choices from `random.Random.random` alone, whose stream Python promises not to change."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def choice(self, items: Sequence[Item]) -> Item:
        return items[int(self._random() * len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        keyed = sorted((self._random(), i) for i in range(len(items)))
        return [items[i] for _, i in keyed]
