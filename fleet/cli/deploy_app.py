"""Declarations of `fleet deploy …`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.options import JsonOption, ManifestOption

app = typer.Typer(help="What the manifest's fleet is deployed as: its plan, and the files.", no_args_is_help=True)


class Target(StrEnum):
    """What files are written for."""

    SYSTEMD = "systemd"
    COMPOSE = "compose"
    HELM = "helm"
    ALL = "all"


ImageOption = Annotated[str | None, typer.Option(help="The image, instead of the manifest's deploy.image.")]
BuildOption = Annotated[str | None, typer.Option("--build-id", help="Instead of the manifest's deploy.build_id.")]


def register(root: typer.Typer) -> None:
    """Join the commands to `root`."""
    root.add_typer(app, name="deploy")


@app.command("plan")
def plan(
    image: ImageOption = None, build_id: BuildOption = None, manifest: ManifestOption = None, json: JsonOption = False
) -> None:
    """Print pools, processes, the slots that their quotas keep busy with the arithmetic, and secrets.

    Exit code 2 where there are more slots than that.
    """
    from fleet.cli import deploy

    deploy.plan(image=image, build_id=build_id, manifest=manifest, json=json)


@app.command("render")
def render(
    target: Annotated[Target, typer.Argument(help="For whom.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder. Default: the target's own below deploy.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 if a file would change.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite also what somebody else has written.")] = False,
    idle: Annotated[
        bool, typer.Option("--allow-idle-slots", help="Also where pools have more slots than the quota keeps busy.")
    ] = False,
    image: ImageOption = None,
    build_id: BuildOption = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Write what runs the fleet under TARGET, from the manifest; say what to do next."""
    from fleet.cli import deploy

    deploy.render(
        target,
        out=out,
        check=check,
        force=force,
        idle=idle,
        image=image,
        build_id=build_id,
        manifest=manifest,
        json=json,
    )
