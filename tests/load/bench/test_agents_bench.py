"""The benchmark of agents measures what it says; its figures are no test."""

import json

import psutil
import pytest

from load.bench import agents
from load.bench.agents import Figures, Found
from load.bench.burden import Look


def figures(size, *, temporal=0.05, mb=0.02, **more):
    given = {
        "alive": size, "cached": 500, "done": float(size), "started_per_s": 50.0, "agents_per_s": 20.0,
        "activities_per_s": 60.0, "tasks_per_s": 140.0, "of_bare": 0.6, "waiting_cores": 0.1, "working_mb": 0.03,
        "cpu_s": {"worker llm": 0.02, "temporal": temporal, "valkey": 0.0002 * size},
        "mb": {"worker llm": mb, "temporal": 0.01, "simulators": 5.0},
    }  # fmt: skip
    return Figures(agents=size, **{**given, **more})


def test_what_grows_with_the_number_of_agents_is_named():
    found = Found(rows=[figures(5), figures(10, temporal=0.1, mb=0.03)])
    assert found.growth()["CPU ms: temporal"] == {10: 2.0}
    # valkey doubles too, and takes next to nothing
    assert found.bend() == ("CPU ms: temporal", 2.0)
    assert found.says() == "what bends: CPU ms: temporal: 50 to 100 an agent from 5 to 10 agents, 2.00 times"


def test_workflows_that_do_not_stay_in_memory_are_said_to_be_why_their_workers_do_more():
    spent = [{"worker agents": cpu_s, "temporal": 0.05} for cpu_s in (0.02, 0.03)]
    found = Found(rows=[figures(5, cpu_s=spent[0]), figures(10, cpu_s=spent[1], cached=8)])
    assert found.bend() == ("CPU ms: worker agents", pytest.approx(1.5))
    assert found.says().endswith("keeps 8 workflows in memory (pools.agents.cached) and reads others' histories")


def test_costs_that_stay_are_close_to_linear():
    found = Found(rows=[figures(5), figures(10, mb=0.021)])
    name, times = found.bend()
    assert (name, times) == ("KB: workers, waiting", pytest.approx(1.05))
    assert found.says().startswith("close to linear: from 5 to 10 agents no cost of one agent grows more than 1.05")
    assert Found(rows=[figures(5)]).says() == "one size says nothing of growth"
    # memory that shrank while one looked costs nothing, and grows nothing
    assert "KB: workers, waiting" not in Found(rows=[figures(5, mb=-0.1), figures(10)]).growth()


def test_what_an_idle_fleet_uses_is_nobodys_cost():
    idle = Look(2.0, {"temporal": 0.2, "client": 0.0}, {"temporal": 0.0, "client": 0.0})
    used = Look(10.0, {"temporal": 3.0, "client": 1.0}, {"temporal": 0.0, "client": 0.0})
    assert used.beyond(idle) == pytest.approx({"temporal": 2.0, "client": 1.0})
    assert used.cores == pytest.approx(0.3)


@pytest.mark.trial
@pytest.mark.by_name("every_size")
@pytest.mark.timeout(420)
async def test_every_size_has_a_fleet_of_its_own_whose_agents_wait_and_then_work():
    sizes = [5, 10]
    said = []
    found = await agents.run(sizes[::-1], said.append)
    assert [row.agents for row in found.rows] == sizes
    assert [row.alive for row in found.rows] == sizes
    assert [row.done for row in found.rows] == sizes
    for row in found.rows:
        assert min(row.started_per_s, row.agents_per_s, row.of_bare, row.per_core_s) > 0
        # one search between two calls of the model
        assert row.activities_per_s == pytest.approx(3 * row.agents_per_s)
        assert row.tasks_per_s > row.activities_per_s
        assert set(row.cpu_s) == set(row.mb) == {
            "client", "simulators", "temporal", "valkey", "worker agents", "worker llm", "worker search",
        }  # fmt: skip
    told = json.loads(json.dumps(found.document()))
    assert [size["agents"] for size in told["sizes"]] == sizes
    assert told["costs"].keys() >= told["growth"].keys()
    assert told["bends"]["says"] == found.says()
    for _, heads, lines in found.tables():
        assert lines
        assert all(len(line) == len(heads) for line in lines)
    assert "5 agents: 5 are alive and wait" in said
    left = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert not [command for command in left if "fleet-bench-" in command]
