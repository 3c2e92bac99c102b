"""Commands that move new runs between versions of the workers' code."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from fleet.cli import context, output
from fleet.client import connect
from fleet.errors import BadInput, FleetError
from fleet.rates import duration
from fleet.rollout import Carried, Change, Rollout
from fleet.versions import State

_LOOK_S = 1.0
_TOO_LATE = 3
COLUMNS = ("POOL", "BUILD", "STATE", "SINCE", "RUNS", "WORKERS", "LAST SEEN", "CANNOT BE DELETED")


async def _rollout(manifest: Path | None) -> Rollout:
    settings, loaded = context.load(manifest)
    return Rollout(await connect(settings), loaded)


def status(pools: list[str], *, manifest: Path | None, json: bool) -> None:
    """Show every version."""

    async def work() -> list[Carried]:
        return await (await _rollout(manifest)).status(pools)

    _told(context.run(work()), json=json)


def promote(build: str, pools: list[str], *, dry_run: bool, force: bool, manifest: Path | None, json: bool) -> None:
    """Let all new runs begin on a build; delete the oldest versions that nobody needs."""

    async def work() -> None:
        rollout = await _rollout(manifest)
        named = await _named(build)
        changes = await rollout.promotion(named, pools, force=force)
        await _apply(
            rollout, changes, dry_run=dry_run, force=force, json=json, led_to=named,
            empty=f"{named} is current already in every pool that has it",
        )  # fmt: skip

    context.run(work())


def ramp(
    share: str, build: str | None, pools: list[str], *, dry_run: bool, force: bool, manifest: Path | None, json: bool
) -> None:
    """Let a share of new runs begin on a build."""
    percentage = _percentage(share)

    async def work() -> None:
        rollout = await _rollout(manifest)
        changes = await rollout.ramp(percentage, await _named(build) if build else None, pools, force=force)
        empty = "no pool ramps" if percentage == 0 else f"{percentage:g} % it is already"
        await _apply(rollout, changes, dry_run=dry_run, force=force, json=json, empty=empty)

    context.run(work())


def rollback(
    build: str | None,
    source: str | None,
    pools: list[str],
    *,
    dry_run: bool,
    force: bool,
    manifest: Path | None,
    json: bool,
) -> None:
    """Let new runs begin where they did before."""

    async def work() -> None:
        rollout = await _rollout(manifest)
        to = await _named(build) if build else None
        left = await _named(source) if source else None
        changes = await rollout.rollback(pools, build=to, source=left, force=force)
        await _apply(
            rollout, changes, dry_run=dry_run, force=force, json=json, led_to=to or "",
            empty="nothing is left to roll back; further back: fleet rollout rollback --from BUILD",
        )  # fmt: skip

    context.run(work())


def move(run: str, build: str, *, force: bool, manifest: Path | None, json: bool) -> None:
    """Let a run go on elsewhere."""

    async def work() -> None:
        rollout = await _rollout(manifest)
        named = await _named(build)
        await rollout.move(run, named, force=force)
        output.document({"run": run, "build": named}) if json else typer.echo(f"{run} goes on on {named}")

    context.run(work())


def drain(pools: list[str], *, timeout: str, delete: bool, manifest: Path | None, json: bool) -> None:
    """Wait until old versions carry nothing."""
    try:
        patience = duration(timeout).total_seconds()
    except ValueError as error:
        raise BadInput(f"--timeout {timeout}: {error}") from None

    async def work() -> int:
        rollout = await _rollout(manifest)
        deadline = time.monotonic() + patience
        shown = ""
        while True:
            rows = await rollout.status(pools)
            left = [row for row in rows if row.version.state is State.DRAINING]
            said = "; ".join(f"{row.pool} {row.version.build}: {row.runs} running" for row in left)
            if said != shown and left and not json:
                typer.echo(f"  {said}", err=True)
            shown = said
            if not left or time.monotonic() >= deadline:
                break
            await asyncio.sleep(min(_LOOK_S, max(0.0, deadline - time.monotonic())))
        deleted = await rollout.delete(rows) if delete else []
        rows = await rollout.status(pools) if deleted else rows
        old = [row for row in rows if row.version.state in (State.DRAINING, State.DRAINED)]
        if json:
            told = [_row(row) for row in deleted]
            output.document({"drained": not left, "versions": [_row(row) for row in old], "deleted": told})
        else:
            for row in deleted:
                typer.echo(f"deleted {row.pool} {row.version.build}")
            output.table(COLUMNS, [_cells(row) for row in old], empty="no old versions")
        return _TOO_LATE if left else 0

    raise typer.Exit(context.run(work()))


async def _named(build: str) -> str:
    """The build; `git` is that of the checkout."""
    from workers.builds import FROM_GIT, build_id

    if build != FROM_GIT:
        return build
    settings, _ = context.load(None)
    return await asyncio.to_thread(build_id, settings.model_copy(update={"build_id": FROM_GIT})) or build


async def _apply(
    rollout: Rollout,
    changes: Sequence[Change],
    *,
    dry_run: bool,
    force: bool,
    json: bool,
    empty: str,
    led_to: str | None = None,
) -> None:
    """Carry a plan out and tell it; `led_to`, if any, is where all new runs begin then, and old versions may go."""
    done: list[Change] = list(changes) if dry_run else []
    deleted: list[Carried] = []
    staying: dict[str, str] = {}
    try:
        if not dry_run:
            async for change in rollout.apply(changes, force=force):
                done.append(change)
                if not json:
                    typer.echo(str(change))
        if led_to is not None:
            staying = await rollout.staying(changes, led_to)
            deleted = [] if dry_run else await _pruned(rollout, {change.pool for change in done})
    finally:
        # what is done is told, also when a later step was refused
        if json:
            output.document(
                {
                    "dry_run": dry_run,
                    "changes": [
                        {"pool": c.pool, "before": c.before, "after": c.after, "percentage": c.percentage} for c in done
                    ],
                    "staying": staying,
                    "deleted": [_row(row) for row in deleted],
                }
            )
    if json:
        return
    for change in done if dry_run else ():
        typer.echo(f"would change {change}")
    if not done:
        typer.echo(empty)
    for pool, build in staying.items():
        typer.echo(f"{pool} stays on {build}")
    for row in deleted:
        typer.echo(f"deleted {row.pool} {row.version.build}: {row.version.state.value}, one of the oldest")


async def _pruned(rollout: Rollout, pools: set[str]) -> list[Carried]:
    """Delete versions that nobody needs; what goes wrong with it is said, and does not undo what was done."""
    try:
        return await rollout.prune(sorted(pools)) if pools else []
    except FleetError as error:
        output.problem(f"old versions were not deleted: {error}")
        return []


def _percentage(text: str) -> float:
    try:
        return float(text.removesuffix("%"))
    except ValueError:
        raise BadInput(f"SHARE {text!r}: must be a percentage, as in 20%") from None


def _told(rows: Sequence[Carried], *, json: bool) -> None:
    if json:
        output.document([_row(row) for row in rows])
        return
    output.table(COLUMNS, [_cells(row) for row in rows], empty="no versions: workers run without FLEET_BUILD_ID")


def _row(row: Carried) -> dict[str, Any]:
    return {
        "pool": row.pool,
        "build": row.version.build,
        "state": row.version.state,
        "percentage": row.percentage,
        "since": row.version.since,
        "runs": row.runs,
        "workers": row.workers,
        "last_seen": row.seen_at,
        "blocks": list(row.blocks),
    }


def _cells(row: Carried) -> tuple[str, ...]:
    state = row.version.state.value
    return (
        row.pool,
        row.version.build or "-",
        state if row.percentage is None else f"{state} {row.percentage:g} %",
        output.moment(row.version.since),
        str(row.runs),
        str(row.workers),
        output.moment(row.seen_at),
        "; ".join(row.blocks) or "it can",
    )
