"""Limits on what a client may send, and on how long it may take.

`Guard` is an ASGI middleware for the bodies of requests. `GuardedProtocol` is uvicorn's HTTP
protocol with limits on connections, on the heads of requests and on the reading of answers, which
uvicorn does not have.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from recbole_qbert.service.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DRAINED_S = 1.0  # how long a refused body is read, so that the client gets its answer
REASONS = {408: "Request Timeout", 503: "Service Unavailable"}


class TooLarge(Exception):
    """The body of a request is over the limit."""


class Disconnected(Exception):
    """The client went away while it sent its request."""


class Guard:
    """ASGI middleware that reads bodies within limits of size and time, and counts requests."""

    def __init__(self, app: Any, *, max_body_bytes: int, timeout_s: float, metrics: Metrics):
        """Wrap an ASGI application.

        Args:
            app: it gets each body whole.
            max_body_bytes: the answer to larger bodies is 413. They are not kept.
            timeout_s: how long a client may take to send a body, before the answer is 408.
            metrics: counts all requests.
        """
        self.app, self.metrics = app, metrics
        self.max_body_bytes, self.timeout_s = max_body_bytes, timeout_s

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._answer(scope, receive, counted)
        except Disconnected:
            status = 499
        finally:
            self.metrics.request(scope["path"], status, time.perf_counter() - start)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            body = await asyncio.wait_for(self._body(scope, receive), self.timeout_s)
        except TooLarge:
            error = f"body: more than {self.max_body_bytes:,} bytes; send smaller requests"
            await _refuse(receive, send, 413, error)
            return
        except asyncio.TimeoutError:
            error = f"body: not received within {self.timeout_s:g} s; send it faster"
            await _refuse(receive, send, 408, error)
            return
        body_sent = False

        async def receive_body() -> Message:
            nonlocal body_sent
            if body_sent:
                return await receive()  # that the client went away
            body_sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_body, send)

    async def _body(self, scope: Message, receive: Receive) -> bytes:
        if int(dict(scope["headers"]).get(b"content-length", 0)) > self.max_body_bytes:
            raise TooLarge
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.max_body_bytes:
                raise TooLarge
        return bytes(body)


async def _refuse(receive: Receive, send: Send, status: int, error: str) -> None:
    """Send an error, then close the connection.

    What the client still sends is read for a moment and dropped. If the connection was closed at
    once, the client's system could drop the answer before the client reads it.
    """
    headers, content = _error_response(error)
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": content, "more_body": True})

    async def drain() -> None:
        while (await receive()).get("more_body", False):
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(drain(), DRAINED_S)
    await send({"type": "http.response.body", "body": b""})


def _error_response(error: str) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a response after which the connection is closed."""
    content = json.dumps({"error": error}).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        "Connection": "close",
    }
    return headers, content


class GuardedProtocol(H11Protocol):
    """One connection, with limits.

    A client must send the head of a request within `timeout_s` seconds from its first byte, or from
    the start of the connection, and must read an answer within the same time.
    """

    def __init__(self, limits: tuple[int, float], *args: Any, **named: Any):
        """Take the limits `(max_connections, timeout_s)`, and the arguments of uvicorn."""
        super().__init__(*args, **named)
        self.max_connections, self.timeout_s = limits
        self.head_timer: asyncio.TimerHandle | None = None
        self.reading_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Accept or refuse a connection."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `pause_writing` is called for any unread byte
        if len(self.connections) > self.max_connections:
            self._close(503, f"more than {self.max_connections} connections; try again later")
        else:
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        if self.head_timer is None and not self._answering():
            self._start_head_timer()
        super().data_received(data)
        if self._answering() and self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def pause_writing(self) -> None:
        """Give the client a limited time to read."""
        super().pause_writing()
        self.reading_timer = self.loop.call_later(self.timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on; the client has read."""
        super().resume_writing()
        if self.reading_timer is not None:
            self.reading_timer.cancel()
            self.reading_timer = None

    def _answering(self) -> bool:
        """Return whether the head of a request has come, and its answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def _start_head_timer(self) -> None:
        self.head_timer = self.loop.call_later(
            self.timeout_s,
            self._close,
            408,
            f"head of the request: not received within {self.timeout_s:g} s; send it faster",
        )

    def _stop_timers(self) -> None:
        for timer in (self.head_timer, self.reading_timer):
            if timer is not None:
                timer.cancel()

    def _close(self, status: int, error: str) -> None:
        headers, content = _error_response(error)
        head = [f"HTTP/1.1 {status} {REASONS[status]}", *(f"{k}: {v}" for k, v in headers.items())]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + content)
        self.transport.close()
