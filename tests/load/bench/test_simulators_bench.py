"""The benchmark of the simulators measures what it says; its figures are no test."""

import pytest

from load.bench.simulators import CASES, Case, measure


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[3]], ids=lambda case: case.label)
async def test_answers_are_counted_beside_the_servers_processor_time(case):
    found = await measure(case, 0.5)
    assert found["per_second"] > 0
    assert found["per_server_cpu_s"] >= found["per_second"] * 0.9
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert found["client_cpu_us"] > 0
    assert found["not_in_the_ledger"] == 0


async def test_answers_that_were_not_expected_are_no_figures():
    wrong = Case(label="w", path="/v1/chat/completions", options={"openai": {"models": {"another": {}}}})
    with pytest.raises(RuntimeError, match="404"):
        await measure(wrong, 0.2)
