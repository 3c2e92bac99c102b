"""Scenarios are files with typed parameters; what is wrong with one is said in a line."""

import pytest

from fleet.errors import BadInput
from load import scenario
from load.scenario import Parameters


def test_every_scenario_that_was_promised_is_there():
    assert set(scenario.names()) == {
        "steady", "burst", "quota_squeeze", "thundering_schedule", "retry_storm", "provider_outage", "slow_provider",
        "worker_loss", "frozen_worker", "redis_loss", "redis_failover", "temporal_restart", "approval_backlog",
        "noisy_tenant", "mixed_day", "rolling_deploy", "rolling_restart", "incident", "soak",
    }  # fmt: skip


@pytest.mark.parametrize("name", scenario.names())
def test_every_scenario_says_what_it_is_and_every_parameter_what_it_means(name):
    found = scenario.find(name)
    assert found.says.endswith(".")
    assert all(len(meaning) > 10 for _, meaning in found.described())
    assert found.ask(found.short).agents <= 200


def test_parameters_are_read_from_text():
    asked = scenario.find("steady").ask({"for": "2m", "agents": "7", "pressure": "0.5", "scale": "2"})
    assert (asked.for_s, asked.agents, asked.pressure, asked.scale) == (120.0, 7, 0.5, 2.0)
    assert Parameters.model_validate({"for": "90"}).for_s == 90


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"agents": "0"}, "agents=0: "),
        ({"for": "soon"}, "for=soon: 'soon' is not a duration"),
        ({"colour": "red"}, "-o colour: steady has no such parameter; it has: agents, for"),
        ({"pressure": "-1"}, "pressure=-1: "),
    ],
)
def test_a_wrong_parameter_is_one_line(given, says):
    with pytest.raises(BadInput) as caught:
        scenario.find("steady").ask(given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def plan(:\n", "mine.py:1: "),
        ("import nowhere\n", "mine.py:1: ModuleNotFoundError"),
        ("x = 1\n\nraise ValueError('odd\\nthing')\n", "mine.py:3: ValueError: odd"),
        ("def plan(asked, ground): ...\n", "it defines no `Parameters`"),
        ("class Parameters: ...\ndef plan(asked, ground): ...\n", "must derive from"),
    ],
)
def test_a_broken_file_of_a_user_is_one_line(tmp_path, text, says):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        scenario.find(str(file))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shape_means_nothing_where_all_come_at_once():
    found = scenario.find("thundering_schedule")
    with pytest.raises(BadInput, match="all schedules fire at one instant"):
        scenario.planned(found, found.ask({"shape": "constant:5"}), None)


def test_an_unknown_scenario_is_told_which_there_are():
    with pytest.raises(BadInput, match=r"no scenario 'nosuch': there are approval_backlog.*\./nosuch\.py"):
        scenario.find("nosuch")


MINE = '''"""Mine."""
from load.scenario import Parameters as Usual
from load.scenario import Trial


class Parameters(Usual):
    """Mine."""


def plan(asked, ground):
    {body}
'''


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return 1 / 0", "mine.py:11: ZeroDivisionError"),
        ("return Trial(arrivals=[], load_s=1.0, quotas={}, oracles=[])", "plans no arrivals"),
        ("return Trial(arrivals=[1], load_s=1.0, quotas={}, oracles=[])", "names no oracle: it could not fail"),
    ],
)
def test_a_plan_that_fails_or_could_not_fail_is_refused(tmp_path, body, says):
    file = tmp_path / "mine.py"
    file.write_text(MINE.format(body=body))
    found = scenario.find(str(file))
    with pytest.raises(BadInput) as caught:
        scenario.planned(found, found.ask({}), None)
    assert says in str(caught.value)
