"""The database: opened for a command, brought to this release's revision."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fleet.cli import context, output
from fleet.errors import Unreachable
from fleet.settings import Settings

if TYPE_CHECKING:
    from workers.database.engine import Database


@asynccontextmanager
async def opened(settings: Settings) -> "AsyncIterator[Database]":
    """The database of the settings, at this release's revision. A file that is not there is not made.

    Raises:
        Unreachable: it does not answer, at once or within the block, or its schema is another release's.
    """
    from workers.database.engine import Database, DatabaseLost

    try:
        database = Database(settings.database())
        try:
            if database.file is not None and not await asyncio.to_thread(database.file.exists):
                raise Unreachable(f"there is no database {database.file}: run `fleet db upgrade`")
            await database.open()
            yield database
        finally:
            await database.aclose()
    except DatabaseLost as lost:
        raise Unreachable(f"{lost}; see FLEET_DATABASE_URL") from None


def upgrade(*, manifest: Path | None, json: bool) -> None:
    """Apply the revisions that are missing."""
    from workers.database import schema
    from workers.database.engine import DatabaseLost

    settings, _ = context.load(manifest)
    try:
        applied = context.run(schema.upgrade(settings.database()))
    except DatabaseLost as lost:
        raise Unreachable(f"{lost}; see FLEET_DATABASE_URL") from None
    if json:
        output.document({"applied": applied})
    else:
        typer.echo(f"applied {', '.join(applied)}" if applied else "up to date")


def status(*, manifest: Path | None, json: bool) -> None:
    """The revision in force and the newest; exit code 2 where they differ."""
    from workers.database import schema
    from workers.database.engine import DatabaseLost

    settings, _ = context.load(manifest)
    try:
        current, newest = context.run(schema.current(settings.database()))
    except DatabaseLost as lost:
        raise Unreachable(f"{lost}; see FLEET_DATABASE_URL") from None
    if json:
        output.document({"current": current, "newest": newest})
    else:
        typer.echo(f"current   {current or 'none'}")
        typer.echo(f"newest    {newest}")
    if current != newest:
        if not json:
            typer.echo("upgrade   fleet db upgrade")
        raise typer.Exit(2)
