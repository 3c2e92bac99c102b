"""Declaration of `fleet top`."""

from typing import Annotated

import typer

from fleet.cli.options import ByOption, JsonOption, ManifestOption


def register(app: typer.Typer) -> None:
    """Join the command to `app`."""
    app.command()(top)


def top(
    every: Annotated[float, typer.Option(metavar="SECONDS", help="Between two looks, 1 to 60.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end: for scripts.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Nothing can be changed.")] = False,
    by: ByOption = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """The fleet in a terminal: quotas, pools, runs, approvals; ? shows the keys.

    With --once the exit code is 1 where a component does not answer.
    """
    from fleet.cli import top as tops

    tops.top(every=every, once=once, read_only=read_only, by=by, manifest=manifest, json=json)
