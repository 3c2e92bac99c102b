"""What is remembered from run to run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something worth remembering."""

    text: str
    subject: str = ""
    """What it is about: a document's title, a question."""
    kind: str = "finding"
    """`finding`, `outcome` or `note` (by the model itself)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Remember these, found by one step of one run."""

    tenant: str
    agent: str
    run_id: str
    step: str
    findings: list[Finding]
    expires_s: float
    max_bytes: int
    """Of all memories of this tenant's agent; beyond it the oldest go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """How many were new."""

    kept: int
    known: int
    """Remembered already: seen again, not stored twice."""
