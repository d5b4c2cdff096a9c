"""A closed loop of clients: each sends its next request when the last is answered.

Little is done for a request, so that the server is what is measured: bytes are written as they are, and of an answer
its status and its length are read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import orjson

Check = Callable[[int, bytes], object]  # of a request's number and the body of its answer


class Load(NamedTuple):
    """Hold what became of n requests."""

    seconds: float  # of all together
    latencies: np.ndarray  # (n,) float64 seconds, in the order of their answers
    statuses: dict[int, int]  # how many of each

    @property
    def rate(self) -> float:
        """Return the requests a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Return the latency that so many percent stay below, in milliseconds."""
        return 1000 * float(np.percentile(self.latencies, share))


def request(path: str, body: Any) -> bytes:
    """Return the bytes of a request."""
    content = orjson.dumps(body)
    fields = f"Host: a\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + content


class _Client(asyncio.Protocol):
    """Send requests over one connection, the next one when the last is answered."""

    def __init__(
        self, take: Callable[[], tuple[int, float] | None], requests: Sequence[bytes], tally: _Tally
    ) -> None:
        self._take, self._requests, self._tally = take, requests, tally
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._got, self._body_at, self._length = bytearray(), 0, 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        taken = self._take()
        if taken is None:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self._number, wait = taken
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._begin = time.perf_counter()
        self._transport.write(self._requests[self._number % len(self._requests)])

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._body_at:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._got[:end]).lower()
            self._body_at = end + 4
            self._length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        end = self._body_at + self._length
        if len(self._got) < end:
            return
        body = bytes(self._got[self._body_at : end])
        self._tally.add(self._number, time.perf_counter() - self._begin, int(self._got[9:12]), body)
        self._got, self._body_at = bytearray(), 0
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError(f"request {self._number} was not answered"))


class _Tally:
    def __init__(self, check: Check | None) -> None:
        self._check = check
        self.latencies: list[float] = []
        self.statuses: dict[int, int] = {}

    def add(self, number: int, seconds: float, status: int, body: bytes) -> None:
        self.latencies.append(seconds)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if self._check is not None:
            self._check(number, body)


def closed_loop(
    url: str,
    requests: Sequence[bytes],  # which are sent in turn, and again from the first
    n_clients: int,
    *,
    n_requests: int | None = None,  # in all
    seconds: float = float("inf"),  # after which no more are begun
    rate: float = float("inf"),  # requests a second at most
    check: Check | None = None,
) -> Load:
    """Send requests by so many clients, and return what became of them. Raises ConnectionError for one unanswered."""
    parts = urlsplit(url)
    host, port = str(parts.hostname), int(parts.port or 80)

    async def main() -> Load:
        loop = asyncio.get_running_loop()
        tally, begin, n_begun = _Tally(check), time.perf_counter(), 0

        def take() -> tuple[int, float] | None:
            """Return the number of the next request, and how long to wait before it."""
            nonlocal n_begun
            now = time.perf_counter() - begin
            if n_begun == n_requests or now > seconds:
                return None
            n_begun += 1
            return n_begun - 1, (n_begun - 1) / rate - now

        made = [
            await loop.create_connection(lambda: _Client(take, requests, tally), host, port)
            for _ in range(n_clients)
        ]
        await asyncio.gather(*(client.done for _, client in made))
        return Load(time.perf_counter() - begin, np.array(tally.latencies), tally.statuses)

    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    return uvloop.run(main())
