"""What a worker counts: the registry's families, bounded, cheap, and nothing of them when they are off."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prometheus_client import generate_latest
from redis import Redis

from fleet import manifest as manifests
from fleet.contracts import metrics
from fleet.contracts.llm import Usage
from fleet.contracts.metrics import OTHER, Kind, Source
from fleet.settings import Settings
from ratelimit import events
from ratelimit.errors import StoreLost
from ratelimit.limiter import Closed, Limiter
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore
from tests.ratelimit.servers import on_socket, running, valkey_binary
from tests.waiting import until_up
from tests.workers.spans import recording
from workers import bootstrap
from workers.metrics import ROOM, Bounds, Metrics
from workers.tracing import calling

OURS = [one for one in metrics.REGISTRY.values() if one.source is Source.WORKER]
DEPLOYED = Path(__file__).parents[2] / "deploy" / "fleet.toml"
SCOPE = "openai/m"


def value(found, name, **labels):
    return found.registry.get_sample_value(name, labels)


@pytest.mark.parametrize("metric", OURS, ids=lambda one: one.name)
def test_every_family_is_served_as_the_registry_has_it(metric):
    found = Metrics()
    labels = {label: metric.values.get(label, (f"{label}-1",))[0] for label in metric.labels}
    series = found.of(metric).labels(*labels.values())
    series.observe(1.0) if metric.kind is Kind.HISTOGRAM else series.inc()
    text = generate_latest(found.registry).decode()
    suffix = "_sum" if metric.kind is Kind.HISTOGRAM else ""
    assert value(found, metric.exposed + suffix, **labels) == 1.0
    assert f"# TYPE {metric.exposed} {metric.kind.value}" in text
    assert "_created" not in text
    if metric.kind is Kind.HISTOGRAM:
        assert all(
            value(found, f"{metric.name}_bucket", le=str(float(b)), **labels) is not None for b in metric.buckets
        )


@pytest.mark.parametrize("metric", metrics.REGISTRY.values(), ids=lambda one: one.name)
def test_a_unit_is_the_end_of_its_metrics_name(metric):
    assert not metric.unit or metric.name.endswith(f"_{metric.unit}")


@pytest.mark.parametrize("metric", metrics.REGISTRY.values(), ids=lambda one: one.name)
def test_every_histogram_of_ours_has_buckets_and_nothing_else_has(metric):
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM and metric.source is not Source.TEMPORAL)
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_what_the_manifest_does_not_name_is_other_and_is_counted_as_folded():
    found = Metrics()
    found.configure(Bounds(named={"agent": frozenset({"payer"})}))
    for agent in ("payer", "of-an-older-manifest", "another", "payer"):
        found.of(metrics.CALL_WAIT).labels(agent, "queue").inc(2)
    assert value(found, "fleet_call_wait_seconds_total", agent="payer", cause="queue") == 4
    assert value(found, "fleet_call_wait_seconds_total", agent=OTHER, cause="queue") == 4
    assert value(found, "fleet_metrics_folded_total", label="agent") == 2


def test_what_one_metric_bears_takes_no_room_of_another():
    found = Metrics()
    found.configure(Bounds(named={"agent": frozenset({"payer"}), "scope": frozenset({SCOPE})}))
    for cause in metrics.CALL_WAIT.values["cause"]:
        found.of(metrics.CALL_WAIT).labels("payer", cause).inc()
    found.observe(events.Shut(scope=SCOPE, cause=Closed.BILLING))
    assert value(found, "fleet_quota_closings_total", scope=SCOPE, cause="billing") == 1
    for number in range(ROOM["limit"]):
        found.observe(events.Shadowed(scope=SCOPE, limit=f"l{number}"))
    found.observe(events.Settled(scope=SCOPE, spent={(SCOPE, "requests"): 1}))
    assert value(found, "fleet_quota_spent_units_total", scope=SCOPE, limit="requests") == 1
    found.observe(events.Shadowed(scope=SCOPE, limit="one-more"))
    assert value(found, "fleet_quota_shadowed_total", scope=SCOPE, limit=OTHER) == 1


@pytest.mark.parametrize("metric", [one for one in OURS if one.values], ids=lambda one: one.name)
def test_a_label_whose_values_the_registry_names_has_these_and_no_others(metric):
    found = Metrics()
    for label, known in metric.values.items():
        assert [found.folded(metric, label, one) for one in known] == list(known)
        assert found.folded(metric, label, "something else") == OTHER
    assert {label for label in metric.labels if label in ("cause", "kind", "posture", "state", "type", "what")} <= set(
        metric.values
    )


def test_the_first_tenants_have_series_of_their_own():
    found = Metrics()
    found.configure(Bounds(tenants=2))
    for tenant in ("a", "b", "c", "a", "d"):
        found.of(metrics.TENANT_CALLS).labels(tenant).inc()
    counted = {tenant: value(found, "fleet_tenant_calls_total", tenant=tenant) for tenant in ("a", "b", "c", OTHER)}
    assert counted == {"a": 2, "b": 1, "c": None, OTHER: 2}
    assert [found.tenant(name) for name in ("a", "c", "e")] == ["a", OTHER, OTHER]


def test_a_tenant_that_is_called_other_takes_nobodys_place():
    found = Metrics()
    found.configure(Bounds(tenants=1))
    assert [found.tenant(name) for name in (OTHER, "a", "b")] == [OTHER, "a", OTHER]


def test_nothing_is_counted_while_metrics_are_off():
    found = Metrics()
    running = found.of(metrics.RUNNING)
    running.labels("llm").inc()
    found.configure(Bounds(), on=False)
    running.labels("llm").inc()
    found.observe(events.Granted(scope=SCOPE, waited_s=1))
    assert generate_latest(found.registry) == b""
    assert found.store("pause") is None
    found.configure(Bounds())
    assert value(found, "fleet_activity_running", pool="llm") == 1
    assert value(found, "fleet_quota_wait_seconds_count", scope=SCOPE) is None


def test_the_limiters_events_are_counted():
    found = Metrics()
    for event in (
        events.Granted(scope=SCOPE, waited_s=3),
        events.Cooled(scope=SCOPE, for_s=1, cut=True),
        events.Shut(scope=SCOPE, cause=Closed.BILLING),
        events.Shut(scope=SCOPE, cause=Closed.NO),
        events.Estimated(scope=SCOPE, what="output_tokens", ratio=2.0),
        events.Degraded(scope=SCOPE),
        events.Shadowed(scope=SCOPE, limit="tokens"),
        events.Settled(scope=SCOPE, spent={(SCOPE, "tokens"): 7.5, ("openai", "requests"): 1}),
    ):
        found.observe(event)
    told = {
        "fleet_quota_wait_seconds_sum": {},
        "fleet_quota_cooldowns_total": {},
        "fleet_quota_closings_total": {"cause": "billing"},
        "fleet_quota_estimate_ratio_sum": {"what": "output_tokens"},
        "fleet_quota_degraded_total": {},
        "fleet_quota_shadowed_total": {"limit": "tokens"},
        "fleet_quota_spent_units_total": {"limit": "tokens"},
    }
    assert [value(found, name, scope=SCOPE, **labels) for name, labels in told.items()] == [3, 1, 1, 2, 1, 1, 7.5]
    assert value(found, "fleet_quota_spent_units_total", scope="openai", limit="requests") == 1


async def test_calls_of_the_store_are_timed_by_verb(valkey):
    found = Metrics()
    store = RedisStore.from_url(valkey, observer=found.store("pause"))
    scope = "metrics/m"
    quota = Quota(scope=scope, limits={"requests": Limit(capacity=60)})
    async with Limiter(store, {scope: quota}, observer=found.observe) as limiter:
        await limiter.configure(quota, full=True)
        permit = await limiter.acquire(scope, {"requests": 1}, max_wait=quota.limits["requests"].period)
        await limiter.settle(permit, {"requests": 2})
    await store.aclose()
    for verb in ("configure", "reserve", "settle"):
        # the second try of a script that the server does not know counts too
        assert value(found, "fleet_store_call_seconds_count", verb=verb) in (1, 2), verb
    assert value(found, "fleet_store_up", posture="pause") == 1
    assert value(found, "fleet_store_lost_total") == 0
    assert value(found, "fleet_quota_spent_units_total", scope=scope, limit="requests") == 2


async def test_a_store_that_does_not_answer_is_lost_and_down():
    found = Metrics()
    store = RedisStore.from_url("redis://127.0.0.1:1/0", observer=found.store("degrade"))
    with pytest.raises(StoreLost):
        await store.ping()
    await store.aclose()
    assert value(found, "fleet_store_lost_total") == 1
    assert value(found, "fleet_store_up", posture="degrade") == 0


async def test_a_store_that_refuses_is_as_good_as_away():
    found = Metrics()
    with on_socket(valkey_binary(), "--maxmemory", "1") as url:
        store = RedisStore.from_url(url, observer=found.store("pause"))
        # scripts that it has not seen are asked for by their text: that is an answer
        assert await store.inspect(SCOPE) is not None
        assert (value(found, "fleet_store_up", posture="pause"), value(found, "fleet_store_lost_total")) == (1, 0)
        with pytest.raises(StoreLost, match="OOM"):
            await store.execute("SET", "{openai/m}", "x")
        assert (value(found, "fleet_store_up", posture="pause"), value(found, "fleet_store_lost_total")) == (0, 1)
        with pytest.raises(StoreLost, match="refuses"):
            await store.execute("NOSUCHCOMMAND")
        assert (value(found, "fleet_store_up", posture="pause"), value(found, "fleet_store_lost_total")) == (0, 2)
        await store.ping()
        assert value(found, "fleet_store_up", posture="pause") == 1
        await store.aclose()


async def test_a_store_that_is_back_is_up_although_nobody_calls_it(monkeypatch):
    monkeypatch.setattr(bootstrap, "METRICS", found := Metrics())
    monkeypatch.setattr(bootstrap, "ASKED_EVERY", timedelta(milliseconds=20))
    manifest = manifests.load(DEPLOYED)

    async def until(up):
        async with asyncio.timeout(20):
            while value(found, "fleet_store_up", posture="pause") != up:
                await asyncio.sleep(0.02)

    with TemporaryDirectory(prefix="vk") as folder:
        url = f"unix://{folder}/s"
        command = [valkey_binary(), "--port", "0", "--unixsocket", f"{folder}/s", "--save", ""]
        settings = Settings(redis_url=url)
        with running(command, folder):
            until_up(url)
            working = bootstrap.limiter(settings, manifest)
            limiter = await working.__aenter__()
        with pytest.raises(StoreLost):
            await limiter.quota(SCOPE)
        assert value(found, "fleet_store_up", posture="pause") == 0
        with running(command, folder), Redis.from_url(url) as server:
            await until(1)
            # one that is full answers a ping, and grants nothing
            server.config_set("maxmemory", 1)
            with pytest.raises(StoreLost, match="OOM"):
                await limiter._store.execute("SET", "x", "y")
            lost = value(found, "fleet_store_lost_total")
            async with asyncio.timeout(20):
                while value(found, "fleet_store_lost_total") < lost + 2:
                    assert value(found, "fleet_store_up", posture="pause") == 0
                    await asyncio.sleep(0.02)
            server.config_set("maxmemory", 0)
            await until(1)
            assert not [key for key in server.keys() if server.ttl(key) < 0]  # noqa: SIM118 - not a dict
            await working.__aexit__(None, None, None)


async def test_a_share_of_a_tenant_spends_in_the_scopes_that_the_provider_counts_by(valkey):
    found = Metrics()
    store = RedisStore.from_url(valkey, observer=found.store("pause"))
    quotas = {
        "shared/m": Quota(scope="shared/m", limits={"requests": Limit(capacity=60), "in_flight": _in_flight()}),
        "shared/m/*": Quota(scope="shared/m/*", limits={"requests": Limit(capacity=6)}, within="shared/m"),
    }
    async with Limiter(store, quotas, observer=found.observe) as limiter:
        await limiter.configure(quotas["shared/m"], full=True)
        share = limiter.share_of("shared/m", "acme")
        permit = await limiter.acquire(share, {"requests": 1}, max_wait=quotas["shared/m"].limits["requests"].period)
        await limiter.settle(permit, {})
    await store.aclose()
    samples = [
        (sample.labels, sample.value)
        for family in found.registry.collect()
        if family.name == "fleet_quota_spent_units"
        for sample in family.samples
    ]
    assert samples == [({"scope": "shared/m", "limit": "requests"}, 1.0)]


def _in_flight():
    from ratelimit.places import Kind as Returns

    return Limit(capacity=5, kind=Returns.IN_FLIGHT)


@pytest.mark.parametrize("metric", metrics.BORN, ids=lambda one: one.name)
def test_what_alerts_watch_is_born_with_values_that_are_known(metric):
    names = {"scope": SCOPE, "agent": "payer", "endpoint": "slack", "tool": "transfer"}
    bounds = Bounds(born={label: frozenset({name}) for label, name in names.items()})
    assert metric.kind is Kind.COUNTER
    assert list(bounds.births(metric))
    assert all(len(values) == len(metric.labels) for values in bounds.births(metric))
    assert set(metric.values) <= set(metric.labels)


def test_rare_counters_are_served_at_nought_before_anything_has_happened():
    found = Metrics()
    found.configure(Bounds(named={"scope": frozenset({SCOPE, ""})}, born={"scope": frozenset({SCOPE})}))
    assert value(found, "fleet_provider_rejections_total", scope=SCOPE, kind="RateLimited") == 0
    assert value(found, "fleet_spans_total", outcome="dropped") == 0
    # of what has no quota, or no name here, there is nothing to watch yet
    assert value(found, "fleet_provider_rejections_total", scope="", kind="RateLimited") is None
    found.of(metrics.PROVIDER_REJECTIONS).labels(SCOPE, "RateLimited").inc()
    assert value(found, "fleet_provider_rejections_total", scope=SCOPE, kind="RateLimited") == 1


def test_effects_are_told_at_nought_by_the_pools_that_have_them():
    manifest = manifests.load(DEPLOYED)
    found = Metrics()
    found.configure(Bounds.of(manifest, [], 100, ["agents", "email"]))
    for state in metrics.EFFECTS.values["state"]:
        assert value(found, "fleet_effects_total", tool="send_email", state=state) == 0
        assert value(found, "fleet_effects_total", tool="transfer", state=state) is None
    assert value(found, "fleet_effects_fenced_total", tool="send_email") == 0
    assert value(found, "fleet_effects_fenced_total", tool="search") is None


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=10, cached_tokens=-3, output_tokens=2),
        Usage(input_tokens=-10, cached_tokens=0, output_tokens=12),
        Usage(input_tokens=10, cached_tokens=30, output_tokens=-2),
    ],
)
def test_a_usage_that_makes_no_sense_is_counted_as_far_as_it_does(usage):
    found = Metrics()
    found.used(SCOPE, "payer", "acme", usage, Decimal("-0.1"))
    found.observe(events.Settled(scope=SCOPE, spent={(SCOPE, "tokens"): -7.0}))
    tokens = {kind: value(found, "fleet_model_tokens_total", model=SCOPE, agent="payer", type=kind) for kind in
              metrics.MODEL_TOKENS.values["type"]}  # fmt: skip
    assert tokens["cached"] == max(0, usage.cached_tokens)
    assert tokens["output"] == max(0, usage.output_tokens)
    assert value(found, "fleet_tenant_calls_total", tenant="acme") == 1
    assert value(found, "fleet_quota_spent_units_total", scope=SCOPE, limit="tokens") == 0


def test_a_histogram_takes_values_only():
    with pytest.raises(TypeError, match="observes"):
        Metrics().of(metrics.QUOTA_WAIT).labels(SCOPE).inc()


def test_an_exemplar_is_of_the_trace_under_way_and_calls_of_the_store_have_none():
    found = Metrics()
    with recording(), calling("chat", {}) as span:
        found.observe(events.Granted(scope=SCOPE, waited_s=1))
        found.store("pause")("reserve", 0.001, True)
        trace = f"{span.get_span_context().trace_id:032x}"
    told = {
        (family.name, sample.exemplar.labels["trace_id"])
        for family in found.registry.collect()
        for sample in family.samples
        if sample.exemplar
    }
    assert told == {("fleet_quota_wait_seconds", trace)}
