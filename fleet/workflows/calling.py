"""Calls of models and tools: activities on their own queues, ended by a stop."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from fleet import policy
from fleet.contracts.runs import RunInput

R = TypeVar("R")


class Calls:
    """Makes the calls of one run that change nothing outside."""

    def __init__(
        self, run: RunInput, stopped: Callable[[], bool], left_s: Callable[[], float], begun: Callable[[], bool]
    ) -> None:
        """Args:
        run: whose calls.
        stopped: whether the run is to end.
        left_s: seconds until its deadline.
        begun: whether it has made a step: runs in flight come before new ones.
        """
        self._run = run
        self._stopped = stopped
        self._left_s = left_s
        self._begun = begun

    async def call(self, activity: str, request: Any, result: type[R], queue: str, summary: str) -> R:
        """One call, with all its attempts and waits. A stop cancels it.

        Raises:
            ActivityError: it failed for good, its time was up, or it was cancelled.
        """
        limits = policy.timeouts(self._run.agent.policy, self._left_s())
        handle: workflow.ActivityHandle[R] = workflow.start_activity(
            activity,
            args=[] if request is None else [request],
            result_type=result,
            task_queue=queue,
            schedule_to_close_timeout=limits.schedule_to_close,
            start_to_close_timeout=limits.start_to_close,
            heartbeat_timeout=limits.heartbeat,
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1)),
            cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
            priority=Priority(
                priority_key=self._run.priority + (0 if self._begun() else 1),
                fairness_key=self._run.tenant,
                fairness_weight=self._run.weight,
            ),
            summary=summary,
        )
        await workflow.wait_condition(lambda: handle.done() or self._stopped())
        if not handle.done():
            handle.cancel()
        return await handle


def reason(error: ActivityError) -> str:
    """Why a call failed, in its own words."""
    return getattr(error.cause, "message", "") or str(error.cause or error)


def kind(error: ActivityError) -> str | None:
    """The failure's type on the wire."""
    return error.cause.type if isinstance(error.cause, ApplicationError) else type(error.cause).__name__
