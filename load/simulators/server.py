"""One process that is every provider: HTTP on one port, SMTP on another."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from load.simulators import smtp
from load.simulators.anthropic_api import AnthropicApi
from load.simulators.bank_api import BankApi
from load.simulators.control import Control
from load.simulators.hooks import Hooks
from load.simulators.ledger import Ledger
from load.simulators.line import LineProtocol
from load.simulators.mail_api import MailApi
from load.simulators.mailbox import Mailbox
from load.simulators.openai_api import OpenAIApi
from load.simulators.options import Options
from load.simulators.outsiders import Outsiders
from load.simulators.script import Script
from load.simulators.search_api import SearchApi
from load.simulators.world import World

FLUSH_EVERY_S = 0.1
"""How long a row of the ledger waits for its file."""


def application(world: World, script: Script) -> ASGIApp:
    """All HTTP routes. Calls of models do not pass through Starlette, which takes as long as all the rest."""
    openai, anthropic, bank, hooks = OpenAIApi(world), AnthropicApi(world), BankApi(world), Hooks(world)
    control = Control(world, bank.book, hooks.sink, script)
    apis = (openai, anthropic, SearchApi(world), bank, MailApi(world), hooks, control)
    routes = [route for api in apis for route in api.routes()]

    async def models(request: Request) -> Response:
        # both APIs have this path; only Anthropic's SDK says its version
        if "anthropic-version" in request.headers:
            return anthropic.models(request)
        return await openai.models(request)

    others = Starlette(routes=[Route("/v1/models", models), *routes])
    calls = openai.calls() | anthropic.calls()

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        served = calls.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (served or others)(scope, receive, send)

    return serve


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What to serve, and where."""

    options: Options
    host: str = "127.0.0.1"
    """Address to listen on: another than loopback in a container."""
    port: int = 0
    smtp_port: int = 0
    maildir: Path
    ledger_file: Path | None = None
    ready_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where the providers listen."""

    http: str
    """Base URL without a path."""
    smtp_port: int
    pid: int


@asynccontextmanager
async def running(serving: Serving) -> AsyncIterator[Where]:
    """Serve until the block ends.

    Raises:
        OSError: a port is taken, a file cannot be written.
    """
    ledger = Ledger(serving.ledger_file)
    world = World(serving.options, ledger, Mailbox(serving.maildir))
    script, outsiders = Script(world), Outsiders(world)
    mail, smtp_port = await smtp.serve(world, serving.smtp_port, serving.host)
    listener = _listen(serving.port, serving.host)
    config = uvicorn.Config(
        application(world, script), http=LineProtocol, log_level="warning", access_log=False, lifespan="off",
        timeout_graceful_shutdown=1, server_header=False, proxy_headers=False,
    )  # fmt: skip
    http = uvicorn.Server(config)
    # uvicorn's own `serve` would take the signals for itself
    flushing: asyncio.Task[None] | None = None
    task = asyncio.create_task(http._serve([listener]))  # noqa: SLF001
    try:
        while not http.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        flushing = asyncio.create_task(_keep_flushing(ledger)) if serving.ledger_file else None
        outsiders.adopt()
        yield Where(http=f"http://127.0.0.1:{listener.getsockname()[1]}", smtp_port=smtp_port, pid=os.getpid())
    finally:
        script.stop()
        await outsiders.aclose()
        http.should_exit = True
        mail.close()
        await task
        listener.close()
        if flushing is not None:
            flushing.cancel()
        ledger.close()


async def _keep_flushing(ledger: Ledger) -> None:
    while True:
        await asyncio.sleep(FLUSH_EVERY_S)
        ledger.flush()


async def serve(serving: Serving) -> None:
    """Serve until SIGTERM or SIGINT, and say where.

    Raises:
        OSError: a port is taken, a file cannot be written.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with running(serving) as where:
        _announce(asdict(where), serving.ready_file)
        await stopping.wait()


def _listen(port: int, host: str) -> socket.socket:
    # asyncio sets TCP_NODELAY only on a socket that names its protocol; without it answers wait 40 ms for an ACK
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _announce(where: dict[str, Any], ready_file: Path | None) -> None:
    text = json.dumps(where)
    if ready_file is None:
        print(text, flush=True)  # noqa: T201 - the program's answer
        return
    part = ready_file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.rename(ready_file)
