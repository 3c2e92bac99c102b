"""Live quotas: what is in force, who set it, and setting it for the whole fleet at once."""

import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fleet.cli import context, output
from fleet.errors import BadInput, Unreachable
from fleet.manifest import LIMITS, Manifest

if TYPE_CHECKING:
    from ratelimit.limiter import Limiter, Snapshot
    from ratelimit.quota import Limit, Quota


@asynccontextmanager
async def _shared(manifest: Path | None) -> "AsyncIterator[tuple[Limiter, Manifest]]":
    from ratelimit.errors import RateLimitError, StoreLost
    from workers.bootstrap import limiter

    settings, loaded = context.load(manifest)
    try:
        async with limiter(settings, loaded) as found:
            yield found, loaded
    except StoreLost as lost:
        raise Unreachable(f"{lost}; start one with `fleet dev` or set FLEET_REDIS_URL") from None
    except RateLimitError as error:
        raise BadInput(str(error)) from None


def ls(*, manifest: Path | None, json: bool) -> None:
    """List the manifest's scopes and what is in force for each."""

    async def work() -> None:
        async with _shared(manifest) as (shared, loaded):
            found = [await _told(shared, scope) for scope in loaded.quotas]
        if json:
            output.document(found)
            return
        rows = [
            (
                told["scope"],
                ", ".join(f"{name} {limit['rate']}" for name, limit in told["limits"].items()) or "not set yet",
                f"{told['pace']:.0%}",
                output.seconds(told["line_s"]),
                str(told["rejections"]),
                str(told["version"]),
            )
            for told in found
        ]
        output.table(("SCOPE", "LIMITS", "PACE", "LINE", "429s", "VERSION"), rows, empty="no quotas")

    context.run(work())


def show(scope: str, *, manifest: Path | None, json: bool) -> None:
    """Show one scope."""

    async def work() -> None:
        async with _shared(manifest) as (shared, loaded):
            _check(scope, loaded)
            told = await _told(shared, scope)
        if json:
            output.document(told)
            return
        typer.echo(f"scope     {scope}, version {told['version']}")
        for name, limit in told["limits"].items():
            left = limit["level"]
            standing = f"{left:g} left" if left >= 0 else f"{-left:g} owed to the line"
            typer.echo(f"limit     {name}: {limit['rate']}, burst {limit['burst']:g}, {standing}")
        typer.echo(f"line      {output.seconds(told['line_s'])} until a call that asks now may start")
        closed = f", closed for {output.seconds(told['closed_s'])}" if told["closed_s"] else ""
        typer.echo(f"pace      {told['pace']:.0%}{closed}, {told['rejections']} rejections by the provider")
        typer.echo(f"headroom  {told['headroom']:.0%} of the rate, {told['burst_headroom']:.0%} of the burst")

    context.run(work())


def set_(
    scope: str,
    limits: list[str],
    *,
    burst: list[str],
    headroom: float | None,
    reason: str,
    by: str | None,
    expect: int | None,
    manifest: Path | None,
) -> None:
    """Set limits of a scope; those that are not named stay."""

    async def work() -> None:
        async with _shared(manifest) as (shared, loaded):
            _check(scope, loaded)
            seen = await shared.inspect(scope)
            now = await shared.quota(scope) or _of_manifest(loaded, scope)
            changed = _changed(now, limits, burst, headroom)
            # over the version that the change was drawn from, so that nobody's change is lost
            version = seen.version if expect is None else expect
            await shared.configure(changed, expect=version, by=by or getpass.getuser(), reason=reason)
            after = await shared.inspect(scope)
        said = ", ".join(f"{name} {_written(limit)}" for name, limit in changed.limits.items())
        typer.echo(f"{scope}: {said}, version {after.version}")

    context.run(work())


def history(scope: str, *, limit: int, manifest: Path | None, json: bool) -> None:
    """Who set the quota to what and why, newest first."""

    async def work() -> None:
        async with _shared(manifest) as (shared, loaded):
            _check(scope, loaded)
            found = await shared.changes(scope, limit)
        rows: list[dict[str, Any]] = [
            {
                "at": datetime.fromtimestamp(change.at, UTC).isoformat(timespec="seconds"),
                "version": change.version,
                "by": change.by,
                "reason": change.reason,
                "limits": {name: _written(one) for name, one in change.quota.limits.items()},
            }
            for change in found
        ]
        if json:
            output.document(rows)
            return
        lines = [(row["at"], str(row["version"]), row["by"], _words(row["limits"]), row["reason"]) for row in rows]
        output.table(("AT", "VERSION", "BY", "LIMITS", "REASON"), lines, empty="never set")

    context.run(work())


def apply(*, reason: str, dry_run: bool, manifest: Path | None, json: bool) -> None:
    """Bring what is in force back to the manifest."""

    async def work() -> None:
        found: list[dict[str, Any]] = []
        async with _shared(manifest) as (shared, loaded):
            for scope in loaded.quotas:
                wanted = _of_manifest(loaded, scope)
                version = (await shared.inspect(scope)).version
                now = await shared.quota(scope)
                if now == wanted:
                    continue
                found.append({"scope": scope, "from": _limits(now), "to": _limits(wanted)})
                if not dry_run:
                    await shared.configure(wanted, expect=version, by=getpass.getuser(), reason=reason)
        if json:
            output.document({"changed": found, "dry_run": dry_run})
            return
        for change in found:
            typer.echo(f"{change['scope']}: {_words(change['from'])} -> {_words(change['to'])}")
        typer.echo(f"{len(found)} quotas {'would change' if dry_run else 'changed'}")

    context.run(work())


def _check(scope: str, manifest: Manifest) -> None:
    if scope not in manifest.quotas:
        raise BadInput(f"no quota {scope!r}; the manifest has: {', '.join(manifest.quotas) or 'none'}")


def _of_manifest(manifest: Manifest, scope: str) -> "Quota":
    from workers.bootstrap import quotas

    return quotas(manifest)[scope]


def _changed(now: "Quota", limits: list[str], burst: list[str], headroom: float | None) -> "Quota":
    from ratelimit.rates import parse_count, parse_limit

    if not limits and not burst and headroom is None:
        raise BadInput("nothing to set: name limits as in requests=500/m, or --burst, or --headroom")
    found = dict(now.limits)
    for name, value in map(_pair, limits):
        given = parse_limit(name, value)
        old = found.get(name)
        if old is not None and old.kind is given.kind:
            keep = old.burst if old.burst and old.burst <= given.capacity else None
            given = replace(given, burst=keep, shadow=old.shadow)
        found[name] = given
    for name, value in map(_pair, burst):
        if name not in found:
            raise BadInput(f"--burst {name}: the quota has no such limit; it has: {', '.join(found)}")
        found[name] = replace(found[name], burst=parse_count(value))
    return replace(now, limits=found, headroom=now.headroom if headroom is None else headroom)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in LIMITS:
        raise BadInput(f"{text!r} does not look like requests=500/m; limits are: {', '.join(LIMITS)}")
    return name, value


async def _told(shared: "Limiter", scope: str) -> dict[str, Any]:
    seen: Snapshot = await shared.inspect(scope)
    quota = await shared.quota(scope)
    limits = {
        name: {
            "rate": _written(quota.limits[name]) if quota and name in quota.limits else f"{limit.rate:g}/s",
            "per_second": limit.rate,
            "burst": limit.burst,
            "level": round(limit.level, 3),
        }
        for name, limit in seen.limits.items()
    }
    owed = max((-limit.level / limit.rate for limit in seen.limits.values()), default=0.0)
    return {
        "scope": scope,
        "version": seen.version,
        "limits": limits,
        "headroom": quota.headroom if quota else None,
        "burst_headroom": quota.burst_headroom if quota else None,
        "pace": seen.pace,
        "closed_s": seen.closed_for.total_seconds(),
        "line_s": max(0.0, owed) / max(seen.pace, 0.01) + seen.closed_for.total_seconds(),
        "grants": seen.counters.grants,
        "rejections": seen.counters.rejections,
    }


def _limits(quota: "Quota | None") -> dict[str, str]:
    return {name: _written(limit) for name, limit in quota.limits.items()} if quota else {}


def _words(limits: dict[str, str]) -> str:
    return ", ".join(f"{name} {rate}" for name, rate in limits.items()) or "nothing"


def _written(limit: "Limit") -> str:
    from ratelimit.rates import written

    return written(limit)
