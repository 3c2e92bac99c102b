"""Activities that answer as told: the workflow under test is real, and so is the server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from fleet.contracts import names
from fleet.contracts.approvals import ApprovalEvent, ApprovalRule, Notice
from fleet.contracts.effects import EffectRequest, EffectResult, EffectState, Mode
from fleet.contracts.llm import ChatRequest, ChatResult, Message, QuotaUse, Role, ToolCall, Usage
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
    Keep,
    Kept,
    ToolRequest,
    ToolResult,
)
from fleet.workflows.agent import AgentWorkflow
from fleet.workflows.effect import EffectWorkflow
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
    search: Callable[[ToolRequest], ToolResult] = lambda _: ToolResult(content='{"results": []}')
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
    memories: list[dict[str, str]] = field(default_factory=list)
    kept: list[Keep] = field(default_factory=list)
    under_way: asyncio.Event = field(default_factory=asyncio.Event)
    expected: int = 1
    """How many tools are called before `under_way` is set."""
    hold: asyncio.Event | None = None
    """When set, tools and the model wait for it once they have said that they are under way."""

    @activity.defn(name=LLM_CHAT.name)
    async def chat(self, request: ChatRequest) -> ChatResult:
        self.seen.append(request)
        answer = self.script[min(len(self.seen), len(self.script)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @activity.defn(name=SEARCH_QUERY.name)
    async def query(self, request: ToolRequest) -> ToolResult:
        await self._wait()
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
        self.events.append(event)
        self.asked.set()

    @activity.defn(name=APPROVAL_NOTIFY.name)
    async def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    @activity.defn(name=MEMORY_RECALL.name)
    async def recall(self, request: ToolRequest) -> ToolResult:
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
        if request.mode is Mode.ACCOUNT:
            return answer or EffectResult(state=EffectState.FAILED, reason="withdrawn before it began")
        try:
            await self._wait()
        except asyncio.CancelledError:
            if not self.committed:
                raise
        if answer is not None:
            return answer
        self.sent.append(request)
        return EffectResult(state=EffectState.DONE, content='{"done": true}', evidence=evidence)

    async def _wait(self) -> None:
        self.expected -= 1
        if self.expected <= 0:
            self.under_way.set()
        while self.hold is not None and not self.hold.is_set():
            activity.heartbeat()
            await asyncio.wait({asyncio.ensure_future(self.hold.wait())}, timeout=0.1)


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
