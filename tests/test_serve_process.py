"""The server as processes: what it loads, its signals, its workers, and clients that are too many or too slow."""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import orjson
import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("onnxscript")
if sys.platform == "win32":
    pytest.skip("signals of POSIX", allow_module_level=True)

import uvicorn

from benchmarks.load import request
from spinn_tensor.export.predictor import OnnxPredictor
from spinn_tensor.export.serve import service
from spinn_tensor.export.serve.errors import Refused
from spinn_tensor.export.serve.server import Worker
from tests.processes import HANGS, finds_processes, run_program
from tests.serving import TEXTS, Server, running, served, tiny_engine, until
from tests.tiny_bundles import tiny_bundle

# seconds that a request has to come whole in: a busy machine does not keep its client waiting as long
TO_COME = 4


@pytest.fixture(scope="module")
def exported(made: Callable[[str, str], tuple[Path, Path]]) -> Path:
    return made("spinn", "pair")[1]


@pytest.fixture(scope="module")
def of_all(exported: Path) -> Iterator[Server]:
    """Run one server for all clients that leave it as it was; at its end nothing has gone wrong in it."""
    options = f"--request-timeout={TO_COME}", "--max-concurrent-requests=20"
    with running(str(exported), *options) as server:
        yield server
        status, said = server.end()
    assert (status, "Traceback" in said) == (0, False), said


@pytest.fixture
def server(of_all: Server) -> Server:
    """Give it when it has done what the test before asked."""
    until(lambda: of_all.metric("spinn_active_requests") == 0)
    return of_all


def connected(server: Server) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=HANGS)


def is_closed(server: Server) -> bool:
    with suppress(OSError), connected(server):
        return False
    return True


# the command where torch is not installed
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
sys.argv[0] = "spinn"
from spinn_tensor.cli.start import main
sys.exit(main())
"""


def without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_serves_an_export_without_torch_and_ends_in_peace(exported: Path) -> None:
    """It becomes another process, which finds torch and does not load it."""
    server = Server("serve", str(exported), command=("-c", WITHOUT_TORCH))
    server.wait()
    maps = Path(f"/proc/{server.process.pid}/maps")
    if maps.exists():
        assert "libtorch" not in maps.read_text()
        assert "onnxruntime" in maps.read_text()
    body = {"inputs": ["A dog barks.", "cats"]}
    scores = server.post("/predict", **body).json()
    assert scores[0]["label"] == OnnxPredictor(exported, "cpu").classify(*body["inputs"]).label
    status, said = server.end()
    assert status == 0
    assert "--hostname 0.0.0.0 lets others" in said
    assert "Traceback" not in said
    found = without_torch("parse", "a")
    assert (found.returncode, found.stdout) == (1, "")
    said = "spinn: error: there is no torch here, without which spinn serve works alone"
    assert found.stderr.startswith(said)


def test_a_checkpoint_is_served(tmp_path: Path) -> None:
    with running(str(tiny_bundle(tmp_path / "bundle", "spinn", "pair"))) as server:
        (scored,) = server.post("/parse", inputs="A dog barks.", log_probability=True).json()
        assert scored["log_probability"] < 0
        assert server.end(signal.SIGINT)[0] == 0


def test_a_model_that_is_not_there_is_all_that_is_said(exported: Path, tmp_path: Path) -> None:
    """Nor is there an address before an export is read."""
    damaged, nameless = (Path(shutil.copytree(exported, tmp_path / name)) for name in ("damaged", "nameless"))
    (damaged / "model.onnx").write_bytes((exported / "model.onnx").read_bytes()[:5000])
    (nameless / "export.json").unlink()
    for folder, told, reason in (
        (tmp_path / "no", "", "no such checkpoint folder"),
        (tmp_path, "", "no checkpoint here (config.json is missing)"),
        (nameless, "", "no exported model here (export.json is missing)"),
        (damaged, "/model.onnx", "onnxruntime cannot run it ("),
    ):
        for workers in (1, 2) if folder == damaged else (1,):
            found = without_torch("serve", folder, f"--workers={workers}")
            assert (found.returncode, found.stderr.count("\n")) == (1, 1)
            assert found.stderr.startswith(f"spinn: error: {folder}{told}: {reason}")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_checkpoint_that_cannot_be_read_ends_it_with_one_line(workers: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    server = Server(str(tmp_path), f"--workers={workers}")
    assert server.process.wait(timeout=HANGS) == 1
    said = server.said()
    assert "spinn: error: " in said
    assert "Traceback" not in said


def test_a_port_that_is_taken(server: Server, capfd) -> None:
    port = str(urlsplit(server.url).port)
    command = [sys.executable, "-m", "spinn_tensor.export.serve", "--port", port]
    assert os.waitstatus_to_exitcode(os.system(" ".join(command) + " 2>&1")) == 1
    assert capfd.readouterr().out.endswith(f"127.0.0.1:{port}: cannot listen there: Address already in use\n")


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_taken_is_answered_after_sigterm(workers: int, exported: Path) -> None:
    """Of many that still wait when it comes, and others that are half here; then there is nobody to connect to."""
    texts = ["the dogs " * 100, "cats"]
    expected = OnnxPredictor(exported, "cpu").encode(texts, normalize_embeddings=True)
    requests = [request("/embed", {"inputs": [texts[number % 2]] * 8}) for number in range(80)]
    with running(str(exported), n_workers=workers) as server, ExitStack() as stack:
        clients = {stack.enter_context(connected(server)): sent for sent in requests}
        for client, sent in clients.items():
            client.sendall(sent[:-9])
        for client, sent in list(clients.items())[:60]:
            client.sendall(sent[-9:])
        taken = "spinn_active_requests", 'te_request_success{method="batch"}'
        until(lambda: sum(map(server.metric, taken)) >= 60)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: is_closed(server))
        for client, sent in list(clients.items())[60:]:
            client.sendall(sent[-9:])
        for number, client in enumerate(clients):
            head, _, answer = client.makefile("rb").read().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            vectors = np.array(orjson.loads(answer))
            np.testing.assert_allclose(vectors, expected[[number % 2] * 8], rtol=0, atol=1e-6)
        assert server.process.wait(timeout=HANGS) == 0


@finds_processes
def test_a_worker_that_was_killed_is_replaced_and_health_tells(exported: Path) -> None:
    with running(str(exported), n_workers=2) as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        workers = [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(workers) == 2
        for number in range(10):
            server.post("/embed", inputs=TEXTS[number % 3])
        os.kill(int(workers[0]), signal.SIGKILL)
        until(lambda: server.health() == {"status": "ready", "workers": 2, "died": 1})
        assert server.post("/embed", inputs="cats").status_code == 200
        # of both, the dead one too
        assert 'te_request_count{method="single"} 11.0' in server.get("/metrics").text
        assert server.end()[0] == 0
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_a_worker_that_died_is_not_waited_for() -> None:
    """It would be for HEALTH_CHECK seconds if it died after it was asked."""
    worker = Worker(uvicorn.Config("no:app"), [])
    worker.process = multiprocessing.get_context("spawn").Process(target=os._exit, args=(3,))
    worker.start()
    worker.process.join()
    assert worker.parent_conn.poll(0)


def trickled(clients: dict[bytes, socket.socket]) -> dict[bytes, bytes]:
    """What each gets that sends its bytes and then now and again one more, until the server closes them all."""
    got, is_open = dict.fromkeys(clients, b""), set(clients)
    for sent, client in clients.items():
        client.sendall(sent)
        client.settimeout(0.01)
    end = time.monotonic() + HANGS
    while is_open and time.monotonic() < end:
        time.sleep(0.3)
        for sent in list(is_open):
            with suppress(OSError):  # it is closed; what it got before is still to be read
                clients[sent].sendall(b"a" if sent else b"")
            try:
                part = clients[sent].recv(100_000)
            except TimeoutError:
                continue
            except OSError:
                part = b""
            got[sent] += part
            if not part:
                is_open.remove(sent)
    assert not is_open
    return got


def test_who_is_slow_or_does_not_read_or_sends_no_request_is_cut_off(server: Server) -> None:
    """All at the same time, since each waits for seconds; meanwhile others are answered."""
    whole = request("/embed", {"inputs": ["the dogs " * 250] * 32})
    starts = {  # what a client sends before it sends a byte now and again, and the statuses that it gets
        b"": [],
        b"POST /em": [b"408"],
        b'POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"inp': [b"408"],
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nPOST /em": [b"200", b"408"],
        whole * 3 + b"POST /embed HTTP/1.1\r\n": [b"200"] * 3 + [b"408"],
    }
    with ExitStack() as stack:
        deaf = stack.enter_context(connected(server))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        for _ in range(10):
            deaf.sendall(request("/tokenize", {"inputs": ["a " * 500] * 32}))
        until(lambda: server.metric("spinn_active_requests") == 0)
        answered = time.monotonic()
        halves = [stack.enter_context(connected(server)) for _ in range(60)]
        for client in halves:
            client.sendall(b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 19\r\n\r\n{")
        assert server.post("/embed", inputs="cats").status_code == 200
        idle = [stack.enter_context(connected(server)) for _ in range(2)]  # before a request, and after one
        idle[1].sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle[1].recv(12) == b"HTTP/1.1 200"
        time.sleep(0.2)
        for client in idle:
            client.sendall(b"\r\n")
        slow = trickled({sent: stack.enter_context(connected(server)) for sent in starts})
        assert {client.recv(12)[-3:] for client in halves} == {b"408"}
        assert not any(b"HTTP/1.1" in answers(client) for client in idle)
        time.sleep(max(0, answered + 2 * TO_COME - time.monotonic()))
        unread = b""
        with suppress(OSError):
            unread = answers(deaf)
        assert unread.count(b"HTTP/1.1 200") < 10
    for sent, statuses in starts.items():
        assert [part[:3] for part in slow[sent].split(b"HTTP/1.1 ")[1:]] == statuses
        assert slow[sent].count(b'"error_type":"Validation"') == statuses.count(b"408")
    assert server.health() == {"status": "ready", "workers": 1, "died": 0}


def test_too_many_at_once_are_refused_and_health_answers(server: Server) -> None:
    sent = request("/embed", {"inputs": ["the dogs " * 250] * 32})
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(server)) for _ in range(60)]
        for client in clients:
            client.sendall(sent)
        assert server.health()["status"] == "ready"
        answered, _, _ = select.select(clients, [], [], 0)
        assert len(answered) < 60  # it waits for nobody
        statuses = [client.recv(12)[-3:] for client in clients]
    assert statuses.count(b"200") >= 20
    assert set(statuses) == {b"200", b"429"}


def answers(client: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    client.settimeout(HANGS)
    return client.makefile("rb").read()


def test_an_upgrade_is_not_done_and_the_request_is_answered(server: Server) -> None:
    """As curl and Java ask for HTTP/2; what comes as its body is no other request."""
    inner = b"GET /info HTTP/1.1\r\nHost: a\r\n\r\n"
    fields = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    for body, status in ((b'{"inputs": "cats"}', b"200"), (inner, b"422")):
        head = b"POST /embed HTTP/1.1\r\nHost: a\r\n" + fields + b"Content-Length: %d\r\n\r\n" % len(body)
        for pieces in ([head + body], [head, body], [head[:60], head[60:], body]):
            with connected(server) as client:
                for piece in pieces:
                    client.sendall(piece)
                    time.sleep(0.05)
                found = client.recv(12)  # before the end is told, at which a server may go without an answer
                client.shutdown(socket.SHUT_WR)
                found += answers(client)
            assert found.startswith(b"HTTP/1.1 " + status)
            assert found.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("head", [b"GET /" + b"a" * 200_000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 40_000])
def test_a_head_without_end_is_refused(head: bytes, server: Server) -> None:
    with connected(server) as client:
        try:
            for start in range(0, len(head), 10_000):
                client.sendall(head[start : start + 10_000])
                time.sleep(0.01)
            found = answers(client)
        except OSError:  # it is closed while more is sent
            return
    assert found.startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("head", [b"Content-Length: 50000000", b"Transfer-Encoding: chunked"])
def test_a_body_that_is_too_large_is_refused_while_it_comes(head: bytes, server: Server) -> None:
    with connected(server) as client:
        client.sendall(b"POST /embed HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n")
        part = b"0" * 100_000
        if b"chunked" in head:
            part = b"%x\r\n%s\r\n" % (len(part), part)
        for _ in range(40):
            client.sendall(part)
        assert client.recv(12) == b"HTTP/1.1 413"
    assert server.health()["status"] == "ready"


def test_whose_client_has_gone_is_dropped(server: Server) -> None:
    clients = [connected(server) for _ in range(20)]
    for client in clients:
        client.sendall(request("/embed", {"inputs": "the dogs " * 250}))
    for client in clients:
        client.close()
    until(lambda: server.metric("te_queue_size") == server.metric("spinn_active_requests") == 0)
    assert server.post("/embed", inputs="cats").status_code == 200


def test_no_control_character_of_a_client_reaches_the_log(exported: Path) -> None:
    with running(str(exported)) as server:
        for sent in (
            b"GET /\x1b[31m HTTP/1.1\r\n\r\n",
            b"\x1b[31m\r\n\r\n",
            b"GET /%1b%0aINFO HTTP/1.1\r\nA: \x1b[31m\r\n\r\n",
        ):
            with connected(server) as client:
                client.sendall(sent)
                assert client.recv(12).startswith(b"HTTP/1.1 4")
        _, said = server.end()
    assert "\x1b" not in said
    assert "INFO" not in said


def test_memory_is_given_back_while_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[None] = []
    monkeypatch.setattr(service, "GIVE_BACK_EVERY", 0.01)
    monkeypatch.setattr(service, "give_back_memory", lambda: given.append(None))
    with served(tiny_engine()):
        until(lambda: len(given) > 3)
    n_given = len(given)
    time.sleep(0.1)
    assert len(given) <= n_given + 1, "it goes on after the server"


def test_what_was_refused_is_freed_at_once() -> None:
    """A refusal that holds the frame that holds it would keep a body of megabytes until garbage is collected."""

    def n_refusals() -> int:
        return sum(issubclass(type(found), Refused) for found in gc.get_objects())

    with served(tiny_engine(max_length=50), payload_limit=300) as client:
        gc.collect()
        n_before = n_refusals()
        gc.disable()
        try:
            for inputs, status in (("", 400), ("a " * 60, 422), ("a" * 1_000, 413), (1, 422)):
                assert client.post("/embed", json={"inputs": inputs}).status_code == status
            until(lambda: n_refusals() == n_before, seconds=10)
        finally:
            gc.enable()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is of glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    code = """
from spinn_tensor.export.serve.service import give_back_memory
give_back_memory()
freed, kept = [bytes(100_000) for _ in range(500)], bytes(1_000)
del freed
print(give_back_memory())
"""
    assert run_program(code, MALLOC_TRIM_THRESHOLD_="1000000000") == "True\n"
