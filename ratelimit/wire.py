"""One connection that all tasks of a process share."""

import asyncio
import builtins
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis-py's name for it
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
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
    "CLUSTERDOWN": ClusterDownError,
}
_NOTHING = object()


Command = tuple[str | bytes | int, ...]
Answer = Callable[[Any], None]
"""Takes a reply, or the exception that stands in its place."""


class Wire:
    """A connection to one server. Made with the first call, made anew after it broke.

    Replies come in the order of the calls. A caller that has gone away costs nothing but its reply.
    """

    def __init__(self, connect: Callable[[], Awaitable[AbstractConnection]], timeout_s: float) -> None:
        """Args:
        connect: opens a connection, handshake included.
        timeout_s: longest wait for a connection, and for any reply; after it the connection is given up.
        """
        self._connect = connect
        self._timeout_s = timeout_s
        self._line: _Replies | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._early: list[tuple[Command, Answer]] = []

    def send(self, command: Command, answer: Answer) -> None:
        """Send one command; `answer` is called with its reply, or with a `RedisError` or `OSError`."""
        line = self._line
        if line is not None and not line.broken and not self._early:
            line.send(command, answer)
            return
        self._early.append((command, answer))
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._start())

    def drop(self) -> None:
        """Give the connection up; the next call makes another."""
        if self._line is not None:
            self._line.drop()

    async def aclose(self) -> None:
        """Close the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._line is not None:
            await self._line.aclose()
            self._line = None

    async def _start(self) -> None:
        try:
            if self._line is not None:
                await self._line.aclose()
                self._line = None
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connect()
            self._line = _Replies(connection, self._timeout_s)
            early, self._early = self._early, []
            for command, answer in early:
                self._line.send(command, answer)
        except builtins.TimeoutError:
            self._refuse(TimeoutError(f"no connection within {self._timeout_s:g} s"))
        except (RedisError, OSError) as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - nobody may be left waiting, whatever a library raises
            self._refuse(ConnectionError(f"no connection: {type(error).__name__}"))
        except asyncio.CancelledError:
            self._refuse(ConnectionError("the connection is closed"))
            raise
        finally:
            self._connecting = None

    def _refuse(self, error: Exception) -> None:
        early, self._early = self._early, []
        for _, answer in early:
            answer(error)


class _Replies(asyncio.Protocol):
    """Reads the replies of one connection and hands them to whoever waits for them."""

    def __init__(self, connection: AbstractConnection, timeout_s: float) -> None:
        self.broken = False
        self._connection = connection
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=_error, notEnoughData=_NOTHING)
        self._waiting: deque[tuple[Answer, float]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        # the handshake is the library's; from here on every reply is ours
        writer = connection._writer  # noqa: SLF001
        if writer is None:
            raise ConnectionError("the connection was lost while it was made")
        self._transport = cast("asyncio.Transport", writer.transport)
        self._transport.set_protocol(self)

    def send(self, command: Command, answer: Answer) -> None:
        # what cannot be written must not be waited for
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows one element
        self._waiting.append((answer, self._loop.time()))
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout_s, self._look)
        self._transport.write(packed)

    async def aclose(self) -> None:
        self._transport.abort()
        await self._closed
        await self._connection.disconnect(nowait=True)

    def drop(self) -> None:
        self._break(ConnectionError("the connection is given up"))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING:
                self._hand(self._waiting.popleft()[0], reply)
        except (hiredis.HiredisError, IndexError) as error:
            self._break(ConnectionError(f"the server does not speak the protocol: {error}"))

    def _hand(self, answer: Answer, reply: Any) -> None:
        try:
            answer(reply)
        except Exception as error:  # noqa: BLE001 - the calls behind it have replies of their own
            self._loop.call_exception_handler({"message": "an answer was not taken", "exception": error})

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(ConnectionError(str(exc) if exc else "the server has closed the connection"))
        if not self._closed.done():
            self._closed.set_result(None)

    def _look(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        # replies come in order: if the oldest call's is late, so are all behind it
        left = self._waiting[0][1] + self._timeout_s - self._loop.time()
        if left <= 0:
            self._break(TimeoutError(f"no answer within {self._timeout_s:g} s"))
        else:
            self._watch = self._loop.call_later(left, self._look)

    def _break(self, error: Exception) -> None:
        if self.broken:
            return
        self.broken = True
        if self._watch is not None:
            self._watch.cancel()
        self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for answer, _ in waiting:
            answer(error)


def _error(text: str) -> Exception:
    kind, _, rest = text.partition(" ")
    if kind in ("MOVED", "ASK"):
        return (MovedError if kind == "MOVED" else AskError)(rest)
    return _ERRORS.get(kind, ResponseError)(text)
