"""The tools an agent may be given: their names, arguments and the activities that serve them.

A tool is a contract here, an activity in `workers/tools`, and a pool in the manifest.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from fleet.contracts.llm import ChatRequest, ChatResult, QuotaUse, ToolSpec

Request = TypeVar("Request")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Stub(Generic[Request, Result]):
    """An activity by name and types. Served by exactly one activity of `workers/tools`."""

    name: str
    pool: str
    """The pool, and so the task queue, that serves it unless the manifest says otherwise."""
    request: type[Request]
    result: type[Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRequest:
    """One call of a tool by an agent."""

    tool: str
    call_id: str
    arguments: dict[str, Any]
    step: str
    """Number of the step within the run: part of the idempotency key of an effect."""
    max_failures: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool answered: JSON text for the model."""

    content: str
    error: bool = False
    duration_s: float = 0.0
    quota: QuotaUse | None = None
    evidence: dict[str, str] = field(default_factory=dict)
    """For an effect: what proves it (Message-ID, reply of the relay)."""


LLM_CHAT: Final = Stub("llm.chat", "llm", ChatRequest, ChatResult)
SEARCH_QUERY: Final = Stub("search.query", "search", ToolRequest, ToolResult)
SEARCH_FETCH: Final = Stub("search.fetch", "search", ToolRequest, ToolResult)
EMAIL_SEND: Final = Stub("email.send", "email", ToolRequest, ToolResult)

DOOR_ENTER: Final = "door.enter"
"""Waits until one more run may be active. Served by the pool `agents`."""
DOOR_LEAVE: Final = "door.leave"
"""The run is over: a local activity, which no queue holds up."""

STUBS: Final = (LLM_CHAT, SEARCH_QUERY, SEARCH_FETCH, EMAIL_SEND)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContract:
    """A tool that agents may name in the manifest."""

    spec: ToolSpec
    stub: Stub[ToolRequest, ToolResult]
    effect: bool = False
    """It changes the outside world: never run twice, never cancelled half-way."""


def _object(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TOOLS: Final[dict[str, ToolContract]] = {
    "search": ToolContract(
        spec=ToolSpec(
            name="search",
            description="Search the document collection. Returns ids, titles and snippets, best first.",
            parameters=_object(["query"], query={"type": "string", "description": "A few words."}),
        ),
        stub=SEARCH_QUERY,
    ),
    "fetch": ToolContract(
        spec=ToolSpec(
            name="fetch",
            description="Read one document by the id that search returned.",
            parameters=_object(
                ["id"],
                id={"type": "string", "description": "Document id."},
                about={"type": "string", "description": "Words to look for: of a long document, the part about them."},
            ),
        ),
        stub=SEARCH_FETCH,
    ),
    "send_email": ToolContract(
        spec=ToolSpec(
            name="send_email",
            description="Send one plain-text e-mail.",
            parameters=_object(
                ["to", "subject", "body"],
                to={"type": "string", "description": "Recipient's address."},
                subject={"type": "string"},
                body={"type": "string"},
            ),
        ),
        stub=EMAIL_SEND,
        effect=True,
    ),
}
