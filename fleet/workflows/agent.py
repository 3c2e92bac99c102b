"""The agent: recall, plan, call tools, ask humans, observe, remember, finish. Durable, because a workflow."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, is_cancelled_exception

from fleet import budget, consent, planning
from fleet.contracts import names
from fleet.contracts.approvals import Approval, ApprovalState, Ask, Verdict
from fleet.contracts.effects import EffectState
from fleet.contracts.llm import ChatResult, Message, QuotaUse, Role, ToolCall
from fleet.contracts.runs import Outcome, Phase, RunInput, RunResult, RunStatus, ToolBinding
from fleet.contracts.tools import DOOR_ENTER, DOOR_LEAVE, LLM_CHAT, ToolRequest, ToolResult
from fleet.workflows import calling
from fleet.workflows.acting import Effects
from fleet.workflows.desk import Desk
from fleet.workflows.idle import Idle
from fleet.workflows.remembering import Memory


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
        self._id = workflow.info().workflow_id
        # nobody who writes a document can know it
        self._mark = workflow.uuid4().hex[:12]
        self._messages: list[Message] = planning.opening(run.agent, run.goal, self._mark)
        self._told: list[str] = []
        self._spent = budget.Spent()
        self._waits: list[float] = []
        self._phase = Phase.STARTING
        self._doing = ""
        self._stop_reason: str | None = None
        self._pause_reason: str | None = None
        self._idle = Idle()
        self._refusals = 0
        self._found = False
        self._desk = Desk(run, self._idle, self._halted)
        self._effects = Effects(run, self._desk, self._halted, self._unpaused, self._left_s)
        self._memory = Memory(run)
        self._calls = calling.Calls(
            run, lambda: self._stop_reason is not None, self._left_s, lambda: self._spent.steps > 0
        )

    @workflow.run
    async def run(self, run: RunInput) -> RunResult:
        """Work until the model has finished, the budget is used up or somebody stops it."""
        try:
            result = await self._until_ended(run)
            await self._desk.close()
        except (ApplicationError, ActivityError, asyncio.CancelledError) as error:
            # not `finally`: a run that a worker drops from its memory must do nothing on its way out
            await self._effects.tell(self._broken(error))
            await self._desk.close()
            await self._finish()
            raise
        await self._finish()
        # it has ended so: a cancellation that comes only now changes nothing
        telling = asyncio.create_task(self._effects.tell(result))
        with suppress(asyncio.CancelledError):
            await asyncio.shield(telling)
        await workflow.wait([telling])
        # a verdict that was taken is answered before the run has ended
        await workflow.wait_condition(workflow.all_handlers_finished)
        return result

    async def _until_ended(self, run: RunInput) -> RunResult:
        try:
            if run.door:
                await self._enter_by_door()
            await self._recall()
            answer = await self._work()
            await self._memory.keep_outcome(answer)
            return self._result(Outcome.COMPLETED, answer)
        except _Ended as end:
            await self._memory.settle()
            return self._result(end.outcome, self._last_words(), end.reason)

    @workflow.query(name=names.STATUS_QUERY)
    def status(self) -> RunStatus:
        """Where the run stands."""
        waiting = self._desk.open()
        phase = Phase.PAUSED if self._pause_reason is not None and self._phase is not Phase.FINISHED else self._phase
        return RunStatus(
            phase=Phase.APPROVAL if waiting else phase,
            doing=", ".join(waiting) or self._doing,
            steps=self._spent.steps,
            tokens=self._spent.tokens,
            quota_wait_s=sum(self._waits),
            stop_requested=self._stop_reason is not None,
            paused=self._pause_reason,
            cost=f"{self._spent.money:f}",
            approvals=waiting,
        )

    @workflow.query(name=names.APPROVALS_QUERY)
    def approvals(self) -> list[Approval]:
        """Everything that was asked of humans, oldest first."""
        return self._desk.all()

    @workflow.signal(name=names.STOP_SIGNAL)
    def stop(self, reason: str) -> None:
        """Finish soon: a call under way is cancelled, an effect under way is accounted for."""
        self._stop_reason = self._stop_reason or reason or "stopped"

    @workflow.signal(name=names.TELL_SIGNAL)
    def tell(self, message: str) -> None:
        """Something that the model reads before its next step."""
        self._told.append(message)

    @workflow.signal(name=names.PAUSE_SIGNAL)
    def pause(self, reason: str) -> None:
        """Begin nothing new until `resume`. What is under way goes on; questions to humans can be answered."""
        self._pause_reason = self._pause_reason or reason or "paused"

    @workflow.signal(name=names.RESUME_SIGNAL)
    def resume(self, reason: str = "") -> None:
        """Go on."""
        del reason  # for the history
        self._pause_reason = None

    @workflow.update(name=names.DECIDE_UPDATE)
    def decide(self, verdict: Verdict) -> Approval:
        """Take a verdict. Answers how the approval stands now."""
        return self._desk.take(verdict)

    @decide.validator
    def _may_decide(self, verdict: Verdict) -> None:
        refused = self._desk.refusal(verdict)
        if refused is not None:
            raise ApplicationError(refused, type=names.FailureType.VERDICT_REFUSED, non_retryable=True)

    @workflow.signal(name=names.DECIDE_SIGNAL)
    def decide_by_signal(self, verdict: Verdict) -> None:
        """The same for those who cannot send updates. A refused one is written down, and changes nothing."""
        verdict = replace(verdict, channel="signal")
        refused = self._desk.refusal(verdict)
        if refused is None:
            self._desk.take(verdict)
        else:
            self._desk.note_refused(verdict, refused)

    async def _enter_by_door(self) -> None:
        self._check()
        self._enter(Phase.STARTING, "waits at the door")
        try:
            await self._calls.call(DOOR_ENTER, None, type(None), workflow.info().task_queue, "door")
        except ActivityError as error:
            raise self._failed(error) from error

    async def _finish(self) -> None:
        self._phase = Phase.FINISHED
        await self._leave()

    async def _leave(self) -> None:
        if not self._run.door:
            return
        # a run that is not let go frees its place by itself after a while
        with suppress(ActivityError, CancelledError):
            await asyncio.shield(
                workflow.start_local_activity(
                    DOOR_LEAVE,
                    schedule_to_close_timeout=timedelta(seconds=5),
                    retry_policy=RetryPolicy(maximum_attempts=2),
                )
            )

    async def _recall(self) -> None:
        self._check()
        remembered = await self._memory.recall()
        if remembered:
            self._found = True
            block = planning.marked(remembered, self._mark, tag="remembered")
            self._messages.append(Message(role=Role.USER, content=f"From earlier runs:\n{block}"))

    async def _work(self) -> str:
        while True:
            await self._hold()
            self._check()
            self._listen()
            self._enter(Phase.THINKING, self._agent.model)
            reply = await self._think()
            self._spent = self._spent.step(reply.usage, self._agent.price)
            self._messages.append(reply.message)
            match planning.decide(self._agent, reply):
                case planning.Finish(answer=answer):
                    # whoever has spoken meanwhile is heard first
                    if not self._told:
                        return answer
                case planning.Withheld(reason=reason):
                    raise _Ended(Outcome.FAILED, reason)
                case planning.Act(calls=calls, refused=refused):
                    self._enter(Phase.ACTING, ", ".join(call.name for call, _ in calls))
                    await self._act(calls, refused, reply.message.content)

    def _listen(self) -> None:
        for message in self._told:
            self._messages.append(Message(role=Role.USER, content=message))
        self._told.clear()

    def _enter(self, phase: Phase, doing: str) -> None:
        self._phase, self._doing = phase, doing

    async def _hold(self) -> None:
        """Go on, or end; wait while the run is paused."""
        await self._unpaused()
        self._obey()

    async def _unpaused(self) -> None:
        if self._pause_reason is not None and self._stop_reason is None:
            self._idle.begin("resume")
            await workflow.wait_condition(lambda: self._pause_reason is None or self._stop_reason is not None)
            self._idle.end("resume")

    def _halted(self) -> str | None:
        """Why the run is about to end; None while it goes on."""
        if self._stop_reason is None and workflow.cancellation_reason() is not None:
            return "the run was cancelled"
        return self._stop_reason

    def _obey(self) -> None:
        if self._stop_reason is not None:
            raise _Ended(Outcome.STOPPED, self._stop_reason)

    def _on_time(self) -> None:
        if self._left_s() <= 0:
            raise _Ended(Outcome.BUDGET_EXHAUSTED, self._too_late())

    def _too_late(self) -> str:
        return f"the deadline of {self._agent.budget.deadline_s:g} s has passed"

    def _check(self) -> None:
        self._obey()
        used_up = budget.exhausted(self._agent.budget, self._spent, self._elapsed_s())
        if used_up:
            raise _Ended(Outcome.BUDGET_EXHAUSTED, used_up)

    async def _think(self) -> ChatResult:
        request = planning.request(self._agent, self._messages)
        try:
            reply = await self._calls.call(
                LLM_CHAT.name, request, ChatResult, self._agent.llm_task_queue, f"step {self._spent.steps + 1}"
            )
        except ActivityError as error:
            raise self._failed(error) from error
        self._note(reply.quota)
        return reply

    async def _act(
        self, calls: list[tuple[ToolCall, ToolBinding]], refused: list[tuple[ToolCall, str]], said: str
    ) -> None:
        steps = [(call, tool, f"{self._spent.steps}.{i}") for i, (call, tool) in enumerate(calls, start=1)]
        # all to their end, also if one of them ends the run: what an effect has done must be told
        harmless = [self._use(call, tool, step, said) for call, tool, step in steps if not tool.effect]
        in_order = self._one_by_one([each for each in steps if each[1].effect], said)
        *results, effects = await asyncio.gather(*harmless, in_order, return_exceptions=True)
        answers = iter(results)
        done = iter(effects if isinstance(effects, list) else [])
        for call, tool, _ in steps:
            result = next(done if tool.effect else answers, None)
            if isinstance(result, ToolResult):
                self._observe(call, tool, result)
        for result in (*results, effects):
            if isinstance(result, BaseException):
                raise result
        for result in effects if isinstance(effects, list) else []:
            if isinstance(result, BaseException):
                raise result
        for call, reason in refused:
            self._messages.append(planning.observation(call, planning.refusal(reason)))
        self._refusals = 0 if calls else self._refusals + len(refused)
        given_up = planning.given_up(self._agent, self._refusals, refused[-1][1] if refused else "")
        if given_up is not None:
            raise _Ended(Outcome.FAILED, given_up)

    async def _one_by_one(
        self, steps: list[tuple[ToolCall, ToolBinding, str]], said: str
    ) -> list[ToolResult | BaseException]:
        """Effects of one step, in the order in which the model has named them; after one that ends the run none."""
        results: list[ToolResult | BaseException] = []
        for call, tool, step in steps:
            try:
                results.append(await self._use(call, tool, step, said))
            except _Ended as end:
                results.append(end)
                break
        return results

    def _observe(self, call: ToolCall, tool: ToolBinding, result: ToolResult) -> None:
        content = result.content
        if tool.finds:
            # an error too may repeat what a stranger has written
            content = planning.marked(content, self._mark)
            self._found = True
        self._messages.append(planning.observation(call, content))
        self._note(result.quota)

    async def _use(self, call: ToolCall, tool: ToolBinding, step: str, said: str) -> ToolResult:
        await self._hold()
        arguments = call.arguments
        wanted = consent.needed(self._agent, tool, arguments, tenant=self._run.tenant, found=self._found)
        if wanted is not None:
            rule, why = wanted
            # whoever waits for people is not active: its next call of a model comes in again
            await self._leave()
            approval = await self._desk.ask(
                Ask.ALLOW,
                step=step,
                tool=call.name,
                arguments=arguments,
                rule=rule,
                why=why,
                said=said,
                found=self._found,
            )
            if approval.state is not ApprovalState.APPROVED:
                self._check()
                return ToolResult(content=planning.refusal(consent.told(approval)), error=True)
            # a stop or a pause that came after the verdict is obeyed before anything begins
            await self._hold()
            arguments = approval.arguments
        if tool.effect:
            self._on_time()
            result = await self._effects.have(tool, arguments, step=step, said=said)
            self._note(result.quota)
            content = result.content if result.state is EffectState.DONE else planning.refusal(consent.fate(result))
            used = ToolResult(content=content, error=result.state is not EffectState.DONE)
        else:
            used = await self._plainly(call.name, call.id, arguments, tool, step)
        if arguments != call.arguments:
            used = ToolResult(content=planning.amended(used.content, arguments), error=used.error, quota=used.quota)
        return used

    async def _plainly(
        self, name: str, call_id: str, arguments: dict[str, Any], tool: ToolBinding, step: str
    ) -> ToolResult:
        request = ToolRequest(
            tool=name,
            call_id=call_id,
            arguments=arguments,
            step=step,
            max_failures=self._agent.policy.max_failures,
            run_id=self._id,
            agent=self._agent.name,
            tenant=self._run.tenant,
        )
        try:
            result = await self._calls.call(tool.activity, request, ToolResult, tool.task_queue, f"{name} {step}")
        except ActivityError as error:
            # A stop or the deadline ends the run; a tool that failed for good is told to the model.
            self._check()
            if is_cancelled_exception(error):
                raise
            return ToolResult(content=planning.refusal(calling.reason(error)), error=True)
        self._memory.keep(step, result.findings)
        return result

    def _failed(self, error: ActivityError) -> Exception:
        if self._stop_reason is not None:
            return _Ended(Outcome.STOPPED, self._stop_reason)
        if isinstance(error.cause, CancelledError):
            return error
        if calling.kind(error) == names.FailureType.BUDGET_EXHAUSTED:
            return _Ended(Outcome.BUDGET_EXHAUSTED, calling.reason(error))
        if self._left_s() <= 0:
            return _Ended(Outcome.BUDGET_EXHAUSTED, self._too_late())
        return ApplicationError(calling.reason(error), type=calling.kind(error), non_retryable=True)

    def _note(self, use: QuotaUse | None) -> None:
        if use is not None:
            self._waits.append(use.waited_s)

    def _elapsed_s(self) -> float:
        """Seconds since the start, without those spent waiting for humans."""
        since = workflow.now() - workflow.info().start_time
        return (since - self._idle.total()).total_seconds()

    def _left_s(self) -> float:
        return self._agent.budget.deadline_s - self._elapsed_s()

    def _broken(self, error: BaseException) -> RunResult:
        """What those are told who want to know how a run without a result has ended."""
        if is_cancelled_exception(error):
            return self._result(Outcome.STOPPED, self._last_words(), "the run was cancelled")
        kind, reason = (
            (calling.kind(error), calling.reason(error))
            if isinstance(error, ActivityError)
            else (getattr(error, "type", None), getattr(error, "message", ""))
        )
        return self._result(Outcome.FAILED, self._last_words(), f"{kind}: {reason}")

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
            effects=self._effects.told(),
            approvals=[consent.summary(approval) for approval in self._desk.all()],
            cost=f"{self._spent.money:f}",
            currency=self._agent.price.currency if self._agent.price else "",
            recalled=self._memory.recalled,
        )
