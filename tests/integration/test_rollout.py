"""Five thousand runs wait while other code takes over. By hand: with a thousand, `test_effects` does it."""

import time

import pytest

from tests.integration.taking_over import parked, start_alike, take_over
from tests.integration.test_effects import WAITING, say

pytestmark = [pytest.mark.trial, pytest.mark.timeout(3600)]

RUNS = 5000


@pytest.mark.by_name("five_thousand")
async def test_five_thousand_runs_end_on_the_code_that_they_began_on(local_fleet, tmp_path):
    fleet = await local_fleet({"agents": 1, "llm": 1, "payments": 1, "approvals": 1}, *WAITING, build="v1")
    began = time.monotonic()
    old = [f"w-{n}" for n in range(RUNS)]
    await start_alike(fleet.client, old)
    await parked(fleet.client, RUNS)
    say(f"{RUNS} runs of v1 wait after {time.monotonic() - began:.1f} s")
    await take_over(fleet, old, tmp_path / "v2", say)
