"""`fleet exporter`: the fleet's state as metrics."""

import asyncio
import signal
from pathlib import Path

import structlog
import typer

from fleet.cli import context
from fleet.manifest import Manifest
from fleet.settings import Settings
from workers.bootstrap import secrets
from workers.exporter.serving import exporting
from workers.redaction import REDACTOR
from workers.telemetry import configure_logging

log = structlog.get_logger("fleet.exporter")


def exporter(*, host: str, port: int, every: float, manifest: Path | None) -> None:
    """Serve until SIGTERM or SIGINT, whoever answers.

    Raises:
        BadInput: the manifest or a setting is wrong, or the port is taken.
    """
    settings, loaded = context.load(manifest)
    configure_logging(settings)
    REDACTOR.learn(*secrets(settings, loaded))
    context.run(_serve(settings, loaded, host, port, every))


async def _serve(settings: Settings, manifest: Manifest, host: str, port: int, every: float) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with exporting(settings, manifest, host=host, port=port, every_s=every) as url:
        typer.echo(f"exporter at {url}/metrics")
        log.info("ready", health=url)
        await stopping.wait()
    log.info("stopped")
