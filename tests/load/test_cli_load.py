"""What `fleet load` cannot do is said in one line, before anything is started."""

import json

import pytest
import typer
from typer.testing import CliRunner

from fleet.errors import BadInput
from load import cli_load


@pytest.fixture
def load(monkeypatch, tmp_path):
    app = typer.Typer()
    cli_load.register(app)

    def call(*arguments):
        return CliRunner().invoke(app, ["load", *arguments])

    return call


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "nosuch"], "no scenario 'nosuch'"),
        (["run", "steady", "-o", "pressure"], "-o pressure: must be a parameter and its value"),
        (["run", "steady", "-o", "colour=red"], "steady has no such parameter"),
        (["run", "steady", "--agents", "0"], "agents=0: "),
        (["run", "steady", "--plant", "weeds"], "--plant weeds: there are: lost, twice"),
        (["run", "steady", "--modes", "luck"], "--modes luck: 'luck' is none of global"),
        (["run", "steady", "--keep", "."], "--keep .: is not empty"),
        (["ls", "nosuch"], "no scenario 'nosuch'"),
        (["compare", "nowhere", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_line(load, arguments, says):
    found = load(*arguments)
    assert isinstance(found.exception, BadInput), found.output
    assert says in str(found.exception)
    assert "\n" not in str(found.exception)


def test_scenarios_are_listed_with_what_they_are(load):
    told = json.loads(load("ls", "--json").stdout)
    assert len(told) == 19
    assert all(one["says"] and one["short"]["agents"] for one in told)


def test_one_scenario_tells_its_parameters_and_oracles(load):
    told = json.loads(load("ls", "quota_squeeze", "--json").stdout)
    assert {"agents", "for", "seed", "pools", "mix", "pressure"} <= told["parameters"].keys()
    assert {"nothing_lost", "utilisation", "fairness_tenants"} <= told["oracles"].keys()
    assert "ORACLE" in load("ls", "quota_squeeze").stdout


def test_global_comes_first_for_it_measures_what_the_others_are_given():
    assert cli_load._modes("backoff, temporal,backoff") == ["global", "backoff", "temporal"]
    assert cli_load._modes("process,global") == ["global", "process"]
