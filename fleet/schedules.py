"""Temporal Schedules that start runs: what the manifest wants, what there is, and the way from one to the other."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from temporalio.api.workflowservice.v1 import UpdateScheduleRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
)
from temporalio.service import RPCError, RPCStatusCode

from fleet import calendars, drift, starting
from fleet.contracts.runs import RunInput
from fleet.errors import BadInput, FleetError, Unreachable
from fleet.instants import calendar_spec, first, span, words
from fleet.manifest import Manifest
from fleet.tables_schedules import ScheduleEntry, ids

T = TypeVar("T")

AT_ONCE = 50
"""Calls to Temporal under way at the same time."""
TRIES = 5
"""An update that meets another one is made again from what is there then."""
OWNER_MEMO = "owner"
"""In a schedule's memo: `manifest NAME`, or `by WHOM` where it was made by hand."""
NAME_MEMO = "schedule"
"""In a schedule's memo its name, the same of all its parts; in a run's memo, which schedule has started it."""
BY_HAND = "by "


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One Temporal Schedule of the manifest, or one of the `count` that share a name."""

    id: str
    name: str
    number: int
    """From 1."""
    entry: ScheduleEntry


def parts(name: str, entry: ScheduleEntry) -> list[Part]:
    """The schedules of one table."""
    return [
        Part(id=one, name=name, number=number, entry=entry)
        for number, one in enumerate(ids(name, entry.count), start=1)
    ]


def run_of(manifest: Manifest, part: Part) -> RunInput:
    """What its runs are started with: the agent's definition as the manifest has it now.

    Raises:
        BadInput: an unknown agent or endpoint.
    """
    entry = part.entry
    return starting.run_input(
        manifest,
        entry.agent,
        entry.goal_of(part.number),
        tenant=entry.tenant,
        priority=entry.priority,
        tell=[starting.listener(manifest, endpoint) for endpoint in dict.fromkeys(entry.tell)],
    )


def times(part: Part) -> ScheduleSpec:
    """When it fires."""
    entry, shift = part.entry, part.entry.shift(part.number)
    spec = ScheduleSpec(start_at=entry.start, end_at=entry.end, jitter=entry.jitter or None)
    if entry.every is not None:
        spec.intervals = [ScheduleIntervalSpec(every=entry.every, offset=(entry.offset + shift) % entry.every or None)]
        return spec
    assert entry.times is not None
    said = f"cron {entry.cron}" if entry.cron else ""
    if shift and said:
        said += f" +{span(shift)}"
    found = calendars.moved(entry.times, int(shift.total_seconds()))
    spec.calendars = [calendar_spec(one, said) for one in found]
    spec.time_zone_name = entry.timezone
    return spec


def built(manifest: Manifest, part: Part, run: RunInput) -> Schedule:
    """What Temporal is told of it."""
    entry = part.entry
    action = starting.action(manifest, run, part.id)
    action.memo = {**(action.memo or {}), NAME_MEMO: part.id, drift.APPLIED_MEMO: drift.applied(entry)}
    return Schedule(
        action=action,
        spec=times(part),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy[entry.overlap.upper()], catchup_window=entry.catchup),
        state=ScheduleState(paused=entry.paused, note=entry.note or None),
    )


def once(action: ScheduleActionStartWorkflow, at: datetime, jitter: timedelta) -> Schedule:
    """A schedule that fires a single time, at that instant or within the jitter after it, less than a day ahead."""
    every = timedelta(days=1)
    offset = (at - datetime(1970, 1, 1, tzinfo=UTC)) % every
    return Schedule(
        action=action,
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every, offset=offset)], jitter=jitter or None),
        state=ScheduleState(limited_actions=True, remaining_actions=1),
    )


class Kind(StrEnum):
    """What is to be done about one schedule."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    UNCHANGED = "unchanged"
    ORPHAN = "orphan"
    """The manifest does not have it any more; it goes on until it is pruned."""
    FOREIGN = "foreign"
    """Somebody else's is called the same: nothing is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One schedule, and what is to be done about it."""

    kind: Kind
    id: str
    name: str
    why: list[str] = field(default_factory=list)
    """What differs, each as `jitter 0s -> 5m`."""
    kept: str = ""
    """What was changed by hand and stays so."""
    part: Part | None = None
    """What is wanted; None where nothing is."""


def owned(owner: str) -> str:
    """What the memo of the manifest's schedules says."""
    return f"manifest {owner}"


async def plan(
    client: Client, manifest: Manifest, *, owner: str, names: Collection[str] = (), prune: bool = False
) -> list[Step]:
    """What it takes until Temporal has the manifest's schedules.

    Args:
        client: to Temporal.
        manifest: what is wanted.
        owner: who the manifest is: schedules of other owners are left alone.
        names: only these. Empty: all.
        prune: delete those of this owner that the manifest does not have.

    Raises:
        BadInput: a name that the manifest does not have.
        Unreachable: Temporal does not answer.
    """
    for name in names:
        if name not in manifest.schedules:
            known = ", ".join(sorted(manifest.schedules)) or "none"
            raise BadInput(f"the manifest has no [schedules.{name}]; it has: {known}")
    wanted = [
        part for name, entry in manifest.schedules.items() if not names or name in names for part in parts(name, entry)
    ]
    runs = {part.id: run_of(manifest, part) for part in wanted}
    there = await _owners(client)
    steps: dict[str, Step] = {}

    async def look(part: Part) -> None:
        steps[part.id] = await _compared(client, manifest, part, runs[part.id], owner)

    # each is asked for itself: a listing learns of the newest a little later
    if failed := await each(wanted, look, key=lambda part: part.id):
        raise next(iter(failed.values()))
    found = [steps[part.id] for part in wanted]
    for id_, (whose, name) in sorted(there.items()):
        if whose == owned(owner) and id_ not in runs and (not names or name in names):
            found.append(Step(kind=Kind.DELETE if prune else Kind.ORPHAN, id=id_, name=name))
    return found


async def _owners(client: Client) -> dict[str, tuple[str, str]]:
    try:
        found = {}
        async for one in await client.list_schedules(page_size=1000):
            memo = await one.memo()
            found[one.id] = (str(memo.get(OWNER_MEMO, "")), str(memo.get(NAME_MEMO, "")))
        return found
    except RPCError as error:
        raise _unreachable(error) from None


async def _compared(client: Client, manifest: Manifest, part: Part, run: RunInput, owner: str) -> Step:
    try:
        there = await client.get_schedule_handle(part.id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return Step(kind=Kind.CREATE, id=part.id, name=part.name, part=part)
        raise _unreachable(error) from None
    return (await _difference(client, manifest, part, run, owner, there))[0]


async def _difference(
    client: Client, manifest: Manifest, part: Part, run: RunInput, owner: str, there: ScheduleDescription
) -> tuple[Step, Schedule]:
    """What is to be done, and what the schedule is after it."""
    wanted = built(manifest, part, run)
    whose = str(await there.memo_value(OWNER_MEMO, "nobody known"))
    if whose != owned(owner):
        why = [f"is of {whose}"]
        return Step(kind=Kind.FOREIGN, id=part.id, name=part.name, why=why, part=part), there.schedule
    why = [*drift.of_times(there.schedule, wanted), *await drift.of_runs(client, there.schedule, wanted, run)]
    state, changes, kept = await drift.of_state(client, there.schedule, part.entry)
    why += changes
    kind = Kind.UPDATE if why else Kind.UNCHANGED
    return Step(kind=kind, id=part.id, name=part.name, why=why, kept=kept, part=part), replace(wanted, state=state)


@dataclass(slots=True, kw_only=True)
class Done:
    """What became of a plan."""

    done: dict[Kind, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Schedule to why."""


async def execute(client: Client, manifest: Manifest, steps: Iterable[Step], *, owner: str) -> Done:
    """Do what was planned, up to fifty at once. Broken off, planning again finds what is left.

    What goes wrong with one schedule holds up no other. What is there that was to be created is compared and, if it
    differs, updated; an update that meets another is made anew from what is there then.
    """
    outcome = Done()
    foreign = {
        step.id: f"{', '.join(step.why)}: rename it, or remove that one" for step in steps if step.kind is Kind.FOREIGN
    }

    async def do(step: Step) -> None:
        match step.kind:
            case Kind.CREATE:
                assert step.part is not None
                await create(client, manifest, step.part, owner=owned(owner), instead=_update(owner))
            case Kind.UPDATE:
                assert step.part is not None
                await _update(owner)(client, manifest, step.part)
            case Kind.DELETE:
                await delete(client, step.id)
            case _:
                return
        outcome.done.setdefault(step.kind, []).append(step.id)

    failed = await each(steps, do, key=lambda step: step.id)
    outcome.failed = foreign | {id_: str(error) for id_, error in failed.items()}
    return outcome


Instead = Callable[[Client, Manifest, Part], Awaitable[None]]


async def create(client: Client, manifest: Manifest, part: Part, *, owner: str, instead: Instead | None = None) -> None:
    """Make one schedule.

    Args:
        client: to Temporal.
        manifest: with the agent.
        part: which.
        owner: what its memo says, as `owned` or `BY_HAND` have it.
        instead: what is done where there is one of that id.

    Raises:
        BadInput: there is one, it would never run, or Temporal refuses it.
        Unreachable: Temporal does not answer.
    """
    schedule = built(manifest, part, run_of(manifest, part))
    if first(schedule.spec, datetime.now(UTC)) is None:
        raise BadInput(f"schedule {part.id!r} would never run: no instant of {words(schedule.spec)} is still to come")
    if await make(client, part.id, schedule, memo={OWNER_MEMO: owner, NAME_MEMO: part.name}):
        return
    if instead is None:
        raise BadInput(f"schedule {part.id!r} exists already: choose another name, or `fleet schedule rm` it")
    await instead(client, manifest, part)


async def make(client: Client, id_: str, schedule: Schedule, *, memo: Mapping[str, Any] | None = None) -> bool:
    """Make a schedule. Answers whether it was not there yet: one that is stays as it is.

    Raises:
        BadInput: Temporal refuses it.
        Unreachable: Temporal does not answer.
    """
    try:
        await client.create_schedule(id_, schedule, memo=memo)
    except ScheduleAlreadyRunningError:
        return False
    except RPCError as error:
        raise refused(id_, error) from None
    return True


def _update(owner: str) -> Instead:
    async def update(client: Client, manifest: Manifest, part: Part) -> None:
        run = run_of(manifest, part)
        handle = client.get_schedule_handle(part.id)
        for _ in range(TRIES):
            try:
                there = await handle.describe()
                step, schedule = await _difference(client, manifest, part, run, owner, there)
                if step.kind is Kind.FOREIGN:
                    raise BadInput(", ".join(step.why))
                if step.kind is Kind.UNCHANGED:
                    return
                # the SDK's own update sends no conflict token. A server without CHASM schedules forgets an update with
                # a stale one without a word: hence the look after it, at the top
                await client.workflow_service.update_schedule(
                    UpdateScheduleRequest(
                        namespace=client.namespace,
                        schedule_id=part.id,
                        schedule=await schedule._to_proto(client),  # noqa: SLF001 - see above
                        conflict_token=there.raw_description.conflict_token,
                        identity=client.identity,
                        request_id=str(uuid.uuid4()),
                    )
                )
            except RPCError as error:
                if "conflict token" not in error.message:
                    raise refused(part.id, error) from None
        raise Unreachable(f"schedule {part.id!r} changes all the time: it was not updated in {TRIES} tries")

    return update


async def delete(client: Client, id_: str) -> None:
    """Remove one schedule. Its runs go on. None of that id is as good.

    Raises:
        Unreachable: Temporal does not answer.
    """
    try:
        await client.get_schedule_handle(id_).delete()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise refused(id_, error) from None


async def each(
    items: Iterable[T], work: Callable[[T], Awaitable[None]], *, key: Callable[[T], str], at_once: int = AT_ONCE
) -> dict[str, FleetError]:
    """Do it to each, so many at a time. Answers what went wrong, by key; it held up no other."""
    left = iter(items)
    failed: dict[str, FleetError] = {}

    async def worker() -> None:
        for one in left:
            try:
                await work(one)
            except FleetError as error:
                failed[key(one)] = error

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(worker())
    return failed


def counted(steps: Iterable[Step]) -> Mapping[Kind, int]:
    """How many of each kind, in the kinds' order."""
    found = dict.fromkeys(Kind, 0)
    for step in steps:
        found[step.kind] += 1
    return {kind: count for kind, count in found.items() if count}


def refused(id_: str, error: RPCError) -> FleetError:
    """Temporal's answer, as one line."""
    if error.status is RPCStatusCode.NOT_FOUND:
        return BadInput(f"no schedule {id_!r}: `fleet schedule ls` lists them")
    if error.status in (RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.FAILED_PRECONDITION):
        more = ": run `fleet init` once for this namespace" if "earch attribute" in error.message else ""
        return BadInput(f"schedule {id_!r}: {error.message}{more}")
    return _unreachable(error)


def _unreachable(error: RPCError) -> Unreachable:
    return Unreachable(f"Temporal: {error.message}")
