"""Executing a history again against the code at hand: would it go the same way?"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.runtime import Runtime
from temporalio.worker import Replayer, WorkflowRunner

from fleet.contracts import names
from fleet.errors import PayloadLost
from fleet.history.reading import Chain, Past
from fleet.history.telling import story

# as the SDK's core words it
_WORDS = re.compile(r'message: "(?P<words>(?:[^"\\]|\\.)*)"')
_EVENT = re.compile(r"HistoryEvent\(id: (?P<id>\d+), \w+\)")
_MACHINE = re.compile(r"(?P<machine>[A-Z][\w ]*?) machine does not handle this event")
_OTHER = re.compile(r"of scheduled event '(?P<was>[^']*)' does not match .* '(?P<wanted>[^']*)'")
_DECODES: Final = "in decode_activation"
"""In the trace of a failure that has come before any code of the workflow: a payload cannot be read."""
_WANTS: Final = {
    "Activity": "calls an activity",
    "Timer": "starts a timer",
    "Complete workflow": "ends the run",
    "Fail workflow": "fails the run",
    "Continue as new": "continues as new",
    "Child workflow": "starts a child workflow",
    "Upsert search attributes": "sets search attributes",
    "Local activity": "calls a local activity",
    "Patch": "asks for a patch",
}
_COMMANDS = frozenset(
    {
        EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
        EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED,
        EventType.EVENT_TYPE_TIMER_STARTED,
        EventType.EVENT_TYPE_MARKER_RECORDED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What became of one history."""

    workflow_id: str
    execution: str
    """Temporal's id of it."""
    workflow_type: str
    events: int
    ok: bool
    event_id: int | None = None
    """The first event that does not fit; None where the engine does not say."""
    event: str = ""
    """Its type, and what it is of: `ActivityTaskScheduled of search.query`."""
    step: str = ""
    """The step that it is of, where it is of one."""
    wanted: str = ""
    """What the code does instead."""
    engine: str = ""
    """The engine's own words."""

    @property
    def said(self) -> list[str]:
        """Where it diverges and what the code does instead, a line each; one line if it replays."""
        if self.ok:
            return [f"{self.workflow_id}: {self.events} events replay"]
        step = f" (step {self.step})" if self.step else ""
        where = f"event {self.event_id}, {self.event}{step}" if self.event_id else "an event that is not named"
        return [f"{self.workflow_id}: diverges at {where}", f"  the code at hand {self.wanted}"]


async def replay(
    chain: Chain,
    workflows: Sequence[type],
    runner: WorkflowRunner,
    converter: DataConverter,
    *,
    runtime: Runtime | None = None,
) -> list[Replayed]:
    """Replay every execution of a chain and of its effects. Nothing is called, nothing is changed.

    Args:
        chain: as it was read.
        workflows: of the code at hand.
        runner: that the workers use.
        converter: that reads the payloads.
        runtime: of the SDK. Default: the process's own, which logs every divergence.

    Raises:
        PayloadLost: a payload's key or store is missing here.
    """
    replayer = Replayer(workflows=workflows, workflow_runner=runner, data_converter=converter, runtime=runtime)
    return [await _one(past, replayer, converter) for past in chain.pasts()]


async def _one(past: Past, replayer: Replayer, converter: DataConverter) -> Replayed:
    failure = await _failure(past.history(), replayer)
    wanted = engine = event = step = ""
    event_id: int | None = None
    if failure is not None:
        engine = _words(failure)
        if _DECODES in failure:
            raise PayloadLost(f"{past.workflow_id} cannot be replayed: {engine}")
        event_id = await _event_id(past, engine, replayer)
        wanted = _wanted(engine)
        event = next((_named(e) for e in past.events if e.event_id == event_id), "")
        # the steps of other workflows have no names
        if event_id is not None and past.workflow_type in (names.AGENT_WORKFLOW, names.EFFECT_WORKFLOW):
            step = await _step(past.history(), event_id, converter)
    return Replayed(
        workflow_id=past.workflow_id,
        execution=past.run_id,
        workflow_type=past.workflow_type,
        events=len(past.events),
        ok=failure is None,
        event_id=event_id,
        event=event,
        step=step,
        wanted=wanted,
        engine=engine,
    )


async def _failure(history: WorkflowHistory, replayer: Replayer) -> str | None:
    failure = (await replayer.replay_workflow(history, raise_on_replay_failure=False)).replay_failure
    return None if failure is None else str(failure)


def _words(failure: str) -> str:
    """The engine's message without the structure around it."""
    found = _WORDS.search(failure)
    words = found["words"].replace('\\"', '"').replace("\\n", " ") if found else failure
    return " ".join(words.split()).removeprefix("[TMPRL1100] ").removeprefix("Nondeterminism error: ")


def _wanted(engine: str) -> str:
    if found := _OTHER.search(engine):
        return f"calls {found['wanted']} there instead of {found['was']}"
    if found := _MACHINE.search(engine):
        machine = found["machine"]
        return f"{_WANTS.get(machine, f'does something else ({machine})')} there"
    if "No command scheduled for event" in engine:
        return "does nothing there"
    return f"says: {engine}"


async def _event_id(past: Past, engine: str, replayer: Replayer) -> int | None:
    """The event that does not fit: as the engine names it, else found by replaying ever less of the history."""
    if found := _EVENT.search(engine):
        return int(found["id"])
    started = EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED
    ends = [i + 1 for i, event in enumerate(past.events) if event.event_type == started]
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high) // 2
        cut = WorkflowHistory(past.workflow_id, past.events[: ends[middle]])
        if await _failure(cut, replayer) is None:
            low = middle + 1
        else:
            high = middle
    # what fits until this task began does not fit once its predecessor's commands are looked at
    end = ends[low] if low < len(ends) else len(past.events)
    begin = ends[low - 1] if low else 0
    of = _OTHER.search(engine)
    commands = [event for event in past.events[begin:end] if event.event_type in _COMMANDS]
    named = [event for event in commands if of is not None and _of(event) == of["was"]]
    return next((event.event_id for event in [*named, *commands]), None)


def _named(event: HistoryEvent) -> str:
    kind = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").title().replace("_", "")
    return f"{kind} of {_of(event)}" if _of(event) else kind


def _of(event: HistoryEvent) -> str:
    """The activity or workflow that it is about; empty if it is about none."""
    return (
        event.activity_task_scheduled_event_attributes.activity_type.name
        or event.start_child_workflow_execution_initiated_event_attributes.workflow_type.name
    )


async def _step(history: WorkflowHistory, event_id: int, converter: DataConverter) -> str:
    told = await story(history, converter)
    return next((step.name for step in told.steps if step.event_id == event_id and step.name != step.what), "")
