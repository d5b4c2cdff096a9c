"""The processes of the server, their signals and their connections, by uvicorn.

SIGTERM and Ctrl-C: no new connections; requests that were taken are answered; exit status 0. Of several workers a
supervisor starts another for one that dies. A model that cannot be loaded ends all with status 1; each worker says why
in a line.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import uvicorn
from starlette.applications import Starlette
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess as supervision

from spinn_tensor.data_prep.errors import DataWarning, one_line
from spinn_tensor.export.serve.app import make_app
from spinn_tensor.export.serve.engine import Engine
from spinn_tensor.export.serve.metrics import FOLDER, announce
from spinn_tensor.export.serve.protocol import Config, Protocol
from spinn_tensor.export.serve.settings import LOCAL, ServeSettings

BACKLOG = 4_096  # connections that wait to be accepted
DRAIN = 60  # seconds after a signal in which clients must have read their answers
HEALTH_CHECK = 30  # seconds in which a worker must answer its supervisor

logger = logging.getLogger("spinn_tensor.export.serve")


class Formatter(logging.Formatter):
    """Write a record as lines without control characters, whoever they come from; of a traceback each begins alike."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        lines = super().format(record).split("\n") if record.exc_info else [super().format(record)]
        return "\n  | ".join(map(_printable, lines))


def _printable(text: str) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def serve(settings: ServeSettings) -> int:
    """Serve until a signal ends it, and return the exit status. Raises OSError, and as `Engine.find`, before."""
    _log()
    engine = _found(settings)
    listener = _listener(settings)
    _more_files()
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    address = f"http://{host}:{port} (docs: /docs, page: /ui)"
    print(f"spinn serve: {address}, loading {settings.folder}", file=sys.stderr)
    if settings.hostname in (LOCAL, "::1", "localhost"):
        print("spinn serve: this machine alone can reach it; --hostname 0.0.0.0 lets others", file=sys.stderr)
    elif settings.api_key is None:
        print("spinn serve: whoever reaches this machine may ask; --api-key restricts it", file=sys.stderr)
    config = Config(
        partial(_worker, settings, engine),
        factory=True,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=DRAIN,
        workers=settings.workers,
        timeout_worker_healthcheck=HEALTH_CHECK,
    )
    config.request_timeout = settings.request_timeout
    if settings.workers == 1:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # uvicorn raises it anew when all is answered
        uvicorn.Server(config).run([listener])
        return 0
    with tempfile.TemporaryDirectory(prefix="spinn-serve-") as folder:
        os.environ[FOLDER] = folder
        supervision.Process = Worker  # type: ignore[misc]
        supervisor = Supervisor(config, [listener])
        supervisor.run()
        return int(any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes))


def _found(settings: ServeSettings) -> Engine | None:
    """Return the model of an export where this process serves it; where others do it is read to see that it can be."""
    if settings.workers == 1:
        return Engine.find(settings)
    # on a GPU its memory would be held as long as this process is
    Engine.find(dataclasses.replace(settings, device="cpu"))
    return None


class Worker(supervision.Process):
    """Be a process that is not waited for once it has died: the end of the pipe that it answers by is its alone."""

    def start(self) -> None:
        super().start()
        self.child_conn.close()


class Supervisor(supervision.Multiprocess):
    """Listen no longer than the workers do: whoever came after a signal would wait for all of them, and for nothing."""

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def _listener(settings: ServeSettings) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            settings.hostname, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # the latter of a name that is none
        where, number = f"{settings.hostname}:{settings.port}", getattr(error, "errno", None)
        reason = "not a name of a host"
        if isinstance(error, OSError):  # to whose text `create_server` adds the address
            reason = str(error.strerror).partition(" (while ")[0]
        raise OSError(number, f"cannot listen there: {reason}", where) from None


def _more_files() -> None:
    """Take as many connections as the system lets a process have."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("spinn serve: %(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _worker(settings: ServeSettings, engine: Engine | None) -> Starlette:
    """Return the application of a process."""
    _log()
    warnings.simplefilter("ignore", DataWarning)  # of unknown words, which are counted
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.join,), daemon=True).start()
    return make_app(settings, engine, on_ready=_ready, on_failure=_fail)


def _ready() -> None:
    """Tell whoever started the server, and the other workers, that this one answers."""
    gc.collect()
    gc.freeze()  # what is there will stay: looking it through again and again would hold requests up
    which = "" if multiprocessing.parent_process() is None else f": worker {os.getpid()}"
    print(f"spinn serve: ready{which}", file=sys.stderr, flush=True)
    announce()


def _end_with(wait: Callable[[], object]) -> None:
    """End this process when its supervisor has gone, however it went."""
    wait()
    os.kill(os.getpid(), signal.SIGTERM)


def _fail(error: Exception) -> NoReturn:
    """End this process, and with it its supervisor: there is nothing to serve."""
    print(f"spinn: error: {_printable(one_line(error))}", file=sys.stderr, flush=True)
    os._exit(1 if multiprocessing.parent_process() is None else STARTUP_FAILURE)
