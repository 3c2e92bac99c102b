"""`fleet dev`: a whole fleet on this machine until Ctrl-C."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import typer

from fleet import manifest as manifests
from fleet import settings as environment
from fleet.codec import data_converter
from fleet.console.codec import app
from fleet.storage.places import places
from load.local import EXPORTER_EVERY_S, LocalFleet, Plan
from workers.embedded import Ports, free_ports
from workers.web import served


def run(
    *,
    pools: dict[str, int],
    corpus: Path | None,
    live: bool,
    stack_only: bool,
    console_port: int,
    ports: tuple[int, int, int],
    manifest: Path | None,
) -> int:
    """Run until SIGINT or SIGTERM. Returns the exit code."""
    settings = environment.load()
    # not the manifest of an earlier `fleet dev`: that one points to simulators that are gone
    source = manifest or settings.manifest
    manifests.load(source)
    plan = Plan(
        folder=settings.state_dir.absolute(),
        manifest=source.absolute(),
        pools=pools,
        simulate=not stack_only,
        live_models=live,
        live_outside=live,
        corpus=corpus,
        console=not stack_only,
        console_port=console_port,
        # what is encrypted is not for everybody on this machine: `fleet codec-server` asks who wants to see it
        codec_endpoint="" if settings.payload_keys else f"http://127.0.0.1:{free_ports(1)[0]}",
        exporter_every_s=0.0 if stack_only else EXPORTER_EVERY_S,
        ports=Ports(temporal=ports[0], ui=ports[1], redis=ports[2]),
    )
    return asyncio.run(_serve(LocalFleet(plan, settings)))


@asynccontextmanager
async def _codec_server(fleet: LocalFleet) -> AsyncIterator[None]:
    """Let the Web UI show payloads that are compressed or lie in the state folder."""
    if not fleet.plan.codec_endpoint:
        yield
        return
    ui, settings = urlsplit(fleet.endpoints.ui), fleet.settings()
    server = app(
        data_converter(settings),
        places(settings, embedded=True),
        None,
        [f"http://{host}:{ui.port}" for host in ("127.0.0.1", "localhost")],
    )
    port = urlsplit(fleet.plan.codec_endpoint).port or 0
    async with served(server, "127.0.0.1", port, what="codec server", remedy="another start"):
        yield


async def _serve(fleet: LocalFleet) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with fleet, _codec_server(fleet):
        typer.echo(f"Temporal   {fleet.endpoints.temporal}, Web UI {fleet.endpoints.ui}")
        typer.echo(f"Valkey     {fleet.endpoints.redis}")
        if fleet.simulators:
            typer.echo(f"simulators {fleet.simulators['http']}, SMTP port {fleet.simulators['smtp_port']}")
        if fleet.console and fleet.manifest.approvals.url:
            typer.echo(f"console    {fleet.console}")
        typer.echo(f"manifest   {fleet.manifest_path}")
        typer.echo(f"logs       {fleet.plan.folder / 'logs'}")
        if fleet.plan.exporter_every_s:
            typer.echo(f"metrics    {fleet.scraped.command}")
        fleet.announce()
        await fleet.workers_ready()
        if fleet.plan.pools:
            typer.echo('ready: try `fleet run researcher "What does the module heapq do?" --wait` in this folder')
        waiting = asyncio.create_task(stop.wait())
        watching = asyncio.create_task(fleet.watch())
        try:
            await asyncio.wait({waiting, watching}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
        finally:
            for task in (waiting, watching):
                task.cancel()
            await asyncio.gather(waiting, watching, return_exceptions=True)
        typer.echo("stopping")
    return 0
