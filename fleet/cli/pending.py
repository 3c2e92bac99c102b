"""Calls of a run that have not ended, as Temporal shows them."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from temporalio.service import RPCError

from fleet.client import FleetClient
from fleet.codec import readable
from fleet.errors import FleetError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """One activity of a run, or of one of its effects."""

    workflow_id: str
    execution: str
    """Temporal's run id of the execution that it belongs to."""
    call: Any
    """Temporal's own `PendingActivityInfo`."""
    doing: str
    """What its last heartbeat has said; empty before the first."""


async def pending(client: FleetClient, run_id: str) -> list[dict[str, Any]]:
    """Each call: which, on what attempt, and what it waits for or does."""
    return [
        {"activity": one.call.activity_type.name, "attempt": one.call.attempt, "why": _why(one)}
        for one in await pending_calls(client, run_id)
    ]


def _why(one: Pending) -> str:
    under_way = one.call.HasField("last_started_time") and not one.call.HasField("next_attempt_schedule_time")
    if under_way:
        return one.doing or "under way"
    return one.call.last_failure.message or "waits for a worker"


async def pending_calls(client: FleetClient, run_id: str) -> list[Pending]:
    """Activities that have not ended, of the run and of its effects."""
    described = (await client.handle(run_id).describe()).raw_description
    found = [await _pending(client, described, one) for one in described.pending_activities]
    for child in described.pending_children:
        # one that ended meanwhile has none
        with suppress(RPCError):
            effect = (await client.handle(child.workflow_id).describe()).raw_description
            found += [await _pending(client, effect, one) for one in effect.pending_activities]
    return found


async def _pending(client: FleetClient, described: Any, call: Any) -> Pending:
    execution = described.workflow_execution_info.execution
    said: list[Any] = []
    # details of another release, or of a key that is not at hand: that they beat is what counts
    with suppress(Exception):
        said = await client.temporal.data_converter.decode(call.heartbeat_details.payloads)
    if call.HasField("last_failure"):
        with suppress(FleetError):
            call.last_failure.CopyFrom(await readable(call.last_failure, client.temporal.data_converter))
    doing = said[0].get("doing", "") if said and isinstance(said[0], dict) else ""
    return Pending(workflow_id=execution.workflow_id, execution=execution.run_id, call=call, doing=str(doing))
