"""`fleet console`: the page on which approvers decide."""

import asyncio
import signal
from pathlib import Path

import structlog
import typer

from fleet.cli import context, database
from fleet.cli.audit import REFUSED
from fleet.client import FleetClient, connect
from fleet.console.app import app
from fleet.contracts.approvals import Approval, run_of
from fleet.errors import BadInput, Unreachable
from fleet.links import Grant
from fleet.manifest import Manifest
from fleet.settings import Settings
from workers.bootstrap import secrets
from workers.database.engine import DatabaseLost
from workers.effects.book import Book
from workers.redaction import REDACTOR
from workers.serving import links
from workers.telemetry import configure_logging
from workers.tls import Tls
from workers.web import served

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
    context.run(_serve(settings, loaded, host, port), service="fleet-console")


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
    client = FleetClient(await connect(settings), manifest)
    async with database.opened(settings) as found:
        book = Book(found)

        async def look(approval_id: str) -> Approval | None:
            try:
                return await book.get(approval_id)
            except DatabaseLost as lost:
                raise Unreachable(str(lost)) from None

        async def note(grant: Grant, why: str) -> None:
            try:
                await book.note(
                    what=REFUSED,
                    subject=grant.approval_id,
                    run_id=run_of(grant.approval_id),
                    actor=grant.approver,
                    channel="link",
                    comment=why,
                    detail={"digest": grant.digest},
                )
            except DatabaseLost as lost:
                raise Unreachable(str(lost)) from None

        pages = app(client, made, look, note)
        tls = Tls.of(settings, clients=False)
        serving = served(pages, host, port, what="console", remedy="--host and --port", grace_s=GRACE_S, tls=tls)
        async with serving as listening:
            typer.echo(f"console at {listening.url}")
            log.info("ready", console=listening.url)
            await listening.until(stopping)
            log.info("draining")
    log.info("stopped")
