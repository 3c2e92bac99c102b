"""A request's connection, as far as ASGI does not tell of it: break it, answer in one piece, notice that it is gone."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

LINE = "fleet.line"
"""Key of the scope under which the connection is found."""
_STATUS = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n" for one in HTTPStatus}


class Line:
    """The connection of one request."""

    __slots__ = ("_cycle", "_protocol")

    def __init__(self, protocol: "LineProtocol", cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle

    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._cycle.disconnected

    def abort(self) -> None:
        """Break the connection. What is sent from now on goes nowhere."""
        self._cycle.disconnected = True
        self._cycle.transport.abort()

    async def pass_time(self, seconds: float) -> None:
        """Wait, but no longer than the client does."""
        if seconds <= 0 or self.gone():
            return
        protocol = self._protocol
        waiter = protocol.waiter = protocol.loop.create_future()
        timer = protocol.loop.call_later(seconds, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            protocol.waiter = None

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send an answer as a whole. ASGI sends it in two writes, each a system call."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        head = [_STATUS.get(status, f"HTTP/1.1 {status} \r\n")]
        head += [f"{name}: {value}\r\n" for name, value in headers.items()]
        head += [f"{name.decode()}: {value.decode()}\r\n" for name, value in cycle.default_headers]
        if not cycle.keep_alive:
            head.append("connection: close\r\n")
        head.append(f"content-length: {len(body)}\r\n\r\n")
        cycle.response_started = cycle.response_complete = True
        cycle.transport.write("".join(head).encode("latin-1") + body)
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


class LineProtocol(HttpToolsProtocol):
    """Gives every request its line."""

    waiter: "asyncio.Future[None] | None" = None
    """Of the request that lets time pass."""

    def on_headers_complete(self) -> None:
        """The request's task starts only after this."""
        super().on_headers_complete()
        scope: Any = self.scope
        scope[LINE] = Line(self, self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits any more."""
        super().connection_lost(exc)
        if self.waiter is not None:
            _wake(self.waiter)
