"""Where two runs parted."""

from dataclasses import replace

from fleet.history.parting import Differs, compare


async def test_a_run_goes_the_path_that_it_goes(recorded):
    found = compare(await recorded("completed"), await recorded("completed"))
    assert found.parted is None
    assert found.before == []
    assert found.common == ["1", "2", "3"]
    assert found.same_goal
    assert found.same_agent


async def test_a_verdict_parts_runs(recorded):
    found = compare(await recorded("amended"), await recorded("settled"))
    assert found.parted is not None
    assert (found.parted.step, found.parted.what) == ("2.1", Differs.VERDICT)
    assert found.common == ["1"]
    assert not found.same_agent


async def test_another_tool_parts_runs(recorded):
    found = compare(await recorded("completed"), await recorded("settled"))
    assert found.parted is not None
    assert (found.parted.step, found.parted.what) == ("2", Differs.TOOLS)
    assert (found.parted.first, found.parted.second) == ("send_email", "transfer")


async def test_other_arguments_part_runs(recorded):
    one, other = await recorded("completed"), await recorded("completed")
    other.step("1").result.message.tool_calls[0].arguments["query"] = "y"
    found = compare(one, other)
    assert found.parted is not None
    assert (found.parted.step, found.parted.what) == ("1", Differs.ARGUMENTS)


async def test_a_run_that_goes_on_parts_from_one_that_ends(recorded):
    found = compare(await recorded("stopped"), await recorded("completed"))
    assert found.parted is not None
    assert (found.parted.step, found.parted.what) == ("2", Differs.LENGTH)
    assert (found.parted.first, found.parted.second) == ("has ended: stopped", "asks the model again")
    assert (found.before[-1].step, found.before[-1].what) == ("1.1", Differs.RESULT)


async def test_results_that_differ_part_nobody(recorded):
    one, other = await recorded("completed"), await recorded("completed")
    step = other.step("1.1")
    step.result = replace(step.result, content='{"results": ["new"]}')
    found = compare(one, other)
    assert found.parted is None
    assert [(d.step, d.what) for d in found.before] == [("1.1", Differs.RESULT)]


async def test_words_that_differ_part_nobody(recorded):
    one, other = await recorded("completed"), await recorded("completed")
    step = other.step("3")
    step.result = replace(step.result, message=replace(step.result.message, content="well done"))
    found = compare(one, other)
    assert found.parted is None
    assert [(d.step, d.what) for d in found.before] == [("3", Differs.WORDS)]


async def test_another_goal_is_said_first(recorded):
    one, other = await recorded("completed"), await recorded("completed")
    other.run = replace(other.run, goal="something else", agent=replace(other.run.agent, instructions="be long"))
    found = compare(one, other)
    assert not found.same_goal
    assert not found.same_agent
    assert [d.what for d in found.before[:2]] == [Differs.GOAL, Differs.INSTRUCTIONS]


async def test_another_end_of_the_same_path_parts_runs(recorded):
    one, other = await recorded("completed"), await recorded("completed")
    other.state = "failed"
    found = compare(one, other)
    assert found.parted is not None
    assert found.parted.what is Differs.OUTCOME
