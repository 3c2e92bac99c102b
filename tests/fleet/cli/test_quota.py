"""`fleet quota` as an operator meets it, on a real Valkey."""

import asyncio
import json
import time
from datetime import timedelta
from pathlib import Path

import pytest

from ratelimit.headers import Observed
from ratelimit.limiter import Limiter
from ratelimit.store import RedisStore
from tests.fleet.cli.conftest import InProcess

ROOT = Path(__file__).parents[3]
SCOPE = "openai/sim-large"


@pytest.fixture
def quota(tmp_path, valkey):
    """Run `fleet quota …` over an empty store."""

    async def empty():
        store = RedisStore.from_url(valkey)
        await store.execute("FLUSHALL")
        await store.aclose()

    asyncio.run(empty())

    cli = InProcess(tmp_path, {"FLEET_REDIS_URL": valkey})

    def call(*arguments):
        return cli("quota", *arguments)

    return call


def answer(found):
    assert found.returncode == 0, found
    return json.loads(found.stdout)


def refused(found, *words):
    assert (found.returncode, found.stdout) == (2, ""), found
    (line,) = found.stderr.splitlines()
    for word in words:
        assert word in line


def test_a_quota_is_applied_set_shown_and_brought_back(quota):
    assert {told["version"] for told in answer(quota("ls", "--json"))} == {0}
    planned = answer(quota("apply", "--dry-run", "--json"))
    assert [change["scope"] for change in planned["changed"]] == [SCOPE, "email/relay"]
    assert answer(quota("apply", "--json"))["changed"] == planned["changed"]
    assert answer(quota("apply", "--json"))["changed"] == []

    found = quota("set", SCOPE, "requests=300/m", "--headroom", "0.9", "--reason", "they asked", "--by", "ann")
    assert found.stdout == f"{SCOPE}: requests 300/m, tokens 90k/m, version 2\n"
    told = answer(quota("show", SCOPE, "--json"))
    assert told["limits"]["requests"]["rate"] == "300/m"
    assert told["limits"]["requests"]["per_second"] == pytest.approx(300 * 0.9 / 60)
    assert told["limits"]["tokens"]["burst"] == pytest.approx(15_000 * 0.9)
    assert "requests: 300/m" in quota("show", SCOPE).stdout

    newest, first = answer(quota("history", SCOPE, "--json"))
    assert (newest["by"], newest["reason"], newest["version"]) == ("ann", "they asked", 2)
    assert first["limits"] == {"requests": "600/m", "tokens": "90k/m"}
    assert "they asked" in quota("history", SCOPE).stdout

    assert f"{SCOPE}: requests 300/m, tokens 90k/m -> requests 600/m, tokens 90k/m" in quota("apply").stdout
    assert answer(quota("show", SCOPE, "--json"))["version"] == 3


def test_a_change_over_another_version_is_refused(quota):
    quota("apply")
    refused(quota("set", SCOPE, "requests=1/m", "--expect", "7"), "version 1 is in force, not 7")
    assert answer(quota("show", SCOPE, "--json"))["limits"]["requests"]["rate"] == "600/m"


def test_a_frozen_scope_says_so_until_it_is_thawed(quota):
    quota("apply")
    assert quota("freeze", SCOPE, "--reason", "audit").stdout == f"{SCOPE}: frozen; fleet quota thaw {SCOPE}\n"
    assert answer(quota("show", SCOPE, "--json"))["closed"] == "frozen"
    assert f"closed    frozen, until somebody opens it: fleet quota thaw {SCOPE}" in quota("show", SCOPE).stdout
    assert any("frozen" in line for line in quota("ls").stdout.splitlines() if SCOPE in line)
    assert "closed until it is opened: somebody has frozen it" in quota("advise", SCOPE).stdout
    assert quota("thaw", SCOPE).stdout == f"{SCOPE}: open\n"
    assert [row["action"] for row in answer(quota("history", SCOPE, "--json"))] == ["thaw", "freeze", "set"]
    assert answer(quota("freeze", SCOPE, "--json")) == {"scope": SCOPE, "closed": "frozen", "changed": True}
    assert answer(quota("thaw", SCOPE, "--json")) == {"scope": SCOPE, "closed": None, "changed": True}
    assert answer(quota("thaw", SCOPE, "--json"))["changed"] is False
    told = answer(quota("set", SCOPE, "requests=9/m", "--for", "1h", "--json"))
    assert (told["limits"]["requests"], told["for_s"]) == ("9/m", 3600)


def test_an_override_ends_by_itself(quota, valkey):
    quota("apply")
    assert quota("set", SCOPE, "requests=9k/m", "--for", "1s").stdout.endswith("version 2, for 1.0s\n")
    deadline = time.monotonic() + 10
    while (told := answer(quota("show", SCOPE, "--json")))["ends_in_s"] is not None:
        assert time.monotonic() < deadline
    assert (told["limits"]["requests"]["rate"], told["version"]) == ("600/m", 3)
    assert [row["action"] for row in answer(quota("history", SCOPE, "--json"))] == ["end", "set", "set"]


def test_limits_of_all_kinds_are_set_and_shown(quota):
    quota("apply")
    found = quota("set", SCOPE, "in_flight=20", "requests_per_day=10k/day", "requests_per_month=90k/month")
    assert "in_flight 20 at once, requests_per_day 10k/day, requests_per_month 90k/month" in found.stdout


def test_the_line_is_shown_and_what_the_provider_says(quota, valkey):
    quota("apply")

    async def wait_in_line():
        store = RedisStore.from_url(valkey)
        async with Limiter(store, {}) as limiter:
            for number in range(3):
                # minutes of the quota: the line outlasts a slow machine
                cost = {"requests": 1000, "tokens": 1000}
                await limiter.reserve(SCOPE, cost, max_wait=timedelta(0), key=f"run-{number}/1", hold=True)
            await limiter.observe(SCOPE, {"requests": Observed(limit=500, remaining=77, period_s=60)})
        await store.aclose()

    asyncio.run(wait_in_line())
    told = answer(quota("show", SCOPE, "--json"))
    assert [(one["place"], one["key"], one["limit"]) for one in told["standing"]] == [
        (1, "run-0/1", "requests"),
        (2, "run-1/1", "requests"),
        (3, "run-2/1", "requests"),
    ]
    text = quota("show", SCOPE, "--line", "1").stdout
    assert "place 1   run-0/1: in " in text
    assert "and 2 more" in text
    assert "provider  requests: 77 of 500 left" in text
    assert f"fleet quota set {SCOPE} requests=500/m" in quota("advise").stdout
    (look,) = [json.loads(line) for line in quota("watch", SCOPE, "--times", "1", "--json").stdout.splitlines()]
    assert (look[0]["scope"], look[0]["heard"]["requests"]["remaining"]) == (SCOPE, 77)
    assert look[0]["limits"]["requests"]["waiting"] > 0
    seen = quota("watch", "--times", "2", "--every", "0.1").stdout
    assert "77 of 500 left" in seen
    assert "WAITERS" in seen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["freeze", "openai/none"], ["openai/none", SCOPE]),
        (["set", SCOPE, "requests=5/m", "--for", "soon"], ["--for", "'soon'", "24h"]),
        (["set", SCOPE, "in_flight=0"], ["in_flight"]),
        (["show", "openai/none"], ["openai/none", SCOPE]),
        (["set", SCOPE], ["nothing to set"]),
        (["set", SCOPE, "requests"], ["requests=500/m"]),
        (["set", SCOPE, "words=5/m"], ["words", "requests, tokens"]),
        (["set", SCOPE, "requests=lots"], ["'lots'", "500/m"]),
        (["set", SCOPE, "requests=0/m"], ["0"]),
        (["set", SCOPE, "--burst", "output_tokens=5"], ["output_tokens", "has no such limit"]),
        (["set", SCOPE, "--burst", "requests=-5"], ["-5"]),
        (["set", SCOPE, "--headroom", "1.5"], ["headroom", "1.5"]),
    ],
)
def test_what_makes_no_sense_is_one_line(quota, arguments, words):
    refused(quota(*arguments), *words)
