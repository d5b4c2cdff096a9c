"""A closed loop of clients: each sends its next request when the last is answered.

Little is done for a request, so that the server is what is measured: bytes are written as they are, and of an answer
its status and its length are read.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import orjson


class Load(NamedTuple):
    """Hold what became of n requests."""

    seconds: float  # of all together
    latencies: np.ndarray  # (n,) float64 seconds, in the order of their answers
    statuses: dict[int, int]  # how many of each

    @property
    def rate(self) -> float:
        """Return the requests a second."""
        return len(self.latencies) / self.seconds

    def figures(self) -> dict[str, float]:
        """Return the rate, and the latencies in milliseconds that 50 and 99 percent stay below."""
        p50, p99 = (1000 * float(np.percentile(self.latencies, share)) for share in (50, 99))
        return {"rate": self.rate, "p50": p50, "p99": p99}


def request(path: str, body: Any) -> bytes:
    """Return the bytes of a request."""
    content = orjson.dumps(body)
    fields = f"Host: a\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + content


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: bytes) -> tuple[int, bytes]:
    """Send a request; return the status and the body of its answer."""
    writer.write(asked)
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return int(head[9:12]), await reader.readexactly(int(length))


def closed_loop(
    url: str,
    requests: Sequence[bytes],  # which are sent in turn, and again from the first
    n_clients: int,
    *,
    n_requests: float = float("inf"),  # in all
    seconds: float = float("inf"),  # after which no more are begun
    rate: float = float("inf"),  # requests a second at most
    check: Callable[[int, bytes], object] | None = None,  # of a request's number and the body of its answer
) -> Load:
    """Send requests by so many clients, and return what became of them. Raises ConnectionError for one unanswered."""
    parts = urlsplit(url)
    begin, numbers = time.perf_counter(), itertools.count()
    latencies: list[float] = []
    statuses: Counter[int] = Counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        with closing(writer):
            while (now := time.perf_counter() - begin) <= seconds and (number := next(numbers)) < n_requests:
                if (wait := number / rate - now) > 0:
                    await asyncio.sleep(wait)
                start = time.perf_counter()
                try:
                    status, body = await _ask(reader, writer, requests[number % len(requests)])
                except asyncio.IncompleteReadError as error:
                    raise ConnectionError(f"request {number} was not answered") from error
                latencies.append(time.perf_counter() - start)
                statuses[status] += 1
                if check is not None:
                    check(number, body)

    async def main() -> Load:
        await asyncio.gather(*(client() for _ in range(n_clients)))
        return Load(time.perf_counter() - begin, np.array(latencies), statuses)

    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    return uvloop.run(main())
