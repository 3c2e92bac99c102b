"""Somebody else who shares a key."""

import asyncio
import statistics
import time
from itertools import islice, pairwise, takewhile

import httpx2
import pytest

from load.simulators.ledger import Ledger
from load.simulators.mailbox import Mailbox
from load.simulators.options import Options, OutsiderOptions
from load.simulators.outsiders import arrivals, call
from load.simulators.world import World

ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def outsider(**options):
    return OutsiderOptions(**{"provider": "openai", "model": "m", "key": "sk-a", "requests_per_s": 100} | options)


def test_random_arrivals_have_their_rate_and_the_same_seed_gives_the_same():
    first = list(islice(arrivals(outsider(seed=1)), 5000))
    gaps = [b - a for a, b in pairwise(first)]
    assert statistics.fmean(gaps) == pytest.approx(0.01, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.01, rel=0.1)
    assert first == list(islice(arrivals(outsider(seed=1)), 5000))
    assert first != list(islice(arrivals(outsider(seed=2)), 5000))


def test_regular_arrivals_come_between_their_begin_and_their_end():
    found = list(arrivals(outsider(arrivals="regular", from_s=2, to_s=3)))
    assert len(found) == 99
    assert (found[0], found[-1]) == (pytest.approx(2.01), pytest.approx(2.99))
    assert len(list(takewhile(lambda at: at < 5, arrivals(outsider(from_s=5))))) == 0


@pytest.fixture
def world(tmp_path):
    def made(**options):
        options.setdefault("latency", {"base_s": 0, "per_output_token_s": 0})
        return World(Options.of(options), Ledger(), Mailbox(tmp_path / "Maildir"))

    return made


async def ended(world, count):
    deadline = time.monotonic() + 5
    while len(rows := world.ledger.rows()) < count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0)
    return rows


async def test_it_spends_what_the_provider_grants_and_no_more(world):
    made = world(openai={"models": {"m": {"tokens": {"limit": 250}}}})
    for _ in range(3):
        call(made, outsider(tokens=100))
    rows = await ended(made, 3)
    assert sorted(row["outcome"] for row in rows) == ["429", "ok", "ok"]
    assert {row["outsider"] for row in rows} == {True}
    assert {row["path"] for row in rows} == {"outsider"}
    assert sum(row["charged"].get("tokens", 0) for row in rows) == 200
    assert made.in_flight == 0


async def test_its_output_counts_when_it_has_ended_where_the_provider_counts_so(world):
    made = world(anthropic={"models": {"m": {"input_tokens": {"limit": 1000}, "output_tokens": {"limit": 50}}}})
    for number in range(2):
        call(made, outsider(provider="anthropic", tokens=100, output_tokens=80))
        await ended(made, number + 1)
    done, refused = made.ledger.rows()
    assert done["charged"] == {"requests": 1.0, "input_tokens": 100.0, "tokens": 180.0, "output_tokens": 80.0}
    assert (refused["outcome"], refused["charged"]) == ("429", {})


async def test_it_holds_a_place_for_as_long_as_its_call_takes(world):
    made = world(openai={"models": {"m": {"in_flight": 1}}}, latency={"base_s": 0.05, "distribution": "constant"})
    call(made, outsider())
    assert call(made, outsider()).outcome == "429"
    await ended(made, 2)
    call(made, outsider())
    assert [row["outcome"] for row in await ended(made, 3)] == ["429", "ok", "ok"]


async def test_the_fleets_calls_find_less_left_while_an_outsider_spends(simulators):
    where = await simulators(
        openai={"models": {"m": {"requests": {"limit": 6000, "burst": 20}}}, "keys": ["sk-a", "sk-b"]},
        outsiders=[{"provider": "openai", "model": "m", "requests_per_s": 500}],
    )

    async with httpx2.AsyncClient(base_url=where.http) as http:

        async def left(key):
            headers = {"authorization": f"Bearer {key}"}
            answer = await http.post("/v1/chat/completions", json=ASK, headers=headers)
            return int(answer.headers["x-ratelimit-remaining-requests"])

        async def until(wanted):
            deadline = time.monotonic() + 5
            while not await wanted():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)

        async def scarce():
            return await left("sk-a") < 10

        async def plenty():
            return await left("sk-a") >= 15

        await until(scarce)
        assert await left("sk-b") == 19
        await http.post("/_control", json={"outsiders": []})
        await until(plenty)
        summary = (await http.get("/_ledger/summary")).json()
        rows = (await http.get("/_ledger", params={"limit": "100000"})).json()
    assert summary["outsiders"]["openai"]["m"]["outcomes"]["ok"] >= 5
    assert summary["providers"]["openai"]["requests"] == sum(not row["outsider"] for row in rows)


async def test_a_script_brings_an_outsider_for_a_time(simulators):
    where = await simulators(openai={"models": {"m": {}}, "keys": ["sk-a"]})
    one = {"provider": "openai", "model": "m", "requests_per_s": 200, "arrivals": "regular"}
    async with httpx2.AsyncClient(base_url=where.http) as http:
        await http.post("/_script", json=[{"at_s": 0, "for_s": 0.3, "options": {"outsiders": [one]}}])
        deadline = time.monotonic() + 5
        while (await http.get("/_script")).json()[0]["state"] != "done":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        seen = [(await http.get("/_ledger/summary")).json()["outsiders"]["openai"]["m"]["requests"] for _ in range(2)]
    assert 0 < seen[0] <= 70
    assert seen[1] - seen[0] <= 1
