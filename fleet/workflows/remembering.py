"""What a run remembers: recalled at its start, kept as it is found. A memory that is away holds up nobody."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception

from fleet.contracts.memories import Finding, Keep, Kept
from fleet.contracts.runs import MemoryPolicy, RunInput
from fleet.contracts.tools import MEMORY_KEEP, MEMORY_RECALL, ToolRequest, ToolResult

_RECALL_WITHIN = timedelta(seconds=30)
_KEEP_WITHIN = timedelta(minutes=5)
_LAST_WITHIN = timedelta(seconds=30)
"""How long the end of a run waits for what is still to be kept."""


@dataclass(slots=True)
class _Keeping:
    request: Keep
    task: asyncio.Task[None]


class Memory:
    """The memory of one run's agent."""

    def __init__(self, run: RunInput) -> None:
        self._run = run
        self._policy: MemoryPolicy | None = run.agent.memory
        self._keeping: list[_Keeping] = []
        self.recalled = run.carried.recalled if run.carried else 0
        """Memories that the run began with."""

    async def recall(self) -> str:
        """What is known of the goal, as JSON text; nothing if nothing is, or the memory is away."""
        if self._policy is None or self._policy.recall == 0:
            return ""
        request = ToolRequest(
            tool="recall",
            call_id="",
            arguments={"query": self._run.goal[:1000], "limit": self._policy.recall},
            step="0.1",
            run_id=workflow.info().workflow_id,
            agent=self._run.agent.name,
            tenant=self._run.tenant,
        )
        try:
            found = await workflow.execute_activity(
                MEMORY_RECALL.name,
                request,
                result_type=ToolResult,
                task_queue=self._policy.task_queue,
                start_to_close_timeout=timedelta(seconds=10),
                schedule_to_close_timeout=_RECALL_WITHIN,
                summary="recall",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("nothing is recalled: %s", error.cause)
            return ""
        self.recalled = len(json.loads(found.content).get("memories", []))
        return found.content if self.recalled else ""

    def keep(self, step: str, findings: list[Finding]) -> None:
        """Remember what a step has found, while the run goes on."""
        if self._policy is not None and self._policy.findings and findings:
            self._begin(self._policy, self._request(self._policy, step, findings))

    async def keep_outcome(self, answer: str) -> None:
        """The run has completed: remember what came of it."""
        if self._policy is not None and self._policy.outcome and answer:
            outcome = Finding(text=answer, subject=self._run.goal[:1000], kind="outcome")
            self._begin(self._policy, self._request(self._policy, "end", [outcome]))
        await self.settle()

    async def settle(self) -> None:
        """Wait, not for long, for what is still being kept."""
        if self._keeping:
            with suppress(TimeoutError):
                await workflow.wait_condition(lambda: all(k.task.done() for k in self._keeping), timeout=_LAST_WITHIN)

    def resume(self) -> None:
        """Keep what an earlier execution of the run has not kept to the end. What was kept is known again."""
        if self._policy is not None and self._run.carried is not None:
            for request in self._run.carried.keeps:
                self._begin(self._policy, request)

    def carried(self) -> list[Keep]:
        """What is still being kept, for the next execution of the run."""
        return [keeping.request for keeping in self._keeping if not keeping.task.done()]

    def _begin(self, policy: MemoryPolicy, request: Keep) -> None:
        self._keeping = [keeping for keeping in self._keeping if not keeping.task.done()]
        self._keeping.append(_Keeping(request, asyncio.create_task(self._keep(policy, request))))

    def _request(self, policy: MemoryPolicy, step: str, findings: list[Finding]) -> Keep:
        return Keep(
            tenant=self._run.tenant,
            agent=self._run.agent.name,
            run_id=workflow.info().workflow_id,
            step=step,
            findings=findings,
            expires_s=policy.expires_s,
            max_bytes=policy.max_bytes,
        )

    async def _keep(self, policy: MemoryPolicy, request: Keep) -> None:
        with suppress(ActivityError):
            await workflow.execute_activity(
                MEMORY_KEEP.name,
                request,
                result_type=Kept,
                task_queue=policy.task_queue,
                start_to_close_timeout=timedelta(seconds=10),
                schedule_to_close_timeout=_KEEP_WITHIN,
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30)),
                summary=f"remember {request.step}",
            )
