"""What next? Pure: from a model's answer to the calls that follow."""

import json
from dataclasses import dataclass

from fleet.contracts.llm import ChatRequest, ChatResult, Message, Role, ToolCall
from fleet.contracts.runs import AgentDefinition, ToolBinding


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The agent is done."""

    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Tools to call, all at once, and calls that cannot be made with the answer to give instead."""

    calls: list[tuple[ToolCall, ToolBinding]]
    refused: list[tuple[ToolCall, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """The model has given no answer, or none that is whole."""

    reason: str


def opening(agent: AgentDefinition, goal: str) -> list[Message]:
    """The conversation a run begins with."""
    return [Message(role=Role.SYSTEM, content=agent.instructions), Message(role=Role.USER, content=goal)]


def request(agent: AgentDefinition, messages: list[Message]) -> ChatRequest:
    """The next call of the model."""
    return ChatRequest(
        model=agent.model,
        messages=list(messages),
        tools=[tool.spec for tool in agent.tools],
        max_output_tokens=agent.max_output_tokens,
        max_failures=agent.policy.max_failures,
        role=agent.name,
    )


def decide(agent: AgentDefinition, reply: ChatResult) -> Finish | Act | Withheld:
    """Turn a model's answer into what happens next.

    A call of a tool that the agent does not have, or without a required argument, is answered with the reason:
    models mend such calls by themselves.
    """
    if not reply.message.tool_calls:
        if reply.finish_reason == "length":
            return Withheld(reason=f"the answer was cut off at max_output_tokens ({agent.max_output_tokens}): raise it")
        if not reply.message.content.strip():
            return Withheld(reason=f"the model answered nothing (finish reason {reply.finish_reason or 'unknown'!r})")
        return Finish(answer=reply.message.content)
    tools = {tool.spec.name: tool for tool in agent.tools}
    calls: list[tuple[ToolCall, ToolBinding]] = []
    refused: list[tuple[ToolCall, str]] = []
    for call in reply.message.tool_calls:
        tool = tools.get(call.name)
        if tool is None:
            refused.append((call, f"there is no tool {call.name!r}; there are: {', '.join(tools) or 'none'}"))
            continue
        missing = [name for name in tool.spec.parameters.get("required", []) if name not in call.arguments]
        if missing:
            refused.append((call, f"{call.name} lacks the argument {', '.join(missing)}"))
        else:
            calls.append((call, tool))
    return Act(calls=calls, refused=refused)


def observation(call: ToolCall, content: str) -> Message:
    """A tool's answer as the model sees it."""
    return Message(role=Role.TOOL, content=content, tool_call_id=call.id)


def refusal(reason: str) -> str:
    """An error as a tool's answer."""
    return json.dumps({"error": reason})
