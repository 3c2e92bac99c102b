"""An approval: what is asked of a human, who may answer, and what was answered."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any


class Ask(StrEnum):
    """What the human is asked."""

    ALLOW = "allow"
    """May this call be made?"""
    SETTLE = "settle"
    """Was this effect had? Nobody else can say."""


class Decision(StrEnum):
    """What one human says."""

    APPROVE = "approve"
    """Of a call: make it. Of an effect nobody knows of: it was had."""
    REJECT = "reject"
    """Of a call: do not make it. Of an effect nobody knows of: it was not had; have it again."""
    AMEND = "amend"
    """Make it with other arguments."""
    SKIP = "skip"
    """Of an effect nobody knows of: leave it, whether it was had or not."""


class ApprovalState(StrEnum):
    """Where an approval stands."""

    OPEN = "open"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    SKIPPED = "skipped"
    WITHDRAWN = "withdrawn"
    """The run was stopped, cancelled or ended before anybody decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRule:
    """When a call needs a human, and which."""

    tool: str
    when: str = ""
    """Expression over the arguments (`fleet/conditions.py`). Empty: every call."""
    over: dict[str, str] = field(default_factory=dict)
    """Currency to the largest amount that needs nobody, as decimals. A currency that is not named always needs one."""
    outside: list[str] = field(default_factory=list)
    """Domains whose recipients need nobody."""
    approvers: list[str] = field(default_factory=list)
    """Who may decide: e-mail addresses. Empty: anybody who can reach the run."""
    needed: int = 1
    """How many of them must agree: 2 is four eyes."""
    expires_s: float = 604_800.0
    remind_s: list[float] = field(default_factory=list)
    """Seconds after which those who have not decided are told again."""
    escalate_s: float | None = None
    """Seconds after which `escalate_to` may decide too, and are told."""
    escalate_to: list[str] = field(default_factory=list)
    amend: str = ""
    """What amended arguments must satisfy. Empty: amending is allowed within the tool's schema and allow-lists."""
    notify: list[str] = field(default_factory=list)
    """Names of the manifest's endpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What one human has said, through what, when."""

    decision: Decision
    by: str
    channel: str
    """`cli`, `link`, `api`, `signal`, `console`."""
    digest: str
    at: datetime
    comment: str = ""
    arguments: dict[str, Any] | None = None
    """Amended ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one human says now: the argument of the update `decide` and of the signal of that name."""

    approval_id: str
    decision: Decision
    by: str
    digest: str
    """Of the arguments that were shown: a verdict on others is void."""
    channel: str = "api"
    comment: str = ""
    arguments: dict[str, Any] | None = None
    """For `amend`: all arguments of the call to make instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One question to humans, as it stands."""

    id: str
    """`RUN/STEP`, and `RUN/STEP/settle` for the question whether an effect was had."""
    run_id: str
    agent: str
    tenant: str
    ask: Ask
    tool: str
    arguments: dict[str, Any]
    digest: str
    why: str
    """Which rule wants it, in words."""
    goal: str
    said: str = ""
    """The model's own words beside the call."""
    approvers: list[str] = field(default_factory=list)
    needed: int = 1
    notify: list[str] = field(default_factory=list)
    opened_at: datetime
    expires_at: datetime
    state: ApprovalState = ApprovalState.OPEN
    votes: list[Vote] = field(default_factory=list)
    decided_at: datetime | None = None
    reason: str = ""
    """Why it ended, where nobody decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalEvent:
    """Something that befell an approval: for the audit table and for those to be told."""

    approval: Approval
    """As it stands after the event."""
    what: str
    """`opened`, `reminded`, `escalated`, `voted`, `approved`, `rejected`, `expired`, `skipped`, `withdrawn`,
    `refused` (a verdict that could not be taken)."""
    at: datetime
    vote: Vote | None = None
    detail: str = ""
    """Why a verdict was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Tell these people of an approval, through one endpoint."""

    approval: Approval
    what: str
    """`opened`, `reminded`, `escalated`, or how it ended."""
    endpoint: str
    to: list[str]
    at: datetime | None = None
    """When that happened."""


def digest(tool: str, arguments: dict[str, Any]) -> str:
    """What a verdict is bound to: the tool and its exact arguments.

    Of their JSON with sorted keys, SHA-256, the first 16 hexadecimal digits.
    """
    text = json.dumps([tool, arguments], sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:16]


def approval_id(run_id: str, step: str, ask: Ask = Ask.ALLOW) -> str:
    """Id of the approval of one step of one run."""
    return f"{run_id}/{step}" if ask is Ask.ALLOW else f"{run_id}/{step}/{ask.value}"


def run_of(approval: str) -> str:
    """The run that an approval belongs to."""
    run_id, _, last = approval.rpartition("/")
    return run_id.rpartition("/")[0] if last == Ask.SETTLE.value else run_id
