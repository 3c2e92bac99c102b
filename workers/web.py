"""One ASGI application on one port, inside a process that has other things to do."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from fleet.errors import BadInput, FleetError
from workers.tls import Tls

OPEN = ("/live", "/ready")
"""Paths that are answered without a client's certificate: probes have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """An application that answers."""

    what: str
    """What it is, for errors."""
    host: str
    port: int
    ended: "asyncio.Task[None]"
    """Done when the server has ended by itself."""
    encrypted: bool = False

    @property
    def url(self) -> str:
        """Where it answers."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.encrypted else 'http'}://{host}:{self.port}"

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
    app: ASGIApp, host: str, port: int, *, what: str, remedy: str, grace_s: int = 3, tls: Tls | None = None
) -> AsyncIterator[Listening]:
    """Serve until the block ends; signals are left to the process.

    Args:
        app: the application.
        host: address to listen on.
        port: 0: any free one.
        what: it is, for the error.
        remedy: how to choose another port.
        grace_s: seconds for answers under way at the end.
        tls: its certificate, and whether it asks for its clients'. None: plain HTTP.

    Raises:
        BadInput: the port is taken, or the certificate is none.
    """
    context = None if tls is None else tls.context()
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        why = error.strerror or error
        raise BadInput(f"{what} {host}:{port} cannot be opened ({why}): choose another with {remedy}") from None
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=grace_s,
        http=_Known if tls is not None and tls.client_ca is not None else "auto",
        ssl_context_factory=None if context is None else lambda _, __: context,
    )
    server = uvicorn.Server(config)
    following = None if tls is None or context is None else asyncio.create_task(tls.follow(context))
    serving = asyncio.create_task(server._serve(sockets=[listener]))  # noqa: SLF001 - serve() takes the signals over
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        bound = listener.getsockname()
        yield Listening(what=what, host=bound[0], port=bound[1], ended=serving, encrypted=tls is not None)
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        server.should_exit = True
        with suppress(TimeoutError):
            await asyncio.wait_for(serving, grace_s + 1)
        listener.close()


class _Known(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """A connection whose client has shown a certificate of the right issuer, or may only ask what is open."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if not transport.get_extra_info("peercert"):
            self.app: ASGIApp = _Strangers(self.app)


class _Strangers:
    """What clients without a certificate are answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # browsers ask first without showing anything (CORS), and are told nothing by that
        if scope["type"] == "http" and scope["path"] not in OPEN and scope["method"] != "OPTIONS":
            refused = PlainTextResponse("a client certificate of FLEET_TLS_CLIENT_CA is needed\n", status_code=403)
            await refused(scope, receive, send)
        else:
            await self._app(scope, receive, send)
