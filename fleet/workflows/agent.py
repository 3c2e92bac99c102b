"""The agent: plan, call tools, observe, finish. Durable, because a workflow."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, is_cancelled_exception

from fleet import budget, planning, policy
from fleet.contracts import names
from fleet.contracts.llm import ChatResult, Message, QuotaUse, ToolCall
from fleet.contracts.runs import Outcome, Phase, RunInput, RunResult, RunStatus, ToolBinding
from fleet.contracts.tools import DOOR_ENTER, DOOR_LEAVE, LLM_CHAT, ToolRequest, ToolResult

R = TypeVar("R")


class _Ended(Exception):
    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


@workflow.defn(name=names.AGENT_WORKFLOW)
class AgentWorkflow:
    """One run of one agent."""

    @workflow.init
    def __init__(self, run: RunInput) -> None:
        self._run = run
        self._agent = run.agent
        self._messages: list[Message] = planning.opening(run.agent, run.goal)
        self._spent = budget.Spent()
        self._waits: list[float] = []
        self._effects: list[dict[str, str]] = []
        self._phase = Phase.STARTING
        self._doing = ""
        self._stop_reason: str | None = None

    @workflow.run
    async def run(self, run: RunInput) -> RunResult:
        """Work until the model has finished, the budget is used up or somebody stops it."""
        try:
            if run.door:
                await self._enter_by_door()
            return self._result(Outcome.COMPLETED, await self._work())
        except _Ended as end:
            return self._result(end.outcome, self._last_words(), end.reason)
        finally:
            if run.door:
                await self._leave()
            self._phase = Phase.FINISHED

    @workflow.query(name=names.STATUS_QUERY)
    def status(self) -> RunStatus:
        """Where the run stands."""
        return RunStatus(
            phase=self._phase,
            doing=self._doing,
            steps=self._spent.steps,
            tokens=self._spent.tokens,
            quota_wait_s=sum(self._waits),
            stop_requested=self._stop_reason is not None,
        )

    @workflow.signal(name=names.STOP_SIGNAL)
    def stop(self, reason: str) -> None:
        """Finish soon: a call under way is cancelled, an effect under way is waited for."""
        self._stop_reason = self._stop_reason or reason or "stopped"

    async def _enter_by_door(self) -> None:
        self._check()
        self._enter(Phase.STARTING, "waits at the door")
        try:
            await self._call(DOOR_ENTER, None, type(None), workflow.info().task_queue, "door")
        except ActivityError as error:
            raise self._failed(error) from error

    async def _leave(self) -> None:
        # a run that is not let go frees its place by itself after a while
        with suppress(ActivityError, CancelledError):
            await asyncio.shield(
                workflow.start_local_activity(
                    DOOR_LEAVE,
                    schedule_to_close_timeout=timedelta(seconds=5),
                    retry_policy=RetryPolicy(maximum_attempts=2),
                )
            )

    async def _work(self) -> str:
        while True:
            self._check()
            self._enter(Phase.THINKING, self._agent.model)
            reply = await self._think()
            self._spent = self._spent.step(reply.usage)
            self._messages.append(reply.message)
            match planning.decide(self._agent, reply):
                case planning.Finish(answer=answer):
                    return answer
                case planning.Withheld(reason=reason):
                    raise _Ended(Outcome.FAILED, reason)
                case planning.Act(calls=calls, refused=refused):
                    self._enter(Phase.ACTING, ", ".join(call.name for call, _ in calls))
                    await self._act(calls, refused)

    def _enter(self, phase: Phase, doing: str) -> None:
        self._phase, self._doing = phase, doing

    def _check(self) -> None:
        if self._stop_reason is not None:
            raise _Ended(Outcome.STOPPED, self._stop_reason)
        used_up = budget.exhausted(self._agent.budget, self._spent, self._elapsed_s())
        if used_up:
            raise _Ended(Outcome.BUDGET_EXHAUSTED, used_up)

    async def _think(self) -> ChatResult:
        request = planning.request(self._agent, self._messages)
        try:
            reply = await self._call(
                LLM_CHAT.name, request, ChatResult, self._agent.llm_task_queue, f"step {self._spent.steps + 1}"
            )
        except ActivityError as error:
            raise self._failed(error) from error
        self._note(reply.quota)
        return reply

    async def _act(self, calls: list[tuple[ToolCall, ToolBinding]], refused: list[tuple[ToolCall, str]]) -> None:
        step = self._spent.steps
        # all to their end, also if one of them ends the run: what an effect has done must be told
        results = await asyncio.gather(
            *(self._use(call, tool, f"{step}.{i}") for i, (call, tool) in enumerate(calls, start=1)),
            return_exceptions=True,
        )
        for (call, _), result in zip(calls, results, strict=True):
            if isinstance(result, BaseException):
                continue
            self._messages.append(planning.observation(call, result.content))
            self._note(result.quota)
            if result.evidence:
                self._effects.append(result.evidence)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        for call, reason in refused:
            self._messages.append(planning.observation(call, planning.refusal(reason)))

    async def _use(self, call: ToolCall, tool: ToolBinding, step: str) -> ToolResult:
        request = ToolRequest(
            tool=call.name,
            call_id=call.id,
            arguments=call.arguments,
            step=step,
            max_failures=self._agent.policy.max_failures,
        )
        try:
            return await self._call(
                tool.activity, request, ToolResult, tool.task_queue, f"{call.name} {step}", effect=tool.effect
            )
        except ActivityError as error:
            # A stop or the deadline ends the run; a tool that failed for good is told to the model.
            self._check()
            if is_cancelled_exception(error):
                raise
            return ToolResult(content=planning.refusal(_reason(error)), error=True)

    async def _call(
        self, activity: str, request: Any, result: type[R], queue: str, summary: str, *, effect: bool = False
    ) -> R:
        limits = policy.timeouts(self._agent.policy, self._agent.budget.deadline_s - self._elapsed_s())
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
                # runs in flight come before new ones
                priority_key=self._run.priority + (0 if self._spent.steps else 1),
                fairness_key=self._run.tenant,
                fairness_weight=self._run.weight,
            ),
            summary=summary,
        )
        if effect:
            return await _to_its_end(handle)
        await workflow.wait_condition(lambda: handle.done() or self._stop_reason is not None)
        if not handle.done():
            handle.cancel()
        return await handle

    def _failed(self, error: ActivityError) -> Exception:
        if self._stop_reason is not None:
            return _Ended(Outcome.STOPPED, self._stop_reason)
        if isinstance(error.cause, CancelledError):
            return error
        if self._elapsed_s() >= self._agent.budget.deadline_s:
            deadline = f"the deadline of {self._agent.budget.deadline_s:g} s has passed"
            return _Ended(Outcome.BUDGET_EXHAUSTED, deadline)
        return ApplicationError(_reason(error), type=_type(error), non_retryable=True)

    def _note(self, use: QuotaUse | None) -> None:
        if use is not None:
            self._waits.append(use.waited_s)

    def _elapsed_s(self) -> float:
        return (workflow.now() - workflow.info().start_time).total_seconds()

    def _last_words(self) -> str:
        return next((m.content for m in reversed(self._messages) if m.content and m.role == "assistant"), "")

    def _result(self, outcome: Outcome, answer: str, reason: str = "") -> RunResult:
        return RunResult(
            outcome=outcome,
            answer=answer,
            reason=reason,
            steps=self._spent.steps,
            tokens=self._spent.tokens,
            quota_waits_s=self._waits,
            effects=self._effects,
        )


async def _to_its_end(handle: "workflow.ActivityHandle[R]") -> R:
    """Wait for an effect; a cancellation of the run is obeyed only then."""
    try:
        return await asyncio.shield(handle)
    except asyncio.CancelledError:
        if handle.done():
            raise
        await asyncio.wait([handle])
        raise


def _reason(error: ActivityError) -> str:
    return getattr(error.cause, "message", "") or str(error.cause or error)


def _type(error: ActivityError) -> str | None:
    return error.cause.type if isinstance(error.cause, ApplicationError) else type(error.cause).__name__
