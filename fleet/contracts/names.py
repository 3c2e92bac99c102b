"""Names on the wire. Nobody formats an id, a queue or a failure type by hand."""

from enum import StrEnum
from typing import Final

AGENT_WORKFLOW: Final = "AgentWorkflow"
EFFECT_WORKFLOW: Final = "EffectWorkflow"
BATCH_WORKFLOW: Final = "BatchWorkflow"
STATUS_QUERY: Final = "status"
APPROVALS_QUERY: Final = "approvals"
STOP_SIGNAL: Final = "stop"
TELL_SIGNAL: Final = "tell"
PAUSE_SIGNAL: Final = "pause"
RESUME_SIGNAL: Final = "resume"
DECIDE_UPDATE: Final = "decide"
DECIDE_SIGNAL: Final = "decide_by_signal"

AGENT_ATTRIBUTE: Final = "Agent"
TENANT_ATTRIBUTE: Final = "Tenant"
WAITING_ATTRIBUTE: Final = "WaitingFor"
"""What a run waits for that may take long: `approval`, `resume` or nothing."""
STATUS_ATTRIBUTE: Final = "RunStatus"
"""`working`, `approval`, `paused`, or the outcome. (`Status` is a word of Temporal's query language.)"""
MODEL_ATTRIBUTE: Final = "Model"
COST_ATTRIBUTE: Final = "Cost"
"""Money spent on models, in the currency of the prices: told as it grows by half, and at the end."""
SEARCH_ATTRIBUTES: Final = {
    AGENT_ATTRIBUTE: "Keyword",
    TENANT_ATTRIBUTE: "Keyword",
    WAITING_ATTRIBUTE: "Keyword",
    STATUS_ATTRIBUTE: "Keyword",
    MODEL_ATTRIBUTE: "Keyword",
    COST_ATTRIBUTE: "Double",
}
"""Search attributes that the namespace must know, by Temporal's names of their kinds; `fleet init` registers them."""

RUNNING_RUNS: Final = f"WorkflowType = '{AGENT_WORKFLOW}' AND ExecutionStatus = 'Running'"
"""The visibility query of all runs that are under way."""

WORKING: Final = "working"
WORKING_APPROVAL: Final = "approval"
PAUSED: Final = "paused"

AGENT_MEMO: Final = "agent"
GOAL_MEMO: Final = "goal"
TENANT_MEMO: Final = "tenant"
BEGAN_MEMO: Final = "began"
"""When a run began that has continued as new."""


class FailureType(StrEnum):
    """`ApplicationError.type` of everything an activity raises on purpose."""

    QUOTA_WAIT = "QuotaWait"
    """Not a failure: the call waits for its place in line and comes back for it."""
    STORE_LOST = "StoreLost"
    """Not a failure: Redis is unreachable and the posture is `pause`."""
    RATE_LIMITED = "RateLimited"
    """The provider answered 429: the scope cools down for the whole fleet."""
    OVERLOADED = "Overloaded"
    """503 or 529: the provider is overloaded; not our quota."""
    PROVIDER_FAILED = "ProviderFailed"
    """500s, time-outs, lost connections: retried within the policy, then final."""
    PROVIDER_REFUSED = "ProviderRefused"
    """401, 403: wrong key or no permission. Never retried."""
    BAD_REQUEST = "BadRequest"
    """The provider does not accept the request as it stands. Never retried."""
    QUOTA_EXHAUSTED = "QuotaExhausted"
    """Out of money or beyond a spend limit: the scope is closed for the whole fleet until somebody opens it, and the
    call waits there. Final where there is no quota to close."""
    BUDGET_EXHAUSTED = "BudgetExhausted"
    """The tenant has spent what it may spend today. Ends the run with what it has."""
    EFFECT_UNKNOWN = "EffectUnknown"
    """An earlier attempt may have had its effect, and nobody can say. Never retried."""
    TOOL_FAILED = "ToolFailed"
    """The tool refuses these arguments: told to the model, which may try others."""
    DATABASE_LOST = "DatabaseLost"
    """Not a failure: the database does not answer. Nothing is done without it."""
    VERDICT_REFUSED = "VerdictRefused"
    """A human's verdict cannot be taken: the text says why."""
    SHUTTING_DOWN = "ShuttingDown"
    """Not a failure: the worker drains and gives the work back."""


WAITS: Final = frozenset(
    {
        FailureType.QUOTA_WAIT,
        FailureType.STORE_LOST,
        FailureType.RATE_LIMITED,
        FailureType.OVERLOADED,
        FailureType.QUOTA_EXHAUSTED,
        FailureType.DATABASE_LOST,
        FailureType.SHUTTING_DOWN,
    }
)
"""Failure types that are states, not errors: they never use up a retry budget."""


def place_key(workflow_id: str, execution: str, activity_id: str) -> str:
    """Key under which an activity books its place in line: stable over its attempts.

    A run that continues as new, or is reset, counts its activities anew: the execution's run id keeps them apart.
    """
    return f"{workflow_id}/{execution[:13]}/{activity_id}"


def ending_key(workflow_id: str, endpoint: str) -> str:
    """Idempotency key of telling an endpoint that a run has ended."""
    return f"{workflow_id}/ended/{endpoint}"


def item_run(batch: str, number: int, attempt: int) -> str:
    """Id of the run that an item of a batch is, at its n-th attempt. Ids of batches have no colon."""
    return f"{batch}:{number}" if attempt == 1 else f"{batch}:{number}:{attempt}"


def effect_key(workflow_id: str, step: str) -> str:
    """Idempotency key of one effect of one run: stable over attempts, resets and workers."""
    return f"{workflow_id}/{step}"
