"""The agent: recall, plan, call tools, ask humans, observe, remember, finish. Durable, because a workflow."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, is_cancelled_exception

from fleet import budget, carrying, compaction, consent, planning
from fleet.contracts import names
from fleet.contracts.approvals import Approval, Verdict
from fleet.contracts.llm import ChatRequest, ChatResult, QuotaUse, Usage
from fleet.contracts.runs import Carried, Outcome, Phase, Price, RunInput, RunResult, RunStatus
from fleet.contracts.tools import DOOR_ENTER, DOOR_LEAVE, LLM_CHAT
from fleet.workflows import calling, counting
from fleet.workflows.acting import Effects
from fleet.workflows.conversation import Conversation
from fleet.workflows.desk import Desk
from fleet.workflows.ending import Ended
from fleet.workflows.idle import Idle
from fleet.workflows.remembering import Memory
from fleet.workflows.signs import Signs
from fleet.workflows.using import Guards, Tools


@workflow.defn(name=names.AGENT_WORKFLOW)
class AgentWorkflow:
    """One run of one agent."""

    @workflow.init
    def __init__(self, run: RunInput) -> None:
        self._run = run
        self._agent = run.agent
        self._id = workflow.info().workflow_id
        # nobody who writes a document can know it
        drawn = workflow.uuid4().hex[:12]
        carried = run.carried or Carried(
            executions=0, began_at=workflow.info().start_time, idle_s=0.0, mark=drawn, messages=[]
        )
        self._talk = Conversation(run, carried.mark)
        self._executions = carried.executions + 1
        self._began_here_at = carried.steps
        self._began_at = carried.began_at
        self._spent = budget.Spent(steps=carried.steps, tokens=carried.tokens, money=Decimal(carried.money))
        self._waits = list(carried.waits_s)
        self._phase = Phase.STARTING
        self._doing = ""
        self._stop_reason: str | None = None
        self._pause_reason: str | None = None
        self._signs = Signs(run)
        self._idle = Idle(self._signs, carried.idle_s)
        self._desk = Desk(run, self._idle, self._halted)
        self._effects = Effects(run, self._desk, self._halted, self._unpaused, self._left_s)
        self._memory = Memory(run)
        self._calls = calling.Calls(
            run, lambda: self._stop_reason is not None, self._left_s, lambda: self._spent.steps > 0
        )
        guards = Guards(hold=self._hold, check=self._check, on_time=self._on_time, leave=self._leave, note=self._note)
        self._tools = Tools(run, guards, self._talk, self._desk, self._effects, self._calls, self._memory)

    @workflow.run
    async def run(self, run: RunInput) -> RunResult:
        """Work until the model has finished, the budget is used up or somebody stops it."""
        try:
            result = await self._until_ended(run)
            await self._desk.close()
        except (ApplicationError, ActivityError, asyncio.CancelledError) as error:
            # not `finally`: a run that a worker drops from its memory must do nothing on its way out
            broken = self._broken(error)
            self._count_end(broken)
            await self._effects.tell(broken)
            await self._desk.close()
            await self._finish(broken)
            raise
        self._count_end(result)
        await self._finish(result)
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
            if run.carried is None:
                counting.run_began(self._agent.name)
                if run.door:
                    await self._enter_by_door()
                await self._recall()
            else:
                self._desk.resume()
                self._memory.resume()
            answer = await self._work()
            await self._memory.keep_outcome(answer)
            return self._result(Outcome.COMPLETED, answer)
        except Ended as end:
            await self._memory.settle()
            return self._result(end.outcome, self._talk.last_words(), end.reason)

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
            executions=self._executions,
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
        self._talk.told.append(message)

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

    def _count_end(self, result: RunResult) -> None:
        counting.run_ended(self._agent.name, result.outcome, self._began_at)

    async def _finish(self, result: RunResult) -> None:
        self._phase = Phase.FINISHED
        self._signs.ended(result.outcome)
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
            self._talk.recall(remembered)

    async def _work(self) -> str:
        while True:
            await self._hold()
            self._check()
            if self._is_long():
                await self._continue()
                continue  # somebody has stopped or paused it meanwhile
            self._talk.listen()
            if await self._talk.compact(self._sum_up, self._spend):
                continue  # it took a while: whoever has paused it meanwhile, and its budget, count
            self._enter(Phase.THINKING, self._agent.model)
            reply = await self._think()
            self._spent = self._spent.step(reply.usage, self._agent.price)
            self._signs.cost(self._spent.money)
            self._talk.answered(reply)
            match planning.decide(self._agent, reply):
                case planning.Finish(answer=answer):
                    # whoever has spoken meanwhile is heard first
                    if not self._talk.told:
                        return answer
                case planning.Withheld(reason=reason):
                    raise Ended(Outcome.FAILED, reason)
                case planning.Act(calls=calls, refused=refused):
                    self._enter(Phase.ACTING, ", ".join(call.name for call, _ in calls))
                    await self._tools.act(self._spent.steps, calls, refused, reply.message.content)

    def _is_long(self) -> bool:
        """Whether the history has grown so long that the run goes on in a new one."""
        info, most = workflow.info(), self._agent.policy.continue_after
        if self._run.rules < 1:
            return False  # it began when runs did not
        if self._began_here_at == self._spent.steps:
            return False  # each execution makes a step at least
        if most is not None and info.get_current_history_length() >= most:
            return True
        return info.is_continue_as_new_suggested()

    async def _continue(self) -> None:
        """Go on in a new execution. No call, no effect and no question is under way.

        What reaches the run until its last workflow task is carried over; what comes later has Temporal repeat that
        task, or is for the next execution.
        """
        await self._memory.settle()
        await self._desk.settle()
        await workflow.wait_condition(workflow.all_handlers_finished)
        if self._stop_reason is not None or self._pause_reason is not None:
            return
        # nothing is awaited from here on
        counting.run_continued(self._agent.name)
        workflow.continue_as_new(
            replace(self._run, carried=self._carried()),
            memo={**workflow.memo(), names.BEGAN_MEMO: self._began_at.isoformat()},
            # long runs move to the code of today here, and nowhere else
            initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE,
        )

    def _carried(self) -> Carried:
        """What the next execution is told; without a store for large payloads Temporal takes 2 MB."""
        for most in (carrying.MOST_BYTES, carrying.MOST_BYTES // 2, carrying.MOST_BYTES // 8, 0):
            cases, notices = self._desk.carried(whole=carrying.WHOLE_CASES if most else 0)
            carried = Carried(
                executions=self._executions,
                began_at=self._began_at,
                idle_s=self._idle.total().total_seconds(),
                mark=self._talk.mark,
                messages=compaction.within(self._talk.messages, most, compaction.octets),
                told=self._talk.told,
                found=self._talk.found,
                tokens_per_char=self._talk.tokens_per_char,
                steps=self._spent.steps,
                tokens=self._spent.tokens,
                money=f"{self._spent.money:f}",
                waits_s=self._waits,
                refusals=self._tools.refusals,
                recalled=self._memory.recalled,
                cases=cases,
                notices=notices,
                keeps=self._memory.carried(),
                effects=self._effects.carried(),
            )
            if carrying.octets(carried) <= carrying.MOST_BYTES:
                break
        return carried

    def _spend(self, usage: Usage, price: Price | None) -> None:
        self._spent = self._spent.more(usage, price)
        self._signs.cost(self._spent.money)

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
            raise Ended(Outcome.STOPPED, self._stop_reason)

    def _on_time(self) -> None:
        if self._left_s() <= 0:
            raise Ended(Outcome.BUDGET_EXHAUSTED, self._too_late())

    def _too_late(self) -> str:
        return f"the deadline of {self._agent.budget.deadline_s:g} s has passed"

    def _check(self) -> None:
        self._obey()
        used_up = budget.exhausted(self._agent.budget, self._spent, self._elapsed_s())
        if used_up:
            raise Ended(Outcome.BUDGET_EXHAUSTED, used_up)

    async def _think(self) -> ChatResult:
        try:
            return await self._chat(self._talk.request(), f"step {self._spent.steps + 1}")
        except ActivityError as error:
            raise self._failed(error) from error

    async def _sum_up(self, request: ChatRequest) -> ChatResult:
        self._enter(Phase.COMPACTING, request.model)
        try:
            return await self._chat(request, f"sum up {self._talk.described()}")
        except ActivityError:
            self._obey()
            raise

    async def _chat(self, request: ChatRequest, summary: str) -> ChatResult:
        reply = await self._calls.call(LLM_CHAT.name, request, ChatResult, self._agent.llm_task_queue, summary)
        self._note(reply.quota)
        return reply

    def _failed(self, error: ActivityError) -> Exception:
        if self._stop_reason is not None:
            return Ended(Outcome.STOPPED, self._stop_reason)
        if isinstance(error.cause, CancelledError):
            return error
        if calling.kind(error) == names.FailureType.BUDGET_EXHAUSTED:
            return Ended(Outcome.BUDGET_EXHAUSTED, calling.reason(error))
        if self._left_s() <= 0:
            return Ended(Outcome.BUDGET_EXHAUSTED, self._too_late())
        return ApplicationError(calling.reason(error), type=calling.kind(error), non_retryable=True)

    def _note(self, use: QuotaUse | None) -> None:
        if use is not None:
            self._waits.append(use.waited_s)

    def _elapsed_s(self) -> float:
        """Seconds since the start, without those spent waiting for humans."""
        since = workflow.now() - self._began_at
        return (since - self._idle.total()).total_seconds()

    def _left_s(self) -> float:
        return self._agent.budget.deadline_s - self._elapsed_s()

    def _broken(self, error: BaseException) -> RunResult:
        """What those are told who want to know how a run without a result has ended."""
        if is_cancelled_exception(error):
            return self._result(Outcome.STOPPED, self._talk.last_words(), "the run was cancelled")
        kind, reason = (
            (calling.kind(error), calling.reason(error))
            if isinstance(error, ActivityError)
            else (getattr(error, "type", None), getattr(error, "message", ""))
        )
        return self._result(Outcome.FAILED, self._talk.last_words(), f"{kind}: {reason}")

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
