"""A verdict on its way to a run: given once, also to a run that continues as new at that moment."""

import asyncio
import secrets
from typing import Final

from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.service import RPCError, RPCStatusCode

from fleet.contracts import names
from fleet.contracts.approvals import Approval, Verdict, run_of
from fleet.errors import BadInput, Unreachable

WITHIN_S = 30.0
"""How long a verdict waits for a worker of the agents' pool."""

_AGAIN: Final = frozenset({RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.UNAVAILABLE, RPCStatusCode.ABORTED})
"""What an update meets whose workflow task comes to nothing, as when the run continues as new at that moment."""
_AGAIN_S: Final = 0.05


class Ended(Exception):
    """The run has ended."""


async def decide(client: Client, verdict: Verdict) -> Approval:
    """Give a verdict. Answers how the approval stands then.

    Raises:
        BadInput: it cannot be taken: the text says why.
        Ended: the run has.
        Unreachable: nobody answers in time; it may still be taken.
        RPCError: Temporal does not know the run, or does not answer.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + WITHIN_S
    # the same however often it is sent: one execution of a run takes it once
    update_id = secrets.token_hex(8)
    again = False
    while True:
        try:
            return await asyncio.wait_for(_update(client, verdict, update_id), until - loop.time())
        except WorkflowUpdateFailedError as refused:
            taken = await _taken(client, verdict) if again else None
            if taken is not None:
                return taken
            raise BadInput(getattr(refused.cause, "message", "") or str(refused.cause)) from None
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            raise _unanswered(verdict) from None
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                if not await _is_running(client, verdict):
                    raise Ended from None
            elif error.status not in _AGAIN:
                raise
            if loop.time() + _AGAIN_S >= until:
                raise _unanswered(verdict) from None
            again = True
            await asyncio.sleep(_AGAIN_S)


async def _update(client: Client, verdict: Verdict, update_id: str) -> Approval:
    handle = client.get_workflow_handle(run_of(verdict.approval_id))
    decided: Approval = await handle.execute_update(names.DECIDE_UPDATE, verdict, id=update_id, result_type=Approval)
    return decided


async def _is_running(client: Client, verdict: Verdict) -> bool:
    described = await client.get_workflow_handle(run_of(verdict.approval_id)).describe()
    return described.status is WorkflowExecutionStatus.RUNNING


async def _taken(client: Client, verdict: Verdict) -> Approval | None:
    """The approval, if this very verdict has reached an earlier execution, though no answer came back."""
    handle = client.get_workflow_handle(run_of(verdict.approval_id))
    asked: list[Approval] = await handle.query(names.APPROVALS_QUERY, result_type=list[Approval])
    said = (verdict.by, verdict.decision, verdict.channel, verdict.comment)
    for approval in asked:
        votes = [(vote.by, vote.decision, vote.channel, vote.comment) for vote in approval.votes]
        if approval.id == verdict.approval_id and said in votes:
            return approval
    return None


def _unanswered(verdict: Verdict) -> Unreachable:
    return Unreachable(
        f"no worker of the agents' pool has answered within {WITHIN_S:g} s: look at"
        f" `fleet approvals show {verdict.approval_id}` before deciding again"
    )
