"""Quotas that fit a load keep the manifest's proportions."""

from pathlib import Path

import pytest

from fleet import manifest as manifests
from fleet.errors import BadInput
from load import providers, sizing
from load.crowd import Cost
from load.simulators.options import Options
from load.trial import Rated

MANIFEST = manifests.load(Path(__file__).parents[2] / "deploy" / "fleet.toml")
MODEL = "openai/sim-large"
COSTS = {
    "a": Cost(
        units={MODEL: {"requests": 2.0, "tokens": 1000.0}, "email/relay": {"messages": 1.0}},
        largest={MODEL: {"requests": 1.0, "tokens": 600.0}},
        calls={MODEL: 2},
    )
}


def sized(agents=90, **more):
    demand = sizing.demand(COSTS, ["a"] * agents)
    given = {"over_s": 60.0, "pressure": 1.0, "scale": None, "burst_s": 2.0, **more}
    return sizing.sized(MANIFEST, demand, largest=sizing.largest(COSTS.values()), **given)


def test_the_tightest_limit_grants_the_demand_at_a_pressure_of_one():
    # 90 runs want 90,000 tokens and 180 requests: what the manifest grants in a minute of tokens
    found = sized()[MODEL]
    assert found["tokens"].rate == pytest.approx(1500)
    assert found["requests"].rate == pytest.approx(10)
    assert sized(agents=180)[MODEL]["tokens"].rate == pytest.approx(3000)
    assert sized(pressure=3.0)[MODEL]["tokens"].rate == pytest.approx(500)


def test_a_burst_is_short_but_holds_four_calls():
    assert sized(agents=900)[MODEL]["tokens"].burst == pytest.approx(2 * 15_000)
    assert sized()[MODEL]["tokens"].burst == pytest.approx(3000)
    assert sized(agents=9)[MODEL]["tokens"].burst == pytest.approx(4 * 600)


def test_what_is_no_model_is_out_of_the_way_and_never_less_than_the_manifest_grants():
    assert sized()["email/relay"]["messages"].rate == pytest.approx(20)
    assert sized(agents=6000)["email/relay"]["messages"].rate == pytest.approx(200)


def test_a_scale_of_one_is_the_manifest_itself():
    found = sized(scale=1.0)
    assert found[MODEL] == sizing.rates(MANIFEST, MODEL)
    assert found[MODEL]["tokens"].burst == 15_000


def test_a_quota_that_could_never_grant_a_call_is_refused():
    huge = {"a": Cost(units={MODEL: {"tokens": 20_000.0}}, largest={MODEL: {"tokens": 20_000.0}})}
    with pytest.raises(BadInput, match="tokens: one call costs 20000, a burst is 15000: it could never be granted"):
        sizing.sized(
            MANIFEST, sizing.demand(huge, ["a"]), largest=sizing.largest(huge.values()), over_s=60, pressure=1,
            scale=1.0, burst_s=2,
        )  # fmt: skip


def test_providers_are_told_the_same_quotas():
    change = providers.granting(
        MANIFEST, {MODEL: {"tokens": Rated(rate=100, burst=50)}, "email/relay": {"messages": Rated(rate=5, burst=5)}}
    )
    found = Options.of(providers.options(MANIFEST)).patched(change)
    tokens = found.openai.models["sim-large"].tokens
    assert (tokens.limit / tokens.period_s, tokens.burst) == (100, 50)
    assert (found.smtp.messages.limit / found.smtp.messages.period_s, found.smtp.messages.burst) == (5, 5)


def test_the_mean_call_is_over_all_calls():
    assert sizing.mean_call(COSTS.values(), MODEL) == {"requests": 1.0, "tokens": 500.0}
    assert sizing.mean_call([], MODEL) == {}
