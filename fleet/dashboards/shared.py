"""What several dashboards have: variables, notes and colours of what has the same name everywhere."""

from collections.abc import Mapping
from typing import Final

from fleet.contracts import metrics
from fleet.dashboards import model
from fleet.dashboards.model import Mapped, Note, Panel, Query, Variable
from fleet.dashboards.queries import Queries, values

UP: Final = "up"
"""Prometheus' own: 1 if the last scrape of a target succeeded."""
ALERTS: Final = "ALERTS"
"""Prometheus' own: a series for each alert that is pending or fires."""

CAUSES: Final[Mapping[str, str]] = {
    "provider": model.BLUE,
    "quota": model.ORANGE,
    "queue": model.PURPLE,
    "human": model.TEAL,
}
"""Of waiting."""
OUTCOMES: Final[Mapping[str, str]] = {
    "completed": model.GREEN,
    "stopped": model.GREY,
    "budget_exhausted": model.AMBER,
    "failed": model.RED,
}
"""Of runs."""
STATES: Final[Mapping[str, str]] = {
    "working": model.BLUE,
    "approval": model.TEAL,
    "paused": model.GREY,
}
"""Of runs that are under way."""

WELL = (
    Mapped(value=0, text="no", colour=model.RED),
    Mapped(value=1, text="yes", colour=model.GREEN),
)

PROVIDER = Variable(
    name="provider",
    label="Provider",
    says="What a scope's name begins with.",
    query=values(metrics.QUOTA_RATE, "scope"),
    regex="/^([^\\/]+)/",
)
SCOPE = Variable(
    name="scope",
    label="Scope",
    says="What a provider counts by.",
    query=values(metrics.QUOTA_RATE, "scope", '{scope=~"$provider(/.*)?"}'),
)
POOL = Variable(
    name="pool",
    label="Pool",
    says="A pool of workers; its task queue has the same name unless the manifest says another.",
    query=values(metrics.BACKLOG, "pool"),
)
AGENT = Variable(
    name="agent", label="Agent", says="An agent of the manifest.", query=values(metrics.RUNS_STARTED, "agent")
)
TENANT = Variable(
    name="tenant",
    label="Tenant",
    says="Whose run it is; those beyond FLEET_METRICS_TENANTS are `other`.",
    query=values(metrics.TENANT_CALLS, "tenant"),
)
TOOL = Variable(
    name="tool", label="Tool", says="A tool whose calls are effects.", query=values(metrics.EFFECTS, "tool")
)

_Q = Queries()
NOTES: Final = (
    Note(
        name="Faults",
        expr=f"{_Q.max(metrics.LOAD_FAULT, 'kind target')} > 0",
        title="Fault: {{kind}}",
        text="{{target}}",
        colour=model.RED,
    ),
    Note(
        name="Closed scopes",
        expr=f"{_Q.max(metrics.QUOTA_CLOSED, 'scope cause')} > 0",
        title="Closed: {{scope}}",
        text="{{cause}}",
        colour=model.ORANGE,
    ),
    Note(
        name="New versions",
        expr=f"{_Q.count(metrics.BUILD, 'version build')} unless {_Q.count(metrics.BUILD, 'version build', ago='30s')}",
        title="New version: {{version}}",
        text="{{build}}",
        colour=model.BLUE,
        instant=True,
    ),
)
"""Drawn on every dashboard."""


def waiting(q: Queries, width: int) -> Panel:
    """By what agents are kept from going on."""
    return Panel(
        title="What do agents wait for?",
        says="Agents that wait, by cause, averaged: 5 of `quota` is five agents in line all the time. `provider` is the"
        " call itself, `queue` a missing slot or a closed gate, `human` an open approval. What is averaged is told as a"
        " call ends. The largest band is where help pays.",
        unit=model.NUMBER,
        draw=model.Draw.STACK,
        queries=[
            Query(expr=q.rate(metrics.CALL_WAIT, "cause"), legend="{{cause}}"),
            Query(expr=q.sum(metrics.RUNS, where={"state": "approval"}), legend="human"),
        ],
        colours=CAUSES,
        width=width,
    )


def processes(width: int) -> Panel:
    """Which workers answered, when."""
    return Panel(
        title="Which processes answer?",
        says="Each process that serves /metrics, by whether Prometheus reached it. A band that ends is a process that"
        " died or was stopped; its successor has a band of its own.",
        unit=model.STATE,
        draw=model.Draw.STATES,
        queries=[
            Query(
                expr=f'max by (job, instance) ({UP}{{job=~"fleet-.*"}})',
                legend="{{instance}}",
            )
        ],
        mappings=(
            Mapped(value=0, text="silent", colour=model.RED),
            Mapped(value=1, text="answers", colour=model.GREEN),
        ),
        alert="FleetPoolWithoutWorkers",
        width=width,
    )
