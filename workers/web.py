"""One ASGI application on one port, inside a process that has other things to do."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from fleet.errors import BadInput, FleetError


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """An application that answers."""

    what: str
    """What it is, for errors."""
    host: str
    port: int
    ended: "asyncio.Task[None]"
    """Done when the server has ended by itself."""

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    async def until(self, stopping: asyncio.Event) -> None:
        """Wait to be told to stop.

        Raises:
            FleetError: the server has ended by itself.
        """
        waiting = asyncio.create_task(stopping.wait())
        await asyncio.wait({self.ended, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            waiting.cancel()
            why = self.ended.exception() or "nobody asked it to"
            raise FleetError(f"the {self.what} has ended by itself: {why}")


@asynccontextmanager
async def served(
    app: ASGIApp, host: str, port: int, *, what: str, remedy: str, grace_s: int = 3
) -> AsyncIterator[Listening]:
    """Serve until the block ends; signals are left to the process.

    Args:
        app: the application.
        host: address to listen on.
        port: 0: any free one.
        what: it is, for the error.
        remedy: how to choose another port.
        grace_s: seconds for answers under way at the end.

    Raises:
        BadInput: the port is taken.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        why = error.strerror or error
        raise BadInput(f"{what} {host}:{port} cannot be opened ({why}): choose another with {remedy}") from None
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=grace_s)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve(sockets=[listener]))  # noqa: SLF001 - serve() takes the signals over
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        bound = listener.getsockname()
        yield Listening(what=what, host=bound[0], port=bound[1], ended=serving)
    finally:
        server.should_exit = True
        with suppress(TimeoutError):
            await asyncio.wait_for(serving, grace_s + 1)
        listener.close()
