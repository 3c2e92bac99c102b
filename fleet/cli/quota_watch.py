"""Looking at quotas for longer: a live view, and advice."""

import asyncio
import json as jsons
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fleet import documents
from fleet.cli import context, output
from fleet.cli.quota import check_scope, shared_limiter, told_of

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    *("SCOPE", "LIMIT", "LEVEL", "OF", "WAITERS", "LINE"),
    *("WAITS", "PACE", "COOLDOWN", "CALLS/s", "429s", "PROVIDER"),
)


def watch(scopes: list[str], *, every: float, times: int | None, manifest: Path | None, json: bool) -> None:
    """Look again and again."""

    async def work() -> None:
        async with shared_limiter(manifest) as (shared, loaded):
            for scope in scopes:
                check_scope(scope, loaded)
            wanted = scopes or loaded.scopes()
            before: dict[str, dict[str, Any]] = {}
            with _screen(json) as show:
                looks = 0
                while times is None or looks < times:
                    if looks:
                        await asyncio.sleep(every)
                    now = {scope: {**await told_of(shared, scope), "at": time.time()} for scope in wanted}
                    for scope, told in now.items():
                        told["calls_per_s"] = _rate(told, before.get(scope), "grants")
                        told["wait_s"] = _mean_wait(told, before.get(scope))
                    show(list(now.values()))
                    before = now
                    looks += 1

    context.run(work())


def advise(scopes: list[str], *, manifest: Path | None, json: bool) -> None:
    """Say what to change."""

    async def work() -> None:
        from ratelimit import advice

        found = []
        async with shared_limiter(manifest) as (shared, loaded):
            for scope in scopes:
                check_scope(scope, loaded)
            for scope in scopes or loaded.scopes():
                quota = await shared.quota(scope)
                if quota is not None:
                    found += advice.advise(await shared.inspect(scope), quota)
        if json:
            output.document(found)
            return
        for one in found:
            what = f"{one.scope} {one.limit}" if one.limit else one.scope
            typer.echo(f"{what}: {one.text}")
            if one.set:
                typer.echo(f"    fleet quota set {one.scope} {one.set}")
        if not found:
            typer.echo("nothing to change: what the provider says, what waits and what was rejected fit the quotas")

    context.run(work())


def _rate(told: dict[str, Any], before: dict[str, Any] | None, counter: str) -> float | None:
    if before is None or told["at"] <= before["at"]:
        return None
    rate: float = (told[counter] - before[counter]) / (told["at"] - before["at"])
    return rate


def _mean_wait(told: dict[str, Any], before: dict[str, Any] | None) -> float | None:
    """Of the calls since the last look."""
    grants = told["grants"] - (before["grants"] if before else 0)
    waited = told["waited_s"] - (before["waited_s"] if before else 0.0)
    return waited / grants if grants > 0 else None


class _screen:  # noqa: N801 - a context manager that is called like a function
    """Where the looks go: one JSON document a line, tables one after the other, or a view that stays in its place."""

    def __init__(self, json: bool) -> None:
        self._json = json
        self._live: Any = None

    def __enter__(self) -> Any:
        if not self._json and sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(screen=False, auto_refresh=False)
            self._live.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _show(self, told: list[dict[str, Any]]) -> None:
        if self._json:
            typer.echo(jsons.dumps(documents.plain(told), ensure_ascii=False))
        elif self._live is not None:
            self._live.update(_table(told), refresh=True)
        else:
            output.table(COLUMNS, list(_rows(told)), empty="no quotas")


def _provider(heard: dict[str, Any] | None) -> str:
    if heard is None or heard["remaining"] is None:
        return "-"
    granted = "" if heard["granted"] is None else f" of {heard['granted']:,.0f}"
    return f"{heard['remaining']:,.0f}{granted} left"


def _table(told: list[dict[str, Any]]) -> "Table":
    from rich.table import Table

    drawn = Table(*COLUMNS, box=None, pad_edge=False, header_style="bold")
    for row in _rows(told):
        drawn.add_row(*row)
    return drawn


def _rows(told: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for scope in told:
        closed = scope["closed"] or (output.seconds(scope["closed_s"]) if scope["closed_s"] else "-")
        rate = scope["calls_per_s"]
        for number, (name, limit) in enumerate(scope["limits"].items()):
            heard = scope["heard"].get(name)
            mine = (
                output.seconds(scope["line_s"]) if scope["line_s"] < 1e9 else "-",
                output.seconds(scope["wait_s"]),
                f"{scope['pace']:.0%}",
                closed,
                "-" if rate is None else f"{rate:.1f}",
                str(scope["rejections"]),
            )
            yield (
                "" if number else scope["scope"],
                name,
                f"{limit['level']:,.0f}",
                f"{limit['burst']:,.0f}",
                "-" if limit["waiting"] is None else str(limit["waiting"]),
                *(("",) * len(mine) if number else mine),
                _provider(heard),
            )
        if not scope["limits"]:
            yield (scope["scope"], "not set yet", *("",) * (len(COLUMNS) - 2))
