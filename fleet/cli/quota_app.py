"""Declarations of `fleet quota …`."""

from typing import Annotated

import typer

from fleet.cli.options import ByOption, JsonOption, ManifestOption

app = typer.Typer(help="Live quotas: what is in force, who set it, setting it for all.", no_args_is_help=True)

ScopeArgument = Annotated[str, typer.Argument(metavar="SCOPE", help="As in the manifest: openai/sim-large.")]


@app.command("ls")
def quota_ls(manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """List the manifest's scopes and what is in force for each."""
    from fleet.cli import quota

    quota.ls(manifest=manifest, json=json)


@app.command("show")
def quota_show(
    scope: ScopeArgument,
    line: Annotated[int, typer.Option(min=0, help="Show so many of those in line.")] = 10,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Show one scope: limits, what is left, the pace, what the provider says, who stands in line."""
    from fleet.cli import quota

    quota.show(scope, line=line, manifest=manifest, json=json)


@app.command("watch")
def quota_watch(
    scopes: Annotated[list[str] | None, typer.Argument(metavar="SCOPE…", help="Default: all of the manifest.")] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    times: Annotated[int | None, typer.Option(min=1, help="Look so often. Default: until Ctrl-C.")] = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """A live view: levels, the line, waits, pace, cooldowns, 429s, the provider's own numbers."""
    from fleet.cli import quota_watch

    quota_watch.watch(scopes or [], every=every, times=times, manifest=manifest, json=json)


@app.command("advise")
def quota_advise(
    scopes: Annotated[list[str] | None, typer.Argument(metavar="SCOPE…", help="Default: all of the manifest.")] = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """What to change, by what the provider says, what has waited and what was rejected."""
    from fleet.cli import quota_watch

    quota_watch.advise(scopes or [], manifest=manifest, json=json)


@app.command("freeze")
def quota_freeze(
    scope: ScopeArgument,
    reason: Annotated[str, typer.Option(help="Why: kept in the history.")] = "",
    by: ByOption = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Close a scope for the whole fleet: no call starts until somebody thaws it. Runs wait, none fails."""
    from fleet.cli import quota

    quota.freeze(scope, reason=reason, by=by, manifest=manifest, json=json)


@app.command("thaw")
def quota_thaw(
    scope: ScopeArgument,
    reason: Annotated[str, typer.Option(help="Why: kept in the history.")] = "",
    by: ByOption = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Open a scope that was frozen, or closed because the provider wants money; ends a cooldown too."""
    from fleet.cli import quota

    quota.thaw(scope, reason=reason, by=by, manifest=manifest, json=json)


@app.command("set")
def quota_set(
    scope: ScopeArgument,
    limits: Annotated[list[str] | None, typer.Argument(metavar="LIMIT=RATE…", help="As in tokens=200k/m.")] = None,
    burst: Annotated[list[str] | None, typer.Option(metavar="LIMIT=UNITS", help="Most units at once.")] = None,
    headroom: Annotated[float | None, typer.Option(help="Share (0-1] of the rate to use.")] = None,
    for_: Annotated[str | None, typer.Option("--for", metavar="SPAN", help="As 2h: then the quota before.")] = None,
    reason: Annotated[str, typer.Option(help="Why: kept in the history.")] = "",
    by: ByOption = None,
    expect: Annotated[int | None, typer.Option(min=0, help="Set it only over this version.")] = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Set limits for the whole fleet, from the very next call on.

    What is not named stays.
    """
    from fleet.cli import quota

    quota.set_(
        scope,
        limits or [],
        burst=burst or [],
        headroom=headroom,
        for_=for_,
        reason=reason,
        by=by,
        expect=expect,
        manifest=manifest,
        json=json,
    )


@app.command("history")
def quota_history(
    scope: ScopeArgument,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most rows.")] = 20,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Who set the quota to what and why, newest first."""
    from fleet.cli import quota

    quota.history(scope, limit=limit, manifest=manifest, json=json)


@app.command("apply")
def quota_apply(
    reason: Annotated[str, typer.Option(help="Why: kept in the history.")] = "the manifest is applied",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Bring what is in force back to the manifest."""
    from fleet.cli import quota

    quota.apply(reason=reason, dry_run=dry_run, manifest=manifest, json=json)
