"""Declarations of `fleet schedule …`."""

from typing import Annotated

import typer

from fleet.cli.options import ByOption, JsonOption, ManifestOption

app = typer.Typer(help="Runs that Temporal starts by the clock.", no_args_is_help=True)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A schedule, all parts of one (NAME-001, …), or a beginning, as 'night*'.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
OwnerOption = Annotated[
    str | None, typer.Option("--owner", help="Whose schedules the manifest's are. Default: its file's name.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why: stays beside the schedule.")]
OverlapOption = Annotated[
    str, typer.Option(help="skip, buffer_one, buffer_all, cancel_other, terminate_other or allow_all.")
]


@app.command("apply")
def apply(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME…]", help="Only these tables. Default: all.")
    ] = None,
    dry_run: DryRunOption = False,
    prune: Annotated[bool, typer.Option("--prune", help="Delete what this manifest had made and has no more.")] = False,
    owner: OwnerOption = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Make Temporal have the manifest's schedules: print the plan, then do it. Safe to run twice."""
    from fleet.cli import schedule_plans

    schedule_plans.apply(names or [], dry_run=dry_run, prune=prune, owner=owner, manifest=manifest, json=json)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    agent: Annotated[str, typer.Option(help="An agent of the manifest.")],
    goal: Annotated[str, typer.Option(help="What its runs are to do. With --count: {n} is the number.")],
    cron: Annotated[str | None, typer.Option(help="As '0 9 * * 1-5'.")] = None,
    every: Annotated[str | None, typer.Option(help="As 1h.")] = None,
    offset: Annotated[str | None, typer.Option(help="Of --every.")] = None,
    calendar: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=VALUE", help="A field, as hour=9-17. One for each.")
    ] = None,
    timezone: Annotated[str | None, typer.Option(help="Of --cron and --calendar. Default: UTC.")] = None,
    jitter: Annotated[str | None, typer.Option(help="Each time is later by up to this.")] = None,
    overlap: OverlapOption = "skip",
    catchup: Annotated[str | None, typer.Option(help="How old a missed time may be. Default: 1h.")] = None,
    start: Annotated[str | None, typer.Option(help="Not before, as 2026-08-01T00:00:00Z.")] = None,
    end: Annotated[str | None, typer.Option(help="Not after.")] = None,
    count: Annotated[int | None, typer.Option(help="So many schedules, spread.")] = None,
    spread: Annotated[str | None, typer.Option(help="Of --count: over what.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose runs they are.")] = "default",
    priority: Annotated[int, typer.Option(help="1 (first) to 4.")] = 3,
    tell: Annotated[
        list[str] | None, typer.Option(metavar="ENDPOINT", help="Told the end of each. Repeatable.")
    ] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Do not begin yet.")] = False,
    note: Annotated[str, typer.Option(help="For people.")] = "",
    by: ByOption = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Make a schedule by hand. `apply` never touches it."""
    from fleet.cli import schedules

    given = {
        "agent": agent, "goal": goal, "cron": cron, "every": every, "offset": offset, "timezone": timezone,
        "jitter": jitter, "overlap": overlap, "catchup": catchup, "start": start, "end": end, "count": count,
        "spread": spread, "tenant": tenant, "priority": priority, "tell": tell, "paused": paused, "note": note,
    }  # fmt: skip
    schedules.create(name, given, calendar=calendar or [], by=by, manifest=manifest, json=json)


@app.command("ls")
def ls(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only these, each part in a line.")] = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """List schedules: next and last run, paused and why, whose they are, runs in flight."""
    from fleet.cli import schedules

    schedules.ls(name, manifest=manifest, json=json)


@app.command("show")
def show(
    schedule: Annotated[str, typer.Argument(metavar="NAME")], manifest: ManifestOption = None, json: JsonOption = False
) -> None:
    """Show one: its times, the next ten, recent runs, what was skipped and missed."""
    from fleet.cli import schedules

    schedules.show(schedule, manifest=manifest, json=json)


@app.command("trigger")
def trigger(
    name: NameArgument,
    overlap: OverlapOption = "buffer_one",
    by: ByOption = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Start a run now, paused or not; behind one that is running, if there is."""
    from fleet.cli import schedules

    schedules.trigger(name, overlap=overlap, by=by, manifest=manifest, json=json)


@app.command("pause")
def pause(
    name: NameArgument,
    reason: ReasonOption = "",
    by: ByOption = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Start no runs until it is resumed. Those in flight go on; `apply` leaves it paused."""
    from fleet.cli import schedules

    schedules.pause(name, reason=reason, by=by, manifest=manifest, json=json)


@app.command("resume")
def resume(
    name: NameArgument,
    reason: ReasonOption = "",
    by: ByOption = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Start runs again. The times meanwhile are not made up for: see `backfill`."""
    from fleet.cli import schedules

    schedules.resume(name, reason=reason, by=by, manifest=manifest, json=json)


@app.command("backfill")
def backfill(
    name: NameArgument,
    begin: Annotated[str, typer.Option("--from", help="First instant, as 2026-08-01T00:00:00Z.")],
    end: Annotated[str, typer.Option("--to", help="Last instant.")],
    overlap: OverlapOption = "buffer_all",
    again: Annotated[bool, typer.Option("--again", help="Also instants that have had their run.")] = False,
    dry_run: DryRunOption = False,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Start the runs of a time that has passed, those that have not been."""
    from fleet.cli import schedules

    schedules.backfill(name, begin, end, overlap=overlap, again=again, dry_run=dry_run, manifest=manifest, json=json)


@app.command("rm")
def rm(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="As of `pause`.")] = None,
    owned: Annotated[bool, typer.Option("--owned", help="All that this manifest has made.")] = False,
    owner: OwnerOption = None,
    dry_run: DryRunOption = False,
    by: ByOption = None,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Remove schedules. Their runs go on."""
    from fleet.cli import schedules

    schedules.rm(name, owned=owned, owner=owner, dry_run=dry_run, by=by, manifest=manifest, json=json)
