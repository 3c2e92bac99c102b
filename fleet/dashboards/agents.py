"""*Agents and tenants*: who uses what, and what it costs."""

from fleet.contracts import metrics
from fleet.dashboards import model
from fleet.dashboards.model import Dashboard, Draw, Panel, Query, Row
from fleet.dashboards.queries import Queries, at_least
from fleet.dashboards.shared import AGENT, OUTCOMES, TENANT

HOUR = "1h"


def agents() -> Dashboard:
    """The page of those who pay."""
    q = Queries(frozenset({"agent", "tenant"}))
    return Dashboard(
        uid="fleet-agents",
        title="Agents and tenants",
        says="Who uses what (tenant, agent, model), what does it cost, and how do their runs go?",
        variables=[AGENT, TENANT],
        begin="now-6h",
        rows=[_now(q), _money(q), _tenants(q), _tokens(q), _runs(q)],
    )


def _now(q: Queries) -> Row:
    tokens = q.increase(metrics.MODEL_TOKENS)
    given = q.increase(metrics.MODEL_TOKENS, where={"type": "input|cached"})
    cached = q.increase(metrics.MODEL_TOKENS, where={"type": "cached"})
    completed = q.increase(metrics.RUNS_ENDED, where={"outcome": "completed"})
    return Row(
        title="In the range",
        height=4,
        panels=[
            Panel(
                title="Money", says="Spent by the chosen agents, in the currency of the manifest's prices.",
                unit=model.NUMBER, draw=Draw.STAT, base=model.BLUE, width=4,
                queries=[Query(expr=at_least(q.increase(metrics.MODEL_COST)))],
            ),
            Panel(
                title="Money per run",
                says="What the agents spent by runs that completed: what failed ones cost is in it.",
                unit=model.NUMBER, draw=Draw.STAT, base=model.BLUE, width=4, none="none completed",
                queries=[Query(expr=f"{q.increase(metrics.MODEL_COST)} / ({completed} > 0)")],
            ),
            Panel(
                title="Tokens", says="Used by the chosen agents.", unit=model.NUMBER, draw=Draw.STAT,
                base=model.BLUE, width=4, queries=[Query(expr=at_least(tokens))],
            ),
            Panel(
                title="Cached input",
                says="Share of input tokens that the provider had cached, and bills at less.",
                unit=model.SHARE, draw=Draw.STAT, base=model.BLUE, decimals=0, width=4, none="no tokens",
                queries=[Query(expr=f"(({cached}) or 0 * ({given})) / ({given} > 0)")],
            ),
            Panel(
                title="Runs completed", says="By the chosen agents.", unit=model.NUMBER, draw=Draw.STAT,
                base=model.GREEN, decimals=0, width=4,
                queries=[Query(expr=at_least(completed))],
            ),
            Panel(
                title="Runs that failed", says="Or ran out of budget.", unit=model.NUMBER, draw=Draw.STAT,
                thresholds=((1, model.RED),), decimals=0, width=4, alert="FleetCompletionBurnSlow",
                queries=[
                    Query(
                        expr=at_least(q.increase(metrics.RUNS_ENDED, where={"outcome": "failed|budget_exhausted"}))
                    )
                ],
            ),
        ],
    )  # fmt: skip


def _money(q: Queries) -> Row:
    return Row(
        title="What does it cost?",
        panels=[
            Panel(
                title="What does each agent cost an hour?",
                says="Money an hour at the present speed. A jump without more runs: prompts or models have changed.",
                unit=model.NUMBER, draw=Draw.STACK, width=8,
                queries=[Query(expr=f"3600 * {q.rate(metrics.MODEL_COST, 'agent')}", legend="{{agent}}")],
            ),
            Panel(
                title="What does each model cost an hour?",
                says="Money an hour at the present speed.",
                unit=model.NUMBER, draw=Draw.STACK, width=8,
                queries=[Query(expr=f"3600 * {q.rate(metrics.MODEL_COST, 'model')}", legend="{{model}}")],
            ),
            Panel(
                title="What does each tenant cost an hour?",
                says="Money an hour at the present speed, of the eight who cost most.",
                unit=model.NUMBER, draw=Draw.STACK, width=8,
                queries=[
                    Query(expr=f"topk(8, 3600 * {q.rate(metrics.TENANT_COST, 'tenant')})", legend="{{tenant}}")
                ],
            ),
        ],
    )  # fmt: skip


def _tenants(q: Queries) -> Row:
    return Row(
        title="Who uses what?",
        height=9,
        panels=[
            Panel(
                title="Tenants",
                says="Calls of models, tokens and money in the range, the costliest first.",
                unit=model.NUMBER, draw=Draw.TABLE, labels=("tenant",), width=8, most_series=20,
                queries=[
                    Query(expr=q.increase(metrics.TENANT_COST, "tenant"), legend="money"),
                    Query(expr=q.increase(metrics.TENANT_TOKENS, "tenant"), legend="tokens"),
                    Query(expr=q.increase(metrics.TENANT_CALLS, "tenant"), legend="calls", decimals=0),
                ],
            ),
            Panel(
                title="Agents",
                says="Runs, tokens and money in the range, the costliest first.",
                unit=model.NUMBER, draw=Draw.TABLE, labels=("agent",), width=8, most_series=20,
                queries=[
                    Query(expr=q.increase(metrics.MODEL_COST, "agent"), legend="money"),
                    Query(expr=q.increase(metrics.MODEL_TOKENS, "agent"), legend="tokens"),
                    Query(expr=q.increase(metrics.RUNS_STARTED, "agent"), legend="started", decimals=0),
                    Query(expr=q.increase(metrics.RUNS_ENDED, "agent"), legend="ended", decimals=0),
                ],
            ),
            Panel(
                title="Models",
                says="Tokens and money in the range, by model and agent.",
                unit=model.NUMBER, draw=Draw.TABLE, labels=("model", "agent"), width=8, most_series=20,
                queries=[
                    Query(expr=q.increase(metrics.MODEL_COST, "model agent"), legend="money"),
                    Query(expr=q.increase(metrics.MODEL_TOKENS, "model agent"), legend="tokens"),
                ],
            ),
        ],
    )  # fmt: skip


def _tokens(q: Queries) -> Row:
    return Row(
        title="Tokens",
        panels=[
            Panel(
                title="Which tokens are used?",
                says="A second, by type. Output is slow and dear; input that grows with every step wants compaction.",
                unit=model.PER_SECOND, draw=Draw.STACK, width=8,
                colours={"input": model.BLUE, "cached": model.TEAL, "output": model.ORANGE},
                queries=[Query(expr=q.rate(metrics.MODEL_TOKENS, "type"), legend="{{type}}")],
            ),
            Panel(
                title="Which agents use tokens?",
                says="A second, by agent.",
                unit=model.PER_SECOND, draw=Draw.STACK, width=8,
                queries=[Query(expr=q.rate(metrics.MODEL_TOKENS, "agent"), legend="{{agent}}")],
            ),
            Panel(
                title="Which tenants use tokens?",
                says="A second, the eight who use most. One that crowds out the others: give it a quota of its own.",
                unit=model.PER_SECOND, draw=Draw.STACK, width=8,
                queries=[Query(expr=f"topk(8, {q.rate(metrics.TENANT_TOKENS, 'tenant')})", legend="{{tenant}}")],
            ),
        ],
    )  # fmt: skip


def _runs(q: Queries) -> Row:
    return Row(
        title="How do their runs go?",
        panels=[
            Panel(
                title="How many runs begin and end?",
                says="A minute, by agent.",
                unit=model.PER_MINUTE, width=8,
                queries=[
                    Query(expr=q.per_minute(metrics.RUNS_STARTED, "agent"), legend="{{agent}} began"),
                    Query(expr=q.per_minute(metrics.RUNS_ENDED, "agent"), legend="{{agent}} ended"),
                ],
            ),
            Panel(
                title="How many runs are under way?",
                says="By agent.",
                unit=model.NUMBER, draw=Draw.STACK, width=8,
                queries=[Query(expr=q.sum(metrics.RUNS, "agent"), legend="{{agent}}")],
            ),
            Panel(
                title="How long do runs take?",
                says="From the first begin to the end, humans included, over the last hour: the middle and the slowest"
                " 5 %.",
                unit=model.SECONDS, width=8,
                queries=[
                    Query(expr=q.quantile(0.95, metrics.RUN_SECONDS, "agent", over=HOUR), legend="{{agent}} p95"),
                    Query(expr=q.quantile(0.5, metrics.RUN_SECONDS, "agent", over=HOUR), legend="{{agent}} p50"),
                ],
            ),
            Panel(
                title="How do runs end?",
                says="A minute, by outcome.",
                unit=model.PER_MINUTE, draw=Draw.STACK, width=12, colours=OUTCOMES, alert="FleetCompletionBurnSlow",
                queries=[Query(expr=q.per_minute(metrics.RUNS_ENDED, "outcome"), legend="{{outcome}}")],
            ),
            Panel(
                title="Which runs grow long?",
                says="Runs that continued as new, a minute, by agent. Many for runs that should be short: an agent that"
                " does not find its end.",
                unit=model.PER_MINUTE, width=12, none="none has continued as new",
                queries=[Query(expr=q.per_minute(metrics.RUNS_CONTINUED, "agent"), legend="{{agent}}")],
            ),
        ],
    )  # fmt: skip
