"""`fleet console`: the page on which approvers decide."""

import asyncio
import signal
import socket
from contextlib import suppress
from pathlib import Path

import structlog
import typer
import uvicorn
from starlette.types import ASGIApp

from fleet.cli import context, database
from fleet.client import FleetClient, connect
from fleet.console.app import app
from fleet.contracts.approvals import Approval
from fleet.errors import BadInput, FleetError, Unreachable
from fleet.manifest import Manifest
from fleet.settings import Settings
from workers.bootstrap import secrets
from workers.database.engine import DatabaseLost
from workers.effects.book import Book
from workers.redaction import REDACTOR
from workers.serving import links
from workers.telemetry import configure_logging

GRACE_S = 5
"""How long answers under way may take once the console is to end."""

log = structlog.get_logger("fleet.console")


def console(*, host: str, port: int, manifest: Path | None) -> None:
    """Serve the console until SIGTERM or SIGINT.

    Raises:
        BadInput: the manifest has no links, or the port is taken.
        Unreachable: Temporal or the database does not answer.
    """
    settings, loaded = context.load(manifest)
    configure_logging(settings)
    REDACTOR.learn(*secrets(settings, loaded))
    context.run(_serve(settings, loaded, host, port))


async def _serve(settings: Settings, manifest: Manifest, host: str, port: int) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    made = links(settings, manifest)
    if made is None:
        raise BadInput(
            'the manifest has no links to approvals: add [approvals] with url = "https://…", where approvers reach this'
            ' console, and link_key = "env:FLEET_LINK_KEY"'
        )
    listener = _listener(host, port)
    with listener:
        client = FleetClient(await connect(settings), manifest)
        async with database.opened(settings) as found:
            book = Book(found)

            async def look(approval_id: str) -> Approval | None:
                try:
                    return await book.get(approval_id)
                except DatabaseLost as lost:
                    raise Unreachable(str(lost)) from None

            await _until(stopping, app(client, made, look), listener)
    log.info("stopped")


def _listener(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise BadInput(
            f"{host}:{port} cannot be opened ({error.strerror or error}): choose another with --host and --port"
        ) from None
    return listener


async def _until(stopping: asyncio.Event, pages: ASGIApp, listener: socket.socket) -> None:
    config = uvicorn.Config(pages, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=GRACE_S)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve(sockets=[listener]))  # noqa: SLF001 - serve() takes the signals over
    waiting = asyncio.create_task(stopping.wait())
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    if server.started:
        _say(listener)
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        waiting.cancel()
        raise FleetError(f"the console has ended by itself: {serving.exception() or 'nobody has asked it to'}")
    log.info("draining")
    server.should_exit = True
    with suppress(TimeoutError):
        await asyncio.wait_for(serving, GRACE_S + 1)


def _say(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    typer.echo(f"console at {url}")
    log.info("ready", console=url)
