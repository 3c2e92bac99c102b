"""*Fleet overview*: is the fleet well, and if not, which page next."""

from fleet.contracts import metrics
from fleet.dashboards import model
from fleet.dashboards.model import Dashboard, Draw, Panel, Query, Row
from fleet.dashboards.queries import Queries, at_least, if_known
from fleet.dashboards.shared import ALERTS, OUTCOMES, STATES, WELL, processes, waiting

BAD = "failed|budget_exhausted"
"""Outcomes that are not what was asked for. A run that a human stopped is neither good nor bad."""


def overview() -> Dashboard:
    """The first page."""
    q = Queries()
    return Dashboard(
        uid="fleet-overview",
        title="Fleet overview",
        says="Is the fleet well, what do agents wait for, and which page is next?",
        rows=[_now(q), _runs(q), _waits(q), _health(q), _instruments(q)],
    )


def _now(q: Queries) -> Row:
    ended = q.increase(metrics.RUNS_ENDED)
    bad = q.increase(metrics.RUNS_ENDED, where={"outcome": BAD})
    return Row(
        title="Now",
        height=4,
        panels=[
            Panel(
                title="Runs under way", says="Working, waiting for a human or paused.", unit=model.NUMBER,
                queries=[Query(expr=q.sum(metrics.RUNS))], draw=Draw.STAT, base=model.BLUE, spark=True, width=3,
            ),
            Panel(
                title="Runs ended well",
                says="Share of the runs that ended in the range without failing or running out of budget.",
                unit=model.SHARE, queries=[Query(expr=f"1 - (({bad}) or 0 * ({ended})) / ({ended} > 0)")],
                draw=Draw.STAT, base=model.RED, thresholds=((0.95, model.AMBER), (0.99, model.GREEN)),
                alert="FleetCompletionBurnFast", none="none ended", decimals=1, width=3,
            ),
            Panel(
                title="429s",
                says="Refusals of providers in the range. Some are normal after a quota has changed; a storm is not.",
                unit=model.NUMBER, queries=[Query(expr=at_least(q.increase(metrics.PROVIDER_REJECTIONS)))],
                draw=Draw.STAT, thresholds=((1, model.AMBER),), alert="FleetRateLimitStorm", decimals=0, width=3,
            ),
            Panel(
                title="Closed scopes",
                says="Scopes that stay closed until somebody opens them: no money left, or frozen by hand.",
                unit=model.NUMBER, queries=[Query(expr=if_known(q.sum(metrics.QUOTA_CLOSED), "redis"))], draw=Draw.STAT,
                thresholds=((1, model.RED),), alert="FleetScopeClosedByBilling", width=3,
            ),
            Panel(
                title="Open approvals", says="Open approvals. Which, and for how long: Approvals and effects.",
                unit=model.NUMBER, queries=[Query(expr=if_known(q.sum(metrics.APPROVALS_OPEN), "database"))],
                draw=Draw.STAT,
                base=model.BLUE, spark=True, alert="FleetApprovalsOverdue", width=3,
            ),
            Panel(
                title="Unknown effects",
                says="Effects of which nobody can say whether they were had. A human must look at the provider.",
                unit=model.NUMBER, queries=[Query(expr=if_known(q.sum(metrics.EFFECTS_UNKNOWN), "database"))],
                draw=Draw.STAT,
                thresholds=((1, model.RED),), alert="FleetEffectUnknown", width=3,
            ),
            Panel(
                title="Live workers", says="Workers that poll, in all pools.", unit=model.NUMBER,
                queries=[Query(expr=if_known(q.sum(metrics.WORKERS, where={"state": "running"}), "temporal"))],
                draw=Draw.STAT,
                base=model.RED, thresholds=((1, model.GREEN),), spark=True, alert="FleetPoolWithoutWorkers", width=3,
            ),
            Panel(
                title="Money spent", says="In the range, in the currency of the manifest's prices.", unit=model.NUMBER,
                queries=[Query(expr=at_least(q.increase(metrics.MODEL_COST)))], draw=Draw.STAT, base=model.BLUE,
                width=3,
            ),
        ],
    )  # fmt: skip


def _runs(q: Queries) -> Row:
    return Row(
        title="Runs",
        panels=[
            Panel(
                title="What are the runs doing?",
                says="Runs under way by state. A band that only grows is work that arrives faster than it ends.",
                unit=model.NUMBER, draw=Draw.STACK, colours=STATES, width=8,
                queries=[Query(expr=q.sum(metrics.RUNS, "state"), legend="{{state}}")],
            ),
            Panel(
                title="How do runs end?",
                says="Ends a minute by outcome, against beginnings. Red is for the runbook; amber is a budget that is"
                " too small, or an agent that wanders.",
                unit=model.PER_MINUTE, draw=Draw.STACK, colours=OUTCOMES, width=8, alert="FleetCompletionBurnFast",
                queries=[Query(expr=q.per_minute(metrics.RUNS_ENDED, "outcome"), legend="{{outcome}}")],
            ),
            Panel(
                title="How fast is the error budget spent?",
                says="Share of ended runs that failed or ran out of budget, over a short and a long window. Both above"
                " 14.4 % in an hour spends two per cent of a month's budget of 1 %: FleetCompletionBurnFast.",
                unit=model.SHARE, width=8, thresholds=((0.01, model.AMBER), (0.144, model.RED)),
                alert="FleetCompletionBurnFast",
                queries=[
                    Query(expr=_bad_share(q, over), legend=f"over {over}") for over in ("5m", "1h", "6h")
                ],
            ),
        ],
    )  # fmt: skip


def _waits(q: Queries) -> Row:
    return Row(
        title="Waiting",
        panels=[
            waiting(q, 8),
            Panel(
                title="Which quota is the bottleneck?",
                says="How long the last in line will wait, of the five limits with the longest line. The top one sets"
                " the fleet's speed: raise it, or send the work elsewhere.",
                unit=model.SECONDS, width=8, alert="FleetQuotaStarved",
                queries=[
                    Query(expr=f"topk(5, {q.max(metrics.QUOTA_LINE, 'scope limit')})", legend="{{scope}} {{limit}}")
                ],
            ),
            Panel(
                title="What do providers refuse?",
                says="429s and overloads a minute. They should fade within minutes as the pace is cut; if not, somebody"
                " else uses the key, or the quota is set too high.",
                unit=model.PER_MINUTE, draw=Draw.STACK, width=8, alert="FleetRateLimitStorm",
                none="nothing is refused",
                queries=[
                    Query(
                        expr=q.per_minute(metrics.PROVIDER_REJECTIONS, "scope kind"), legend="{{scope}} {{kind}}"
                    )
                ],
            ),
        ],
    )  # fmt: skip


def _health(q: Queries) -> Row:
    return Row(
        title="Workers and alerts",
        panels=[
            Panel(
                title="Which queue is oldest?",
                says="Age of the oldest task that waits, by pool. Old tasks behind a closed gate wait for quota; old"
                " tasks with free quota want workers.",
                unit=model.SECONDS, width=8, alert="FleetBacklogOld",
                queries=[Query(expr=q.max(metrics.BACKLOG_AGE, "pool type"), legend="{{pool}} {{type}}")],
            ),
            processes(8),
            Panel(
                title="Which alerts fire?",
                says="Each alert that is pending or fires, by severity. Empty is good; it also is empty when the rules"
                " are not loaded.",
                unit=model.STATE, draw=Draw.STATES, width=8, none="no alert",
                queries=[
                    Query(
                        expr=f'max by (alertname) ({ALERTS}{{alertname=~"Fleet.*", alertstate="firing"}}) * 2'
                        f' or max by (alertname) ({ALERTS}{{alertname=~"Fleet.*", alertstate="pending"}})',
                        legend="{{alertname}}",
                    )
                ],
                mappings=(
                    model.Mapped(value=1, text="pending", colour=model.AMBER),
                    model.Mapped(value=2, text="fires", colour=model.RED),
                ),
            ),
        ],
    )  # fmt: skip


def _instruments(q: Queries) -> Row:
    return Row(
        title="The instruments themselves",
        height=7,
        panels=[
            Panel(
                title="Which sources can the exporter read?",
                says="What `fleet exporter` shows of a source that it cannot read is as old as the band is red.",
                unit=model.STATE, draw=Draw.STATES, width=8, alert="FleetExporterDown", mappings=WELL,
                queries=[Query(expr=q.max(metrics.EXPORTER_UP, "source"), legend="{{source}}")],
            ),
            Panel(
                title="How old is what the exporter says?",
                says="Since each source was last read, and how long that took. Older than a minute or two: do not"
                " trust lines and backlogs.",
                unit=model.SECONDS, width=8, alert="FleetExporterDown",
                queries=[
                    Query(expr=f"time() - {q.max(metrics.EXPORTER_AT, 'source')}", legend="{{source}}: age"),
                    Query(expr=q.max(metrics.EXPORTER_SECONDS, "source"), legend="{{source}}: look"),
                ],
            ),
            Panel(
                title="What do the instruments lose?",
                says="Spans that the collector did not take, and observations whose label was folded into `other`."
                " Neither slows an agent; both make these pages poorer.",
                unit=model.PER_MINUTE, width=8, alert="FleetTracesDropped",
                none="no traces, nothing folded",
                queries=[
                    Query(expr=q.per_minute(metrics.SPANS, "outcome"), legend="spans {{outcome}}"),
                    Query(expr=q.per_minute(metrics.FOLDED, "label"), legend="folded {{label}}"),
                ],
                colours={"spans exported": model.BLUE, "spans dropped": model.RED},
            ),
        ],
    )  # fmt: skip


def _bad_share(q: Queries, over: str) -> str:
    ended = q.rate(metrics.RUNS_ENDED, over=over)
    bad = q.rate(metrics.RUNS_ENDED, where={"outcome": BAD}, over=over)
    return f"(({bad}) or 0 * ({ended})) / ({ended} > 0)"
