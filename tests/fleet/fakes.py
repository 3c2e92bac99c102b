"""Activities that answer as told: the workflow under test is real, and so is the server."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from temporalio import activity

from fleet.contracts.llm import ChatRequest, ChatResult, Message, QuotaUse, Role, ToolCall, Usage
from fleet.contracts.runs import AgentDefinition, Budget, CallPolicy, RunInput, ToolBinding
from fleet.contracts.tools import EMAIL_SEND, LLM_CHAT, SEARCH_QUERY, TOOLS, ToolRequest, ToolResult


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
    sent: list[ToolRequest] = field(default_factory=list)
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
    async def send(self, request: ToolRequest) -> ToolResult:
        await self._wait()
        self.sent.append(request)
        return ToolResult(content='{"sent": true}', evidence={"message_id": "<1@x>"})

    async def _wait(self) -> None:
        self.expected -= 1
        if self.expected <= 0:
            self.under_way.set()
        while self.hold is not None and not self.hold.is_set():
            activity.heartbeat()
            await asyncio.wait({asyncio.ensure_future(self.hold.wait())}, timeout=0.1)


def run_input(queue: str, *, goal: str = "find out", **budget: float) -> RunInput:
    """A run of an agent whose every call goes to `queue`."""
    agent = AgentDefinition(
        name="a",
        instructions="be brief",
        model="openai/m",
        llm_task_queue=queue,
        tools=[
            ToolBinding(spec=TOOLS[n].spec, activity=TOOLS[n].stub.name, task_queue=queue, effect=TOOLS[n].effect)
            for n in ("search", "send_email")
        ],
        budget=Budget(**budget),  # type: ignore[arg-type]
        policy=CallPolicy(heartbeat_s=1.0),
    )
    return RunInput(agent=agent, goal=goal)
