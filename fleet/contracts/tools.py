"""The tools an agent may be given: their names, arguments and the activities that serve them.

A tool is a contract here, an activity in `workers/tools`, and a pool in the manifest.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from fleet.contracts.approvals import ApprovalEvent, Notice
from fleet.contracts.effects import EffectRequest, EffectResult
from fleet.contracts.llm import ChatRequest, ChatResult, QuotaUse, ToolSpec
from fleet.contracts.memories import Finding, Keep, Kept

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
    """Number of the step within the run."""
    max_failures: int = 10
    run_id: str = ""
    agent: str = ""
    tenant: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool answered: JSON text for the model."""

    content: str
    error: bool = False
    duration_s: float = 0.0
    quota: QuotaUse | None = None
    findings: list[Finding] = field(default_factory=list)
    """What of it is worth remembering."""


LLM_CHAT: Final = Stub("llm.chat", "llm", ChatRequest, ChatResult)
SEARCH_QUERY: Final = Stub("search.query", "search", ToolRequest, ToolResult)
SEARCH_FETCH: Final = Stub("search.fetch", "search", ToolRequest, ToolResult)
EMAIL_SEND: Final = Stub("email.send", "email", EffectRequest, EffectResult)
PAYMENTS_TRANSFER: Final = Stub("payments.transfer", "payments", EffectRequest, EffectResult)
WEBHOOK_SEND: Final = Stub("webhook.send", "webhook", EffectRequest, EffectResult)
MEMORY_RECALL: Final = Stub("memory.recall", "memory", ToolRequest, ToolResult)
MEMORY_REMEMBER: Final = Stub("memory.remember", "memory", ToolRequest, ToolResult)
MEMORY_FORGET: Final = Stub("memory.forget", "memory", ToolRequest, ToolResult)
MEMORY_KEEP: Final = Stub("memory.keep", "memory", Keep, Kept)
APPROVAL_RECORD: Final = Stub("approval.record", "approvals", ApprovalEvent, type(None))
APPROVAL_NOTIFY: Final = Stub("approval.notify", "approvals", Notice, type(None))

DOOR_ENTER: Final = "door.enter"
"""Waits until one more run may be active. Served by the pool `agents`."""
DOOR_LEAVE: Final = "door.leave"
"""The run is over: a local activity, which no queue holds up."""

EFFECTS: Final = (EMAIL_SEND, PAYMENTS_TRANSFER, WEBHOOK_SEND)
STUBS: Final = (
    LLM_CHAT,
    SEARCH_QUERY,
    SEARCH_FETCH,
    *EFFECTS,
    MEMORY_RECALL,
    MEMORY_REMEMBER,
    MEMORY_FORGET,
    MEMORY_KEEP,
    APPROVAL_RECORD,
    APPROVAL_NOTIFY,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContract:
    """A tool that agents may name in the manifest."""

    spec: ToolSpec
    stub: Stub[Any, Any]
    effect: bool = False
    """It changes the outside world: never run twice, never cancelled half-way."""
    finds: bool = False
    """What it answers was written by strangers."""
    guarded: bool = False
    """It moves money."""
    lists: dict[str, str] = field(default_factory=dict)
    """Argument to the allow-list that it must be on."""


def _object(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TOOLS: Final[dict[str, ToolContract]] = {
    "search": ToolContract(
        spec=ToolSpec(
            name="search",
            description="Search the document collection. Returns ids, titles and snippets, best first.",
            parameters=_object(["query"], query={"type": "string", "description": "A few words.", "maxLength": 1000}),
        ),
        stub=SEARCH_QUERY,
        finds=True,
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
        finds=True,
    ),
    "send_email": ToolContract(
        spec=ToolSpec(
            name="send_email",
            description="Send one plain-text e-mail.",
            parameters=_object(
                ["to", "subject", "body"],
                to={
                    "type": "string",
                    "description": "Recipient's address, nothing else.",
                    "pattern": r'^[^@\s<>,;:()"\\]+@[^@\s<>,;:()"\\]+$',
                    "maxLength": 320,
                },
                subject={"type": "string", "maxLength": 500},
                body={"type": "string", "maxLength": 200_000},
            ),
        ),
        stub=EMAIL_SEND,
        effect=True,
        lists={"to": "recipients"},
    ),
    "transfer": ToolContract(
        spec=ToolSpec(
            name="transfer",
            description="Transfer money to an account, once.",
            parameters=_object(
                ["payee", "amount", "currency", "reference"],
                payee={
                    "type": "string",
                    "description": "The account to pay, without spaces around it.",
                    "pattern": r"^\S(.*\S)?$",
                    "minLength": 1,
                    "maxLength": 64,
                },
                amount={
                    "type": "string",
                    "description": "A decimal, as 120.50.",
                    "pattern": r"^(?!0+(\.0+)?$)[0-9]{1,12}(\.[0-9]{1,4})?$",
                },
                currency={"type": "string", "description": "ISO 4217, as EUR.", "pattern": "^[A-Z]{3}$"},
                reference={"type": "string", "description": "What the payee will read.", "maxLength": 140},
            ),
        ),
        stub=PAYMENTS_TRANSFER,
        effect=True,
        guarded=True,
        lists={"payee": "payees"},
    ),
    "send_webhook": ToolContract(
        spec=ToolSpec(
            name="send_webhook",
            description="Tell one of the configured endpoints that something has happened.",
            parameters=_object(
                ["endpoint", "type", "data"],
                endpoint={"type": "string", "description": "Name of the endpoint.", "maxLength": 64},
                type={"type": "string", "description": "What happened, as order.checked.", "maxLength": 128},
                data={"type": "object", "description": "The facts."},
            ),
        ),
        stub=WEBHOOK_SEND,
        effect=True,
    ),
    "recall": ToolContract(
        spec=ToolSpec(
            name="recall",
            description="Look up what was remembered in earlier runs, best match first.",
            parameters=_object(
                ["query"],
                query={"type": "string", "description": "A few words.", "maxLength": 1000},
                subject={"type": "string", "description": "Only what was filed under it.", "maxLength": 200},
            ),
        ),
        stub=MEMORY_RECALL,
        finds=True,
    ),
    "remember": ToolContract(
        spec=ToolSpec(
            name="remember",
            description="Remember one fact for later runs.",
            parameters=_object(
                ["text"],
                text={"type": "string", "minLength": 1, "maxLength": 10_000},
                subject={"type": "string", "description": "What it is about.", "maxLength": 200},
            ),
        ),
        stub=MEMORY_REMEMBER,
    ),
    "forget": ToolContract(
        spec=ToolSpec(
            name="forget",
            description="Forget one thing by the id that recall returned.",
            parameters=_object(["id"], id={"type": "string", "maxLength": 64}),
        ),
        stub=MEMORY_FORGET,
    ),
}
