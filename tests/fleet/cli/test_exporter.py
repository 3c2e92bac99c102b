"""`fleet exporter` as a process."""

import asyncio
import signal
import subprocess

import httpx2
import pytest

from tests.fleet.cli.conftest import PROGRAM, Cli


@pytest.fixture
def served(operator):
    """It logs and listens to signals: a process of its own. Redis is away."""
    return Cli(operator.folder, operator.settings | {"FLEET_REDIS_URL": "redis://127.0.0.1:1/0"})


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
async def test_the_exporter_serves_what_it_sees_until_it_is_ended(served, end):
    process = await asyncio.create_subprocess_exec(
        PROGRAM, "exporter", "--port", "0", "--every", "1", cwd=served.folder, env=served.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        assert line.startswith("exporter at http://127.0.0.1:")
        address = line.removeprefix("exporter at ").strip()
        told = ""
        async with asyncio.timeout(30), httpx2.AsyncClient() as http:
            while not all(f'fleet_exporter_up{{source="{source}"}} 1.0' in told for source in ("temporal", "database")):
                told = (await http.get(address)).text
                await asyncio.sleep(0.05)
            assert (await http.get(address.replace("metrics", "live"))).status_code == 200
        assert 'fleet_exporter_up{source="redis"} 0.0' in told
        assert 'fleet_approvals_open{tool="transfer"} 0.0' in told
        assert 'fleet_runs{agent="payer",state="working"}' in told
        process.send_signal(end)
        _, logged = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, b"Traceback" in logged) == (0, False), logged
        assert b'"ready"' in logged
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_an_exporter_that_cannot_serve_is_refused(served, operator):
    port = served.settings["TEMPORAL_ADDRESS"].partition(":")[2]
    assert "choose another with --host and --port" in served.refused("exporter", "--port", port)
    assert "FLEET_REDIS_URL: " in served.refused("exporter", "--port", "0", FLEET_REDIS_URL="http://x")
    assert "--every" in operator.refused("exporter", "--every", "0.5")
    assert "no.toml: cannot be read" in operator.refused("exporter", "--manifest", "no.toml")
