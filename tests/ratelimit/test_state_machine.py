import os

from tests.ratelimit.machine import drive

EXAMPLES = int(os.environ.get("FLEET_STATE_MACHINE_EXAMPLES", "100"))


def test_the_lua_equals_the_model(valkey: str) -> None:
    drive(valkey, EXAMPLES)
