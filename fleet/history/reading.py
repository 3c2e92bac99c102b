"""A run's histories: fetched as they are, with those of its effects, written to a file and read from one."""

import asyncio
import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import ParseError
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode

from fleet.errors import BadInput, UnknownRun, Unreachable

FORMAT: Final = 1
"""Of the files that `save` writes."""
AT_ONCE = 8
"""Histories of effects that are fetched at the same time."""


@dataclass(slots=True, kw_only=True)
class Past:
    """One execution, as Temporal has recorded it."""

    workflow_id: str
    run_id: str
    """Temporal's id of the execution; empty where a file does not tell it."""
    events: list[HistoryEvent]

    @property
    def workflow_type(self) -> str:
        """Name of the workflow; empty if there are no events."""
        return str(self._begun.workflow_type.name)

    @property
    def before(self) -> str:
        """The execution that continued as this one; empty if it is the first."""
        return str(self._begun.continued_execution_run_id)

    @property
    def after(self) -> str:
        """The execution that this one continued as; empty while it has not."""
        last = self.events[-1] if self.events else HistoryEvent()
        return last.workflow_execution_continued_as_new_event_attributes.new_execution_run_id

    @property
    def _begun(self) -> Any:
        first = self.events[0] if self.events else HistoryEvent()
        return first.workflow_execution_started_event_attributes

    def history(self) -> WorkflowHistory:
        """For the SDK."""
        return WorkflowHistory(self.workflow_id, self.events)


@dataclass(slots=True, kw_only=True)
class Chain:
    """All executions of one run, oldest first, and those of its effects."""

    run_id: str
    executions: list[Past]
    gone: list[str] = field(default_factory=list)
    """Executions before them that retention has removed; of those only the last one's id is known."""
    children: dict[str, Past] = field(default_factory=dict)
    """By Temporal's id of the execution."""
    gone_children: list[str] = field(default_factory=list)
    """Workflow ids of effects whose histories could not be read."""
    read_at: datetime | None = None
    """When it was fetched; None of a file that does not tell."""

    def pasts(self) -> list[Past]:
        """All of them."""
        return [*self.executions, *self.children.values()]


async def fetch(client: Client, run_id: str, *, execution: str | None = None, children: bool = True) -> Chain:
    """The chain of a run: from its newest execution back to its first.

    After a reset the newest execution tells everything that was kept; what the reset has thrown away is not fetched.

    Args:
        client: to Temporal.
        run_id: the workflow's id.
        execution: one link of the chain. Default: the newest.
        children: the histories of its effects too.

    Raises:
        UnknownRun: there is none of that id.
        Unreachable: Temporal does not answer.
    """
    newest = await _fetch(client, run_id, execution)
    if newest is None:
        raise UnknownRun(f"no run {run_id!r}: `fleet ps` lists them")
    found = [newest]
    # it may go on while it is read
    while found[-1].after and (later := await _fetch(client, run_id, found[-1].after)) is not None:
        found.append(later)
    gone: list[str] = []
    while found[0].before:
        earlier = await _fetch(client, run_id, found[0].before)
        if earlier is None:
            gone.append(found[0].before)
            break
        found.insert(0, earlier)
    chain = Chain(run_id=run_id, executions=found, gone=gone, read_at=datetime.now(UTC))
    if children:
        await _fetch_children(client, chain)
    return chain


async def _fetch_children(client: Client, chain: Chain) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(workflow_id: str, run_id: str) -> None:
        async with gate:
            past = await _fetch(client, workflow_id, run_id)
        if past is None:
            chain.gone_children.append(workflow_id)
        else:
            chain.children[run_id] = past

    await asyncio.gather(*(one(*child) for past in chain.executions for child in started_children(past)))


def started_children(past: Past) -> list[tuple[str, str]]:
    """Id and execution of every child workflow that it has started."""
    kind = EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED
    started = [
        event.child_workflow_execution_started_event_attributes.workflow_execution
        for event in past.events
        if event.event_type == kind
    ]
    return [(child.workflow_id, child.run_id) for child in started]


async def _fetch(client: Client, workflow_id: str, run_id: str | None) -> Past | None:
    """One execution; None if there is none."""
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    try:
        # the newest by its own id: two calls must not read two executions
        run_id = run_id or (await handle.describe()).run_id
        history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    except RPCError as error:
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            return None
        raise Unreachable(f"Temporal: {error.message}") from None
    return Past(workflow_id=workflow_id, run_id=run_id or "", events=list(history.events))


def document(chain: Chain) -> dict[str, Any]:
    """The chain as JSON, payloads as they are: encrypted ones stay so."""

    def one(past: Past) -> dict[str, Any]:
        return {"workflow_id": past.workflow_id, "run_id": past.run_id, **past.history().to_json_dict()}

    return {
        "format": FORMAT,
        "run": chain.run_id,
        "read_at": chain.read_at.isoformat() if chain.read_at else None,
        "gone": chain.gone,
        "gone_children": chain.gone_children,
        "executions": [one(past) for past in chain.executions],
        "children": [one(past) for past in chain.children.values()],
    }


def save(chain: Chain, file: Path) -> None:
    """Write the chain to a file that `load` reads, whole or not at all, and only its user.

    Raises:
        BadInput: the file cannot be written.
    """
    write_whole(file, json.dumps(document(chain)))


def write_whole(file: Path, text: str) -> None:
    """Write a file that only its user may read, whole or not at all: what it holds may be secret.

    Raises:
        BadInput: the file cannot be written.
    """
    part = file.parent / f".{file.name}.{secrets.token_hex(4)}"
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as beside:
            beside.write(text)
        part.replace(file)
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}: name a file in a folder that can be written") from None
    finally:
        with suppress(OSError):
            part.unlink()


def load(file: Path) -> Chain:
    """A chain from a file of `fleet trace RUN --save FILE` or of `temporal workflow show -o json`.

    The second kind has one execution, and no histories of effects.

    Raises:
        BadInput: there is no such file, or it is neither.
    """
    kinds = "`fleet trace RUN --save FILE` or `temporal workflow show -w RUN -o json`"
    try:
        said = json.loads(file.read_bytes())
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}: name a file that {kinds} has written") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{file} is not JSON: name a file that {kinds} has written") from None
    if not isinstance(said, dict) or not ("events" in said or "executions" in said):
        raise BadInput(f"{file} is no history: name a file that {kinds} has written")
    if said.get("format", FORMAT) != FORMAT:
        raise BadInput(f"{file} has format {said['format']}; this version reads {FORMAT}: use the one that wrote it")
    try:
        if "events" in said:
            past = _parsed(said, file.stem)
            return Chain(run_id=past.workflow_id, executions=[past], gone=[past.before] if past.before else [])
        if not said["executions"]:
            raise ValueError("it has no execution")
        return Chain(
            run_id=str(said["run"]),
            executions=[_parsed(one, file.stem) for one in said["executions"]],
            gone=[str(one) for one in said.get("gone", [])],
            children={one["run_id"]: _parsed(one, file.stem) for one in said.get("children", [])},
            gone_children=[str(one) for one in said.get("gone_children", [])],
            read_at=datetime.fromisoformat(said["read_at"]) if said.get("read_at") else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, ParseError) as error:
        raise BadInput(f"{file} is no whole history ({error}): write it again with {kinds}") from None


def _parsed(said: dict[str, Any], name: str) -> Past:
    history = WorkflowHistory.from_json(name, {"events": said["events"]})
    events: Sequence[HistoryEvent] = history.events
    if not events or events[0].event_type != EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
        raise ValueError("its first event does not start a workflow")
    missing = next((number for number, event in enumerate(events, start=1) if event.event_id != number), None)
    if missing is not None:
        raise ValueError(f"event {missing} is not there")
    begun = events[0].workflow_execution_started_event_attributes
    return Past(
        workflow_id=said.get("workflow_id") or begun.workflow_id or name,
        run_id=said.get("run_id") or begun.original_execution_run_id,
        events=list(events),
    )
