"""What an operator does from `fleet top`: the acts of the command line, by its functions, into the same audit."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from temporalio.service import RPCError

from fleet.cli import context
from fleet.cli.approvals import asked_of, lines_of, standing
from fleet.cli.audit import CHANNEL, REFUSED, Auditor
from fleet.cli.steering import ACTS
from fleet.client import FleetClient
from fleet.contracts.approvals import Approval, Decision, Verdict, run_of
from fleet.documents import visible
from fleet.errors import BadInput, UnknownRun, Unreachable
from fleet.top.picture import ApprovalDetail
from fleet.top.reading import WITHIN_S, Reading, cleaned
from ratelimit.errors import RateLimitError
from ratelimit.limiter import Limiter

UNAUDITED: Final = "; the audit was not written: the database does not answer"


async def steer(reading: Reading, act: str, run_id: str, reason: str, by: str | None) -> str:
    """Stop, pause or resume one run. Answers what was done.

    Args:
        reading: connected.
        act: one of `fleet.cli.steering.ACTS`.
        run_id: which.
        reason: why: for the history and the audit.
        by: who. Default: the user of this machine.

    Raises:
        BadInput: there is no such run, or it has ended.
        Unreachable: Temporal does not answer.
    """
    what = ACTS[act]
    client = await reading.client()
    async with Auditor(reading.settings) as auditor:
        try:
            await what.call(client, run_id, reason)
        except RPCError as error:
            raise Unreachable(f"Temporal: {error.message}") from None
        await auditor.note(f"run.{what.done}", run_id, run_id=run_id, by=by, comment=reason)
        return f"{run_id}: {what.said}{'' if auditor.written else UNAUDITED}"


async def freeze(reading: Reading, scope: str, reason: str, by: str | None) -> str:
    """Close a scope for the whole fleet. Answers what was done.

    Raises:
        BadInput: the scope has no quota.
        Unreachable: Redis does not answer.
    """
    new = await _at_desk(reading, lambda shared: shared.close(scope, by=context.user(by), reason=reason))
    return f"{scope}: {'frozen' if new else 'was frozen already'}"


async def thaw(reading: Reading, scope: str, reason: str, by: str | None) -> str:
    """Open a scope that was closed, and end its cooldown. As `freeze`."""
    new = await _at_desk(reading, lambda shared: shared.open(scope, by=context.user(by), reason=reason))
    return f"{scope}: {'open' if new else 'was open already'}"


async def asked(reading: Reading, approval_id: str) -> ApprovalDetail:
    """An approval as its run says; where that does not answer, as the audit does.

    Raises:
        BadInput: nobody knows of it.
        Unreachable: neither answers.
    """
    note, found, source = "", None, "run"
    try:
        found = await asked_of(await reading.client(), run_of(approval_id), approval_id)
    except (UnknownRun, Unreachable) as error:
        note = f"this is what the audit says, the run does not answer: {error}"
    except RPCError as error:
        note = f"this is what the audit says, the run does not answer: {error.message}"
    if found is None:
        source = "audit"
        found = await asyncio.wait_for((await reading.book()).get(approval_id), WITHIN_S)
    if found is None:
        raise BadInput(f"no approval {approval_id!r}: `fleet approvals ls --state all` lists them")
    shown = cleaned(found)
    return ApprovalDetail(approval=shown, source=source, lines=tuple(map(visible, lines_of(shown))), note=note)


async def decide(reading: Reading, decision: Decision, shown: Approval, comment: str, by: str | None) -> str:
    """Give a verdict on exactly the arguments that were shown. Answers how the approval stands then.

    The run says who may decide, as for `fleet approvals approve`: it knows the approvers, and who has voted.

    Args:
        reading: connected.
        decision: what is said.
        shown: what the operator has looked at: the verdict is bound to its digest.
        comment: why.
        by: who. Default: the user of this machine.

    Raises:
        BadInput: the verdict cannot be taken: the text says why; the audit has that, too.
        Unreachable: nobody answers in time; it may still be taken.
    """
    client: FleetClient = await reading.client()
    said = Verdict(
        approval_id=shown.id,
        decision=decision,
        by=context.user(by),
        digest=shown.digest,
        channel=CHANNEL,
        comment=comment,
    )
    try:
        found = await client.decide(said)
    except UnknownRun:
        raise
    except BadInput as refused:
        detail = {"decision": decision.value, "digest": shown.digest, "said": comment}
        async with Auditor(reading.settings) as auditor:
            await auditor.note(REFUSED, shown.id, run_id=run_of(shown.id), by=by, comment=str(refused), detail=detail)
        raise
    return f"{shown.id}: {standing(found)}"


async def _at_desk(reading: Reading, act: Callable[[Limiter], Coroutine[Any, Any, bool]]) -> bool:
    try:
        return await asyncio.wait_for(act(await reading.limiter()), WITHIN_S)
    except TimeoutError:
        raise Unreachable(f"Redis has not answered within {WITHIN_S:g} s: look again before trying again") from None
    except RateLimitError as error:
        raise BadInput(str(error)) from None
