"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

ManifestOption = Annotated[Path | None, typer.Option("--manifest", help="The manifest. Default: deploy/fleet.toml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ByOption = Annotated[str | None, typer.Option("--by", help="Who. Default: the user of this machine.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Most rows.")]
OfRunOption = Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only of this run.")]
OfTenantOption = Annotated[str | None, typer.Option("--tenant", help="Only of this tenant.")]
QueryOption = Annotated[
    str | None,
    typer.Option(
        "--query", metavar="QUERY", help="""Runs by a visibility query, as in 'Agent="payer" AND Tenant="acme"'."""
    ),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN")]
