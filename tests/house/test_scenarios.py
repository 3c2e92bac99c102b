"""Every scenario names its oracles, every oracle has a use, every plant a scenario that catches it."""

from pathlib import Path

import pytest

from fleet import manifest as manifests
from load import harness, scenario
from load.oracles import ORACLES
from load.scenario import Stage

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    target = tmp_path_factory.mktemp("house") / "load.toml"
    return manifests.load(harness.prepared(ROOT / "deploy" / "fleet.toml", target, Stage()))


@pytest.mark.parametrize("name", scenario.names())
def test_every_scenario_names_oracles_and_could_fail(name, manifest):
    found = scenario.find(name)
    oracles = scenario.oracles(found, manifest)
    assert {"nothing_lost", "nothing_twice"} < {oracle.name for oracle in oracles}
    assert all(oracle.name in ORACLES and oracle.says for oracle in oracles)


def test_every_oracle_judges_a_scenario(manifest):
    used = {oracle.name for name in scenario.names() for oracle in scenario.oracles(scenario.find(name), manifest)}
    assert used == set(ORACLES)


def test_every_scenario_is_in_the_papers():
    paper = (ROOT / "docs" / "load.md").read_text()
    assert [name for name in [*scenario.names(), *ORACLES] if f"`{name}`" not in paper] == []
