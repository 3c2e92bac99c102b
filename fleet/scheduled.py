"""The schedules that there are: listing and showing them, and what people do with them."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from temporalio.client import (
    Client,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleBackfill,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleListDescription,
    ScheduleOverlapPolicy,
)
from temporalio.service import RPCError

from fleet.contracts import names
from fleet.contracts.runs import RunInput
from fleet.errors import BadInput, FleetError
from fleet.instants import matching, words
from fleet.schedules import NAME_MEMO, OWNER_MEMO, each, refused

MOST_INSTANTS = 1000
"""In one backfill: Temporal buffers no more of one schedule."""
MOST_TIMES = 100_000
"""Of all schedules together, that somebody looks ahead at."""
_PAGE = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A schedule in a listing."""

    id: str
    schedule: str
    """The name that it shares with the other parts of its table."""
    owner: str
    """`manifest NAME`, `by WHOM`; empty: made by another program."""
    times: str
    next_at: datetime | None
    """With its jitter. None: paused for good, or over."""
    last_at: datetime | None
    last_run: str
    """Id of the newest run; empty: none yet."""
    running: int
    paused: bool
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """A run that a schedule has started."""

    run: str
    due_at: datetime
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Everything about one schedule."""

    id: str
    schedule: str
    owner: str
    times: str
    overlap: str
    catchup_s: float
    paused: bool
    note: str
    agent: str
    goal: str
    tenant: str
    priority: int
    model: str
    """Of the agent's definition, as it was when the schedule was made."""
    next_at: list[datetime]
    """With their jitter, ten at most."""
    recent: list[Recent]
    """Newest last."""
    running: list[str]
    started: int
    """Runs since the schedule was made."""
    skipped: int
    """Times at which a run was still running."""
    missed: int
    """Times that were older than the catch-up window when Temporal came to them."""
    created_at: datetime
    updated_at: datetime | None


async def listed(client: Client, *, running: bool = True) -> list[Listed]:
    """All schedules of the namespace, by name.

    Args:
        client: to Temporal.
        running: count the runs in flight, which takes as long as listing them.

    Raises:
        Unreachable: Temporal does not answer.
    """
    try:
        counts = Counter([by async for by in _running(client)]) if running else Counter()
        found = [await _listed(one, counts) async for one in await client.list_schedules(page_size=_PAGE)]
    except RPCError as error:
        raise refused("", error) from None
    return sorted(found, key=lambda one: one.id)


async def _running(client: Client) -> AsyncIterator[str]:
    query = names.RUNNING_RUNS
    query += " AND TemporalScheduledById IS NOT NULL"
    async for run in client.list_workflows(query, page_size=_PAGE):
        yield str((run.search_attributes.get("TemporalScheduledById") or [""])[0])


async def _listed(one: ScheduleListDescription, running: Counter[str]) -> Listed:
    memo = await one.memo()
    info, schedule = one.info, one.schedule
    last = info.recent_actions[-1] if info and info.recent_actions else None
    action = last.action if last else None
    paused = bool(schedule and schedule.state.paused)
    return Listed(
        id=one.id,
        schedule=str(memo.get(NAME_MEMO, "") or one.id),
        owner=str(memo.get(OWNER_MEMO, "")),
        times=words(schedule.spec) if schedule else "",
        next_at=info.next_action_times[0] if info and info.next_action_times else None,
        last_at=last.started_at if last else None,
        last_run=action.workflow_id if isinstance(action, ScheduleActionExecutionStartWorkflow) else "",
        running=running[one.id],
        paused=paused,
        note=(schedule.state.note or "") if schedule else "",
    )


async def resolve(client: Client, name: str) -> list[Listed]:
    """The schedule of that id, all parts of that name, or all whose ids begin with it, as `night*`.

    Temporal's listing may miss parts that were made less than a second ago.

    Raises:
        BadInput: there is none.
        Unreachable: Temporal does not answer.
    """
    there = await listed(client, running=False)
    found = [one for one in there if one.id == name] or [one for one in there if one.schedule == name]
    if name.endswith("*"):
        found = [one for one in there if one.id.startswith(name[:-1])]
    # a listing learns of the newest a little later
    return found or [await _described(client, name)]


async def _described(client: Client, id_: str) -> Listed:
    there = await _about(id_, client.get_schedule_handle(id_).describe())
    info, state = there.info, there.schedule.state
    last = info.recent_actions[-1] if info.recent_actions else None
    action = last.action if last else None
    return Listed(
        id=id_,
        schedule=str(await there.memo_value(NAME_MEMO, id_)),
        owner=str(await there.memo_value(OWNER_MEMO, "")),
        times=words(there.schedule.spec),
        next_at=info.next_action_times[0] if info.next_action_times else None,
        last_at=last.started_at if last else None,
        last_run=action.workflow_id if isinstance(action, ScheduleActionExecutionStartWorkflow) else "",
        running=len(info.running_actions),
        paused=state.paused,
        note=state.note or "",
    )


async def show(client: Client, id_: str) -> Shown:
    """One schedule.

    Raises:
        BadInput: there is none of that id.
        Unreachable: Temporal does not answer.
    """
    there = await _about(id_, client.get_schedule_handle(id_).describe())
    action, info, policy = there.schedule.action, there.info, there.schedule.policy
    run = await _run(client, action)
    running = {one.workflow_id for one in info.running_actions if isinstance(one, ScheduleActionExecutionStartWorkflow)}
    query = f"TemporalScheduledById = '{id_}' AND ExecutionStatus = 'Running'"
    try:
        running |= {one.id async for one in client.list_workflows(query)}
    except RPCError as error:
        raise refused(id_, error) from None
    return Shown(
        id=id_,
        schedule=str(await there.memo_value(NAME_MEMO, id_)),
        owner=str(await there.memo_value(OWNER_MEMO, "")),
        times=words(there.schedule.spec),
        overlap=policy.overlap.name.lower(),
        catchup_s=(policy.catchup_window or timedelta(0)).total_seconds(),
        paused=there.schedule.state.paused,
        note=there.schedule.state.note or "",
        agent=run.agent.name if run else "",
        goal=run.goal if run else "",
        tenant=run.tenant if run else "",
        priority=run.priority if run else 0,
        model=run.agent.model if run else "",
        next_at=list(info.next_action_times),
        recent=[
            Recent(run=one.action.workflow_id, due_at=one.scheduled_at, started_at=one.started_at)
            for one in info.recent_actions
            if isinstance(one.action, ScheduleActionExecutionStartWorkflow)
        ],
        running=sorted(running),
        started=info.num_actions,
        skipped=info.num_actions_skipped_overlap,
        missed=info.num_actions_missed_catchup_window,
        created_at=info.created_at,
        # a server with CHASM schedules says the year 1 of one that was never changed
        updated_at=info.last_updated_at if info.last_updated_at and info.last_updated_at > info.created_at else None,
    )


async def _run(client: Client, action: object) -> RunInput | None:
    """What its runs are started with; None where another program has made it."""
    if not isinstance(action, ScheduleActionStartWorkflow) or action.workflow != names.AGENT_WORKFLOW:
        return None
    try:
        (found,) = await client.data_converter.decode(action.args, [RunInput])
    except Exception:  # noqa: BLE001 - other releases and other hands wrote it
        return None
    return found if isinstance(found, RunInput) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When one schedule fires, and what it starts."""

    id: str
    schedule: str
    agent: str
    tenant: str
    priority: int
    plain: list[datetime]
    """Without jitter."""
    jittered: list[datetime]
    """As Temporal itself will have them."""


async def times(client: Client, begin: datetime, end: datetime, *, names: Collection[str] = ()) -> list[Times]:
    """When the schedules fire that are not paused and start agents, from `begin` to before `end`.

    Raises:
        BadInput: there is none of one of the names, or more than 100,000 times.
        Unreachable: Temporal does not answer.
    """
    named = [one for name in names for one in await resolve(client, name)] or await listed(client, running=False)
    found: list[Times] = []
    total = 0

    async def look(one: Listed) -> None:
        nonlocal total
        there = await _about(one.id, client.get_schedule_handle(one.id).describe())
        run, spec = await _run(client, there.schedule.action), there.schedule.spec
        if run is None or there.schedule.state.paused:
            return
        # what is due before the begin may fire after it
        jitter = spec.jitter or timedelta(0)
        asked = matching(client, one.id, spec, begin - jitter, end + jitter, most=max(0, MOST_TIMES - total))
        pairs = await _about(one.id, asked)
        total += len(pairs)
        if total > MOST_TIMES:
            raise BadInput(f"more than {MOST_TIMES:,} runs in that time: preview a shorter one with --for")
        found.append(
            Times(
                id=one.id,
                schedule=one.schedule,
                agent=run.agent.name,
                tenant=run.tenant,
                priority=run.priority,
                plain=[at for at, _ in pairs if begin <= at < end],
                jittered=[at for _, at in pairs if begin <= at < end],
            )
        )

    if failed := await each({one.id: one for one in named}.values(), look, key=lambda one: one.id):
        raise next(iter(failed.values()))
    return sorted(found, key=lambda one: one.id)


@dataclass(slots=True, kw_only=True)
class Acted:
    """What became of an act upon several schedules."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Schedule to why."""


async def act(client: Client, schedules: Sequence[Listed], what: Callable[[ScheduleHandle], Awaitable[None]]) -> Acted:
    """Do it to each, up to fifty at once. What goes wrong with one holds up no other."""
    outcome = Acted()

    async def do(one: Listed) -> None:
        await _about(one.id, what(client.get_schedule_handle(one.id)))
        outcome.done.append(one.id)

    failed: dict[str, FleetError] = await each(schedules, do, key=lambda one: one.id)
    outcome.failed = {id_: str(error) for id_, error in failed.items()}
    outcome.done.sort()
    return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """What a backfill of one schedule would start."""

    id: str
    due: list[datetime]
    """Instants of which no run is known, without jitter."""
    had: list[datetime]
    """Instants whose run has been started before."""


async def missing(client: Client, id_: str, begin: datetime, end: datetime) -> Backfill:
    """Which of its instants, both ends included, have had no run, as far as Temporal still keeps them.

    The instants are Temporal's own: about changes of the clocks it has others than the calendar.

    Raises:
        BadInput: no such schedule, the period is empty or over, or has more than a thousand instants.
        Unreachable: Temporal does not answer.
    """
    if not begin < end <= datetime.now(UTC) + timedelta(minutes=1):
        raise BadInput(f"--to {end:%Y-%m-%dT%H:%M:%SZ} must come after --from, and not lie ahead")
    there = await _about(id_, client.get_schedule_handle(id_).describe())
    spec = there.schedule.spec
    until = end + (spec.jitter or timedelta(0))
    pairs = await _about(id_, matching(client, id_, spec, begin, until, most=MOST_INSTANTS))
    found = [at for at, _ in pairs if begin <= at <= end]
    if len(found) > MOST_INSTANTS:
        raise BadInput(f"schedule {id_!r} has more than {MOST_INSTANTS} instants between these: fill them in parts")
    runs = await _started(client, id_, begin)
    had = [at for at in found if _run_id(there, at) in runs]
    return Backfill(id=id_, due=[at for at in found if at not in had], had=had)


async def _started(client: Client, id_: str, begin: datetime) -> set[str]:
    since = f"{begin:%Y-%m-%dT%H:%M:%SZ}"
    query = f"TemporalScheduledById = '{id_}' AND StartTime >= '{since}'"
    try:
        return {run.id async for run in client.list_workflows(query, page_size=_PAGE)}
    except RPCError as error:
        raise refused(id_, error) from None


def _run_id(there: ScheduleDescription, at: datetime) -> str:
    """Temporal appends the instant, without its jitter, to the run's id."""
    action = there.schedule.action
    base = action.id if isinstance(action, ScheduleActionStartWorkflow) else ""
    return f"{base}-{at:%Y-%m-%dT%H:%M:%SZ}"


async def backfill(
    client: Client, what: Backfill, *, overlap: ScheduleOverlapPolicy, again: bool = False
) -> list[datetime]:
    """Start the runs of those instants, and answer which.

    Args:
        client: to Temporal.
        what: of which schedule.
        overlap: between them.
        again: those that have had a run as well. The new run has the id of the old one: its effects are found had.

    Raises:
        BadInput: the schedule is gone.
        Unreachable: Temporal does not answer.
    """
    handle = client.get_schedule_handle(what.id)
    there = await _about(what.id, handle.describe())
    jitter = there.schedule.spec.jitter or timedelta(0)
    chosen = sorted([*what.due, *what.had]) if again else what.due
    # the range is held against the instant with its jitter
    ranges = [
        ScheduleBackfill(start_at=at - timedelta(milliseconds=1), end_at=at + jitter, overlap=overlap) for at in chosen
    ]
    if ranges:
        await _about(what.id, handle.backfill(*ranges))
    return chosen


async def _about(id_: str, call: Awaitable[T]) -> T:
    try:
        return await call
    except RPCError as error:
        raise refused(id_, error) from None
