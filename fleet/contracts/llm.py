"""What is said to a model and what comes back, whoever the provider is."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """The model asks for one call of a tool."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of the conversation."""

    role: Role
    content: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    tool_call_id: str = ""
    """On a `tool` message: the call it answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as the model sees it."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of the arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one call used, in tokens, as the provider counted it."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUse:
    """What a call cost in quota, and how long it stood in line."""

    scope: str
    waited_s: float
    """From its first booking to its permit, over all attempts, on the limiter's clock."""
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One call of a model."""

    model: str
    """`provider/model` as the manifest names them."""
    messages: list[Message]
    tools: list[ToolSpec] = field(default_factory=list)
    max_output_tokens: int = 1024
    max_failures: int = 10
    """Real failures of the provider before the call is given up. Waits do not count."""
    role: str = ""
    """Calls of one role use alike: the agent's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatResult:
    """What the model said."""

    message: Message
    usage: Usage
    finish_reason: str
    """`stop`, `tool_calls` or `length`."""
    model: str = ""
    """The model that answered, as the provider names it."""
    request_id: str = ""
    """The provider's id of the call, for its support."""
    duration_s: float = 0.0
    quota: QuotaUse | None = None
