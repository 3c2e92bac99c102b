"""The benchmark of metrics and traces measures what it says; its figures are no test."""

import psutil
import pytest

from load.bench import instruments

pytestmark = [pytest.mark.trial, pytest.mark.timeout(240)]


async def test_a_fleet_that_counts_and_one_that_does_not_work_in_turns():
    said = []
    report = await instruments.run(agents=4, rounds=2, say=said.append)
    assert [line.rpartition(": ")[0] for line in said if line.startswith("round")] == [
        "round 1: on", "round 1: off", "round 2: off", "round 2: on",
    ]  # fmt: skip
    assert {(row["trial"], row["limiter"]) for row in report.rows} == {
        ("agents at work", "off"), ("agents at work", "on"), ("the collector", "on"),
    }  # fmt: skip
    ratio, exports = report.checks
    assert 0.2 < ratio.value < 5
    # the one that traces has told the collector
    assert exports.ok
    left = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert not [command for command in left if "fleet-bench-" in command]
