"""What is said to a simulated model and what it says, whatever API carries it."""

from dataclasses import dataclass, field
from typing import Any

from load.simulators import text


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The model wants a tool called."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One thing said, whatever the API's words for it are."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    text: str = ""
    calls: list[Call] = field(default_factory=list)
    call_id: str = ""
    """Of a `tool` turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool on offer."""

    name: str
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Everything the model sees."""

    model: str
    turns: list[Turn]
    tools: list[Tool]
    max_tokens: int
    force: str | None = None
    """A tool's name, `*` for any of them, `-` for none; None leaves the choice to the model."""
    parallel: bool = True
    schema: dict[str, Any] | None = None
    """JSON Schema that the final answer must follow."""

    @property
    def characters(self) -> int:
        """Of everything that counts towards the prompt."""
        said = sum(len(t.text) + sum(len(c.name) + text.size(c.arguments) for c in t.calls) for t in self.turns)
        return said + sum(len(t.name) + len(t.description) + text.size(t.schema) for t in self.tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model says."""

    text: str
    calls: list[Call]
    output_tokens: int
    finish: str
    """`stop`, `tool_calls` or `length`."""
