"""Connections, by uvicorn's protocol over httptools, with limits on clients that it would wait for.

    what                                    becomes
    a request that does not arrive in time  408, and the connection is closed
    a head of more than MOST_HEAD bytes     431, and the connection is closed
    a connection without a request          closed after the keep-alive time, whatever comes that is none
    an answer that nobody reads             the connection is broken off after the time that a request has
    Upgrade: h2c, which curl and Java send  not done; the request is answered as it is

At a signal idle connections stay for GRACE seconds, for requests that are on their way.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from spinn_tensor.export.serve.errors import Refused

MOST_HEAD = 1 << 16
GRACE = 0.5
TOO_SLOW = Refused(408, "Validation", "the request did not arrive in time")
TOO_LONG = Refused(431, "Validation", f"the head of the request is longer than {MOST_HEAD:,} bytes")
NO_UPGRADE = Refused(400, "Validation", "there is no other protocol to change to")
_UPGRADE = re.compile(rb"(?i)\r\nupgrade:")


class Config(uvicorn.Config):
    """Hold uvicorn's options, and one that it has not."""

    request_timeout = 30  # seconds for a request to arrive whole


class Protocol(HttpToolsProtocol):
    """Cut off whoever sends nothing, too much or too slowly, or does not read."""

    _deadline: asyncio.TimerHandle | None = None  # of the request that arrives
    _unread: asyncio.TimerHandle | None = None  # of the answer that is not read
    _previous: Any = None  # what handled the request before, whose answer says nothing of this one
    _running: Any = None  # what handles a request now
    _is_head, _n_head, _is_ending = False, 0, False

    def connection_made(self, transport: Any) -> None:
        """Take a connection, and wait for its first byte as long as for that of another request."""
        super().connection_made(transport)
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        """Hand bytes to the parser, and refuse a head that is too long."""
        is_body = self._deadline is not None and not self._is_head
        if not is_body and (b"pgrade" in data or b"PGRADE" in data):
            data = _UPGRADE.sub(b"\r\nx-upgrade-not-done:", data)
        was_head = self._is_head
        super().data_received(data)
        if was_head and self._is_head:
            self._n_head += len(data)
            if self._n_head > MOST_HEAD:
                self._refuse(TOO_LONG)
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self._deadline is None and self.timeout_keep_alive_task is None:
            self._wait_for_request()

    def _unsupported_upgrade_warning(self) -> None:
        self._refuse(NO_UPGRADE)  # of a head in two pieces: what comes after it is no other request

    def on_message_begin(self) -> None:
        """Start the time and the count of bytes that a request has."""
        super().on_message_begin()
        self._stop_counting()
        self._is_head, self._n_head = True, 0
        self._previous = self.cycle
        self._deadline = self.loop.call_later(self._seconds(), self._too_slow)

    def on_headers_complete(self) -> None:
        """Start the request's answer, and count no more bytes of its head."""
        self._is_head = False
        super().on_headers_complete()
        if self._is_ending:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Stop the time that the request had: all of it is here."""
        self._stop_counting()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all times, and tell whoever answers that nobody listens."""
        self._stop_counting()
        self.resume_writing()
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to read, but not for ever."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._seconds(), self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the time that the client had to read, and write on."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def shutdown(self) -> None:
        """End when the request that is here, or one that is on its way, is answered."""
        self._is_ending = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(GRACE, self._end_if_idle)
        else:
            super().shutdown()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _end_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _seconds(self) -> float:
        return float(getattr(self.config, "request_timeout", Config.request_timeout))

    def _wait_for_request(self) -> None:
        if not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _stop_counting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        running = self._running
        is_answering = running is not None and not running.response_complete
        if is_answering and (running is self._previous or running is not self.cycle):  # a request before
            self._deadline = self.loop.call_later(self._seconds(), self._too_slow)
        elif self.cycle is self._previous or not self.cycle.response_started:
            self._refuse(TOO_SLOW)
        else:
            self.transport.close()

    def _refuse(self, refused: Refused) -> None:
        if self.transport.is_closing():
            return
        body = orjson.dumps(refused.body(""))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(
            body
        )
        self.transport.write(STATUS_LINE[refused.status] + head + body)
        self.transport.close()
