"""Batches that are ready when training asks for them: taken from the columns and compiled into tables by a thread.

What a thread makes ahead depends on nothing that training changes, so that it is the batch that would have been made
then. One thread is enough: it needs a hundredth to a tenth of a step's time, and what it runs (NumPy, copies) mostly
lets the training thread go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from spinn_tensor.training.methods import Batch

Made = TypeVar("Made")
Item = TypeVar("Item")


class Feed(NamedTuple):
    """Hold what one step of one rank runs on, on the host; pinned where the model is on a GPU."""

    rows: np.ndarray  # (B,) int64, of the whole step
    batches: list[Batch]  # this rank's, one a microbatch
    counts: bool  # False: the rank has no example of this step, and runs one that weighs nothing


def made_ahead(
    make: Callable[[Item], Made], items: Iterable[Item], n_ahead: int
) -> Generator[Made, None, None]:
    """Yield make(item) for every item, in order, up to `n_ahead` made before they are asked for; 0 = none.

    What `make` raises is raised when its turn comes. Closing the iterator drops what was made in vain.
    """
    if not n_ahead:
        yield from map(make, items)
        return
    made: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="feeding")
    try:
        for item in items:
            made.append(pool.submit(make, item))
            if len(made) > n_ahead:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
