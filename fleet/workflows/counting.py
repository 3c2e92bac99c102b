"""Runs and approvals are counted where they are decided: in the workflow, once, and not again when it is replayed.

The Temporal SDK counts nothing while it replays or drops a run from its memory. A workflow task that has to be
repeated, because a signal came while it ended, counts again what it counted; a run that Temporal ends by itself
(terminated, timed out) is not counted as ended. Nothing of this is a command: histories do not know of it.
"""

from datetime import datetime, timedelta

from temporalio import workflow

from fleet.contracts import metrics
from fleet.contracts.approvals import Approval, ApprovalState, Decision
from fleet.contracts.metrics import Metric
from fleet.contracts.runs import Outcome

AMENDED = "amended"
"""State of an approval of other arguments than those that were asked about."""


def run_began(agent: str) -> None:
    """A run has begun: its first execution."""
    _add(metrics.RUNS_STARTED, agent=agent)


def run_continued(agent: str) -> None:
    """A run goes on in a new execution."""
    _add(metrics.RUNS_CONTINUED, agent=agent)


def run_ended(agent: str, outcome: Outcome, began_at: datetime) -> None:
    """A run has ended, however.

    Args:
        agent: whose run.
        outcome: as those are told who want to know.
        began_at: when its first execution did.
    """
    _add(metrics.RUNS_ENDED, agent=agent, outcome=outcome.value)
    _record(metrics.RUN_SECONDS, workflow.now() - began_at, agent=agent)


def approval_opened(approval: Approval) -> None:
    """A human is asked."""
    _add(metrics.APPROVALS_OPENED, agent=approval.agent, tool=approval.tool)


def approval_ended(approval: Approval) -> None:
    """Somebody has decided, or nobody will."""
    state = approval.state.value
    if approval.state is ApprovalState.APPROVED and any(vote.decision is Decision.AMEND for vote in approval.votes):
        state = AMENDED
    took = workflow.now() - approval.opened_at
    _record(metrics.APPROVAL_SECONDS, took, agent=approval.agent, tool=approval.tool, state=state)


def _add(metric: Metric, **labels: str) -> None:
    workflow.metric_meter().create_counter(metric.name, metric.says).add(1, labels)


def _record(metric: Metric, took: timedelta, **labels: str) -> None:
    # told without its unit: the SDK would write it behind the name once more
    histogram = workflow.metric_meter().create_histogram_float(metric.name, metric.says)
    histogram.record(max(0.0, took.total_seconds()), labels)
