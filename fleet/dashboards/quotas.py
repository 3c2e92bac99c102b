"""*Quotas and rate limits*: which limit is the bottleneck, what providers say, and how well we guess."""

from fleet.contracts import metrics
from fleet.dashboards import model
from fleet.dashboards.model import Dashboard, Draw, Mapped, Panel, Query, Row
from fleet.dashboards.queries import RANGE, RATE, Queries, at_least
from fleet.dashboards.shared import PROVIDER, SCOPE, WELL


def quotas() -> Dashboard:
    """The page of the limiter."""
    q = Queries(frozenset({"scope"}))
    return Dashboard(
        uid="fleet-quotas",
        title="Quotas and rate limits",
        says="Which quota is the bottleneck, who waits for it, what do providers refuse, and is the store well?",
        variables=[PROVIDER, SCOPE],
        rows=[_bottleneck(q), _waiting(q), _providers(q), _estimates(q), _store(q)],
    )


def _used(q: Queries, over: str = RATE) -> str:
    granted = q.last(metrics.QUOTA_RATE, "scope limit") if over == RANGE else q.max(metrics.QUOTA_RATE, "scope limit")
    return f"{q.rate(metrics.QUOTA_SPENT, 'scope limit', over=over)} / ({granted} > 0)"


def _bottleneck(q: Queries) -> Row:
    level = q.max(metrics.QUOTA_LEVEL, "scope limit")
    return Row(
        title="Which quota is the bottleneck?",
        panels=[
            Panel(
                title="Longest line",
                says="How long the last in line had to wait at most in the range, by limit. The first one is the"
                " bottleneck of its scope: no other limit of the scope matters until it is raised.",
                unit=model.SECONDS, draw=Draw.BARS, thresholds=((30, model.AMBER), (300, model.RED)), width=8,
                alert="FleetQuotaStarved", none="no line",
                queries=[
                    Query(
                        expr=f"topk(8, {q.max(metrics.QUOTA_LINE, 'scope limit', over=RANGE)} > 0)",
                        legend="{{scope}} {{limit}}",
                    )
                ],
            ),
            Panel(
                title="How long is the line?",
                says="The same over time. A line that grows: more work arrives than the quota grants. One that stands:"
                " the quota is what agents are paced by.",
                unit=model.SECONDS, width=8, alert="FleetQuotaStarved",
                queries=[Query(expr=q.max(metrics.QUOTA_LINE, "scope limit"), legend="{{scope}} {{limit}}")],
            ),
            Panel(
                title="How much of each quota is used?",
                says="Spent by granted, at full pace. Near 1 with a line: the quota is used up, buy more. Far below 1"
                " with a line: estimates are too high, or the pace is cut.",
                unit=model.SHARE, width=8, thresholds=((0.9, model.AMBER),),
                queries=[Query(expr=_used(q), legend="{{scope}} {{limit}}")],
            ),
            Panel(
                title="Limits",
                says="Every limit as it was told last: its line, what it grants in a second and at once, what is"
                " available (below zero is owed to those in line). Used: on average over the range.",
                unit=model.NUMBER, draw=Draw.TABLE, labels=("scope", "limit"), width=16, most_series=12,
                queries=[
                    Query(expr=q.last(metrics.QUOTA_LINE, "scope limit"), legend="line", unit=model.SECONDS),
                    Query(expr=_used(q, RANGE), legend="used", unit=model.SHARE, decimals=0),
                    Query(expr=q.last(metrics.QUOTA_RATE, "scope limit"), legend="units/s"),
                    Query(expr=q.last(metrics.QUOTA_BURST, "scope limit"), legend="at once"),
                    Query(expr=q.last(metrics.QUOTA_LEVEL, "scope limit"), legend="available"),
                ],
            ),
            Panel(
                title="What is available?",
                says="Units available by what is available at most. Negative: owed to those in line.",
                unit=model.SHARE, width=8, least=None,
                queries=[
                    Query(
                        expr=f"{level} / ({q.max(metrics.QUOTA_BURST, 'scope limit')} > 0)",
                        legend="{{scope}} {{limit}}",
                    )
                ],
            ),
        ],
    )  # fmt: skip


def _waiting(q: Queries) -> Row:
    return Row(
        title="Who waits?",
        panels=[
            Panel(
                title="How long do calls wait for quota?",
                says="First booking to permit, over all attempts: the slowest 1 % and the middle, by scope.",
                unit=model.SECONDS, width=8, alert="FleetQuotaStarved",
                queries=[
                    Query(
                        expr=q.quantile(0.99, metrics.QUOTA_WAIT, "scope"), legend="{{scope}} p99", exemplars=True
                    ),
                    Query(expr=q.quantile(0.5, metrics.QUOTA_WAIT, "scope"), legend="{{scope}} p50"),
                ],
            ),
            Panel(
                title="What does the limiter answer?",
                says="Places granted and calls sent away to come back later, a minute. Many refusals are no fault: a"
                " place is booked, and the caller returns when it is due.",
                unit=model.PER_MINUTE, width=8,
                queries=[
                    Query(expr=q.per_minute(metrics.QUOTA_GRANTS, "scope"), legend="{{scope}} granted"),
                    Query(expr=q.per_minute(metrics.QUOTA_DENIALS, "scope"), legend="{{scope}} sent away"),
                ],
            ),
            Panel(
                title="How many calls give their slot back?",
                says="Calls whose wait was too long to be slept in a slot, a minute. Many: the gate lets work in that"
                " cannot start.",
                unit=model.PER_MINUTE, width=8, none="none does",
                queries=[Query(expr=q.per_minute(metrics.QUOTA_DEFERRALS, "scope"), legend="{{scope}}")],
            ),
        ],
    )  # fmt: skip


def _providers(q: Queries) -> Row:
    cooling = f"({q.max(metrics.QUOTA_COOLDOWN, 'scope')} > bool 0)"
    closed = f"max by (scope) ({q.select(metrics.QUOTA_CLOSED)})"
    return Row(
        title="What do providers say?",
        panels=[
            Panel(
                title="Which calls are refused?",
                says="429s and overloads a minute, as workers saw them. After the first ones the pace is cut; a refusal"
                " every few minutes is how the pace finds its bound.",
                unit=model.PER_MINUTE, draw=Draw.STACK, width=8, alert="FleetRateLimitStorm",
                none="none is refused",
                queries=[
                    Query(
                        expr=q.per_minute(metrics.PROVIDER_REJECTIONS, "scope kind"), legend="{{scope}} {{kind}}"
                    )
                ],
            ),
            Panel(
                title="At which pace does the fleet go?",
                says="Share of the configured rate in force: cut at once on refusals, recovering step by step. Below 1"
                " for hours: the quota is set higher than what the provider grants.",
                unit=model.SHARE, width=8, most=1.0, alert="FleetRateLimitStorm",
                queries=[Query(expr=q.max(metrics.QUOTA_PACE, "scope"), legend="{{scope}}")],
            ),
            Panel(
                title="Which scopes are open?",
                says="Cooling: closed for a while, because the provider said so. Closed: until somebody opens it"
                " (`fleet quota`), because of money or by hand.",
                unit=model.STATE, draw=Draw.STATES, width=8, alert="FleetScopeClosedByBilling",
                queries=[
                    Query(expr=f"clamp_max({cooling} + 2 * ({closed} or 0 * {cooling}), 2)", legend="{{scope}}")
                ],
                mappings=(
                    Mapped(value=0, text="open", colour=model.GREEN),
                    Mapped(value=1, text="cooling", colour=model.AMBER),
                    Mapped(value=2, text="closed", colour=model.RED),
                ),
            ),
            Panel(
                title="What closes scopes?",
                says="Cooldowns and closings in a minute: those reported for the scope, those that workers set, and"
                " those that need a human.",
                unit=model.PER_MINUTE, width=6, alert="FleetScopeFrozen",
                queries=[
                    Query(expr=q.per_minute(metrics.QUOTA_REJECTIONS, "scope"), legend="{{scope}} reported"),
                    Query(expr=q.per_minute(metrics.QUOTA_COOLDOWNS, "scope"), legend="{{scope}} cooled down"),
                    Query(
                        expr=q.per_minute(metrics.QUOTA_CLOSINGS, "scope cause"), legend="{{scope}} closed: {{cause}}"
                    ),
                ],
            ),
            Panel(
                title="How long do providers take?",
                says="From sending to the answer, by scope. What is slow here is not ours to speed up: more slots, or"
                " another model.",
                unit=model.SECONDS, width=6,
                queries=[
                    Query(
                        expr=q.quantile(0.95, metrics.PROVIDER_SECONDS, "scope"),
                        legend="{{scope}} p95",
                        exemplars=True,
                    ),
                    Query(expr=q.quantile(0.5, metrics.PROVIDER_SECONDS, "scope"), legend="{{scope}} p50"),
                ],
            ),
            Panel(
                title="How do calls of providers end?",
                says="Calls a minute by outcome. What is not `ok`"
                " is tried again by Temporal, unless trying again cannot help.",
                unit=model.PER_MINUTE, draw=Draw.STACK, width=6, colours={"ok": model.GREEN, "RateLimited": model.RED},
                queries=[
                    Query(expr=f"60 * {q.seen(metrics.PROVIDER_SECONDS, 'outcome')}", legend="{{outcome}}"),
                ],
            ),
            Panel(
                title="Which providers break?",
                says="500s, time-outs and broken connections a minute, by scope. Not quota: the pace stays as it is.",
                unit=model.PER_MINUTE, width=6, none="none has broken",
                queries=[Query(expr=q.per_minute(metrics.PROVIDER_FAILURES, "scope"), legend="{{scope}}")],
            ),
        ],
    )  # fmt: skip


def _estimates(q: Queries) -> Row:
    return Row(
        title="Do we guess well?",
        panels=[
            Panel(
                title="Are estimates right?",
                says="Estimated by used tokens, the middle call. Above 1 quota lies idle until the call is settled;"
                " below 1 calls leave debts that others wait for.",
                unit=model.RATIO, width=8, alert="FleetEstimateDrift",
                thresholds=((0.75, model.GREEN), (1.5, model.AMBER)), base=model.AMBER,
                queries=[
                    Query(
                        expr=q.quantile(0.5, metrics.QUOTA_ESTIMATE, "scope what"),
                        legend="{{scope}} {{what}}",
                        exemplars=True,
                    )
                ],
            ),
            Panel(
                title="Does the provider grant what is configured?",
                says="What the provider's headers say it grants, by what is configured. Far below 1: 429s are certain."
                " Far above: quota lies unused.",
                unit=model.RATIO, width=8, alert="FleetQuotaMisconfigured",
                thresholds=((0.9, model.GREEN), (2, model.AMBER)), base=model.RED,
                queries=[Query(expr=q.max(metrics.QUOTA_DRIFT, "scope limit"), legend="{{scope}} {{limit}}")],
            ),
            Panel(
                title="What would shadow limits refuse?",
                says="Calls a minute that a shadow limit would have sent away. Nothing for a day: it is safe to"
                " enforce.",
                unit=model.PER_MINUTE, width=8, none="no shadow limit has refused",
                queries=[
                    Query(expr=q.per_minute(metrics.QUOTA_SHADOWED, "scope limit"), legend="{{scope}} {{limit}}")
                ],
            ),
        ],
    )  # fmt: skip


def _store(q: Queries) -> Row:
    return Row(
        title="Is the limiter's store well?",
        panels=[
            Panel(
                title="How long does a call of Redis take?",
                says="There and back, the slowest 1 %, by verb. Above some tens of milliseconds the store is far, busy"
                " or swapping, and permits come late.",
                unit=model.SECONDS, width=8, thresholds=((0.1, model.AMBER),), alert="FleetStoreLost",
                queries=[
                    Query(expr=q.quantile(0.99, metrics.STORE_SECONDS, "verb"), legend="{{verb}}", exemplars=True)
                ],
            ),
            Panel(
                title="Does the store answer?",
                says="Worst of all processes, by what they do without it: `pause` stops granting, `degrade` grants a"
                " local share.",
                unit=model.STATE, draw=Draw.STATES, width=8, mappings=WELL, alert="FleetStoreLost",
                queries=[Query(expr=q.min(metrics.STORE_UP, "posture"), legend="{{posture}}")],
            ),
            Panel(
                title="What does the store's absence cost?",
                says="A minute: calls of the store without an answer, calls granted by the local share, estimates that"
                " stand because nobody could be told the truth.",
                unit=model.PER_MINUTE, width=8, alert="FleetStoreLost",
                queries=[
                    Query(expr=at_least(q.per_minute(metrics.STORE_LOST)), legend="unanswered"),
                    Query(expr=at_least(q.per_minute(metrics.QUOTA_DEGRADED)), legend="granted without"),
                    Query(expr=at_least(q.per_minute(metrics.QUOTA_SETTLES_LOST)), legend="estimates that stand"),
                ],
                colours={"unanswered": model.RED, "granted without": model.AMBER},
            ),
        ],
    )  # fmt: skip
