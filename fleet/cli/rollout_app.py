"""Declarations of `fleet rollout …` and `fleet pools`."""

from typing import Annotated

import typer

from fleet.cli.options import JsonOption, ManifestOption, RunArgument

app = typer.Typer(help="Versions of the workers' code, and which runs are on them.", no_args_is_help=True)

PoolOption = Annotated[
    list[str] | None, typer.Option("--pool", metavar="POOL", help="Only this pool. Repeatable. Default: all.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Also where no live worker would take the work.")]
BUILD_HELP = "As the workers' FLEET_BUILD_ID; `git`: that of this checkout."


def register(root: typer.Typer) -> None:
    """Join the commands to `root`."""
    root.add_typer(app, name="rollout")
    root.command()(pools)


@app.command("status")
def status(pool: PoolOption = None, manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """Show every version: what it carries, and what keeps it from being deleted."""
    from fleet.cli import rollout

    rollout.status(pool or [], manifest=manifest, json=json)


@app.command("promote")
def promote(
    build: Annotated[str, typer.Argument(metavar="BUILD", help=BUILD_HELP)],
    pool: PoolOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Let all new runs begin on BUILD, in all pools that have it. Runs in flight stay where they are."""
    from fleet.cli import rollout

    rollout.promote(build, pool or [], dry_run=dry_run, force=force, manifest=manifest, json=json)


@app.command("ramp")
def ramp(
    share: Annotated[str, typer.Argument(metavar="SHARE", help="Of new runs, as in 20%; 0% ends the ramp.")],
    build: Annotated[
        str | None, typer.Argument(metavar="BUILD", help=f"{BUILD_HELP} Default: the newest that is not current.")
    ] = None,
    pool: PoolOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Let a share of new runs begin on BUILD."""
    from fleet.cli import rollout

    rollout.ramp(share, build, pool or [], dry_run=dry_run, force=force, manifest=manifest, json=json)


@app.command("rollback")
def rollback(
    build: Annotated[
        str | None,
        typer.Argument(metavar="[BUILD]", help="An older build. Default: the one that was current before."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="BUILD", help="The bad one. Default: where new runs were led last."),
    ] = None,
    pool: PoolOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Let new runs begin where they did before: end a ramp, or go back to an older build; never to a newer one."""
    from fleet.cli import rollout

    rollout.rollback(build, source, pool or [], dry_run=dry_run, force=force, manifest=manifest, json=json)


@app.command("move")
def move(
    run: RunArgument,
    build: Annotated[str, typer.Argument(metavar="BUILD", help=BUILD_HELP)],
    force: ForceOption = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Let a run in flight go on, and stay, on BUILD. Safe only where `fleet replay` of that code says so."""
    from fleet.cli import rollout

    rollout.move(run, build, force=force, manifest=manifest, json=json)


@app.command("drain")
def drain(
    pool: PoolOption = None,
    timeout: Annotated[
        str, typer.Option(help="Longest wait, as in 30s or 2h. Exit code 3 if it was too short; 0s: only look.")
    ] = "24h",
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete drained versions that no worker polls for any more.")
    ] = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Wait until no run needs an old version: then its workers can be stopped."""
    from fleet.cli import rollout

    rollout.drain(pool or [], timeout=timeout, delete=delete, manifest=manifest, json=json)


def pools(
    pool: Annotated[list[str] | None, typer.Argument(metavar="[POOL]…", help="Only these.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit code 1 if nobody takes the new work of a pool.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")] = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Show who serves each pool: live workers, slots, versions, when they were last seen, and what waits."""
    from fleet.cli import pools as looking

    looking.pools(pool or [], check=check, watch=watch, manifest=manifest, json=json)
