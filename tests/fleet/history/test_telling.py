"""A history reads as a story: steps by the run's own names, questions, notes, totals."""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter

from fleet.contracts.runs import RunInput
from fleet.history import story
from fleet.history.deciding import new_messages

RECORDED = Path(__file__).parents[1] / "histories"


async def test_one_history_reads_as_a_story():
    history = WorkflowHistory.from_json("completed", (RECORDED / "completed.json").read_text())
    told = await story(history, DataConverter.default)
    assert told.run is not None
    assert told.run.goal == "find out"
    assert told.state == "completed"
    assert [(s.name, s.what, s.outcome) for s in told.steps] == [
        ("1", "llm.chat", "completed"),
        ("1.1", "search.query", "completed"),
        ("2", "llm.chat", "completed"),
        ("2.1", "email.send", "done"),
        ("3", "llm.chat", "completed"),
    ]
    assert [s.number for s in told.steps] == [1, 2, 3, 4, 5]
    assert told.steps[0].quota_wait_s == 1.5
    assert told.result is not None
    assert told.result.answer == "done"


@pytest.mark.parametrize("name", sorted(p.stem for p in RECORDED.glob("*.json")))
async def test_totals_are_those_that_the_run_has_counted(recorded, name):
    told = await recorded(name)
    totals = told.totals()
    assert told.result is not None
    assert totals.steps == told.result.steps
    assert totals.tokens == told.result.tokens == totals.input_tokens + totals.output_tokens
    assert f"{totals.cost:f}" == told.result.cost


@pytest.mark.parametrize("name", sorted(p.stem for p in RECORDED.glob("*.json")))
async def test_the_time_adds_up_to_the_wall_clock(recorded, name):
    told = await recorded(name)
    assert sum(told.time.values()) == pytest.approx(told.duration_s, abs=1e-6)
    for step in told.steps:
        if step.ended_at is not None:
            assert sum(span.seconds for span in step.spans) == pytest.approx(step.duration_s, abs=1e-6)


async def test_an_effect_that_is_had_again_gets_a_name_of_its_own(recorded):
    told = await recorded("settled")
    assert [s.name for s in told.steps] == ["1", "1.1", "2", "2.1", "2.1-2", "3"]
    assert [s.outcome for s in told.steps if s.base == "2.1"] == ["unknown", "done"]


async def test_a_question_belongs_to_the_step_that_it_was_asked_before(recorded):
    told = await recorded("settled")
    may, was_had = told.questions
    assert (may.step, may.settles, was_had.step, was_had.settles) == ("2.1", False, "2.1", True)
    assert told.step("2.1").asked == [may]
    assert told.step("2.1-2").asked == [was_had]


async def test_what_people_have_said_is_told_in_order(recorded):
    told = await recorded("amended")
    words = [what.split(":")[0] for _, what in told.notes]
    assert words == ["approval amended/2.1 opened", "signal tell", "signal pause", "decide", "signal resume"]
    (paused,) = told.pauses
    assert paused[1] is not None
    assert [what for _, what in told.questions[0].told] == ["opened", "approved"]


async def test_a_call_that_the_run_did_not_wait_for_says_so(recorded):
    told = await recorded("stopped")
    assert told.steps[-1].outcome == "cancel requested"
    assert told.state == "stopped"


async def test_a_call_is_told_by_what_was_new_in_it(recorded):
    told = await recorded("completed")
    given = [[m.role.value for m in new_messages(told, told.step(name))] for name in ("1", "2", "3")]
    assert given == [["user"], ["assistant", "tool"], ["assistant", "tool"]]
    first, second = (told.step(name).request.messages for name in ("1", "2"))
    # a conversation of thousands of steps is kept once
    assert all(a is b for a, b in zip(first, second, strict=False))


async def test_a_history_of_an_older_release_is_understood(recorded):
    told = await recorded("completed")
    assert isinstance(told.run, RunInput)
    assert told.run.carried is None
    assert told.before.steps == 0
