"""Too much of everything at once: it is refused at once, all else is answered, and nothing is left of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("onnxscript")
if sys.platform != "linux":
    pytest.skip("looks at /proc", allow_module_level=True)

from benchmarks.load import closed_loop, request
from spinn_tensor.cli.main import main
from spinn_tensor.export.serve.service import GIVE_BACK_EVERY
from tests.serving import Server, running
from tests.tiny_bundles import tiny_bundle

pytestmark = pytest.mark.slow

N_AT_ONCE = 2_000
HEALTH = 1.0  # seconds, on a machine that others use; 0.2 where it is quiet
GOOD = {"inputs": "The dogs don't bark."}
HARD = [
    ({"inputs": "a " * 5_000}, 422),
    ({"inputs": "a " * 30_000}, 422),
    ({"inputs": ["a"] * 10_000}, 422),
    ({"inputs": "a" * 3_000_000}, 413),
    ({"inputs": ["the dogs " * 250] * 32}, 200),
    (GOOD, 200),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("model")
    bundle = tiny_bundle(folder / "bundle", "spinn", "sentence")
    assert main(["export", str(bundle), "--format", "onnx", "--output", str(folder / "onnx")]) == 0
    with running(str(folder / "onnx"), "--request-timeout=5") as server:
        yield server


def resident(server: Server) -> int:
    """Return the bytes that it has in memory."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


WATCH = """
import http.client, sys, time
times = []
print("begun", flush=True)
while not sys.stdin.closed and not __import__("select").select([sys.stdin], [], [], 0.01)[0]:
    begin = time.monotonic()
    connection = http.client.HTTPConnection(sys.argv[1], timeout=20)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()
    times.append(time.monotonic() - begin)
print(len(times), max(times))
"""


class Watch:
    """Ask for /health all the time, over a new connection each time, from another process."""

    def __init__(self, server: Server) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WATCH, urlsplit(server.url).netloc],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "begun\n"

    def end(self) -> tuple[int, float]:
        """Return how often it answered, and how long it took at most, in seconds."""
        said, _ = self._process.communicate("\n", timeout=30)
        n, slowest = said.split()
        return int(n), float(slowest)


async def ask(server: Server, sent: bytes, pause: float = 0) -> tuple[int, bytes]:
    """Send bytes over a connection, one a `pause` if there is one, and return the status and the body."""
    parts = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        sending = asyncio.create_task(_send(writer, sent, pause))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        sending.cancel()
        return int(head[9:12]), body
    finally:
        writer.close()


async def _send(writer: asyncio.StreamWriter, sent: bytes, pause: float) -> None:
    for part in [sent[i : i + 1] for i in range(len(sent))] if pause else [sent]:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(pause)


def test_two_thousand_at_once(server: Server) -> None:
    async def main() -> Counter[int]:
        answers = await asyncio.gather(*(ask(server, request("/embed", GOOD)) for _ in range(N_AT_ONCE)))
        return Counter(status for status, _ in answers)

    watch = Watch(server)
    statuses = asyncio.run(main())
    n, slowest = watch.end()
    print(statuses, f"health within {slowest:.3f} s, {n} times")
    assert sum(statuses.values()) == N_AT_ONCE
    assert statuses.keys() <= {200, 429}
    assert slowest < HEALTH


def test_all_of_it_and_health_answers_and_memory_comes_back(server: Server) -> None:
    def steady() -> int:
        closed_loop(server.url, [request("/embed", GOOD)], 32, n_requests=3_000)
        time.sleep(1.5 * GIVE_BACK_EVERY)
        return resident(server)

    async def main() -> Counter[tuple[int, int]]:
        slow = request("/embed", {"inputs": "a" * 50})
        hard = [(request("/embed", body), status) for body, status in HARD] * 30
        chunked = b"POST /embed HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        large = chunked + 50 * (b"f4240\r\n" + b" " * 1_000_000 + b"\r\n") + b"0\r\n\r\n"
        asked = [(ask(server, sent), status) for sent, status in [*hard, *[(large, 413)] * 20]]
        asked += [(ask(server, slow, pause=0.5), 408) for _ in range(100)]
        answers = await asyncio.gather(*(one for one, _ in asked))
        for status, body in answers:
            assert status == 200 or json.loads(body).keys() == {"error", "error_type"}
        return Counter(zip((status for _, status in asked), (status for status, _ in answers), strict=True))

    asyncio.run(main())  # what the first time costs is not given back
    before = steady()
    watch = Watch(server)
    statuses = asyncio.run(main())
    n, slowest = watch.end()
    after = steady()
    print(statuses, f"health within {slowest:.3f} s, {n} times; memory {before:,} {after:,}")
    assert all(got in (expected, 429) for expected, got in statuses)
    assert slowest < HEALTH
    assert after < 1.1 * before
