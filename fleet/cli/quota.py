"""Live quotas: what is in force, who set it, and setting it for the whole fleet at once."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fleet.cli import context, output
from fleet.errors import BadInput
from fleet.manifest import Manifest
from fleet.rates import UNITS, read_count, read_duration, read_rate, unit_of

if TYPE_CHECKING:
    from ratelimit.limiter import Limiter, LimitSnapshot, Snapshot
    from ratelimit.places import Standing
    from ratelimit.quota import Limit, Quota


@asynccontextmanager
async def shared_limiter(manifest: Path | None) -> "AsyncIterator[tuple[Limiter, Manifest]]":
    """The limiter of the settings, and the manifest."""
    from ratelimit.errors import RateLimitError
    from workers.bootstrap import limiter

    settings, loaded = context.load(manifest)
    try:
        async with limiter(settings, loaded) as found:
            yield found, loaded
    except RateLimitError as error:
        raise BadInput(str(error)) from None


def ls(*, manifest: Path | None, json: bool) -> None:
    """List the manifest's scopes and what is in force for each."""

    async def work() -> None:
        async with shared_limiter(manifest) as (shared, loaded):
            found = [await told_of(shared, scope) for scope in loaded.scopes()]
        if json:
            output.document(found)
            return
        rows = [
            (
                told["scope"],
                ", ".join(f"{name} {limit['rate']}" for name, limit in told["limits"].items()) or "not set yet",
                told["closed"] or f"{told['pace']:.0%}",
                output.seconds(told["line_s"]),
                str(told["rejections"]),
                str(told["version"]),
            )
            for told in found
        ]
        output.table(("SCOPE", "LIMITS", "PACE", "LINE", "429s", "VERSION"), rows, empty="no quotas")

    context.run(work())


def show(scope: str, *, line: int, manifest: Path | None, json: bool) -> None:
    """Show one scope, and who stands in line."""

    async def work() -> None:
        async with shared_limiter(manifest) as (shared, loaded):
            check_scope(scope, loaded)
            told = await told_of(shared, scope)
            standing = await shared.standing(scope)
        told["standing"] = [_place_told(number, one) for number, one in enumerate(standing[:line], 1)]
        if json:
            output.document(told)
            return
        _print(told)
        if len(standing) > line:
            typer.echo(f"          and {len(standing) - line} more; --line {len(standing)} shows them")

    context.run(work())


def _print(told: dict[str, Any]) -> None:
    ends = f", until the one before is back in {output.seconds(told['ends_in_s'])}" if told["ends_in_s"] else ""
    within = f", within {told['within']}" if told["within"] else ""
    typer.echo(f"scope     {told['scope']}{within}, version {told['version']}{ends}")
    for name, limit in told["limits"].items():
        left = limit["level"]
        standing = f"{left:g} left" if left >= 0 else f"{-left:g} owed to the line"
        closed = f", closed for {output.seconds(limit['closed_s'])}" if limit["closed_s"] else ""
        shadow = f", would have refused {limit['shadowed']}" if limit["shadow"] else ""
        typer.echo(f"limit     {name}: {limit['rate']}, burst {limit['burst']:g}, {standing}{closed}{shadow}")
    if told["closed"]:
        typer.echo(f"closed    {told['closed']}, until somebody opens it: fleet quota thaw {told['scope']}")
    else:
        typer.echo(f"line      {output.seconds(told['line_s'])} until a call that asks now may start")
    cooling = f", closed for {output.seconds(told['closed_s'])}" if told["closed_s"] and not told["closed"] else ""
    mean = told["waited_s"] / told["grants"] if told["grants"] else 0.0
    typer.echo(f"pace      {told['pace']:.0%}{cooling}, {told['rejections']} rejections by the provider")
    typer.echo(f"calls     {told['grants']}, booked to wait {output.seconds(mean)} on average")
    if told["headroom"] is not None:
        typer.echo(f"headroom  {told['headroom']:.0%} of the rate, {told['burst_headroom']:.0%} of the burst")
    for name, heard in told["heard"].items():
        granted = "" if heard["granted"] is None else f" of {heard['granted']:g}"
        remaining = "" if heard["remaining"] is None else f" {heard['remaining']:g}{granted} left"
        typer.echo(f"provider  {name}:{remaining or granted}")
    for one in told["standing"]:
        typer.echo(
            f"place {one['place']:<4}{one['key']}: in {output.seconds(one['wait_s'])} by {one['limit']}"
            f"{', comes back for it' if one['held'] else ''}"
        )


def _place_told(number: int, one: "Standing") -> dict[str, Any]:
    return {
        "place": number,
        "key": one.key,
        "wait_s": round(one.wait.total_seconds(), 3),
        "limit": one.limit,
        "since": datetime.fromtimestamp(one.since, UTC).isoformat(timespec="seconds"),
        "held": one.held,
        "cost": dict(one.cost),
    }


def set_(
    scope: str,
    limits: list[str],
    *,
    burst: list[str],
    headroom: float | None,
    for_: str | None,
    reason: str,
    by: str | None,
    expect: int | None,
    manifest: Path | None,
    json: bool,
) -> None:
    """Set limits of a scope; those that are not named stay."""

    async def work() -> None:
        async with shared_limiter(manifest) as (shared, loaded):
            check_scope(scope, loaded)
            seen = await shared.inspect(scope)
            now = await shared.quota(scope) or _of_manifest(loaded, scope)
            changed = _changed(now, limits, burst, headroom)
            # over the version that the change was drawn from, so that nobody's change is lost
            version = seen.version if expect is None else expect
            await shared.configure(changed, expect=version, for_=span, by=context.user(by), reason=reason)
            after = await shared.inspect(scope)
        if json:
            now_set = {name: _written(limit) for name, limit in changed.limits.items()}
            for_s = span.total_seconds() if span else None
            output.document({"scope": scope, "version": after.version, "limits": now_set, "for_s": for_s})
            return
        said = ", ".join(f"{name} {_written(limit)}" for name, limit in changed.limits.items())
        ends = f", for {output.seconds(span.total_seconds())}" if span else ""
        typer.echo(f"{scope}: {said}, version {after.version}{ends}")

    span = None if for_ is None else read_duration("--for", for_)
    context.run(work())


def freeze(scope: str, *, reason: str, by: str | None, manifest: Path | None, json: bool) -> None:
    """Close a scope for the whole fleet."""

    async def work() -> None:
        async with shared_limiter(manifest) as (shared, loaded):
            check_scope(scope, loaded)
            new = await shared.close(scope, by=context.user(by), reason=reason)
        if json:
            output.document({"scope": scope, "closed": "frozen", "changed": new})
        else:
            typer.echo(f"{scope}: {'frozen' if new else 'was frozen already'}; fleet quota thaw {scope}")

    context.run(work())


def thaw(scope: str, *, reason: str, by: str | None, manifest: Path | None, json: bool) -> None:
    """Open a scope that was closed, and end its cooldown."""

    async def work() -> None:
        async with shared_limiter(manifest) as (shared, loaded):
            check_scope(scope, loaded)
            new = await shared.open(scope, by=context.user(by), reason=reason)
        if json:
            output.document({"scope": scope, "closed": None, "changed": new})
        else:
            typer.echo(f"{scope}: {'open' if new else 'was open already'}")

    context.run(work())


def history(scope: str, *, limit: int, manifest: Path | None, json: bool) -> None:
    """Who set the quota to what and why, newest first."""

    async def work() -> None:
        async with shared_limiter(manifest) as (shared, loaded):
            check_scope(scope, loaded)
            found = await shared.changes(scope, limit)
        rows: list[dict[str, Any]] = [
            {
                "at": datetime.fromtimestamp(change.at, UTC).isoformat(timespec="seconds"),
                "version": change.version,
                "by": change.by,
                "reason": change.reason,
                "action": change.action,
                "for_s": change.for_s,
                "limits": {name: _written(one) for name, one in change.quota.limits.items()},
            }
            for change in found
        ]
        if json:
            output.document(rows)
            return
        lines = [
            (
                row["at"],
                str(row["version"]),
                row["action"] + (f" for {output.seconds(row['for_s'])}" if row["for_s"] else ""),
                row["by"],
                in_words(row["limits"]),
                row["reason"],
            )
            for row in rows
        ]
        output.table(("AT", "VERSION", "ACTION", "BY", "LIMITS", "REASON"), lines, empty="never set")

    context.run(work())


def apply(*, reason: str, dry_run: bool, manifest: Path | None, json: bool) -> None:
    """Bring what is in force back to the manifest."""

    async def work() -> None:
        found: list[dict[str, Any]] = []
        async with shared_limiter(manifest) as (shared, loaded):
            for scope in loaded.quotas:
                wanted = _of_manifest(loaded, scope)
                version = (await shared.inspect(scope)).version
                now = await shared.quota(scope)
                if now == wanted:
                    continue
                found.append({"scope": scope, "from": limits_of(now), "to": limits_of(wanted)})
                if not dry_run:
                    await shared.configure(wanted, expect=version, by=context.user(), reason=reason)
        if json:
            output.document({"changed": found, "dry_run": dry_run})
            return
        for change in found:
            typer.echo(f"{change['scope']}: {in_words(change['from'])} -> {in_words(change['to'])}")
        typer.echo(f"{len(found)} quotas {'would change' if dry_run else 'changed'}")

    context.run(work())


def check_scope(scope: str, manifest: Manifest) -> None:
    """Refuse a scope that has no quota.

    Raises:
        BadInput: with those that there are.
    """
    of_tenant = f"{scope.rpartition('/')[0]}/*" in manifest.quotas
    if scope not in manifest.quotas and not of_tenant:
        raise BadInput(f"no quota {scope!r}; the manifest has: {', '.join(manifest.quotas) or 'none'}")


def _of_manifest(manifest: Manifest, scope: str) -> "Quota":
    from workers.bootstrap import quotas

    found = quotas(manifest)
    return found[scope] if scope in found else found[f"{scope.rpartition('/')[0]}/*"].of(scope)


def _changed(now: "Quota", limits: list[str], burst: list[str], headroom: float | None) -> "Quota":
    from workers.bootstrap import limit

    if not limits and not burst and headroom is None:
        raise BadInput("nothing to set: name limits as in requests=500/m, or --burst, or --headroom")
    found = dict(now.limits)
    for name, value in map(_pair, limits):
        given = limit(read_rate(name, value))
        old = found.get(name)
        if old is not None and old.kind is given.kind:
            burst_stays = old.burst if old.burst and old.burst <= given.capacity else None
            given = replace(given, burst=burst_stays, shadow=old.shadow, offset=old.offset)
        found[name] = given
    for name, value in map(_pair, burst):
        if name not in found:
            raise BadInput(f"--burst {name}: the quota has no such limit; it has: {', '.join(found)}")
        found[name] = replace(found[name], burst=read_count(f"--burst {name}", value))
    return replace(now, limits=found, headroom=now.headroom if headroom is None else headroom)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or unit_of(name) not in UNITS:
        raise BadInput(f"{text!r} does not look like requests=500/m; limits count: {', '.join(UNITS)}")
    return name, value


def _waiting(name: str, limit: "LimitSnapshot") -> int | None:
    """How many calls stand in line for a limit of which each spends one; None where they spend unlike much."""
    from ratelimit.arithmetic import unit_of

    if unit_of(name) not in ("requests", "messages"):
        return None
    return max(0, math.ceil(-limit.level - 1e-6))


async def told_of(shared: "Limiter", scope: str) -> dict[str, Any]:
    """A scope as it stands, as plain values."""
    from ratelimit.places import Kind

    seen: Snapshot = await shared.inspect(scope)
    quota = await shared.quota(scope)
    limits = {
        name: {
            "rate": _written(quota.limits[name]) if quota and name in quota.limits else f"{limit.rate:g}/s",
            "per_second": limit.rate,
            "burst": limit.burst,
            "level": round(limit.level, 3),
            "waiting": _waiting(name, limit),
            "closed_s": limit.closed_for.total_seconds(),
            "shadow": limit.shadow,
            "shadowed": limit.shadowed,
        }
        for name, limit in seen.limits.items()
    }
    # what is in flight comes back when calls end, and nobody knows when that is
    lines = [limit for limit in seen.limits.values() if limit.kind is not Kind.IN_FLIGHT and not limit.shadow]
    owed = max((-limit.level / limit.rate for limit in lines), default=0.0)
    return {
        "scope": scope,
        "within": quota.outer if quota else None,
        "version": seen.version,
        "ends_in_s": seen.ends_in.total_seconds() if seen.ends_in else None,
        "limits": limits,
        "headroom": quota.headroom if quota else None,
        "burst_headroom": quota.burst_headroom if quota else None,
        "pace": seen.pace,
        "closed": seen.closed.name.lower() if seen.closed else None,
        "closed_s": seen.closed_for.total_seconds(),
        "line_s": max(0.0, owed) / max(seen.pace, 0.01) + seen.closed_for.total_seconds(),
        "grants": seen.counters.grants,
        "denials": seen.counters.denials,
        "waited_s": seen.counters.waited_s,
        "rejections": seen.counters.rejections,
        "strikes": seen.strikes,
        "heard": {
            name: {"remaining": one.remaining, "granted": one.granted, "period_s": one.period, "taken": one.taken}
            for name, one in seen.heard.items()
        },
    }


def limits_of(quota: "Quota | None") -> dict[str, str]:
    """Each limit as people write it: `500/m`; none without a quota."""
    return {name: _written(limit) for name, limit in quota.limits.items()} if quota else {}


def in_words(limits: dict[str, str]) -> str:
    """What `limits_of` has found, in one line."""
    return ", ".join(f"{name} {rate}" for name, rate in limits.items()) or "nothing"


def _written(limit: "Limit") -> str:
    from ratelimit.places import Kind

    seconds = limit.period.total_seconds()
    match limit.kind:
        case Kind.IN_FLIGHT:
            text = f"{_count(limit.capacity)} at once"
        case Kind.MONTHS:
            text = f"{_count(limit.capacity)}/month"
        case Kind.FIXED:
            window = {60.0: "minute", 3600.0: "hour", 86400.0: "day"}.get(seconds, f"{seconds:g}s window")
            text = f"{_count(limit.capacity)}/{window}"
        case _:
            unit = {1.0: "s", 60.0: "m", 3600.0: "h", 86400.0: "d"}.get(seconds, f"{seconds:g}s")
            text = f"{_count(limit.capacity)}/{unit}"
    return f"{text} (shadow)" if limit.shadow else text


def _count(units: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if units >= size * 10 and units % (size / 10) == 0:
            return f"{units / size:g}{letter}"
    return f"{units:g}"
