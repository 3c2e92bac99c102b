"""The durable tool: one effect, had once, accounted for whatever happens.

A child workflow on the task queue of its tool, for any agent. It never waits for a human: where nobody can say whether
the effect was had, its result says so, and its caller asks.
"""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from fleet import policy
from fleet.contracts import names
from fleet.contracts.effects import EffectRequest, EffectResult, EffectState, Mode


@workflow.defn(name=names.EFFECT_WORKFLOW)
class EffectWorkflow:
    """One effect."""

    @workflow.run
    async def run(self, request: EffectRequest) -> EffectResult:
        """Have the effect, or say certainly that it was not had, or that nobody knows.

        A cancellation reaches the attempt under way: before its point of no return it withdraws, after it it goes on.
        Either way the ledger is asked what has happened.
        """
        try:
            return await self._attempt(request, timedelta(seconds=max(1.0, request.deadline_s)))
        except ActivityError as error:
            known = _final(error)
            if known is not None:
                return known
            why = "withdrawn" if is_cancelled_exception(error) else "not had in time"
        try:
            return await self._attempt(policy.accounting(request, why), policy.ACCOUNT_WITHIN)
        except ActivityError as error:
            return EffectResult(
                state=EffectState.UNKNOWN, reason=f"{why}; what became of it was not found out: {error.cause or error}"
            )

    async def _attempt(self, request: EffectRequest, within: timedelta) -> EffectResult:
        limits = policy.timeouts(request.policy, within.total_seconds())
        handle: workflow.ActivityHandle[EffectResult] = workflow.start_activity(
            request.activity,
            request,
            result_type=EffectResult,
            schedule_to_close_timeout=limits.schedule_to_close,
            start_to_close_timeout=limits.start_to_close,
            heartbeat_timeout=limits.heartbeat,
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1)),
            # only the attempt itself knows whether it is past its point of no return
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            priority=Priority(
                priority_key=request.priority, fairness_key=request.tenant, fairness_weight=request.weight
            ),
            summary=f"{request.tool} {request.mode.value}",
        )
        try:
            return await asyncio.shield(handle)
        except asyncio.CancelledError:
            # it may come together with the attempt's end, which counts: a handle that is cancelled before all of this
            # workflow task was applied would forget it
            await workflow.wait_condition(lambda: True)
            if not handle.done() and request.mode is Mode.EXECUTE:
                handle.cancel()
            await workflow.wait([handle])
            return await handle


def _final(error: ActivityError) -> EffectResult | None:
    """What an attempt that failed for good has told; None if it told nothing."""
    cause = error.cause
    if not isinstance(cause, ApplicationError):
        return None
    if not cause.non_retryable:
        # the time was up between two attempts: what the last one has told is not the end
        return None
    if cause.type == names.FailureType.EFFECT_UNKNOWN:
        return EffectResult(state=EffectState.UNKNOWN, reason=cause.message)
    return EffectResult(state=EffectState.FAILED, reason=cause.message)
