"""One connection that many tasks share: what is sent within one turn of the event loop leaves together."""

import asyncio
import builtins
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - redis-py's name for it
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's name for it
)

_ERRORS: dict[str, type[ResponseError] | type[ConnectionError]] = {
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
    "LOADING": BusyLoadingError,
    "NOAUTH": AuthenticationError,
    "WRONGPASS": AuthenticationError,
    "NOPERM": NoPermissionError,
}
_NOTHING = object()


class Wire:
    """A connection to one server. Made with the first call, made anew after it broke.

    Replies come in the order of the calls, so that a call that is cancelled costs nothing but its reply.
    """

    def __init__(self, connect: Callable[[], Awaitable[AbstractConnection]], timeout_s: float) -> None:
        """Args:
        connect: opens a connection, handshake included.
        timeout_s: longest wait for a connection, and for any reply; after it the connection is given up.
        """
        self._connect = connect
        self._timeout_s = timeout_s
        self._line: _Replies | None = None
        self._connecting: asyncio.Task[_Replies] | None = None

    async def call(self, *command: str | bytes | int) -> Any:
        """Send one command, wait for its reply.

        Raises:
            RedisError: the server refuses, does not answer in time, or the connection breaks.
        """
        line = self._line
        if line is None or line.broken:
            line = await self._open()
        return await line.call(command, self._timeout_s)

    async def aclose(self) -> None:
        """Close the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._line is not None:
            await self._line.aclose()
            self._line = None

    async def _open(self) -> "_Replies":
        # many calls may find the connection broken at once: one of them makes it anew
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._start())
        return await asyncio.shield(self._connecting)

    async def _start(self) -> "_Replies":
        try:
            if self._line is not None:
                await self._line.aclose()
                self._line = None
            try:
                async with asyncio.timeout(self._timeout_s):
                    self._line = _Replies(await self._connect())
            except builtins.TimeoutError:
                raise TimeoutError(f"no connection within {self._timeout_s:g} s") from None
            return self._line
        finally:
            self._connecting = None


class _Replies(asyncio.Protocol):
    """Reads the replies of one connection and hands them to whoever waits for them."""

    def __init__(self, connection: AbstractConnection) -> None:
        self.broken = False
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=_error, notEnoughData=_NOTHING)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._out: list[bytes] = []
        self._closed: asyncio.Future[None] = self._loop.create_future()
        # the handshake is the library's; from here on every reply is ours
        writer = connection._writer  # noqa: SLF001
        if writer is None or not isinstance(writer.transport, asyncio.Transport):
            raise ConnectionError("the connection was lost while it was made")
        self._transport = writer.transport
        self._transport.set_protocol(self)

    async def call(self, command: tuple[str | bytes | int, ...], timeout_s: float) -> Any:
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(reply)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub knows one element
        late = self._loop.call_later(timeout_s, self._late, reply, timeout_s)
        try:
            found = await reply
        finally:
            late.cancel()
        if isinstance(found, Exception):
            raise found
        return found

    async def aclose(self) -> None:
        self._transport.abort()
        await self._closed
        await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING:
                waiting = self._waiting.popleft()
                if not waiting.done():
                    waiting.set_result(reply)
        except (hiredis.HiredisError, IndexError) as error:
            self._break(ConnectionError(f"the server does not speak the protocol: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(ConnectionError(str(exc) if exc else "the server has closed the connection"))
        if not self._closed.done():
            self._closed.set_result(None)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if not self.broken:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _late(self, reply: "asyncio.Future[Any]", timeout_s: float) -> None:
        if not reply.done():
            # replies come in order: if this one is late, so are all behind it
            self._break(TimeoutError(f"no answer within {timeout_s:g} s"))

    def _break(self, error: Exception) -> None:
        if self.broken:
            return
        self.broken = True
        self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for reply in waiting:
            if not reply.done():
                reply.set_result(error)


def _error(text: str) -> Exception:
    kind, _, rest = text.partition(" ")
    if kind == "MOVED":
        return MovedError(rest)
    return _ERRORS.get(kind, ResponseError)(text)
