"""Activities that answer as told: the workflow under test is real, and so is the server."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.testservice.v1 import SleepRequest
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from fleet import attributes
from fleet.contracts import names
from fleet.contracts.approvals import Approval, ApprovalEvent, ApprovalRule, ApprovalState, Decision, Notice, Verdict
from fleet.contracts.effects import EffectRequest, EffectResult, EffectState, Mode
from fleet.contracts.llm import ChatRequest, ChatResult, Message, QuotaUse, Role, ToolCall, Usage
from fleet.contracts.memories import Keep, Kept
from fleet.contracts.runs import AgentDefinition, Budget, CallPolicy, RunInput, RunResult, ToolBinding
from fleet.contracts.tools import (
    APPROVAL_NOTIFY,
    APPROVAL_RECORD,
    EMAIL_SEND,
    LLM_CHAT,
    MEMORY_KEEP,
    MEMORY_RECALL,
    PAYMENTS_TRANSFER,
    SEARCH_QUERY,
    TOOLS,
    WEBHOOK_SEND,
    ToolRequest,
    ToolResult,
)
from fleet.workflows.agent import AgentWorkflow
from fleet.workflows.effect import EffectWorkflow
from tests import temporals
from tests.conftest import binary
from workers.pool import SANDBOX


def says(content: str) -> ChatResult:
    """The model finishes."""
    message = Message(role=Role.ASSISTANT, content=content)
    return ChatResult(message=message, usage=Usage(input_tokens=10, output_tokens=5), finish_reason="stop")


def calls(name: str, call_id: str = "c1", **arguments: str) -> ChatResult:
    """The model asks for a tool."""
    message = Message(role=Role.ASSISTANT, tool_calls=[ToolCall(id=call_id, name=name, arguments=arguments)])
    quota = QuotaUse(scope="openai/m", waited_s=1.5)
    return ChatResult(
        message=message, usage=Usage(input_tokens=10, output_tokens=5), finish_reason="tool_calls", quota=quota
    )


def calls_both() -> ChatResult:
    """The model searches and sends at once."""
    asked = calls("search", "c1", query="x").message.tool_calls
    asked += calls("send_email", "c2", to="a@b.c", subject="s", body="b").message.tool_calls
    message = Message(role=Role.ASSISTANT, tool_calls=asked)
    return ChatResult(message=message, usage=Usage(), finish_reason="tool_calls")


@dataclass
class Fakes:
    """A scripted model and two tools."""

    script: list[ChatResult | Exception] = field(default_factory=list)
    answer: Callable[[int, ChatRequest], ChatResult | Exception] | None = None
    """Instead of a script: what is answered to which call."""
    search: Callable[[ToolRequest], ToolResult] = lambda _: ToolResult(content='{"results": []}')
    held: Callable[[ChatRequest], bool] = lambda _: False
    """Which calls of the model wait until it says otherwise."""
    seen: list[ChatRequest] = field(default_factory=list)
    sent: list[EffectRequest] = field(default_factory=list)
    attempts: list[EffectRequest] = field(default_factory=list)
    effect: Callable[[EffectRequest], EffectResult | Exception | None] = lambda _: None
    """What becomes of an effect; None: it is had."""
    committed: bool = True
    """Effects are past their point of no return: a cancellation does not end them."""
    events: list[ApprovalEvent] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    notices: list[Notice] = field(default_factory=list)
    deaf: bool = False
    """Nobody can be told of an approval."""
    memories: list[dict[str, str]] = field(default_factory=list)
    recalled: list[ToolRequest] = field(default_factory=list)
    forgetful: ApplicationError | None = None
    """Why nothing can be recalled."""
    thinking: asyncio.Event | None = None
    """Set once the model was asked."""
    thought: asyncio.Event | None = None
    """When set, the model answers only after it."""
    kept: list[Keep] = field(default_factory=list)
    audit: asyncio.Event | None = None
    """When set, nothing can be written down before it is."""
    under_way: asyncio.Event = field(default_factory=asyncio.Event)
    expected: int = 1
    """How many tools are called before `under_way` is set."""
    hold: asyncio.Event | None = None
    """When set, tools wait for it once they have said that they are under way."""
    effects_hold: asyncio.Event | None = None
    """When set, effects wait for it instead."""
    fate: EffectResult | Exception | None = None
    """What becomes of an effect, looked at once it was waited for."""
    busy: int = 0
    """Tools under way."""

    @activity.defn(name=LLM_CHAT.name)
    async def chat(self, request: ChatRequest) -> ChatResult:
        self.seen.append(request)
        if self.thinking is not None:
            self.thinking.set()
        await _until(self.thought)
        while self.held(request):
            activity.heartbeat()
            await asyncio.sleep(0.01)
        if self.answer is None:
            answer = self.script[min(len(self.seen), len(self.script)) - 1]
        else:
            answer = self.answer(len(self.seen), request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @activity.defn(name=SEARCH_QUERY.name)
    async def query(self, request: ToolRequest) -> ToolResult:
        await self._wait(self.hold)
        return self.search(request)

    @activity.defn(name=EMAIL_SEND.name)
    async def send(self, request: EffectRequest) -> EffectResult:
        return await self._have(request, {"message_id": "<1@x>"})

    @activity.defn(name=PAYMENTS_TRANSFER.name)
    async def transfer(self, request: EffectRequest) -> EffectResult:
        return await self._have(request, {"transfer_id": "tr_1"})

    @activity.defn(name=WEBHOOK_SEND.name)
    async def post(self, request: EffectRequest) -> EffectResult:
        return await self._have(request, {"status": "204"})

    @activity.defn(name=APPROVAL_RECORD.name)
    async def record(self, event: ApprovalEvent) -> None:
        await _until(self.audit)
        self.events.append(event)
        self.asked.set()

    @activity.defn(name=APPROVAL_NOTIFY.name)
    async def notify(self, notice: Notice) -> None:
        if self.deaf:
            raise ApplicationError("nobody listens", type="ProviderFailed")
        self.notices.append(notice)

    @activity.defn(name=MEMORY_RECALL.name)
    async def recall(self, request: ToolRequest) -> ToolResult:
        self.recalled.append(request)
        if self.forgetful is not None:
            raise self.forgetful
        return ToolResult(content=json.dumps({"memories": self.memories}))

    @activity.defn(name=MEMORY_KEEP.name)
    async def keep(self, request: Keep) -> Kept:
        self.kept.append(request)
        return Kept(kept=len(request.findings), known=0)

    def activities(self) -> list[Callable[..., Any]]:
        """All of them."""
        effects = [self.send, self.transfer, self.post]
        return [self.chat, self.query, *effects, self.record, self.notify, self.recall, self.keep]

    async def _have(self, request: EffectRequest, evidence: dict[str, str]) -> EffectResult:
        self.attempts.append(request)
        answer = self.effect(request)
        if isinstance(answer, Exception):
            raise answer
        if request.mode is Mode.ACCOUNT and any(had.key == request.key for had in self.sent):
            return EffectResult(state=EffectState.DONE, content='{"done": true}', evidence=evidence)
        if request.mode is Mode.ACCOUNT:
            return answer or EffectResult(state=EffectState.FAILED, reason="withdrawn before it began")
        try:
            await self._wait(self.effects_hold or self.hold)
        except asyncio.CancelledError:
            if not self.committed:
                raise
        answer = answer or self.fate
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return answer
        self.sent.append(request)
        return EffectResult(state=EffectState.DONE, content='{"done": true}', evidence=evidence)

    async def _wait(self, hold: asyncio.Event | None) -> None:
        self.expected -= 1
        if self.expected <= 0:
            self.under_way.set()
        self.busy += 1
        try:
            await _until(hold)
        finally:
            self.busy -= 1


async def _until(hold: asyncio.Event | None) -> None:
    while hold is not None and not hold.is_set():
        activity.heartbeat()
        await asyncio.wait({asyncio.ensure_future(hold.wait())}, timeout=0.1)


def mark_of(fakes: Fakes) -> str:
    """What strangers' text is fenced with in the run that these have served, as its model was told."""
    found = re.search(r'<found id="([0-9a-f]+)">', fakes.seen[0].messages[0].content)
    assert found, fakes.seen[0].messages[0].content
    return found[1]


def run_input(
    queue: str,
    *,
    goal: str = "find out",
    tools: tuple[str, ...] = ("search", "send_email", "transfer"),
    approvals: list[ApprovalRule] | None = None,
    agent: dict[str, Any] | None = None,
    **budget: Any,
) -> RunInput:
    """A run of an agent whose every call goes to `queue`."""
    definition = AgentDefinition(
        name="a",
        instructions="be brief",
        model="openai/m",
        llm_task_queue=queue,
        tools=[
            ToolBinding(
                spec=TOOLS[n].spec,
                activity=TOOLS[n].stub.name,
                task_queue=queue,
                effect=TOOLS[n].effect,
                finds=TOOLS[n].finds,
                guarded=TOOLS[n].guarded,
                lists=TOOLS[n].lists,
            )
            for n in tools
        ],
        budget=Budget(**budget),
        policy=CallPolicy(heartbeat_s=1.0),
        approvals=approvals or [],
        approvals_task_queue=queue,
    )
    return RunInput(agent=replace(definition, **(agent or {})), goal=goal)


def serving(client: Client, fakes: Fakes, queue: str, **options: Any) -> Worker:
    """A worker that serves everything."""
    return Worker(
        client,
        task_queue=queue,
        workflows=[AgentWorkflow, EffectWorkflow],
        workflow_runner=SANDBOX,
        activities=fakes.activities(),
        max_heartbeat_throttle_interval=timedelta(milliseconds=100),
        **options,
    )


@asynccontextmanager
async def started(client: Client, fakes: Fakes, **wanted: Any) -> AsyncIterator[WorkflowHandle[Any, RunResult]]:
    """A run under way, and the worker that serves it."""
    queue = f"q-{uuid4().hex}"
    async with serving(client, fakes, queue):
        yield await start(client, queue, **wanted)


async def start(client: Client, queue: str, **wanted: Any) -> WorkflowHandle[Any, RunResult]:
    """Start a run."""
    return await client.start_workflow(
        names.AGENT_WORKFLOW,
        run_input(queue, **wanted),
        id=f"run-{uuid4().hex}",
        task_queue=queue,
        result_type=RunResult,
    )


def pays(**changes: str) -> ChatResult:
    """The model wants to transfer money."""
    return calls("transfer", **{"payee": "DE1", "amount": "120.50", "currency": "EUR", "reference": "r", **changes})


async def opened(run: WorkflowHandle[Any, RunResult]) -> Approval:
    """The run's first open approval, once there is one."""
    async with asyncio.timeout(20):
        while True:
            asked = await run.query(names.APPROVALS_QUERY, result_type=list[Approval])
            for approval in asked:
                if approval.state is ApprovalState.OPEN:
                    return approval
            await asyncio.sleep(0.02)


def verdict(
    approval: Approval, decision: Decision = Decision.APPROVE, by: str = "ann@example.com", **how: Any
) -> Verdict:
    """What somebody says of an approval that was shown."""
    return Verdict(approval_id=approval.id, decision=decision, by=by, **{"digest": approval.digest, **how})


async def decided(run: WorkflowHandle[Any, RunResult], said: Verdict) -> Approval:
    """Say it by update."""
    return await run.execute_update(names.DECIDE_UPDATE, said, result_type=Approval)


async def refused(run: WorkflowHandle[Any, RunResult], said: Verdict) -> str:
    """Why it is refused; how the approval stands if it is not."""
    try:
        taken = await decided(run, said)
    except WorkflowUpdateFailedError as error:
        cause = error.cause
    else:
        return f"taken: {taken.state.value}"
    assert isinstance(cause, ApplicationError)
    assert cause.type == names.FailureType.VERDICT_REFUSED
    return cause.message


@contextmanager
def time_skipping() -> Iterator[str]:
    """Address of a server whose clock, one for all its runs, stands at real speed until `skip` is called."""
    path = binary("temporal-test-server")
    kinds = {name: attributes.KINDS[kind] for name, kind in names.SEARCH_ATTRIBUTES.items()}
    request = AddSearchAttributesRequest(namespace="default", search_attributes=kinds)
    with temporals.served(
        partial(WorkflowEnvironment.start_time_skipping, test_server_existing_path=path),
        lambda environment: environment.client.operator_service.add_search_attributes(request),
    ) as address:
        yield address


async def skip(client: Client, **how: float) -> None:
    """Let that much time pass, at once. While an activity is under way the server does not: end it first."""
    await client.test_service.unlock_time_skipping_with_sleep(SleepRequest(duration=timedelta(**how)))


async def quiet(run: WorkflowHandle[Any, RunResult]) -> None:
    """Until the run waits for people and timers only: no activity, and nothing that it has not yet taken note of."""
    async with asyncio.timeout(20):
        while True:
            length = (described := await run.describe()).history_length
            if not described.raw_description.pending_activities:
                await run.query(names.STATUS_QUERY)
                last = (await run.fetch_history()).events[-1]
                idle = last.event_type not in (
                    EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
                    EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
                )
                if idle and last.event_id == length and length > 3:
                    return
            await asyncio.sleep(0.02)
