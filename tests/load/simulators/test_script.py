"""Failures and other options that begin and end by themselves."""

import asyncio
import time
from types import SimpleNamespace

import httpx2
import pytest

ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
KEY = {"authorization": "Bearer sk-a"}


@pytest.fixture
async def provider(simulators):
    where = await simulators(openai={"models": {"m": {}, "n": {}}}, anthropic={"models": {"m": {}}})
    async with httpx2.AsyncClient(base_url=where.http, headers=KEY, timeout=10) as http:

        async def status(model="m", path="/v1/chat/completions"):
            try:
                return (await http.post(path, json=ASK | {"model": model, "max_tokens": 9})).status_code
            except httpx2.TransportError:
                return 0

        async def until(wanted, seconds=5.0):
            deadline = time.monotonic() + seconds
            while await status() != wanted:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)

        async def states():
            return [step["state"] for step in (await http.get("/_script")).json()]

        yield SimpleNamespace(http=http, status=status, until=until, states=states)


async def test_a_provider_fails_for_a_time_and_recovers_by_itself(provider):
    step = {"at_s": 0, "for_s": 0.4, "provider": "openai", "fault": {"status": 529, "retry_after": 2}}
    (posted,) = (await provider.http.post("/_script", json=[step])).json()
    assert posted["state"] == "running"
    assert posted["ends"] - posted["begins"] == pytest.approx(0.4)
    answer = await provider.http.post("/v1/chat/completions", json=ASK)
    assert (answer.status_code, answer.headers["retry-after"]) == (529, "2")
    assert await provider.status(path="/v1/messages") == 200
    await provider.until(200)
    assert await provider.states() == ["done"]


async def test_an_outage_begins_at_its_time_and_nothing_is_counted_meanwhile(provider):
    outage = {"at_s": 0.2, "for_s": 0.3, "provider": "openai", "fault": {"drop": True, "after": False}}
    await provider.http.post("/_script", json=[outage])
    assert await provider.states() == ["waiting"]
    assert await provider.status() == 200
    await provider.until(0)
    await provider.until(200)
    rows = (await provider.http.get("/_ledger")).json()
    assert {row["outcome"]: bool(row["charged"]) for row in rows} == {"ok": True, "dropped": False}


async def test_only_the_model_of_the_step_fails(provider):
    step = {"at_s": 0, "for_s": 60, "provider": "openai", "model": "n", "fault": {"status": 503}}
    await provider.http.post("/_script", json=[step])
    assert await provider.status("n") == 503
    assert await provider.status("m") == 200


async def test_a_rate_makes_some_calls_fail(provider):
    step = {"at_s": 0, "for_s": 60, "provider": "openai", "fault": {"status": 500, "rate": 0.5}}
    await provider.http.post("/_script", json=[step])
    assert {await provider.status() for _ in range(40)} == {200, 500}


async def test_options_change_for_a_time_and_come_back(provider):
    patch = {"latency": {"factor": 10}, "openai": {"models": {"m": {"requests": {"limit": 1}}}}}
    await provider.http.post("/_script", json=[{"at_s": 0, "for_s": 0.4, "options": patch}])
    in_force = (await provider.http.get("/_control")).json()
    assert (in_force["latency"]["factor"], in_force["openai"]["models"]["m"]["requests"]["limit"]) == (10, 1)
    assert [await provider.status() for _ in range(2)] == [200, 429]
    await provider.until(200)
    assert (await provider.http.get("/_control")).json()["latency"]["factor"] == 1


async def test_what_runs_and_what_is_to_come_can_be_ended(provider):
    steps = [
        {"at_s": 0, "for_s": 60, "provider": "openai", "fault": {"status": 503}},
        {"at_s": 60, "for_s": 60, "options": {"latency": {"factor": 3}}},
    ]
    await provider.http.post("/_script", json=steps)
    await provider.http.delete("/_script")
    assert await provider.status() == 200
    assert await provider.states() == ["stopped", "stopped"]


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ({"for_s": 1, "provider": "openai", "fault": {"status": 500}}, "1.at_s"),
        ({"at_s": 0, "for_s": 0, "provider": "openai", "fault": {"status": 500}}, "1.for_s"),
        ({"at_s": 0, "for_s": 1, "fault": {"status": 500}}, "needs a provider"),
        ({"at_s": 0, "for_s": 1, "provider": "openai", "fault": {}}, "give status, drop or hang_s"),
        ({"at_s": 0, "for_s": 1, "provider": "openai"}, "one of the two"),
        ({"at_s": 0, "for_s": 1, "options": {"latency": {"factor": -1}}}, "1.options.latency.factor"),
        ({"at_s": 0, "for_s": 1, "options": {"latenzy": {}}}, "1.options.latenzy"),
    ],
)
async def test_a_script_with_a_wrong_step_is_refused_as_a_whole_in_one_line(provider, step, problem):
    right = {"at_s": 0, "for_s": 60, "provider": "openai", "fault": {"status": 503}}
    refused = await provider.http.post("/_script", json=[right, step])
    assert refused.status_code == 422
    assert problem in refused.json()["error"]
    assert "\n" not in refused.json()["error"]
    assert await provider.states() == []
    assert await provider.status() == 200


async def test_a_script_that_is_no_list_is_refused(provider):
    assert (await provider.http.post("/_script", json={"at_s": 0})).status_code == 422
    assert (await provider.http.post("/_script", content=b"{")).status_code == 422
