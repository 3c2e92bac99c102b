"""Why a step was taken: recorded facts only."""

import pytest

from fleet.contracts.llm import ChatResult, ToolCall
from fleet.errors import BadInput
from fleet.history.deciding import why


async def test_a_decision_tells_what_was_offered_chosen_and_left(recorded):
    decided = why(await recorded("completed"), "2.1")
    assert (decided.step, decided.about, decided.model) == ("2", "2.1", "openai/m")
    assert [tool.name for tool in decided.offered] == ["search", "send_email", "transfer"]
    (choice,) = decided.choices
    assert (choice.tool, choice.step, choice.fate, choice.refused) == ("send_email", "2.1", "done", "")
    assert decided.not_chosen == ["search", "transfer"]
    assert [m.role.value for m in decided.saw_last] == ["assistant", "tool"]
    assert decided.instructions.startswith("be brief")


async def test_the_last_call_led_to_the_end(recorded):
    decided = why(await recorded("completed"), "3")
    assert (decided.said, decided.choices) == ("done", [])
    assert decided.led_to == "the end: it has called no tool"


async def test_what_a_human_has_changed_is_told(recorded):
    (choice,) = why(await recorded("amended"), "2.1").choices
    assert choice.arguments["amount"] == "120.50"
    assert choice.amended is not None
    assert choice.amended["amount"] == "7.00"
    assert choice.rule == "every transfer needs a human"
    assert [vote.by for vote in choice.asked[0].approval.votes] == ["ann@example.com"]


async def test_a_call_that_nobody_allowed_is_asked_for_by_its_step(recorded):
    (choice,) = why(await recorded("withdrawn"), "2.1").choices
    assert choice.fate.startswith("not made: withdrawn")


async def test_an_effect_that_was_had_again_tells_both_ends(recorded):
    (choice,) = why(await recorded("settled"), "2.1-2").choices
    assert choice.fate == "unknown (the line broke), then done"


async def test_a_refused_call_tells_why_and_becomes_no_step(recorded):
    told = await recorded("completed")
    result = told.step("1").result
    assert isinstance(result, ChatResult)
    result.message.tool_calls.insert(0, ToolCall(id="c0", name="nosuch", arguments={}))
    refused, made = why(told, "1").choices
    assert refused.refused.startswith("there is no tool 'nosuch'")
    assert (refused.step, made.step) == ("", "1.1")


@pytest.mark.parametrize(("name", "words"), [("9", "it has: 1, 1.1, 2"), ("1.2", "has no step")])
async def test_a_step_that_there_is_not_is_refused(recorded, name, words):
    with pytest.raises(BadInput, match=words):
        why(await recorded("completed"), name)


async def test_what_the_run_does_by_itself_has_no_decision(recorded):
    with pytest.raises(BadInput, match="no call of the model"):
        why(await recorded("amended"), "0.1")
