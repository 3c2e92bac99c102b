"""How the CLI speaks: tables for people, one JSON document for programs, one line for problems."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import typer

from fleet.documents import plain


def problem(text: str) -> None:
    """Say on stderr what is wrong, a line each."""
    for line in text.splitlines() or [""]:
        typer.echo(f"fleet: {line}", err=True)


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
        drawn.add_row(*(str(cell) for cell in row))
    # a pipe has no width: do not fold what the next program reads
    Console(width=None if sys.stdout.isatty() else 200, soft_wrap=False).print(drawn)


def shorten(text: str, most: int) -> str:
    """One line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def seconds(value: float | None) -> str:
    """A duration for people."""
    if value is None:
        return "-"
    if value < 60:
        return f"{value:.1f}s"
    if value < 3600:
        return f"{int(value // 60)}m{int(value % 60):02d}s"
    return f"{int(value // 3600)}h{int(value % 3600 // 60):02d}m"
