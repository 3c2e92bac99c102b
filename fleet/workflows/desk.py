"""The desk of a run: questions to humans go out, verdicts come in, each is taken or refused, once.

What a verdict changes it changes at once, in the handler that received it: whatever else happens at the same time finds
the question answered. The audit table is written before the run goes on.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception

from fleet import consent
from fleet.contracts.approvals import (
    Approval,
    ApprovalEvent,
    ApprovalRule,
    ApprovalState,
    Ask,
    Decision,
    Notice,
    Verdict,
    Vote,
    approval_id,
    digest,
)
from fleet.contracts.runs import CarriedCase, RunInput
from fleet.contracts.tools import APPROVAL_NOTIFY, APPROVAL_RECORD
from fleet.workflows import counting
from fleet.workflows.idle import Idle

_HEARTBEAT = timedelta(seconds=20)
_NOTIFY_WITHIN = timedelta(days=1)
"""How long it is tried to tell somebody. An endpoint that is down for longer must not hold the run."""
_LAST_WORDS = timedelta(minutes=1)
"""How long a run that is about to end waits for the audit."""
_LAST_NOTICES = timedelta(seconds=5)
"""How long the end of a run waits for notices under way."""


@dataclass(slots=True)
class _Case:
    approval: Approval
    rule: ApprovalRule
    found: bool
    """Strangers' text was read before it was asked for."""
    events: list[ApprovalEvent] = field(default_factory=list)
    """Not yet written down."""


@dataclass(slots=True)
class _Telling:
    notice: Notice
    task: asyncio.Task[None]


class Desk:
    """The approvals of one run."""

    def __init__(self, run: RunInput, idle: Idle, halted: Callable[[], str | None]) -> None:
        """Args:
        run: whose approvals.
        idle: counts how long the run waits for people.
        halted: why the run is about to end; None while it goes on.
        """
        self._run = run
        self._idle = idle
        self._halted = halted
        carried = run.carried
        self._cases = {
            case.approval.id: _Case(case.approval, case.rule, case.found, list(case.events))
            for case in (carried.cases if carried else [])
        }
        self._notices: list[_Telling] = []

    def all(self) -> list[Approval]:
        """Everything that was asked, oldest first."""
        return [case.approval for case in self._cases.values()]

    def open(self) -> list[str]:
        """Ids of what nobody has decided."""
        return [key for key, case in self._cases.items() if case.approval.state is ApprovalState.OPEN]

    def refusal(self, verdict: Verdict) -> str | None:
        """Why the verdict cannot be taken; None if it can."""
        case = self._cases.get(verdict.approval_id)
        if case is None:
            return f"the run has asked nothing under {verdict.approval_id!r}"
        halted = self._halted()
        if halted is not None and case.approval.state is ApprovalState.OPEN:
            return f"the run is about to end ({halted}): too late"
        return consent.refusal(case.approval, verdict, case.rule, self._run.agent, now=workflow.now(), found=case.found)

    def take(self, verdict: Verdict) -> Approval:
        """Take a verdict that is not refused. Answers how the approval stands now."""
        case = self._cases[verdict.approval_id]
        case.approval = consent.after(case.approval, verdict, workflow.now())
        state = case.approval.state
        what = "voted" if state is ApprovalState.OPEN else state.value
        if state is not ApprovalState.OPEN:
            counting.approval_ended(case.approval)
        self._happened(case, what, vote=case.approval.votes[-1])
        if verdict.decision is Decision.AMEND and state is ApprovalState.OPEN:
            # the others have been shown arguments that are void now
            self._tell(case, "amended", self._silent(case.approval))
        return case.approval

    def note_refused(self, verdict: Verdict, reason: str) -> None:
        """A verdict by signal has no answer: that it was refused goes to the audit."""
        workflow.logger.warning("verdict refused: %s", reason)
        case = self._cases.get(verdict.approval_id)
        if case is not None:
            vote = Vote(
                decision=verdict.decision,
                by=verdict.by,
                channel=verdict.channel,
                digest=verdict.digest,
                at=workflow.now(),
                comment=verdict.comment[: consent.LONGEST_COMMENT],
            )
            self._happened(case, "refused", vote=vote, detail=reason)

    async def ask(
        self,
        ask: Ask,
        *,
        step: str,
        tool: str,
        arguments: dict[str, Any],
        rule: ApprovalRule,
        why: str,
        said: str,
        found: bool = False,
    ) -> Approval:
        """Ask, and wait until somebody has decided, nobody has in time, or the run is about to end.

        Raises:
            CancelledError: the run was cancelled; the question is withdrawn, unless it was answered.
        """
        now = workflow.now()
        run_id = workflow.info().workflow_id
        case = _Case(
            Approval(
                id=self._unused(step, ask),
                run_id=run_id,
                agent=self._run.agent.name,
                tenant=self._run.tenant,
                ask=ask,
                tool=tool,
                arguments=arguments,
                digest=digest(tool, arguments),
                why=why,
                goal=self._run.goal[:1000],
                said=said[:1000],
                approvers=list(rule.approvers),
                needed=rule.needed,
                notify=list(rule.notify),
                opened_at=now,
                expires_at=now + timedelta(seconds=rule.expires_s),
            ),
            rule,
            found,
        )
        self._cases[case.approval.id] = case
        self._happened(case, "opened")
        counting.approval_opened(case.approval)
        self._idle.begin("approval")
        try:
            await self._write(case)
            self._tell(case, "opened", case.approval.approvers)
            await self._until_ended(case)
        except (asyncio.CancelledError, ActivityError) as error:
            # the second, where the cancellation has come while something was written down
            if is_cancelled_exception(error) and case.approval.state is ApprovalState.OPEN:
                self._end(case, ApprovalState.WITHDRAWN, "the run was cancelled")
                self._tell(case, case.approval.state.value, case.approval.approvers)
            # not `finally`: a run that a worker drops from its memory must do nothing on its way out
            self._idle.end("approval")
            await self._write(case)
            raise
        self._idle.end("approval")
        await self._write(case)
        self._tell(case, case.approval.state.value, case.approval.approvers)
        return case.approval

    def resume(self) -> None:
        """Tell what an earlier execution of the run has not told to the end. Twice is better than never."""
        for notice in self._run.carried.notices if self._run.carried else []:
            self._send(notice)

    async def settle(self) -> None:
        """Wait, not for long, for notices under way."""
        with suppress(TimeoutError):
            await workflow.wait_condition(lambda: all(n.task.done() for n in self._notices), timeout=_LAST_NOTICES)

    def carried(self, *, whole: int) -> tuple[list[CarriedCase], list[Notice]]:
        """All questions, and the notices under way, for the next execution of the run.

        Args:
            whole: of decided ones so many are told whole; of older ones what was decided.
        """
        decided = [key for key, case in self._cases.items() if case.approval.state is not ApprovalState.OPEN]
        brief = {key for key in decided[: len(decided) - whole] if not self._cases[key].events}
        cases = [
            CarriedCase(
                approval=replace(case.approval, arguments={}, goal="", said="") if key in brief else case.approval,
                rule=case.rule,
                found=case.found,
                events=list(case.events),
            )
            for key, case in self._cases.items()
        ]
        return cases, [telling.notice for telling in self._notices if not telling.task.done()]

    async def close(self) -> None:
        """The run ends: what was refused lately is written down, what cannot be told by now is given up."""
        for case in self._cases.values():
            await self._write(case)
        await self.settle()
        for telling in self._notices:
            telling.task.cancel()

    async def _until_ended(self, case: _Case) -> None:
        rule, opened = case.rule, case.approval.opened_at
        steps = [(opened + timedelta(seconds=s), "reminded") for s in rule.remind_s]
        if rule.escalate_s is not None:
            steps.append((opened + timedelta(seconds=rule.escalate_s), "escalated"))
        steps = sorted(step for step in steps if step[0] < case.approval.expires_at)
        steps.append((case.approval.expires_at, "expired"))
        while self._is_open(case):
            at, what = steps[0]
            try:
                await workflow.wait_condition(
                    lambda: bool(case.events) or self._halted() is not None,
                    timeout=max(timedelta(0), at - workflow.now()),
                    timeout_summary=f"{case.approval.id}: {what}",
                )
            except TimeoutError:
                steps.pop(0)
                self._step(case, what)
            halted = self._halted()
            if halted is not None and self._is_open(case):
                self._end(case, ApprovalState.WITHDRAWN, halted)
            await self._write(case)

    def _unused(self, step: str, ask: Ask) -> str:
        """An id that no earlier question bears: a verdict on the first must not do for the second."""
        run_id, times = workflow.info().workflow_id, 1
        key = approval_id(run_id, step, ask)
        while key in self._cases:
            times += 1
            key = approval_id(run_id, f"{step}-{times}", ask)
        return key

    def _silent(self, approval: Approval) -> list[str]:
        voted = {vote.by.lower() for vote in approval.votes}
        return [who for who in approval.approvers if who.lower() not in voted]

    def _is_open(self, case: _Case) -> bool:
        return case.approval.state is ApprovalState.OPEN

    def _step(self, case: _Case, what: str) -> None:
        if case.approval.state is not ApprovalState.OPEN:
            return
        approval, rule = case.approval, case.rule
        if what == "expired":
            self._end(case, ApprovalState.EXPIRED, "nobody decided in time")
            return
        if what == "escalated":
            # without a list anybody could decide before, and still may
            more = [who for who in rule.escalate_to if who not in approval.approvers] if approval.approvers else []
            case.approval = replace(approval, approvers=[*approval.approvers, *more])
            to = rule.escalate_to
        else:
            to = self._silent(approval)
        self._happened(case, what)
        self._tell(case, what, to)

    def _end(self, case: _Case, state: ApprovalState, reason: str) -> None:
        case.approval = replace(case.approval, state=state, reason=reason, decided_at=workflow.now())
        counting.approval_ended(case.approval)
        self._happened(case, state.value)

    def _happened(self, case: _Case, what: str, *, vote: Vote | None = None, detail: str = "") -> None:
        event = ApprovalEvent(approval=case.approval, what=what, at=workflow.now(), vote=vote, detail=detail)
        case.events.append(event)

    async def _write(self, case: _Case) -> None:
        while case.events:
            writing = workflow.start_activity(
                APPROVAL_RECORD.name,
                case.events[0],
                result_type=type(None),
                task_queue=self._run.agent.approvals_task_queue,
                # without the audit nothing goes on
                start_to_close_timeout=timedelta(minutes=1),
                heartbeat_timeout=_HEARTBEAT,
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1)),
                priority=self._priority(),
                summary=f"write down {case.approval.id}",
            )
            await workflow.wait_condition(lambda writing=writing: writing.done() or self._halted() is not None)  # type: ignore[misc]
            with suppress(TimeoutError):
                await workflow.wait_condition(writing.done, timeout=_LAST_WORDS)
            if writing.done():
                await writing
            else:
                # whoever stops a run must not wait for an audit that is away: the history has it
                workflow.logger.warning("not written down: %s %s", case.approval.id, case.events[0].what)
                writing.cancel()
            # only now: what a cancellation interrupts is written again
            case.events.pop(0)

    def _tell(self, case: _Case, what: str, to: list[str]) -> None:
        for endpoint in case.approval.notify:
            notice = Notice(approval=case.approval, what=what, endpoint=endpoint, to=to, at=workflow.now())
            self._send(notice)

    def _send(self, notice: Notice) -> None:
        self._notices = [telling for telling in self._notices if not telling.task.done()]
        self._notices.append(_Telling(notice, asyncio.create_task(self._notify(notice))))

    async def _notify(self, notice: Notice) -> None:
        # whoever cannot be told is told again by a reminder; the history says what went wrong
        with suppress(ActivityError):
            await workflow.execute_activity(
                APPROVAL_NOTIFY.name,
                notice,
                result_type=type(None),
                task_queue=self._run.agent.approvals_task_queue,
                start_to_close_timeout=timedelta(minutes=2),
                schedule_to_close_timeout=_NOTIFY_WITHIN,
                heartbeat_timeout=_HEARTBEAT,
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=10)),
                priority=self._priority(),
                summary=f"tell {notice.endpoint}: {notice.what}",
            )

    def _priority(self) -> Priority:
        return Priority(
            priority_key=self._run.priority, fairness_key=self._run.tenant, fairness_weight=self._run.weight
        )
