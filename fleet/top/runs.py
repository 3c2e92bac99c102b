"""Runs among thousands: how many are in which state, and the few that an operator looks for."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from temporalio.service import RPCError, RPCStatusCode

from fleet.cli import pending
from fleet.cli.why import attempt_of, of_calls, of_people, of_workflow
from fleet.client import FleetClient, RunInfo
from fleet.contracts import names
from fleet.contracts.runs import Outcome, RunStatus
from fleet.documents import visible
from fleet.errors import FleetError, Unreachable
from fleet.history import Chain, Step, of_chain
from fleet.history.reading import Past
from fleet.manifest import Manifest
from fleet.top.picture import RunDetail, RunSeen, RunsSeen
from workers.redaction import REDACTOR

NEWEST: Final = 40
OLDEST: Final = 20
FAILED: Final = 10
WANTED: Final = 40
"""Most runs of each kind on the page."""
AGENTS: Final = 20
"""Most agents that are counted."""
EXPLAINED: Final = 24
"""Most runs that are asked what they wait for at each look: those that were asked longest ago."""
EVENTS: Final = 10_000
"""Longest history whose steps are told."""
STEPS: Final = 30
ENDED_WITHIN: Final = timedelta(hours=1)
UNKNOWN: Final = "Temporal does not know the fleet's search attributes: run `fleet init` once for this namespace"

_AT_ONCE: Final = 8
_EXPLAINED_WITHIN_S: Final = 2.0
_STATUS_WITHIN_S: Final = 3.0
_BISECTIONS: Final = 24
_OLDEST_AGE: Final = timedelta(days=730)
_RUNS: Final = f"WorkflowType = '{names.AGENT_WORKFLOW}' AND ExecutionStatus != 'ContinuedAsNew'"
_BROKEN: Final = "ExecutionStatus IN ('Failed', 'Terminated', 'TimedOut')"


Known = dict[str, tuple[float, str]]
"""What runs of the page have said that they wait for, and when."""


async def runs_seen(client: FleetClient, manifest: Manifest, wanted: str, known: Known) -> RunsSeen:
    """Counts of all, and a page.

    Args:
        client: to the runs.
        manifest: whose agents are counted.
        wanted: the beginning of an id, an agent or a tenant, or a status; empty: no particular ones.
        known: of the look before; is brought up to date.

    Raises:
        RPCError: Temporal does not answer.
    """
    now = datetime.now(UTC)
    try:
        running, statuses, agents, ended = await asyncio.gather(
            _count(client, names.RUNNING_RUNS),
            _counts(client, "RunStatus", (names.WORKING, names.WORKING_APPROVAL, names.PAUSED)),
            _counts(client, "Agent", list(manifest.agents)[:AGENTS]),
            _ended(client, now),
        )
        rows = await _page(client, running, now, wanted)
    except RPCError as error:
        if error.status is not RPCStatusCode.INVALID_ARGUMENT:
            raise
        # a namespace that nobody has prepared
        found = [info async for info in client.runs(state="running", limit=NEWEST)]
        return RunsSeen(running=await _count(client, names.RUNNING_RUNS), rows=_seen(found), note=UNKNOWN)
    return RunsSeen(
        running=running,
        statuses=statuses,
        agents=agents,
        ended=ended,
        rows=await _explained(client, rows, known),
    )


def query(wanted: str) -> str:
    """The visibility query that finds what somebody looks for."""
    # a quote doubled, as in SQL; a backslash would escape; everything begins with nothing
    text = wanted.replace("\\", "").replace("'", "''") or " "
    begins = " OR ".join(f"{name} STARTS_WITH '{text}'" for name in ("WorkflowId", "Agent", "Tenant"))
    return f"({begins} OR RunStatus = '{text}')"


async def run_detail(client: FleetClient, run_id: str, manifest: Path | None) -> RunDetail:
    """One run: where it stands, what it waits for, and its last steps.

    Args:
        client: to the runs.
        run_id: which.
        manifest: the manifest's path, where a command names one.

    Raises:
        UnknownRun: there is none of that id.
        Unreachable: Temporal does not answer.
    """
    info = await client.info(run_id)
    status, waits, (steps, note) = await asyncio.gather(
        _status(client, info), _waits(client, info, manifest), _steps(client, run_id)
    )
    return RunDetail(
        info=_cleaned(info),
        status=status,
        waits=tuple(REDACTOR.clean(text) for text in waits),
        steps=tuple(REDACTOR.clean_value(step) for step in steps),
        note=note,
    )


async def _count(client: FleetClient, asked: str) -> int:
    return (await client.temporal.count_workflows(asked)).count


async def _counts(client: FleetClient, attribute: str, values: Sequence[str]) -> dict[str, int]:
    found = await asyncio.gather(
        *(_count(client, f"{names.RUNNING_RUNS} AND {attribute} = '{value}'") for value in values)
    )
    return dict(zip(values, found, strict=True))


async def _ended(client: FleetClient, now: datetime) -> Mapping[str, int]:
    lately = f"{_RUNS} AND CloseTime > '{_moment(now - ENDED_WITHIN)}'"
    within = (Outcome.BUDGET_EXHAUSTED, Outcome.STOPPED, Outcome.FAILED)
    completed = f"{lately} AND ExecutionStatus = 'Completed'"
    grouped, unlike = await asyncio.gather(
        client.temporal.count_workflows(f"{lately} GROUP BY ExecutionStatus"),
        asyncio.gather(*(_count(client, f"{completed} AND RunStatus = '{one.value}'") for one in within)),
    )
    closed = {str(group.group_values[0]).lower(): group.count for group in grouped.groups}
    found = {one.value: count for one, count in zip(within, unlike, strict=True)}
    found[Outcome.COMPLETED.value] = closed.pop("completed", 0) - sum(unlike)
    found[Outcome.FAILED.value] += closed.pop("failed", 0)
    found |= {state: count for state, count in closed.items() if state != "running"}
    return {outcome: count for outcome, count in sorted(found.items()) if count > 0}


async def _page(client: FleetClient, running: int, now: datetime, wanted: str) -> list[RunInfo]:
    lists = [
        _list(client, NEWEST, state="running"),
        _list(client, FAILED, query=f"CloseTime > '{_moment(now - ENDED_WITHIN)}' AND {_BROKEN}"),
    ]
    if running > NEWEST:
        lists.append(_oldest(client, running, now))
    if wanted:
        lists.append(_list(client, WANTED, query=query(wanted)))
    # each once
    return list({info.id: info for found in await asyncio.gather(*lists) for info in found}.values())


async def _list(client: FleetClient, limit: int, *, state: str | None = None, query: str = "") -> list[RunInfo]:
    return [info async for info in client.runs(state=state, query=query, limit=limit)]


async def _oldest(client: FleetClient, running: int, now: datetime) -> list[RunInfo]:
    """Some of the oldest. Temporal lists the newest first and sorts no other way: the instant is searched for."""
    early, late, count = now - _OLDEST_AGE, now, running
    for _ in range(_BISECTIONS):
        if 0 < count <= OLDEST:
            break
        middle = early + (late - early) / 2
        count = await _count(client, f"{names.RUNNING_RUNS} AND StartTime <= '{_moment(middle)}'")
        early, late = (early, middle) if count else (middle, late)
    return await _list(client, OLDEST, state="running", query=f"StartTime <= '{_moment(late)}'")


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def _explained(client: FleetClient, found: Sequence[RunInfo], known: Known) -> tuple[RunSeen, ...]:
    """With what they wait for; who is slow to say is not waited for."""
    working = [info.id for info in found if info.closed_at is None and not _short(info)]
    for gone in known.keys() - set(working):
        del known[gone]
    asked = sorted(working, key=lambda run_id: known.get(run_id, (0.0, ""))[0])[:EXPLAINED]
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(run_id: str) -> None:
        async with gate:
            known[run_id] = time.monotonic(), await _call(client, run_id)

    tasks = [asyncio.create_task(one(run_id)) for run_id in asked]
    if tasks:
        _, slow = await asyncio.wait(tasks, timeout=_EXPLAINED_WITHIN_S)
        for task in slow:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return _seen(found, {run_id: text for run_id, (_, text) in known.items()})


async def _call(client: FleetClient, run_id: str) -> str:
    try:
        calls = await pending.pending(client, run_id)
    except (FleetError, RPCError):
        return ""
    if not calls:
        return "a worker of the agents' pool"
    first = max(calls, key=lambda call: call["attempt"])
    more = f" (+{len(calls) - 1})" if len(calls) > 1 else ""
    said = str(first["why"])
    if first["attempt"] <= 1 and said == "waits for a worker":
        return f"{first['activity']} in its task queue{more}"
    # a wait for quota names its scope, limit and place
    found = said.removeprefix("waits for ")
    return f"{found}{more}" if found != said else f"{first['activity']}: {said}{more}"


def _seen(found: Sequence[RunInfo], waits: Mapping[str, str] | None = None) -> tuple[RunSeen, ...]:
    return tuple(
        RunSeen(info=_cleaned(info), waits=REDACTOR.clean(_short(info) or (waits or {}).get(info.id, "")))
        for info in found
    )


def _short(info: RunInfo) -> str:
    if info.closed_at is not None:
        return "nothing: it has ended"
    if info.status == names.WORKING_APPROVAL or info.waiting_for == "approval":
        return "a human: an approval is open"
    return "a human: it is paused" if info.status == names.PAUSED else ""


def _cleaned(info: RunInfo) -> RunInfo:
    return replace(info, goal=REDACTOR.clean(info.goal))


async def _status(client: FleetClient, info: RunInfo) -> RunStatus | None:
    if info.closed_at is None:
        with suppress(FleetError, TimeoutError):
            return await asyncio.wait_for(client.status(info.id), _STATUS_WITHIN_S)
    return None


async def _waits(client: FleetClient, info: RunInfo, manifest: Path | None) -> list[str]:
    """As `fleet why` says."""
    if info.closed_at is not None:
        return [f"nothing: it is {info.state}"]
    found = [*await of_people(client, info.id), *await of_calls(client, info, manifest)]
    found = found or [await of_workflow(client, info.id)]
    return [f"{one.text}{attempt_of(one)}" for one in found]


async def _steps(client: FleetClient, run_id: str) -> tuple[list[Step], str]:
    """The last steps of the newest execution: what came before it is for `fleet trace`."""
    try:
        described = await client.handle(run_id).describe()
        if described.history_length > EVENTS:
            return [], f"its history has {described.history_length:,} events: fleet trace {run_id}"
        execution = client.temporal.get_workflow_handle(run_id, run_id=described.run_id)
        history = await execution.fetch_history()
    except RPCError as error:
        raise Unreachable(f"Temporal: {error.message}") from None
    past = Past(workflow_id=run_id, run_id=described.run_id, events=list(history.events))
    try:
        story = await of_chain(
            Chain(run_id=run_id, executions=[past], read_at=datetime.now(UTC)), client.temporal.data_converter
        )
    except FleetError as error:
        return [], visible(str(error))
    return story.steps[-STEPS:], "" if story.steps else "no step yet"
