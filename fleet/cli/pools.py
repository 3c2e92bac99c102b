"""The command that shows who serves the pools."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from fleet.cli import context, output
from fleet.client import connect
from fleet.errors import BadInput
from fleet.pools import PoolView, Slots, WorkerView, survey

EVERY_S = 2.0
POOLS = ("POOL", "QUEUE", "WORKERS", "NEW WORK ON", "SLOTS USED", "WAITING", "OLDEST", "IN/s", "OUT/s", "")
WORKERS = ("POOL", "WORKER", "BUILD", "STATE", "LAST SEEN", "UP", "STEPS", "CALLS")


def pools(names: list[str], *, check: bool, watch: bool, manifest: Path | None, json: bool) -> None:
    """Show the pools."""

    async def work() -> int:
        settings, loaded = context.load(manifest)
        for name in names:
            if name not in loaded.pools:
                raise BadInput(f"unknown pool {name!r}; the manifest has: {', '.join(loaded.pools)}")
        client = await connect(settings)
        while True:
            found = [pool for pool in await survey(client, loaded) if not names or pool.name in names]
            if watch and not json:
                typer.echo("\x1b[H\x1b[2J", nl=False)
            output.document([_document(pool) for pool in found]) if json else _show(found)
            if not watch:
                return 1 if check and not all(pool.served for pool in found) else 0
            await asyncio.sleep(EVERY_S)

    raise typer.Exit(context.run(work()))


def _show(found: Sequence[PoolView]) -> None:
    output.table(POOLS, [_pool(pool) for pool in found], empty="the manifest has no pools")
    rows = [_worker(pool.name, worker) for pool in found for worker in pool.workers]
    if rows:
        typer.echo()
        output.table(WORKERS, rows, empty="")


def _pool(pool: PoolView) -> tuple[str, ...]:
    waiting = [backlog for backlog in (pool.workflows, pool.activities) if backlog is not None]
    slots = [s for w in pool.workers if w.live for s in (w.workflows, w.activities) if s is not None]
    used, all_of_them = sum(s.used for s in slots), sum(s.used + s.free for s in slots)
    return (
        pool.name,
        pool.task_queue,
        str(pool.live),
        pool.current or ("none" if pool.unpromoted else "any"),
        f"{used} of {all_of_them}" if slots else "-",
        str(sum(b.count for b in waiting)),
        output.seconds(max(b.oldest_s for b in waiting)) if any(b.count for b in waiting) else "-",
        f"{sum(b.added_per_s for b in waiting):.1f}",
        f"{sum(b.dispatched_per_s for b in waiting):.1f}",
        _remark(pool),
    )


def _remark(pool: PoolView) -> str:
    said = []
    if not pool.live:
        said.append("NO LIVE WORKER")
    elif pool.unpromoted:
        said.append(f"none is current: fleet rollout promote {' or '.join(pool.unpromoted)}")
    elif not pool.served:
        said.append(f"NO LIVE WORKER OF {pool.current}")
    if pool.rate_limit is not None:
        said.append(f"limited to {pool.rate_limit:g}/s")
    return ", ".join(said)


def _worker(pool: str, worker: WorkerView) -> tuple[str, ...]:
    now = datetime.now(UTC)
    return (
        pool,
        worker.identity,
        worker.build or "-",
        worker.state,
        f"{output.seconds((now - worker.seen_at).total_seconds())} ago",
        output.seconds((now - worker.started_at).total_seconds()) if worker.started_at else "-",
        _slots(worker.workflows),
        _slots(worker.activities),
    )


def _slots(slots: Slots | None) -> str:
    return f"{slots.used} of {slots.used + slots.free}" if slots else "-"


def _document(pool: PoolView) -> dict[str, Any]:
    return {
        "pool": pool.name,
        "task_queue": pool.task_queue,
        "live": pool.live,
        "served": pool.served,
        "current": pool.current,
        "rate_limit": pool.rate_limit,
        "backlog": {"workflows": pool.workflows, "activities": pool.activities},
        "workers": list(pool.workers),
    }
