"""*Load test*: what a trial did to the fleet, and how the fleet took it."""

from fleet.contracts import metrics
from fleet.dashboards import model
from fleet.dashboards.model import Dashboard, Draw, Mapped, Panel, Query, Row
from fleet.dashboards.queries import INTERVAL, RANGE, Queries, at_least
from fleet.dashboards.shared import OUTCOMES, PROVIDER, SCOPE, processes, waiting

STATUSES = {
    "ok": model.GREEN,
    "429": model.RED,
    "500": model.ORANGE,
    "503": model.AMBER,
    "529": model.PURPLE,
    "dropped": model.GREY,
}


def trial() -> Dashboard:
    """The page of `fleet load run`."""
    q = Queries(frozenset({"scope"}))
    return Dashboard(
        uid="fleet-load",
        title="Load test",
        says="What did the trial do to the fleet, when, and how did the fleet take it?",
        variables=[PROVIDER, SCOPE],
        begin="now-15m",
        refresh="5s",
        rows=[_now(q), _course(q), _providers(q), _fleet(q)],
    )


def _now(q: Queries) -> Row:
    return Row(
        title="The trial",
        height=4,
        panels=[
            Panel(
                title="Planned", says="Runs that the trial will have started by its end.", unit=model.NUMBER,
                draw=Draw.STAT, base=model.BLUE, width=4, queries=[Query(expr=q.max(metrics.LOAD_PLANNED, over=RANGE))],
            ),
            Panel(
                title="Arrived", says="Runs that it has started in the range.", unit=model.NUMBER, draw=Draw.STAT,
                base=model.BLUE, width=4, queries=[Query(expr=q.told(metrics.LOAD_ARRIVED, over=RANGE))],
            ),
            Panel(
                title="In flight", says="Runs of the trial that are under way.", unit=model.NUMBER, draw=Draw.STAT,
                base=model.BLUE, spark=True, width=4, queries=[Query(expr=q.sum(metrics.LOAD_ACTIVE))],
            ),
            Panel(
                title="Ended", says="Runs of the trial that have ended, however.", unit=model.NUMBER,
                draw=Draw.STAT, base=model.BLUE, width=4, none="none yet",
                queries=[Query(expr=q.told(metrics.LOAD_ENDED, over=RANGE))],
            ),
            Panel(
                title="Refused calls",
                says="429s that the simulated providers answered, as they counted them.",
                unit=model.NUMBER, draw=Draw.STAT, thresholds=((1, model.AMBER),), width=4,
                queries=[Query(expr=at_least(q.told(metrics.LOAD_CALLS, where={"status": "429"}, over=RANGE)))],
            ),
            Panel(
                title="Oracles that do not hold",
                says="Verdicts are given at the end of the trial. Empty before that.",
                unit=model.NUMBER, draw=Draw.STAT, thresholds=((1, model.RED),), width=4, none="not judged yet",
                queries=[Query(expr=f"sum (1 - {q.min(metrics.LOAD_ORACLE, 'oracle', over=RANGE)})")],
            ),
        ],
    )  # fmt: skip


def _course(q: Queries) -> Row:
    return Row(
        title="What happened, and when?",
        panels=[
            Panel(
                title="How did the runs go?",
                says="Runs that arrived, ended and are in flight. What is in flight should rise while a fault lasts and"
                " come down after it.",
                unit=model.NUMBER, width=8,
                colours={
                    "arrived": model.BLUE, "ended": model.GREEN, "in flight": model.PURPLE, "planned": model.GREY,
                },
                queries=[
                    Query(expr=q.told(metrics.LOAD_ARRIVED), legend="arrived"),
                    Query(expr=q.told(metrics.LOAD_ENDED), legend="ended"),
                    Query(expr=q.sum(metrics.LOAD_ACTIVE), legend="in flight"),
                    Query(expr=q.max(metrics.LOAD_PLANNED), legend="planned"),
                ],
            ),
            Panel(
                title="Which faults were injected?",
                says="When, and at what. Every other chart shows the same as bands behind its lines.",
                unit=model.STATE, draw=Draw.STATES, width=8, none="no fault",
                queries=[
                    Query(
                        expr=q.max(metrics.LOAD_FAULT, "kind target", over=INTERVAL), legend="{{kind}} {{target}}"
                    )
                ],
                mappings=(
                    Mapped(value=0, text="none", colour="#d7dadf"),
                    Mapped(value=1, text="injected", colour=model.RED),
                ),
            ),
            processes(8),
            Panel(
                title="How do runs end?",
                says="Ends a minute, by outcome, as the trial saw them.",
                unit=model.PER_MINUTE, draw=Draw.STACK, colours=OUTCOMES, width=8,
                queries=[Query(expr=q.per_minute(metrics.LOAD_ENDED, "outcome"), legend="{{outcome}}")],
            ),
            waiting(q, 8),
            Panel(
                title="Oracles",
                says="What the trial was to prove, and whether it holds.",
                unit=model.STATE, draw=Draw.TABLE, labels=("oracle",), width=8, none="not judged yet", most_series=20,
                queries=[Query(expr=q.min(metrics.LOAD_ORACLE, "oracle", over=RANGE), legend="verdict")],
                mappings=(
                    Mapped(value=0, text="does not hold", colour=model.RED),
                    Mapped(value=1, text="holds", colour=model.GREEN),
                ),
            ),
        ],
    )  # fmt: skip


def _providers(q: Queries) -> Row:
    return Row(
        title="What did the providers see?",
        panels=[
            Panel(
                title="What do providers answer?",
                says="Calls a second by HTTP status, as the simulated providers counted them: not what the fleet says"
                " of itself.",
                unit=model.PER_SECOND, draw=Draw.STACK, colours=STATUSES, width=8, alert="FleetRateLimitStorm",
                queries=[Query(expr=q.rate(metrics.LOAD_CALLS, "status"), legend="{{status}}")],
            ),
            Panel(
                title="Which scopes are called?",
                says="Calls a second by scope, refused ones included.",
                unit=model.PER_SECOND, width=8,
                queries=[Query(expr=q.rate(metrics.LOAD_CALLS, "scope"), legend="{{scope}}")],
            ),
            Panel(
                title="At which pace does the fleet go?",
                says="Share of the configured rate in force. It is cut at the 429s and recovers step by step.",
                unit=model.SHARE, width=8, most=1.0,
                queries=[Query(expr=q.max(metrics.QUOTA_PACE, "scope"), legend="{{scope}}")],
            ),
        ],
    )  # fmt: skip


def _fleet(q: Queries) -> Row:
    spent = q.rate(metrics.QUOTA_SPENT, "scope limit")
    return Row(
        title="How did the fleet take it?",
        panels=[
            Panel(
                title="How long is the line?",
                says="How long the last in line will wait, by limit.",
                unit=model.SECONDS, width=8, alert="FleetQuotaStarved",
                queries=[Query(expr=q.max(metrics.QUOTA_LINE, "scope limit"), legend="{{scope}} {{limit}}")],
            ),
            Panel(
                title="How much of each quota is used?",
                says="Spent by granted. A saturating trial is to hold it near 1 between faults.",
                unit=model.SHARE, width=8, thresholds=((1, model.GREY),),
                queries=[
                    Query(
                        expr=f"{spent} / ({q.max(metrics.QUOTA_RATE, 'scope limit')} > 0)",
                        legend="{{scope}} {{limit}}",
                    )
                ],
            ),
            Panel(
                title="How old is the oldest task?",
                says="By pool. A killed worker's tasks wait for their time-out, then for another worker.",
                unit=model.SECONDS, width=8, alert="FleetBacklogOld",
                queries=[Query(expr=q.max(metrics.BACKLOG_AGE, "pool type"), legend="{{pool}} {{type}}")],
            ),
        ],
    )  # fmt: skip
