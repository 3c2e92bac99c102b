"""What differs between a schedule that there is and the one that is wanted, in words that an operator knows."""

from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

from temporalio.client import Client, Schedule, ScheduleActionStartWorkflow, ScheduleState

from fleet.contracts.runs import RunInput
from fleet.instants import same_times, span, words
from fleet.tables_schedules import ScheduleEntry

APPLIED_MEMO = "applied"
"""In a run's memo: what the manifest said of the schedule's state when it was last applied."""


def applied(entry: ScheduleEntry) -> dict[str, Any]:
    """What is remembered of the state that the manifest wants."""
    return {"paused": entry.paused, "note": entry.note}


def of_times(there: Schedule, wanted: Schedule) -> list[str]:
    """When it fires, and what becomes of times that meet a run or were missed."""
    found = []
    if not same_times(there.spec, wanted.spec):
        # the same words may stand for other calendars: those that the comment hides
        before, after = (words(replace(spec, jitter=None)) for spec in (there.spec, wanted.spec))
        found.append(f"times {before} -> {after}" if before != after else f"times {after}")
    pairs = {
        "jitter": tuple(span(one.spec.jitter or timedelta(0)) for one in (there, wanted)),
        "overlap": tuple(one.policy.overlap.name.lower() for one in (there, wanted)),
        "catchup": tuple(span(one.policy.catchup_window or timedelta(0)) for one in (there, wanted)),
    }
    return found + [f"{name} {before} -> {after}" for name, (before, after) in pairs.items() if before != after]


async def of_runs(client: Client, there: Schedule, wanted: Schedule, run: RunInput) -> list[str]:
    """What its runs are started with."""
    before, after = there.action, wanted.action
    assert isinstance(after, ScheduleActionStartWorkflow)
    if not isinstance(before, ScheduleActionStartWorkflow) or before.workflow != after.workflow:
        return ["starts something else"]
    found = [
        f"{name} {one} -> {other}"
        for name, one, other in (("task queue", before.task_queue, after.task_queue), ("run id", before.id, after.id))
        if one != other
    ]
    try:
        (given,) = await client.data_converter.decode(before.args, [RunInput])
    except Exception as error:  # noqa: BLE001 - other releases and other hands wrote it
        return [*found, f"input cannot be read ({type(error).__name__})"]
    one, other = asdict(given), asdict(run)
    agent = [key for key, value in other["agent"].items() if one["agent"].get(key) != value]
    if agent:
        found.append(f"agent {run.agent.name}: {', '.join(agent)}")
    for key, value in other.items():
        if key != "agent" and one.get(key) != value:
            short = isinstance(value, str | int | float) and len(f"{one.get(key)}{value}") <= 120
            found.append(f"{key} {one.get(key)} -> {value}" if short else key)
    return found


async def of_state(client: Client, there: Schedule, entry: ScheduleEntry) -> tuple[ScheduleState, list[str], str]:
    """The state after it, what changes of it, and what stays as somebody has made it.

    Only what the manifest says otherwise than when it was last applied changes the state.
    """
    state = there.state
    last = await _memo(client, there.action, APPLIED_MEMO)
    changes = []
    if last != applied(entry):
        if last.get("paused", False) != entry.paused and state.paused != entry.paused:
            changes.append("paused" if entry.paused else "resumed")
            state = replace(state, paused=entry.paused)
        # whoever paused it by hand has said why
        if last.get("note", "") != entry.note and not (state.paused and not entry.paused):
            changes.append("note")
            state = replace(state, note=entry.note or None)
        changes = changes or ["what the manifest says of its state"]
    kept = ""
    if state.paused != entry.paused:
        kept = f"stays paused: {state.note or 'no note'}" if state.paused else "stays running; the manifest says paused"
    return state, changes, kept


async def _memo(client: Client, action: Any, key: str) -> dict[str, Any]:
    """A value of the memo that a schedule gives its runs."""
    memo = action.memo if isinstance(action, ScheduleActionStartWorkflow) else None
    if not memo or key not in memo:
        return {}
    (found,) = await client.data_converter.decode([memo[key]])
    return found if isinstance(found, dict) else {}
