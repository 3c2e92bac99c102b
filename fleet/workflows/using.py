"""Tools in the hands of a run: asked for where a human is wanted, had once where they change the world, else called."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from fleet import consent, planning
from fleet.contracts.approvals import ApprovalState, Ask
from fleet.contracts.effects import EffectState
from fleet.contracts.llm import QuotaUse, ToolCall
from fleet.contracts.runs import Outcome, RunInput, ToolBinding
from fleet.contracts.tools import ToolRequest, ToolResult
from fleet.workflows import calling
from fleet.workflows.acting import Effects
from fleet.workflows.conversation import Conversation
from fleet.workflows.desk import Desk
from fleet.workflows.ending import Ended
from fleet.workflows.remembering import Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """What every use of a tool passes."""

    hold: Callable[[], Awaitable[None]]
    """Waits while the run is paused; raises `Ended` once it is stopped."""
    check: Callable[[], None]
    """Raises `Ended` once the run is stopped or its budget is used up."""
    on_time: Callable[[], None]
    """Raises `Ended` after the deadline."""
    leave: Callable[[], Awaitable[None]]
    """The run is not active for a while."""
    note: Callable[[QuotaUse | None], None]
    """Takes note of how long a call stood in line."""


class Tools:
    """The tools of one run."""

    def __init__(
        self,
        run: RunInput,
        guards: Guards,
        talk: Conversation,
        desk: Desk,
        effects: Effects,
        calls: calling.Calls,
        memory: Memory,
    ) -> None:
        self._run = run
        self._agent = run.agent
        self._guards = guards
        self._talk = talk
        self._desk = desk
        self._effects = effects
        self._calls = calls
        self._memory = memory
        self.refusals = run.carried.refusals if run.carried else 0
        """Calls in a row that could not be made."""

    async def act(
        self, number: int, calls: list[tuple[ToolCall, ToolBinding]], refused: list[tuple[ToolCall, str]], said: str
    ) -> None:
        """Make the calls that the model has asked for in one step.

        Args:
            number: of the step.
            calls: to make, each with its tool.
            refused: those that cannot be made, each with the reason.
            said: the model's own words beside them.

        Raises:
            Ended: the run does.
        """
        steps = [(call, tool, f"{number}.{i}") for i, (call, tool) in enumerate(calls, start=1)]
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
        for result in (*results, *(effects if isinstance(effects, list) else [effects])):
            if isinstance(result, BaseException):
                raise result
        for call, reason in refused:
            self._talk.refuse(call, reason)
        self.refusals = 0 if calls else self.refusals + len(refused)
        given_up = planning.given_up(self._agent, self.refusals, refused[-1][1] if refused else "")
        if given_up is not None:
            raise Ended(Outcome.FAILED, given_up)

    async def _one_by_one(
        self, steps: list[tuple[ToolCall, ToolBinding, str]], said: str
    ) -> list[ToolResult | BaseException]:
        """Effects of one step, in the order in which the model has named them; after one that ends the run none."""
        results: list[ToolResult | BaseException] = []
        for call, tool, step in steps:
            try:
                results.append(await self._use(call, tool, step, said))
            except Ended as end:
                results.append(end)
                break
        return results

    def _observe(self, call: ToolCall, tool: ToolBinding, result: ToolResult) -> None:
        self._talk.observe(call, tool, result)
        self._guards.note(result.quota)

    async def _use(self, call: ToolCall, tool: ToolBinding, step: str, said: str) -> ToolResult:
        await self._guards.hold()
        arguments = call.arguments
        wanted = consent.needed(self._agent, tool, arguments, tenant=self._run.tenant, found=self._talk.found)
        if wanted is not None:
            rule, why = wanted
            # whoever waits for people is not active: its next call of a model comes in again
            await self._guards.leave()
            approval = await self._desk.ask(
                Ask.ALLOW,
                step=step,
                tool=call.name,
                arguments=arguments,
                rule=rule,
                why=why,
                said=said,
                found=self._talk.found,
            )
            if approval.state is not ApprovalState.APPROVED:
                self._guards.check()
                return ToolResult(content=planning.refusal(consent.told(approval)), error=True)
            # a stop or a pause that came after the verdict is obeyed before anything begins
            await self._guards.hold()
            arguments = approval.arguments
        if tool.effect:
            self._guards.on_time()
            result = await self._effects.have(tool, arguments, step=step, said=said)
            self._guards.note(result.quota)
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
            run_id=workflow.info().workflow_id,
            agent=self._agent.name,
            tenant=self._run.tenant,
        )
        try:
            result = await self._calls.call(tool.activity, request, ToolResult, tool.task_queue, f"{name} {step}")
        except ActivityError as error:
            # A stop or the deadline ends the run; a tool that failed for good is told to the model.
            self._guards.check()
            if is_cancelled_exception(error):
                raise
            return ToolResult(content=planning.refusal(calling.reason(error)), error=True)
        self._memory.keep(step, result.findings)
        return result
