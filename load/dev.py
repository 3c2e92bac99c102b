"""`fleet dev`: a whole fleet on this machine until Ctrl-C."""

import asyncio
import signal
from pathlib import Path

import typer

from fleet import manifest as manifests
from fleet import settings as environment
from load.local import LocalFleet, Plan
from workers.embedded import Ports


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
        ports=Ports(temporal=ports[0], ui=ports[1], redis=ports[2]),
    )
    return asyncio.run(_serve(LocalFleet(plan, settings)))


async def _serve(fleet: LocalFleet) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with fleet:
        typer.echo(f"Temporal   {fleet.endpoints.temporal}, Web UI {fleet.endpoints.ui}")
        typer.echo(f"Valkey     {fleet.endpoints.redis}")
        if fleet.simulators:
            typer.echo(f"simulators {fleet.simulators['http']}, SMTP port {fleet.simulators['smtp_port']}")
        if fleet.console and fleet.manifest.approvals.url:
            typer.echo(f"console    {fleet.console}")
        typer.echo(f"manifest   {fleet.manifest_path}")
        typer.echo(f"logs       {fleet.plan.folder / 'logs'}")
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
