"""However many runs and tenants there are, a process has no more time series than `docs/metrics.md` says."""

import random
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from temporalio.testing import ActivityEnvironment

from fleet import manifest as manifests
from fleet.contracts import metrics, tools
from fleet.contracts.approvals import Approval, ApprovalState, Ask
from fleet.contracts.llm import Usage
from fleet.contracts.runs import Outcome
from fleet.workflows import counting
from ratelimit import events
from ratelimit.limiter import Closed
from workers.bootstrap import quotas
from workers.metrics import TENANTS, Bounds, Metrics, most
from workers.sdk_metrics import measured
from workers.timing import OK, Timing

ROOT = Path(__file__).parents[2]
MANIFEST = manifests.load(ROOT / "deploy" / "fleet.toml")
BOUNDS = Bounds.of(MANIFEST, quotas(MANIFEST), TENANTS)
RUNS, TENANTS_SEEN = 10_000, 500
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENDED = ["completed", "waited", "failed", "cancelled"]
ENDS = [state for state in ApprovalState if state is not ApprovalState.OPEN]


def documented():
    page = (ROOT / "docs" / "metrics.md").read_text()
    return int(re.search(r"it is \*\*([\d,]+)\*\*", page)[1].replace(",", ""))


def series(families):
    """Of all families but Temporal's own, with their values."""
    return [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in families
        if not family.name.startswith("temporal_")
        for sample in family.samples
    ]


def approval(agent, tool, state):
    return Approval(
        id="a", run_id="r", agent=agent, tenant="t", ask=Ask.ALLOW, tool=tool, arguments={}, digest="", why="",
        goal="", opened_at=NOW, expires_at=NOW, state=state,
    )  # fmt: skip


def limiter(found, draw, scope, tenant):
    """What the limiter tells of one call: of shares it names the scope around them, and if it did not, no matter."""
    scope = draw.choice([scope, scope, f"{scope}/{tenant}"])
    limit = draw.choice(["requests", "tokens", f"limit-{tenant}"])
    found.observe(events.Granted(scope=scope, waited_s=draw.expovariate(0.1)))
    found.observe(events.Settled(scope=scope, spent={(scope, limit): 5.0}))
    found.observe(events.Cooled(scope=scope, for_s=1.0, cut=True))
    found.observe(events.Shut(scope=scope, cause=draw.choice([Closed.BILLING, Closed.FROZEN])))
    found.observe(events.Estimated(scope=scope, what=draw.choice(["input_tokens", "output_tokens"]), ratio=1.5))
    found.observe(events.Shadowed(scope=scope, limit=limit))
    found.observe(events.Degraded(scope=scope))


def workflow(draw, agent, tool):
    """What a run's workflow tells."""
    counting.run_began(agent)
    counting.approval_opened(approval(agent, tool, ApprovalState.OPEN))
    counting.approval_ended(approval(agent, tool, draw.choice(ENDS)))
    counting.run_continued(agent)
    counting.run_ended(agent, draw.choice(list(Outcome)), NOW - timedelta(seconds=draw.expovariate(0.01)))


def activities(found, draw, agent, model, scope, tool, tenant):
    """What the activities of a run tell."""
    timing = Timing(agent, scope)
    timing.permitted(draw.expovariate(1))
    timing.sent()
    timing.ended(draw.choice([OK, "RateLimited", f"Strange{tenant}"]))
    usage = Usage(input_tokens=100, cached_tokens=50, output_tokens=20)
    found.used(model, agent, tenant, usage, Decimal("0.01"))
    found.of(metrics.EFFECTS).labels(tool, draw.choice(["done", "failed", "unknown"])).inc()
    found.of(metrics.APPROVAL_NOTICES).labels(draw.choice([*MANIFEST.endpoints, tenant]), "failed").inc()
    found.of(metrics.TASKS).labels(draw.choice([*MANIFEST.pools, f"p-{tenant}"]), "chat", draw.choice(ENDED)).inc()
    found.of(metrics.PROVIDER_REJECTIONS).labels(scope, draw.choice(["RateLimited", "Overloaded"])).inc()


@pytest.fixture
def found(monkeypatch):
    metrics_of_ours = Metrics()
    metrics_of_ours.configure(BOUNDS)
    monkeypatch.setattr("workers.timing.METRICS", metrics_of_ours)
    with measured(metrics_of_ours, timedelta(seconds=60), agents=True) as runtime:
        # the SDK's own meter, as a workflow gets it; the clock is the workflow's
        told = SimpleNamespace(metric_meter=lambda: runtime.metric_meter, now=lambda: NOW)
        monkeypatch.setattr(counting, "workflow", told)
        yield metrics_of_ours


async def test_ten_thousand_runs_of_five_hundred_tenants_stay_within_the_documented_number(found):
    draw = random.Random(7)
    agents = [*MANIFEST.agents, *(f"agent-of-an-older-manifest-{i}" for i in range(50))]
    models = sorted(BOUNDS.named["model"]) + [f"openai/gone-{i}" for i in range(20)]
    names = [*tools.TOOLS, *(f"tool-{i}" for i in range(20))]
    told = found.store("pause")

    def run():
        for number in range(RUNS):
            tenant = f"tenant-{number % TENANTS_SEEN}"
            agent, model, tool = draw.choice(agents), draw.choice(models), draw.choice(names)
            limiter(found, draw, model, tenant)
            workflow(draw, agent, tool)
            activities(found, draw, agent, model, model, tool, tenant)
            told(draw.choice(["reserve", "settle", "clock"]), 0.001, draw.random() > 0.01)

    ActivityEnvironment().run(run)
    families = list(found.registry.collect())
    every = series(families)
    valued = dict(every)
    assert len(every) == len(valued)
    assert len(every) < documented()
    tenants = {value for _, labels in valued for name, value in labels if name == "tenant"}
    assert len(tenants) == TENANTS + 1
    assert valued["fleet_metrics_folded_total", (("label", "tenant"),)] > 0
    # nothing is lost: it is only told together
    assert sum(valued["fleet_tenant_calls_total", (("tenant", one),)] for one in tenants) == RUNS
    values = {one.name: one.values for one in metrics.REGISTRY.values()}
    for family in families:
        for sample in family.samples:
            for label, known in values.get(family.name, {}).items():
                assert sample.labels[label] in known, (sample.name, sample.labels)
    assert ("fleet_metrics_folded_total", (("label", "cause"),)) not in valued
    for metric in metrics.REGISTRY.values():
        of_it = [name for name, _ in valued if name.startswith(metric.name) and name.removeprefix(metric.name) in
                 ("", "_total", "_bucket", "_sum", "_count")]  # fmt: skip
        assert len(of_it) <= most(BOUNDS, [metric]), metric.name


def test_the_documented_number_is_that_of_the_formula():
    assert documented() == most(BOUNDS)


@pytest.mark.parametrize("metric", metrics.REGISTRY.values(), ids=lambda one: one.name)
def test_no_metric_bears_an_id(metric):
    assert not {"run", "run_id", "workflow_id", "key", "approval", "process"} & set(metric.labels)
