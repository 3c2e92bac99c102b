"""`fleet top`: the fleet in a terminal, or one picture of it for scripts."""

import asyncio
import shutil
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fleet.cli import context, output
from fleet.client import target
from fleet.errors import BadInput

if TYPE_CHECKING:
    from fleet.top.reading import Reading

LEAST_S, MOST_S = 1.0, 60.0
"""Between two looks."""
PIPE_WIDTH = 160
"""Cells of a line where there is no terminal."""


def top(*, every: float, once: bool, read_only: bool, by: str | None, manifest: Path | None, json: bool) -> None:
    """Show the fleet until it is quit; with `once`, print one picture.

    Args:
        every: seconds between two looks.
        once: print and end: exit code 1 where a source does not answer.
        read_only: nothing can be changed.
        by: who acts.
        manifest: where it is.
        json: print a document.

    Raises:
        BadInput: `every` is out of bounds, `json` without `once`, no terminal, or the manifest has problems.
    """
    if not LEAST_S <= every <= MOST_S:
        raise BadInput(f"--every {every:g}: must be {LEAST_S:g} to {MOST_S:g} seconds")
    if json and not once:
        raise BadInput("--json prints one picture: add --once")
    if not once and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadInput("fleet top needs a terminal: in scripts use `fleet top --once`, or `--once --json`")
    settings, loaded = context.load(manifest)
    from fleet.top.reading import Reading
    from workers.bootstrap import secrets
    from workers.redaction import REDACTOR

    REDACTOR.learn(*secrets(settings, loaded))
    reading = Reading(settings, loaded, manifest)
    if once:
        raise typer.Exit(context.run(_once(reading, json=json)))
    where = target(settings)
    place = f"{where.get('namespace', 'default')} at {where['target_host']}"
    context.run(_shown(reading, every=every, read_only=read_only, by=by, where=place))


async def _once(reading: "Reading", *, json: bool) -> int:
    from fleet.top import telling
    from fleet.top.once import document, look

    try:
        picture = await look(reading)
    finally:
        await reading.aclose()
    now = datetime.now(UTC)
    if json:
        output.document(document(picture, now))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
        typer.echo(telling.plain(picture, now, width))
    return 0 if picture.whole else 1


async def _shown(reading: "Reading", *, every: float, read_only: bool, by: str | None, where: str) -> None:
    # another command does not pay for it
    from fleet.top.app import TopApp

    app = TopApp(reading, every=every, read_only=read_only, by=by, where=where)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        # the terminal is given back as it was
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, app.exit)
    try:
        await app.run_async()
    finally:
        await reading.aclose()
