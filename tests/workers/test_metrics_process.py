"""What worker processes tell of a run that went through all pools."""

import asyncio
import shutil
import subprocess
from datetime import timedelta
from time import monotonic

import httpx2
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly

from fleet import manifest as manifests
from fleet.client import FleetClient
from fleet.contracts import metrics
from fleet.contracts.metrics import Source
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from ratelimit.quota import Limit, Quota
from tests.workers.test_gate import CONTEXT, SCOPE, opens
from tests.workers.test_worker_process import QUEUES, _fill_corpus, bench  # noqa: F401 - a fixture
from workers.bootstrap import quotas
from workers.gate import Gate
from workers.metrics import TENANTS, Bounds, most

AS_PROMETHEUS = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
QUIET = {
    metrics.QUOTA_CLOSINGS, metrics.QUOTA_COOLDOWNS, metrics.QUOTA_DEFERRALS, metrics.QUOTA_DEGRADED,
    metrics.QUOTA_SETTLES_LOST, metrics.QUOTA_SHADOWED, metrics.PROVIDER_REJECTIONS, metrics.PROVIDER_FAILURES,
    metrics.EFFECTS_FENCED, metrics.APPROVAL_NOTICES, metrics.FOLDED, metrics.SPANS, metrics.RUNS_CONTINUED,
    metrics.APPROVALS_OPENED, metrics.APPROVAL_SECONDS,
}  # fmt: skip
"""Families that have nothing to tell of a run to which nothing happens."""


async def test_a_run_is_told_by_every_family_that_it_concerns(bench, temporal, tmp_path):  # noqa: F811
    manifest = manifests.load(bench.manifest)
    client = FleetClient(temporal, manifest)
    _fill_corpus(bench)
    async with bench.working(*QUEUES) as (_, health):
        run = await client.start(
            "researcher", "What does the module heapq do? E-mail it to a@example.com.", tenant="acme"
        )
        result = await client.result(run)
        async with httpx2.AsyncClient(base_url=health) as http:
            answer = await http.get("/metrics", headers=AS_PROMETHEUS)
            plain = await http.get("/metrics")
    families = {family.name: family for family in strictly(answer.text)}
    told = {
        one.name
        for one in metrics.REGISTRY.values()
        if one.source in (Source.WORKER, Source.WORKFLOW) and one not in QUIET
    }
    assert [name for name in told if not (name in families and families[name].samples)] == []
    value = {(s.name, *sorted(s.labels.items())): s.value for family in families.values() for s in family.samples}
    assert value["fleet_runs_ended_total", ("agent", "researcher"), ("outcome", "completed")] == 1
    assert value["fleet_effects_total", ("state", "done"), ("tool", "send_email")] == 1
    assert value["fleet_tenant_tokens_total", ("tenant", "acme")] == result.tokens
    assert value["fleet_tenant_cost_total", ("tenant", "acme")] == pytest.approx(float(result.cost))
    assert value["fleet_quota_spent_units_total", ("limit", "messages"), ("scope", "email/relay")] == 1
    waits = {cause: value["fleet_call_wait_seconds_total", ("agent", "researcher"), ("cause", cause)] for cause in
             ("queue", "quota", "provider")}  # fmt: skip
    assert waits["provider"] > 0
    assert waits["quota"] == pytest.approx(sum(result.quota_waits_s), abs=0.5)
    # a run's own name is in none of it, and what there is is within the bounds
    assert run not in answer.text
    ours = [key for key in value if key[0].startswith("fleet_")]
    assert len(ours) < most(Bounds.of(manifest, quotas(manifest), TENANTS))
    assert len(value) - len(ours) < 1000
    _linted(plain.text, tmp_path)


def _linted(text, folder):
    """By Prometheus' own tool, where it is installed: it exits with 3 if it dislikes a name."""
    if promtool := shutil.which("promtool"):
        command = [promtool, "check", "metrics"]
        checked = subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=folder)
        assert [line for line in checked.stderr.splitlines() if line.startswith("fleet_")] == []


async def test_a_worker_without_metrics_tells_nothing(bench):  # noqa: F811
    async with bench.working("search", FLEET_METRICS="off") as (_, health), httpx2.AsyncClient(base_url=health) as http:
        answer = await http.get("/metrics")
        assert (answer.status_code, answer.text) == (200, "")
        assert (await http.get("/ready")).status_code == 200


async def test_a_gate_tells_how_long_it_has_held_a_free_slot():
    quota = Quota(scope=SCOPE, limits={"requests": Limit(capacity=6000, burst=10)})
    held = []
    async with Limiter(MemoryStore(), {SCOPE: quota}) as limiter:
        await limiter.configure(quota, full=True)
        gate = Gate(9, limiter, [SCOPE], timedelta(seconds=1), held.append)
        await limiter.reserve(SCOPE, {"requests": 60}, max_wait=timedelta(seconds=60))
        await opens(gate)
        assert held == []
        gate.mark_slot_used(CONTEXT)
        await asyncio.sleep(0)
        await limiter.reserve(SCOPE, {"requests": 80}, max_wait=timedelta(seconds=60))
        began = monotonic()
        await opens(gate)
    assert 0 < sum(held) <= monotonic() - began
