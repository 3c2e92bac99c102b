"""The second run of a question is cheaper, because the first remembered."""

import pytest

from fleet.contracts.runs import Outcome

pytestmark = [pytest.mark.trial, pytest.mark.timeout(180)]

QUESTION = "What does the module heapq do?"


async def test_the_second_run_is_cheaper_because_the_first_remembered(local_fleet):
    fleet = await local_fleet({"agents": 1, "llm": 1, "search": 1, "memory": 1})
    first = await fleet.client.result(await fleet.client.start("analyst", QUESTION))
    second = await fleet.client.result(await fleet.client.start("analyst", QUESTION))
    other = await fleet.client.result(await fleet.client.start("analyst", QUESTION, tenant="acme"))
    print(f"tokens: first {first.tokens}, second {second.tokens}, of another tenant {other.tokens}")  # noqa: T201
    assert [r.outcome for r in (first, second, other)] == [Outcome.COMPLETED] * 3
    assert (first.recalled, other.recalled) == (0, 0)
    assert second.recalled > 0
    assert second.tokens < 0.7 * first.tokens
    assert second.steps < first.steps
    # nobody else's memory
    assert other.steps == first.steps
