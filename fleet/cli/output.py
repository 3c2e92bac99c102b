"""How the CLI speaks: tables for people, one JSON document for programs, one line for problems."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import typer

from fleet.documents import plain, visible

__all__ = ["document", "moment", "problem", "seconds", "shorten", "table", "visible"]


def problem(text: str) -> None:
    """Say on stderr what is wrong, a line each."""
    for line in text.splitlines() or [""]:
        typer.echo(f"fleet: {visible(line)}", err=True)


def document(value: Any) -> None:
    """Print one JSON document on stdout."""
    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Print a table; `empty` where there are no rows."""
    if not rows:
        typer.echo(empty)
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*(visible(str(cell)) for cell in row))
    # a pipe has no width: do not fold what the next program reads
    width = None if sys.stdout.isatty() else 200
    # what models and strangers wrote is no markup
    Console(width=width, soft_wrap=False, markup=False, emoji=False).print(drawn)


def shorten(text: str, most: int) -> str:
    """One line of at most `most` characters."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def moment(at: datetime | None) -> str:
    """A moment for people, to the minute, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else "-"


def seconds(value: float | None) -> str:
    """A duration for people."""
    if value is None:
        return "-"
    if value < 60:
        return f"{value:.1f}s"
    if value < 3600:
        return f"{int(value // 60)}m{int(value % 60):02d}s"
    return f"{int(value // 3600)}h{int(value % 3600 // 60):02d}m"
