"""The effects of a run: each a child workflow, each accounted for in the run's result."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from temporalio import workflow
from temporalio.common import Priority, WorkflowIDReusePolicy
from temporalio.exceptions import ChildWorkflowError, WorkflowAlreadyStartedError

from fleet import consent, policy
from fleet.contracts import names
from fleet.contracts.approvals import ApprovalState, Ask, digest
from fleet.contracts.effects import POLICY, EffectRequest, EffectResult, EffectState, OnUnknown
from fleet.contracts.runs import RunInput, RunResult, Told, ToolBinding
from fleet.contracts.tools import WEBHOOK_SEND
from fleet.workflows.desk import Desk

_RESENDS = 3
"""How often the policy `resend` has an effect again without asking anybody."""


class Effects:
    """Has the effects of one run, one after another."""

    def __init__(
        self,
        run: RunInput,
        desk: Desk,
        halted: Callable[[], str | None],
        unpaused: Callable[[], Awaitable[None]],
        left_s: Callable[[], float],
    ) -> None:
        """Args:
        run: whose effects.
        desk: the run's `Desk`.
        halted: why the run is about to end; None while it goes on.
        unpaused: waits while the run is paused.
        left_s: seconds until the run's deadline.
        """
        self._run = run
        self._desk = desk
        self._halted = halted
        self._unpaused = unpaused
        self._left_s = left_s
        self._had: dict[str, dict[str, str]] = dict(run.carried.effects) if run.carried else {}

    def told(self) -> list[dict[str, str]]:
        """What became of each effect, for the run's result."""
        return list(self._had.values())

    def carried(self) -> dict[str, dict[str, str]]:
        """The same by step, for the next execution of the run."""
        return dict(self._had)

    async def have(self, tool: ToolBinding, arguments: dict[str, Any], *, step: str, said: str) -> EffectResult:
        """Have the effect once, and find out what became of it, from a human if need be.

        Raises:
            CancelledError: the run was cancelled; what became of the effect is noted first.
        """
        name = tool.spec.name
        run_id = workflow.info().workflow_id
        request = EffectRequest(
            key=names.effect_key(run_id, step),
            tool=name,
            activity=tool.activity,
            arguments=arguments,
            digest=self._of_this_run(digest(name, arguments)),
            run_id=run_id,
            agent=self._run.agent.name,
            tenant=self._run.tenant,
            policy=self._run.agent.policy,
            deadline_s=self._left_s(),
            priority=self._run.priority,
            weight=self._run.weight,
        )
        result = await self._child(request, tool.task_queue, step)
        resends = 0
        while result.state is EffectState.UNKNOWN and self._halted() is None:
            match OnUnknown(self._run.agent.on_unknown):
                case OnUnknown.RESEND if resends < _RESENDS:
                    resends += 1
                    again = replace(request, was_had=False, by=POLICY)
                case OnUnknown.SKIP:
                    return result
                case _:
                    answered = await self._settled(request, result, step=step, said=said)
                    if answered is None:
                        return result
                    again = answered
            await self._unpaused()
            why = self._halted()
            if why is not None and again.by == POLICY:
                return result
            if why is not None:
                # what a human has said is noted; nothing begins any more
                again = policy.accounting(again, why)
            result = await self._child(replace(again, deadline_s=self._left_s()), tool.task_queue, step)
        return result

    async def tell(self, result: RunResult) -> None:
        """Have those told who want to know how the run has ended. It does not wait for them."""
        for told in self._run.tell:
            arguments = {
                "endpoint": told.endpoint,
                "type": f"fleet.run.{result.outcome.value}",
                "data": policy.ending(self._run, result),
            }
            # named twice, or told already by a run that was reset: once is enough
            with suppress(WorkflowAlreadyStartedError):
                await self._start(self._telling(told, arguments), told.task_queue, abandoned=True)

    def _telling(self, told: Told, arguments: dict[str, Any]) -> EffectRequest:
        run_id = workflow.info().workflow_id
        return EffectRequest(
            key=names.ending_key(run_id, told.endpoint),
            tool="send_webhook",
            activity=WEBHOOK_SEND.name,
            arguments=arguments,
            digest=self._of_this_run(digest("send_webhook", arguments)),
            run_id=run_id,
            agent=self._run.agent.name,
            tenant=self._run.tenant,
            policy=replace(self._run.agent.policy, schedule_to_close_s=policy.TELL_WITHIN.total_seconds()),
            deadline_s=policy.TELL_WITHIN.total_seconds(),
            priority=self._run.priority,
            weight=self._run.weight,
        )

    def _of_this_run(self, digest: str) -> str:
        """Another run under this id, once Temporal has forgotten this one, must not find its effects done."""
        return f"{digest}@{workflow.info().first_execution_run_id[:8]}"

    async def _settled(
        self, request: EffectRequest, result: EffectResult, *, step: str, said: str
    ) -> EffectRequest | None:
        """What a human says of an effect that nobody knows of, as the next request; None: leave it."""
        rule = consent.settling(self._run.agent, request.tool)
        approval = await self._desk.ask(
            Ask.SETTLE,
            step=step,
            tool=request.tool,
            arguments=request.arguments,
            rule=rule,
            why=f"was it had? {result.reason}",
            said=said,
        )
        if approval.state not in (ApprovalState.APPROVED, ApprovalState.REJECTED):
            return None
        was_had = approval.state is ApprovalState.APPROVED
        return replace(request, was_had=was_had, by=", ".join(vote.by for vote in approval.votes))

    async def _child(self, request: EffectRequest, queue: str, step: str) -> EffectResult:
        entry = {"tool": request.tool, "step": step, "state": EffectState.EXECUTING.value}
        self._had[step] = entry
        # a task of its own: it sees by itself that the run is about to end, and accounts for the effect first
        having = asyncio.create_task(self._through(request, queue))
        try:
            result = await asyncio.shield(having)
        except asyncio.CancelledError:
            await workflow.wait([having])
            self._note(entry, having.result())
            raise
        self._note(entry, result)
        return result

    async def _through(self, request: EffectRequest, queue: str) -> EffectResult:
        try:
            handle = await self._start(request, queue)
            await workflow.wait_condition(lambda: handle.done() or self._halted() is not None)
            if not handle.done():
                # it withdraws if nothing has begun, else it goes to its end: its result says which
                handle.cancel()
            return await handle
        except WorkflowAlreadyStartedError:
            return EffectResult(state=EffectState.UNKNOWN, reason=f"somebody else is at {request.key}")
        except ChildWorkflowError as error:
            return EffectResult(state=EffectState.UNKNOWN, reason=f"{request.key}: {error.cause or error}")

    async def _start(
        self, request: EffectRequest, queue: str, *, abandoned: bool = False
    ) -> "workflow.ChildWorkflowHandle[Any, EffectResult]":
        return await workflow.start_child_workflow(
            names.EFFECT_WORKFLOW,
            request,
            id=request.key,
            result_type=EffectResult,
            task_queue=queue,
            cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON
            if abandoned
            else workflow.ParentClosePolicy.REQUEST_CANCEL,
            # the ledger, not the id, keeps it from happening twice
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            priority=Priority(
                priority_key=self._run.priority, fairness_key=self._run.tenant, fairness_weight=self._run.weight
            ),
            static_summary=f"{request.tool} of {request.run_id}",
        )

    def _note(self, entry: dict[str, str], result: EffectResult) -> None:
        entry.update(result.evidence)
        entry["state"] = result.state.value
        if result.reason:
            entry["reason"] = result.reason
