"""Declarations of the commands over histories: tell them, compare them, execute them again."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.options import JsonOption, ManifestOption, QueryOption

WhatArgument = Annotated[
    str, typer.Argument(metavar="RUN|FILE", help="A run; or a file of `--save` or of `temporal workflow show -o json`.")
]


def register(app: typer.Typer) -> None:
    """Join the commands to `app`."""
    for command in (trace, diff, replay, reset):
        app.command()(command)


def trace(
    what: WhatArgument,
    why: Annotated[
        str | None, typer.Option("--why", metavar="STEP", help="The decision that has led to a step, as 3 or 3.1.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Do not shorten texts.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the story as one page.")] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Write the histories as they are, payloads too.")
    ] = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Tell one run as a story, from its event history."""
    from fleet.cli import histories

    histories.trace(what, why=why, full=full, html=html, save=save, manifest=manifest, json=json)


def diff(
    first: Annotated[str, typer.Argument(metavar="RUN1|FILE1")],
    second: Annotated[str, typer.Argument(metavar="RUN2|FILE2")],
    full: Annotated[bool, typer.Option("--full", help="Do not shorten texts.")] = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Show where two runs of the same goal parted.

    The exit code is 0 where they went the same path, 1 where they parted.
    """
    from fleet.cli import histories

    histories.diff(first, second, full=full, manifest=manifest, json=json)


def replay(
    what: Annotated[list[str] | None, typer.Argument(metavar="[RUN|FILE]…", help="Or give --query.")] = None,
    query: QueryOption = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most runs of --query, newest first.")] = 100,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Execute histories again against the code at hand.

    Nothing is called. The exit code is 1 where one diverges.
    """
    from fleet.cli import replays

    replays.replay(what or [], query, limit=limit, manifest=manifest, json=json)


def reset(
    run_id: Annotated[str, typer.Argument(metavar="RUN")],
    to: Annotated[str, typer.Option("--to", metavar="STEP", help="As `fleet trace` names it: 3 or 3.1.")],
    reason: Annotated[str, typer.Option(help="Why: kept in the history and in the audit.")] = "reset by an operator",
    drop_signals: Annotated[
        bool, typer.Option("--drop-signals", help="Forget what was said to the run after that step.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without: only show what it would do.")] = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Run a run again from one of its steps; it may have ended."""
    from fleet.cli import resets

    resets.reset(run_id, to, reason=reason, drop_signals=drop_signals, yes=yes, manifest=manifest, json=json)
