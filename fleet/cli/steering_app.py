"""Declarations of the commands that stop and steer runs: one, or all that a query names."""

from typing import Annotated

import typer

from fleet.cli.options import JsonOption, ManifestOption, QueryOption

OneArgument = Annotated[str | None, typer.Argument(metavar="RUN", help="One run; or give --query.")]
ReasonOption = Annotated[str, typer.Option(help="Why: kept in the history and in the audit.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only list the runs that --query names.")]


def register(app: typer.Typer) -> None:
    """Join the commands to `app`."""
    for command in (stop, cancel, terminate, tell, pause, resume):
        app.command()(command)


def stop(
    run_id: OneArgument = None,
    query: QueryOption = None,
    reason: ReasonOption = "stopped by an operator",
    dry_run: DryRunOption = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Ask runs to finish soon.

    An effect under way is waited for.
    """
    from fleet.cli import steering

    steering.act("stop", run_id, query, words=reason, dry_run=dry_run, manifest=manifest, json=json)


def cancel(
    run_id: OneArgument = None,
    query: QueryOption = None,
    dry_run: DryRunOption = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """End runs without a result.

    An effect under way is accounted for first.
    """
    from fleet.cli import steering

    steering.act("cancel", run_id, query, words="", dry_run=dry_run, manifest=manifest, json=json)


def terminate(
    run_id: OneArgument = None,
    query: QueryOption = None,
    reason: ReasonOption = "terminated by an operator",
    dry_run: DryRunOption = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """End runs at once, wherever they are.

    An effect under way accounts for itself in the ledger.
    """
    from fleet.cli import steering

    steering.act("terminate", run_id, query, words=reason, dry_run=dry_run, manifest=manifest, json=json)


def tell(
    words: Annotated[list[str], typer.Argument(metavar="[RUN] MESSAGE", help="With --query: only the message.")],
    query: QueryOption = None,
    dry_run: DryRunOption = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Say something to agents: their models read it before their next step."""
    from fleet.cli import steering

    steering.tell(words, query, dry_run=dry_run, manifest=manifest, json=json)


def pause(
    run_id: OneArgument = None,
    query: QueryOption = None,
    reason: ReasonOption = "paused by an operator",
    dry_run: DryRunOption = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Let runs begin nothing new until they are resumed."""
    from fleet.cli import steering

    steering.act("pause", run_id, query, words=reason, dry_run=dry_run, manifest=manifest, json=json)


def resume(
    run_id: OneArgument = None,
    query: QueryOption = None,
    reason: ReasonOption = "resumed by an operator",
    dry_run: DryRunOption = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Let paused runs go on."""
    from fleet.cli import steering

    steering.act("resume", run_id, query, words=reason, dry_run=dry_run, manifest=manifest, json=json)
