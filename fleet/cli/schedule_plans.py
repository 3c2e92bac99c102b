"""`fleet schedule apply`: the plan, how it is printed, and whose the schedules are."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import typer

from fleet import calendars, schedules
from fleet.cli import context, output
from fleet.cli.audit import Auditor
from fleet.client import connect
from fleet.manifest import Manifest
from fleet.schedules import Kind, Step
from fleet.settings import Settings

SHOWN = 20
"""Lines of a plan that are shown of one kind."""
_SIGNS = {
    Kind.CREATE: "+",
    Kind.UPDATE: "~",
    Kind.DELETE: "-",
    Kind.UNCHANGED: "=",
    Kind.ORPHAN: "?",
    Kind.FOREIGN: "!",
}


def apply(
    names: Sequence[str], *, dry_run: bool, prune: bool, owner: str | None, manifest: Path | None, json: bool
) -> None:
    """Plan, print the plan, do it."""

    async def work() -> int:
        settings, loaded = context.load(manifest)
        whose = owner or default_owner(settings, manifest)
        client = await connect(settings)
        steps = await schedules.plan(client, loaded, owner=whose, names=names, prune=prune)
        if not json:
            _print_plan(steps)
            for note in notes(loaded, names, datetime.now(UTC)):
                typer.echo(note)
        if dry_run:
            if json:
                output.document({"owner": whose, "dry_run": True, "plan": _plan_document(steps)})
            return 1 if any(step.kind is Kind.FOREIGN for step in steps) else 0
        done = await schedules.execute(client, loaded, steps, owner=whose)
        changed = {kind.value: len(ids) for kind, ids in done.done.items()}
        if changed:
            async with Auditor(settings) as auditor:
                await auditor.note("schedules.applied", whose, detail=changed)
        for id_, why in done.failed.items():
            output.problem(f"{id_}: {why}")
        if json:
            output.document(
                {
                    "owner": whose,
                    "plan": _plan_document(steps),
                    "done": {kind.value: ids for kind, ids in done.done.items()},
                    "failed": done.failed,
                }
            )
        else:
            typer.echo(", ".join(f"{_PAST[kind]} {len(ids)}" for kind, ids in done.done.items()) or "nothing to do")
        return 1 if done.failed else 0

    raise typer.Exit(context.run(work()))


def default_owner(settings: Settings, manifest: Path | None) -> str:
    """The manifest's file's name; that of `fleet dev` is a copy and has the name of what it was copied from."""
    path = context.manifest_path(settings, manifest)
    dev = settings.dev()
    if dev.get("owner") and dev.get("manifest") == str(path.absolute()):
        return dev["owner"]
    return path.stem


def notes(manifest: Manifest, names: Sequence[str], now: datetime) -> list[str]:
    """A line for each schedule that has a local time which within a year comes twice or not at all."""
    found = []
    for name, entry in manifest.schedules.items():
        if entry.times is None or (names and name not in names):
            continue
        zone = ZoneInfo(entry.timezone)
        if at := calendars.doubtful(entry.times, zone, now.astimezone(zone).date()):
            found.append(
                f"note: {name}: {at:%H:%M} in {entry.timezone} comes twice or not at all on {at:%Y-%m-%d}:"
                " another hour, or UTC, is surer"
            )
    return found


_PAST = {Kind.CREATE: "created", Kind.UPDATE: "updated", Kind.DELETE: "deleted"}


def _plan_document(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [
        {"do": step.kind, "schedule": step.id, "name": step.name, "why": step.why, "kept": step.kept} for step in steps
    ]


def _print_plan(steps: Sequence[Step]) -> None:
    """Alike parts of one name in one line."""
    groups: dict[tuple[Any, ...], list[Step]] = {}
    for step in steps:
        # parts that are spread otherwise differ in their times alone
        alike = tuple(why.partition(" ")[0] if why.startswith(_OF_PART) else why for why in step.why)
        groups.setdefault((step.kind, step.name, alike, step.kept), []).append(step)
    shown = dict.fromkeys(Kind, 0)
    for same in groups.values():
        first, kept = same[0], same[0].kept
        shown[first.kind] += 1
        if shown[first.kind] > SHOWN or (first.kind is Kind.UNCHANGED and not kept):
            continue
        said = first.id if len(same) == 1 else f"{first.id} … {same[-1].id} ({len(same)})"
        whys = [
            one if all(step.why[number] == one for step in same) else f"{one} …" for number, one in enumerate(first.why)
        ]
        told = [text for text in (_NOTES.get(first.kind, ""), *whys, kept) if text]
        typer.echo(f"{_SIGNS[first.kind]} {said}{': ' if told else ''}{'; '.join(map(output.visible, told))}")
    for kind, count in shown.items():
        if count > SHOWN and kind is not Kind.UNCHANGED:
            typer.echo(f"{_SIGNS[kind]} and {count - SHOWN} more lines: --json has all")
    counts = schedules.counted(steps)
    typer.echo(
        "plan: " + (", ".join(f"{count} {_ADJECTIVES[kind]}" for kind, count in counts.items()) or "no schedules")
    )


_OF_PART = ("times ", "goal ")
_NOTES = {Kind.ORPHAN: "not in the manifest any more: --prune deletes it"}
_ADJECTIVES = {
    Kind.CREATE: "to create",
    Kind.UPDATE: "to update",
    Kind.DELETE: "to delete",
    Kind.UNCHANGED: "unchanged",
    Kind.ORPHAN: "not in the manifest",
    Kind.FOREIGN: "of somebody else",
}
