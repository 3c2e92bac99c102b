"""`fleet quota` as an operator meets it, on a real Valkey."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ratelimit.store import RedisStore

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

    def call(*arguments):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "TEMPORAL_"))}
        settings = {"FLEET_MANIFEST": str(ROOT / "deploy" / "fleet.toml"), "FLEET_REDIS_URL": valkey}
        return subprocess.run(
            [str(Path(sys.executable).parent / "fleet"), "quota", *arguments],
            cwd=tmp_path, env=clean | settings, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
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
