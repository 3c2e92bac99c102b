"""Commands about schedules."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from temporalio.client import Client, ScheduleHandle, ScheduleOverlapPolicy

from fleet import scheduled, schedules
from fleet.cli import context, output
from fleet.cli.audit import Auditor
from fleet.cli.schedule_plans import SHOWN, default_owner
from fleet.client import connect
from fleet.errors import BadInput
from fleet.scheduled import Acted, Backfill, Listed
from fleet.schedules import BY_HAND, Part, owned, parts
from fleet.settings import Settings
from fleet.tables_schedules import SCHEDULE, YEARS, ScheduleEntry


def create(
    name: str,
    given: Mapping[str, Any],
    *,
    calendar: Sequence[str],
    by: str | None,
    manifest: Path | None,
    json: bool,
) -> None:
    """Make a schedule by hand."""
    if not SCHEDULE.fullmatch(name):
        raise BadInput(f"schedule {name[:80]!r}: must be letters, digits, _ . -, at most 100")
    entry = _entry(given, calendar)

    async def work() -> int:
        settings, loaded = context.load(manifest)
        client = await connect(settings)
        wanted = parts(name, entry)
        schedules.run_of(loaded, wanted[0])
        who = context.user(by)

        async def make(part: Part) -> None:
            await schedules.create(client, loaded, part, owner=f"{BY_HAND}{who}")

        failed = await schedules.each(wanted, make, key=lambda part: part.id)
        done = [part.id for part in wanted if part.id not in failed]
        if len(failed) == 1 and not done:
            raise next(iter(failed.values()))
        async with Auditor(settings) as auditor:
            await auditor.note("schedule.created", name, by=by, comment=entry.note, detail={"schedules": len(done)})
        _print_acted("created", Acted(done=done, failed={id_: str(why) for id_, why in failed.items()}), json=json)
        return 1 if failed else 0

    raise typer.Exit(context.run(work()))


def _entry(given: Mapping[str, Any], calendar: Sequence[str]) -> ScheduleEntry:
    table: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for one in calendar:
        field, equals, value = one.partition("=")
        if not equals:
            raise BadInput(f"--calendar {one!r} does not look like FIELD=VALUE, as hour=9-17")
        fields = table.setdefault("calendar", {})
        if field in fields:
            raise BadInput(f"--calendar {field} is given twice: write {field}={fields[field]},{value}")
        fields[field] = value
    try:
        return ScheduleEntry.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        said = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
        where = f"--{first['loc'][0]} {str(first['input'])[:60]!r}: " if first["loc"] else ""
        raise BadInput(f"{where}{said[:1].lower()}{said[1:]}") from None


def ls(name: str | None, *, manifest: Path | None, json: bool) -> None:
    """List schedules."""

    async def work() -> list[Listed]:
        settings, _ = context.load(manifest)
        client = await connect(settings)
        found = await scheduled.listed(client)
        if name is None:
            return found
        wanted = {one.id for one in await scheduled.resolve(client, name)}
        return [one for one in found if one.id in wanted]

    found = context.run(work())
    if json:
        output.document(found)
        return
    groups: dict[str, list[Listed]] = {}
    for one in found:
        groups.setdefault(one.id if name else one.schedule, []).append(one)
    rows = [_row(same) for same in groups.values()]
    columns = ("SCHEDULE", "TIMES", "NEXT", "LAST", "RUNNING", "STATE", "OWNER")
    output.table(columns, rows, empty="no schedules; make them with `fleet schedule apply`")


def _row(same: Sequence[Listed]) -> tuple[str, ...]:
    first = same[0]
    paused = [one for one in same if one.paused]
    state = "on" if not paused else "paused" if len(paused) == len(same) else f"{len(paused)} of {len(same)} paused"
    notes = {one.note for one in (paused or same)}
    if len(notes) == 1 and (note := notes.pop()):
        state += f": {output.shorten(note, 60)}"
    return (
        first.id if len(same) == 1 else f"{first.schedule} ({len(same)})",
        output.shorten(first.times, 60) + (" …" if len(same) > 1 else ""),
        output.moment(min((one.next_at for one in same if one.next_at and not one.paused), default=None)),
        output.moment(max((one.last_at for one in same if one.last_at), default=None)),
        str(sum(one.running for one in same)),
        state,
        first.owner or "another program",
    )


def show(schedule: str, *, manifest: Path | None, json: bool) -> None:
    """Show one."""

    async def work() -> scheduled.Shown:
        settings, _ = context.load(manifest)
        client = await connect(settings)
        found = await scheduled.resolve(client, schedule)
        if len(found) > 1:
            raise BadInput(f"{schedule!r} are {len(found)} schedules: name one, as {found[0].id}")
        return await scheduled.show(client, found[0].id)

    found = context.run(work())
    if json:
        output.document(found)
        return
    state = "paused" if found.paused else "on"
    lines = {
        "schedule": found.id,
        "times": found.times,
        "state": f"{state}: {found.note}" if found.note else state,
        "owner": found.owner or "another program",
        "runs": f"{found.agent} ({found.model}) for {found.tenant}, priority {found.priority}" if found.agent else "-",
        "goal": output.shorten(found.goal, 100),
        "overlap": found.overlap,
        "catch-up": output.seconds(found.catchup_s),
        "so far": f"{found.started} started, {found.skipped} skipped as one was running, {found.missed} missed",
        "running": ", ".join(found.running) or "none",
        "made": output.moment(found.created_at)
        + (f", changed {output.moment(found.updated_at)}" if found.updated_at else ""),
    }
    for key, value in lines.items():
        typer.echo(f"{key:<9}{output.visible(value)}")
    typer.echo(f"next     {_moments(found.next_at)}")
    if found.recent:
        rows = [(one.run, _second(one.due_at), _second(one.started_at)) for one in reversed(found.recent)]
        output.table(("RUN", "DUE", "STARTED"), rows, empty="")


def _second(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _moments(times: Sequence[datetime]) -> str:
    return "\n         ".join(f"{_second(at)} UTC" for at in times) or "never"


def trigger(name: str, *, overlap: str, by: str | None, manifest: Path | None, json: bool) -> None:
    """Start a run now."""
    policy = _overlap(overlap)
    _act(
        name,
        "triggered",
        lambda handle: handle.trigger(overlap=policy),
        by=by,
        words="",
        manifest=manifest,
        json=json,
    )


def pause(name: str, *, reason: str, by: str | None, manifest: Path | None, json: bool) -> None:
    """Start no runs until it is resumed."""
    note = _note("paused", by, reason)
    _act(name, "paused", lambda handle: handle.pause(note=note), by=by, words=reason, manifest=manifest, json=json)


def resume(name: str, *, reason: str, by: str | None, manifest: Path | None, json: bool) -> None:
    """Start runs again."""
    note = _note("resumed", by, reason)
    _act(name, "resumed", lambda handle: handle.unpause(note=note), by=by, words=reason, manifest=manifest, json=json)


def _note(what: str, by: str | None, reason: str) -> str:
    return f"{what} by {context.user(by)}" + (f": {reason}" if reason else "")


def _overlap(text: str) -> ScheduleOverlapPolicy:
    try:
        return ScheduleOverlapPolicy[text.upper()]
    except KeyError:
        known = ", ".join(one.name.lower() for one in ScheduleOverlapPolicy)
        raise BadInput(f"--overlap {text!r} is not one of {known}") from None


def _act(
    name: str,
    done: str,
    what: Callable[[ScheduleHandle], Awaitable[None]],
    *,
    by: str | None,
    words: str,
    manifest: Path | None,
    json: bool,
) -> None:
    async def work() -> int:
        settings, _ = context.load(manifest)
        client = await connect(settings)
        found = await scheduled.resolve(client, name)
        outcome = await scheduled.act(client, found, what)
        await _audited(settings, done, name, outcome, by=by, comment=words)
        _print_acted(done, outcome, json=json)
        return 1 if outcome.failed else 0

    raise typer.Exit(context.run(work()))


async def _audited(
    settings: Settings, done: str, name: str, outcome: Acted, *, by: str | None = None, comment: str = ""
) -> None:
    if outcome.done:
        async with Auditor(settings) as auditor:
            detail = {"schedules": len(outcome.done)}
            await auditor.note(f"schedule.{done}", name, by=by, comment=comment, detail=detail)


def _print_acted(done: str, outcome: Acted, *, json: bool) -> None:
    for id_, why in outcome.failed.items():
        output.problem(f"{id_}: {why}")
    if json:
        output.document({"act": done, "done": outcome.done, "failed": outcome.failed})
    elif len(outcome.done) == 1:
        typer.echo(f"{outcome.done[0]}: {done}")
    else:
        typer.echo(f"{done} {len(outcome.done)} of {len(outcome.done) + len(outcome.failed)}")


def backfill(
    name: str,
    begin: str,
    end: str,
    *,
    overlap: str,
    again: bool,
    dry_run: bool,
    manifest: Path | None,
    json: bool,
) -> None:
    """Start the runs of a time that has passed."""
    policy, since, until = _overlap(overlap), moment("--from", begin), moment("--to", end)

    async def work() -> int:
        settings, _ = context.load(manifest)
        client = await connect(settings)
        found = await scheduled.resolve(client, name)
        gaps: dict[str, Backfill] = {}
        started: dict[str, list[datetime]] = {}

        async def look(one: Listed) -> None:
            gaps[one.id] = await scheduled.missing(client, one.id, since, until)

        async def fill(gap: Backfill) -> None:
            started[gap.id] = await scheduled.backfill(client, gap, overlap=policy, again=again)

        failed = await schedules.each(found, look, key=lambda one: one.id)
        if len(failed) == len(found):
            raise next(iter(failed.values()))
        if not dry_run:
            failed |= await schedules.each(gaps.values(), fill, key=lambda gap: gap.id)
            done = Acted(done=sorted(id_ for id_, times in started.items() if times))
            await _audited(settings, "backfilled", name, done, comment=f"{since:%FT%TZ} to {until:%FT%TZ}")
        for id_, why in failed.items():
            output.problem(f"{id_}: {why}")
        if json:
            document = {"dry_run": dry_run, "gaps": list(gaps.values()), "started": started}
            output.document(document | {"failed": {id_: str(why) for id_, why in failed.items()}})
        else:
            _print_gaps(list(gaps.values()), dry_run=dry_run, again=again)
        return 1 if failed else 0

    raise typer.Exit(context.run(work()))


def _print_gaps(gaps: Sequence[Backfill], *, dry_run: bool, again: bool) -> None:
    due = sum(len(gap.due) for gap in gaps)
    had = sum(len(gap.had) for gap in gaps)
    count = due + (had if again else 0)
    said = f"{count} runs of {len(gaps)} schedules" if len(gaps) > 1 else f"{count} runs of {gaps[0].id}"
    typer.echo(f"{said} would be started" if dry_run else f"{said} are started")
    if had and not again:
        typer.echo(f"{had} had their run before: left out")
    if dry_run and len(gaps) == 1:
        typer.echo("\n".join(f"  {_second(at)} UTC" for at in gaps[0].due[:SHOWN]))


def moment(option: str, text: str) -> datetime:
    """Read `2026-08-01T00:00:00Z`.

    Raises:
        BadInput: it is another text, or has no time zone.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{option} {text!r} is no moment, as 2026-08-01T00:00:00Z") from None
    if found.tzinfo is None:
        raise BadInput(f"{option} {text!r} has no time zone: end it with Z or an offset, as +02:00")
    if not YEARS[0] <= found.year <= YEARS[1]:
        raise BadInput(f"{option} {text!r}: the year is not between {YEARS[0]} and {YEARS[1]}")
    return found.astimezone(UTC)


def rm(
    name: str | None,
    *,
    owned: bool,
    owner: str | None,
    dry_run: bool,
    by: str | None,
    manifest: Path | None,
    json: bool,
) -> None:
    """Remove schedules."""
    if (name is None) == (not owned):
        raise BadInput("name one schedule, or all that the manifest has made with --owned: one of both")

    async def work() -> int:
        settings, _ = context.load(manifest)
        client = await connect(settings)
        found = await _chosen(client, name, owner or default_owner(settings, manifest))
        if dry_run:
            if json:
                output.document({"act": "removed", "dry_run": True, "matched": [one.id for one in found]})
            else:
                typer.echo("\n".join([*(one.id for one in found), f"{len(found)} would be removed"]))
            return 0
        outcome = await scheduled.act(client, found, lambda handle: handle.delete())
        await _audited(settings, "removed", name or "all owned", outcome, by=by)
        _print_acted("removed", outcome, json=json)
        return 1 if outcome.failed else 0

    raise typer.Exit(context.run(work()))


async def _chosen(client: Client, name: str | None, owner: str) -> list[Listed]:
    if name is not None:
        return await scheduled.resolve(client, name)
    return [one for one in await scheduled.listed(client, running=False) if one.owner == owned(owner)]
