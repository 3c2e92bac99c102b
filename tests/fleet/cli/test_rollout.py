"""`fleet rollout …` and `fleet pools`, over real workers of two versions."""

import json

import pytest

from fleet import manifest as manifests
from tests.fleet.cli.conftest import Cli
from tests.fleet.test_rollout import ended, serving, start, unshared


@pytest.fixture
def ours(operator: Cli, tmp_path) -> manifests.Manifest:
    """A manifest whose queues no other test has."""
    target = unshared(tmp_path)
    operator.settings["FLEET_MANIFEST"] = str(target)
    return manifests.load(target)


async def test_a_version_is_promoted_ramped_and_rolled_back(operator, ours, temporal):
    assert (await operator.aside("rollout", "status")).stdout == "no versions: workers run without FLEET_BUILD_ID\n"
    async with serving(temporal, ours, "v1", "agents", "email"), serving(temporal, ours, "v2", "agents"):
        run = await start(temporal, ours)
        shown = (await operator.aside("rollout", "status")).stdout
        assert [line.split()[:3] for line in shown.splitlines()[1:]] == [
            ["agents", "v2", "unused"],
            ["agents", "v1", "current"],
            ["email", "v1", "current"],
        ]
        assert (await operator.aside("rollout", "ramp", "20%", "--dry-run")).stdout == (
            "would change agents: 20 % of new runs begin on v2\n"
        )
        assert (await operator.aside("rollout", "ramp", "20%")).stdout == "agents: 20 % of new runs begin on v2\n"
        assert (await operator.aside("rollout", "ramp", "0%")).stdout == "agents: the ramp of v2 ends\n"
        assert (await operator.aside("rollout", "promote", "v2", "--dry-run")).stdout == (
            "would change agents: v1 -> v2\nemail stays on v1\n"
        )
        assert (await operator.aside("rollout", "promote", "v2")).stdout == "agents: v1 -> v2\nemail stays on v1\n"
        assert (await operator.aside("rollout", "promote", "v2")).stdout == (
            "v2 is current already in every pool that has it\nemail stays on v1\n"
        )
        found = await operator.aside("rollout", "drain", "--timeout", "0s")
        assert found.returncode == 3
        assert found.stderr.strip().endswith("1 running")
        assert "v1" in found.stdout
        told = json.loads((await operator.aside("rollout", "rollback", "--json")).stdout)
        assert [(one["pool"], one["before"], one["after"]) for one in told["changes"]] == [("agents", "v2", "v1")]
        assert told["staying"] == {"email": "v1"}
        assert "nothing is left to roll back" in (await operator.aside("rollout", "rollback")).stdout
        assert await ended(run) == "v1"


async def test_a_run_in_flight_is_moved(operator, ours, temporal):
    async with serving(temporal, ours, "v1", "agents"), serving(temporal, ours, "v2", "agents"):
        async with serving(temporal, ours, "v3", "agents"):
            pass
        run = await start(temporal, ours)
        refused = await operator.aside("rollout", "move", run.id, "v3")
        assert refused.returncode == 2
        assert "no live worker of agents v3: the run would wait there for ever" in refused.stderr
        refused = await operator.aside("rollout", "move", run.id, "v9")
        assert refused.returncode == 2
        assert "cannot go on on 'v9'" in refused.stderr
        assert (await operator.aside("rollout", "move", run.id, "v2")).stdout == f"{run.id} goes on on v2\n"
        assert await ended(run) == "v2"


def test_what_cannot_be_done_is_one_line(operator, ours):
    del ours
    assert "no worker of any pool has ever polled with build 'v9'" in operator.refused("rollout", "promote", "v9")
    assert "SHARE 'much': must be a percentage" in operator.refused("rollout", "ramp", "much", "v9")
    assert "which build? there is none" in operator.refused("rollout", "ramp", "20%")
    assert "nothing to roll back to" in operator.refused("rollout", "rollback")
    assert "--timeout soon" in operator.refused("rollout", "drain", "--timeout", "soon")
    assert "unknown pool 'cook'" in operator.refused("rollout", "status", "--pool", "cook")
    assert "unknown pool 'cook'" in operator.refused("pools", "cook")


async def test_a_pool_that_nobody_serves_is_marked(operator, ours, temporal):
    async with serving(temporal, ours, "v1", "agents"):
        shown = (await operator.aside("pools")).stdout
        lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
        assert "NO LIVE WORKER" in lines["llm"]
        assert "NO LIVE WORKER" not in lines["agents"]
        assert (await operator.aside("pools", "--check")).returncode == 1
        assert (await operator.aside("pools", "agents", "--check")).returncode == 0
        (told,) = [p for p in json.loads((await operator.aside("pools", "--json")).stdout) if p["pool"] == "agents"]
        assert (told["live"], told["current"], told["workers"][0]["build"]) == (1, "v1", "v1")
        assert told["backlog"]["activities"]["count"] == 0
