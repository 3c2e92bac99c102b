"""Declaration of `fleet doctor`."""

from enum import StrEnum
from typing import Annotated

import typer

from fleet.cli.options import JsonOption, ManifestOption


class Target(StrEnum):
    """Where a fleet runs."""

    LOCAL = "local"
    VM = "vm"
    COMPOSE = "compose"
    KUBERNETES = "kubernetes"
    TEMPORAL_CLOUD = "temporal-cloud"


def register(app: typer.Typer) -> None:
    """Join the command to `app`."""
    app.command(name="doctor")(doctor)


def doctor(
    target: Annotated[
        list[Target] | None,
        typer.Option("--target", help="Also whether all is set up for it; repeatable. To be asked from within it."),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(help="Ask only what this pool needs: from within one of its workers, which has no other secrets."),
    ] = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Ask every component whether it can be reached.

    Says of each what is wrong and what to do. Exit code 2 if something fails; a warning is none.
    """
    from fleet.cli import doctor as doctors

    doctors.doctor(targets=target or [], pool=pool, manifest=manifest, json=json)
