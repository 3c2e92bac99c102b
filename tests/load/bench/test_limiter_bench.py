"""The benchmark measures what it says; its figures are no test."""

import asyncio
import json
import subprocess
import sys
import time

import pytest

from load.bench.limiter import Report


def drive(**asked):
    found = subprocess.run(
        [sys.executable, "-m", "load.bench.drive", json.dumps(asked)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(found.stdout)


@pytest.mark.parametrize("contender", ["ours", "raw"])
def test_speed_counts_acquires(valkey, contender):
    found = drive(what="speed", contender=contender, url=valkey, limits=2, tasks=3, seconds=0.2)
    assert found["rate"] > 0
    assert found["p50_us"] > 0
    assert found["cpu_us"] > 0


async def test_saturation_tells_every_call_of_every_agent(valkey, simulators):
    where = await simulators(openai={"models": {"bench": {"requests": {"limit": 500, "period_s": 1, "burst": 100}}}})
    begin = time.time() + 2
    found = await asyncio.to_thread(
        drive, what="saturate", url=valkey, provider=where.http, tasks=4, rate=50, burst=5, headroom=1.0,
        burst_headroom=1.0, begin=begin, end=begin + 1,
    )  # fmt: skip
    assert len(found["agents"]) == 4
    calls = [call for mine in found["agents"] for call in mine]
    assert {status for _, _, status in calls} == {200}
    assert all(at >= begin and waited >= 0 for at, waited, _ in calls)


def test_a_figure_beyond_its_bound_is_missed():
    report = Report()
    report.check("fast enough", 1.9, least=1.8)
    report.check("too slow", 1.7, least=1.8)
    report.check("few enough", 1.0, most=1.2)
    report.check("too many", 1.3, most=1.2)
    assert [check.ok for check in report.checks] == [True, False, True, False]
    assert report.checks[1].target == ">= 1.8"
