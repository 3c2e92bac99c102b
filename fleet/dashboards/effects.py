"""*Approvals and effects*: what waits for a human, and what was done to the world."""

from fleet.contracts import metrics
from fleet.dashboards import model
from fleet.dashboards.model import Dashboard, Draw, Panel, Query, Row
from fleet.dashboards.queries import Queries, at_least, if_known
from fleet.dashboards.shared import AGENT, TOOL

VERDICTS = {
    "approved": model.GREEN,
    "amended": model.TEAL,
    "rejected": model.ORANGE,
    "skipped": model.AMBER,
    "expired": model.RED,
    "withdrawn": model.GREY,
}
ENDS = {"done": model.GREEN, "failed": model.ORANGE, "unknown": model.RED}
DAY_S = 86_400


def effects() -> Dashboard:
    """The page of approvers, and of whoever answers for what agents did."""
    q = Queries(frozenset({"agent", "tool"}))
    return Dashboard(
        uid="fleet-effects",
        title="Approvals and effects",
        says="What waits for a human and for how long, and what was done to the world, for certain or not?",
        variables=[AGENT, TOOL],
        begin="now-6h",
        rows=[_now(q), _waiting(q), _deciding(q), _effects(q)],
    )


def _now(q: Queries) -> Row:
    return Row(
        title="Now",
        height=4,
        panels=[
            Panel(
                title="Open approvals", says="Approvals that wait for a human.", unit=model.NUMBER, draw=Draw.STAT,
                base=model.BLUE, spark=True, width=4, alert="FleetApprovalsOverdue",
                queries=[Query(expr=if_known(q.sum(metrics.APPROVALS_OPEN), "database"))],
            ),
            Panel(
                title="Longest wait", says="Age of the open approval that waits longest.", unit=model.SECONDS,
                draw=Draw.STAT, thresholds=((3600, model.AMBER), (DAY_S, model.RED)), width=4,
                alert="FleetApprovalsOverdue", none="none waits", queries=[Query(expr=q.max(metrics.APPROVALS_OLDEST))],
            ),
            Panel(
                title="Expire within the hour",
                says="Open approvals in the last quarter of their time: after that their runs go on without.",
                unit=model.NUMBER, draw=Draw.STAT, thresholds=((1, model.RED),), width=4,
                alert="FleetApprovalsExpiring",
                queries=[Query(expr=if_known(q.sum(metrics.APPROVALS_EXPIRING), "database"))],
            ),
            Panel(
                title="Effects had", says="In the range, for certain.", unit=model.NUMBER, draw=Draw.STAT,
                base=model.GREEN, decimals=0, width=4,
                queries=[Query(expr=at_least(q.increase(metrics.EFFECTS, where={"state": "done"})))],
            ),
            Panel(
                title="Unknown effects",
                says="Of which nobody can say whether they were had: look at the provider, then tell the run.",
                unit=model.NUMBER, draw=Draw.STAT, thresholds=((1, model.RED),), width=4, alert="FleetEffectUnknown",
                queries=[Query(expr=if_known(q.sum(metrics.EFFECTS_UNKNOWN), "database"))],
            ),
            Panel(
                title="Refused at the fence",
                says="Late attempts in the range that were kept from doing it again. The fence at work: no harm done.",
                unit=model.NUMBER, draw=Draw.STAT, base=model.BLUE, decimals=0, width=4,
                queries=[Query(expr=at_least(q.increase(metrics.EFFECTS_FENCED)))],
            ),
        ],
    )  # fmt: skip


def _waiting(q: Queries) -> Row:
    return Row(
        title="What waits for a human?",
        panels=[
            Panel(
                title="Which approvals are open?",
                says="By tool. Growing: approvers do not keep up, or are not told.",
                unit=model.NUMBER, draw=Draw.STACK, width=8, none="none is open", alert="FleetApprovalsOverdue",
                queries=[Query(expr=q.sum(metrics.APPROVALS_OPEN, "tool"), legend="{{tool}}")],
            ),
            Panel(
                title="How long does the oldest wait?",
                says="By tool. A straight line up: nobody looks at it.",
                unit=model.SECONDS, width=8, none="none waits", alert="FleetApprovalsOverdue",
                queries=[Query(expr=q.max(metrics.APPROVALS_OLDEST, "tool"), legend="{{tool}}")],
            ),
            Panel(
                title="Are approvers told?",
                says="Attempts to tell them, a minute, by endpoint. Failures are tried again; an endpoint that only"
                " fails is one that nobody reads.",
                unit=model.PER_MINUTE, draw=Draw.STACK, width=8, none="none was told", alert="FleetApprovalsOverdue",
                queries=[
                    Query(
                        expr=q.per_minute(metrics.APPROVAL_NOTICES, "endpoint outcome"),
                        legend="{{endpoint}} {{outcome}}",
                    )
                ],
            ),
        ],
    )  # fmt: skip


def _deciding(q: Queries) -> Row:
    return Row(
        title="How are approvals decided?",
        panels=[
            Panel(
                title="How many are asked for?",
                says="A minute, by agent and tool. Many of one kind that are all approved: let the policy say so.",
                unit=model.PER_MINUTE, draw=Draw.STACK, width=8, none="none was asked for",
                queries=[
                    Query(expr=q.per_minute(metrics.APPROVALS_OPENED, "agent tool"), legend="{{agent}} {{tool}}")
                ],
            ),
            Panel(
                title="How do approvals end?",
                says="A minute, by verdict. Expired ones were decided by nobody.",
                unit=model.PER_MINUTE, draw=Draw.STACK, width=8, none="none has ended",
                colours=VERDICTS, alert="FleetApprovalsExpiring",
                queries=[Query(expr=f"60 * {q.seen(metrics.APPROVAL_SECONDS, 'state')}", legend="{{state}}")],
            ),
            Panel(
                title="How long do humans take?",
                says="From asking to the verdict, over the last hour, by tool: the middle and the slowest 5 %.",
                unit=model.SECONDS, width=8, none="none has ended",
                queries=[
                    Query(expr=q.quantile(0.95, metrics.APPROVAL_SECONDS, "tool", over="1h"), legend="{{tool}} p95"),
                    Query(expr=q.quantile(0.5, metrics.APPROVAL_SECONDS, "tool", over="1h"), legend="{{tool}} p50"),
                ],
            ),
        ],
    )  # fmt: skip


def _effects(q: Queries) -> Row:
    return Row(
        title="What was done to the world?",
        panels=[
            Panel(
                title="How do effects end?",
                says="A minute, by what their attempts told. Unknown ones need a human.",
                unit=model.PER_MINUTE, draw=Draw.STACK, width=8, colours=ENDS, alert="FleetEffectUnknown",
                queries=[Query(expr=q.per_minute(metrics.EFFECTS, "state"), legend="{{state}}")],
            ),
            Panel(
                title="Which attempts does the fence refuse?",
                says="A minute, by tool. After a worker died or hung, a later attempt is at the effect: the earlier one"
                " must not go on.",
                unit=model.PER_MINUTE, width=8, none="none was refused",
                queries=[Query(expr=q.per_minute(metrics.EFFECTS_FENCED, "tool"), legend="{{tool}}")],
            ),
            Panel(
                title="Effects",
                says="In the range, by tool and end; and those that are unknown at this moment.",
                unit=model.NUMBER, draw=Draw.TABLE, labels=("tool",), width=8, most_series=12,
                queries=[
                    Query(expr=q.increase(metrics.EFFECTS, "tool", {"state": state}), legend=state, decimals=0)
                    for state in ("done", "failed")
                ]
                + [Query(expr=q.max(metrics.EFFECTS_UNKNOWN, "tool"), legend="unknown now", decimals=0)],
            ),
        ],
    )  # fmt: skip
