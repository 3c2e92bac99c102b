"""A forecast is told if it is known soon; whatever is wrong with it, the run starts as ever."""

import json
import threading
import time
from datetime import timedelta

import pytest

from fleet import manifest as manifests
from fleet import settings as environment
from fleet.cli import forecast
from load import planner
from tests.fleet.cli.conftest import ROOT, Cli
from workers.bootstrap import limiter, quotas

MODEL = "openai/sim-large"
SAID = {"first_call_s": 14.2, "done_s": 40.4, "done_p90_s": 61.0}


@pytest.fixture
def manifest():
    return manifests.load(ROOT / "deploy" / "fleet.toml")


@pytest.fixture
def settings(valkey, monkeypatch):
    monkeypatch.setenv("FLEET_REDIS_URL", valkey)
    return environment.load()


async def asked(temporal, settings, manifest, *forecasters, agent="researcher", **more):
    """What is said, and how long it took."""
    began = time.monotonic()
    given = {"tenant": "default", "priority": 3, "forecasters": lambda: forecasters} | more
    async with forecast.asked(temporal, settings, manifest, agent, **given) as task:
        said = await task
    return said, time.monotonic() - began


def test_it_is_told_in_one_line_with_no_more_digits_than_are_known():
    assert forecast.text(SAID) == "about 14 s to its first call, done in about 40 s (p90 61 s)"
    later = {"first_call_s": 0.0, "done_s": 700.0, "done_p90_s": 9000.0}
    assert forecast.text(later) == "about 1 s to its first call, done in about 12 min (p90 2.5 h)"


async def test_the_planner_forecasts_by_the_live_levels(temporal, settings, manifest):
    async with limiter(settings, manifest) as shared:
        await shared.configure(quotas(manifest)[MODEL], by="test", full=True)
        said, _ = await asked(temporal, settings, manifest, planner.forecast, within_s=30)
        assert said is not None
        assert said["first_call_s"] < 30 + said["done_s"]
        first = said["first_call_s"]
        await shared.cool_down(MODEL, retry_after=timedelta(seconds=120))
        said, _ = await asked(temporal, settings, manifest, planner.forecast, within_s=30)
        assert said is not None
        assert said["first_call_s"] > first + 60
        await shared.close(MODEL, by="test", reason="test")
        assert (await asked(temporal, settings, manifest, planner.forecast, within_s=30))[0] is None
        await shared.open(MODEL, by="test", reason="test")


async def test_a_forecaster_is_told_who_asks(temporal, settings, manifest):
    heard = {}

    def hear(manifest, agent, **more):
        heard.update(more, agent=agent, scopes=sorted(more.pop("seen")))
        return SAID

    said, _ = await asked(temporal, settings, manifest, lambda *_, **__: None, hear, tenant="acme", within_s=30)
    assert said == SAID
    assert (heard["agent"], heard["tenant"], heard["priority"]) == ("researcher", "acme", 3)
    assert heard["scopes"] == ["email/relay", MODEL]
    assert heard["running"] >= 0


async def test_one_that_takes_too_long_is_not_waited_for(temporal, settings, manifest):
    release = threading.Event()

    def slow(*_, **__):
        release.wait(60)
        return SAID

    said, took = await asked(temporal, settings, manifest, slow, within_s=0.5)
    release.set()
    assert said is None
    assert took < 10


async def test_one_that_fails_says_nothing(temporal, settings, manifest):
    def broken(*_, **__):
        raise RuntimeError("a defect of the forecaster")

    assert (await asked(temporal, settings, manifest, broken, within_s=30))[0] is None
    assert (await asked(temporal, settings, manifest, planner.forecast, agent="nobody", within_s=30))[0] is None


async def test_without_a_forecaster_nothing_is_asked(temporal, manifest, monkeypatch):
    monkeypatch.setenv("FLEET_REDIS_URL", "redis://127.0.0.1:1")
    said, took = await asked(temporal, environment.load(), manifest)
    assert said is None
    assert took < 5


async def test_without_a_limiter_it_is_silent(temporal, manifest, monkeypatch):
    monkeypatch.setenv("FLEET_REDIS_URL", "redis://127.0.0.1:1")
    said, _ = await asked(temporal, environment.load(), manifest, planner.forecast)
    assert said is None


async def test_what_the_block_raises_is_raised_and_the_task_ends(temporal, settings, manifest):
    with pytest.raises(ValueError, match="no such agent"):
        async with forecast.asked(
            temporal,
            settings,
            manifest,
            "researcher",
            tenant="default",
            priority=3,
            forecasters=lambda: [planner.forecast],
        ) as task:
            raise ValueError("no such agent")
    assert task.done()


def test_run_tells_it_beside_the_id(operator: Cli, monkeypatch, valkey):
    monkeypatch.setattr(forecast, "WITHIN_S", 30.0)
    monkeypatch.setattr(forecast, "registered", lambda: [planner.forecast])
    monkeypatch.setitem(operator.settings, "FLEET_REDIS_URL", valkey)
    found = operator("run", "researcher", "What does heapq do?")
    assert found.returncode == 0, found
    assert len(found.stdout.split()) == 1
    assert "to its first call" in found.stderr
    document = json.loads(operator.said("run", "researcher", "What does heapq do?", "--json"))
    assert document["forecast"].keys() == SAID.keys()
    monkeypatch.setattr(forecast, "registered", list)
    assert operator.document("run", "researcher", "What does heapq do?").keys() == {"run"}
