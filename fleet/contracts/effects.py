"""An effect: a change of the outside world that must not happen twice."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from fleet.contracts.llm import QuotaUse
from fleet.contracts.runs import CallPolicy


class EffectState(StrEnum):
    """Where an effect stands, in the ledger and in a run's result."""

    INTENDED = "intended"
    """Written down, not begun: nothing can have happened."""
    EXECUTING = "executing"
    """Somebody is at it, or died at it: it may have happened."""
    DONE = "done"
    FAILED = "failed"
    """Certainly not done: may be tried again under its key."""
    UNKNOWN = "unknown"
    """It may have happened, and neither the ledger nor the provider can say."""


class Mode(StrEnum):
    """What an attempt is to do."""

    EXECUTE = "execute"
    """Have the effect, unless it was had."""
    ACCOUNT = "account"
    """Begin nothing: find out what earlier attempts have done."""


class OnUnknown(StrEnum):
    """What to do about an effect that nobody knows of."""

    ASK = "ask"
    RESEND = "resend"
    SKIP = "skip"


POLICY: Final = "policy"
"""Who says that an effect was not had, where `on_unknown` does and no human."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectRequest:
    """The one argument of `EffectWorkflow`, and of the activity that has the effect."""

    key: str
    """Idempotency key: the same for every attempt, on every worker, after every reset."""
    tool: str
    activity: str
    """Which activity has it, on the task queue of the workflow."""
    arguments: dict[str, Any]
    digest: str
    """Of tool and arguments: a key is never used for two different calls."""
    run_id: str
    agent: str
    tenant: str
    policy: CallPolicy = field(default_factory=CallPolicy)
    deadline_s: float = 86_400.0
    """Seconds for all attempts and waits."""
    priority: int = 3
    weight: float = 1.0
    mode: Mode = Mode.EXECUTE
    why: str = ""
    """With `account`: why it is not to be begun."""
    was_had: bool | None = None
    """What a human has said of an earlier, unknown end: True, it was had; False, it was not."""
    by: str = ""
    """Who has said so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectResult:
    """How an effect ended. Also what the activity answers."""

    state: EffectState
    """`done`, `failed` or `unknown`."""
    content: str = ""
    """JSON text for the model."""
    evidence: dict[str, str] = field(default_factory=dict)
    """What proves it (Message-ID, reply of the relay, id of the transfer)."""
    reason: str = ""
    """Why it failed or is unknown."""
    duration_s: float = 0.0
    quota: QuotaUse | None = None
