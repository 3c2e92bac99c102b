import os

import pytest

from tests.ratelimit.machine import drive

EXAMPLES = int(os.environ.get("FLEET_STATE_MACHINE_EXAMPLES", "30"))


@pytest.mark.parametrize("server", ["valkey", "redis7"])
def test_the_lua_equals_the_model(request: pytest.FixtureRequest, server: str) -> None:
    drive(request.getfixturevalue(server), EXAMPLES)


@pytest.mark.trial
@pytest.mark.parametrize(("server", "machines"), [("valkey", 200), ("redis7", 60)])
def test_the_lua_equals_the_model_in_many_machines(request: pytest.FixtureRequest, server: str, machines: int) -> None:
    drive(request.getfixturevalue(server), machines)
