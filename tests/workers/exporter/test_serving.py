"""The exporter over real servers that come, go, and come back."""

import asyncio
import socket
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleet import manifest as manifests
from fleet import settings as environment
from fleet.contracts.metrics import REGISTRY
from fleet.errors import BadInput
from ratelimit.limiter import Limiter
from workers.bootstrap import quotas
from workers.database import upgrade
from workers.embedded import EmbeddedStack
from workers.exporter.serving import exporting

MANIFEST = Path(__file__).parents[3] / "deploy" / "fleet.toml"
AT_MOST_S = 60.0
EVERY_S = 0.2


@pytest.fixture
def loaded():
    """The shipped manifest."""
    return manifests.load(MANIFEST)


@pytest.fixture
async def http():
    """For scrapes: none may take as long as a server that is away."""
    async with httpx2.AsyncClient(timeout=2) as found:
        yield found


async def scraped(http, url):
    text = (await http.get(f"{url}/metrics")).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def until(http, url, what):
    """What is scraped, once it is what is wanted."""
    found = {}
    async with asyncio.timeout(AT_MOST_S):
        while not what(found):
            found = await scraped(http, url)
            await asyncio.sleep(0.02)
    return found


def up(**wanted):
    return lambda found: wanted == {key[1]: value for key, value in found.items() if key[0] == "fleet_exporter_up"}


def only(*names, without):
    """These are there, and nothing whose name has `without` in it."""
    return lambda found: set(names) <= {key[0] for key in found} and not any(without in key[0] for key in found)


async def test_it_begins_and_ends_without_any_server(loaded, http, monkeypatch, tmp_path):
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("FLEET_REDIS_URL", "redis://127.0.0.1:2/0")
    settings = environment.load()
    async with exporting(settings, loaded, host="127.0.0.1", port=0, every_s=EVERY_S) as url:
        found = await until(http, url, up(temporal=0, redis=0, database=0))
        assert {key[0] for key in found} == {"fleet_exporter_up", "fleet_exporter_look_seconds"}
        assert (await http.get(f"{url}/live")).status_code == 200
        ready = await http.get(f"{url}/ready")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert not (tmp_path / ".fleet" / "ledger.db").exists()


async def test_it_sees_servers_come_go_and_come_back_each_on_its_own(loaded, http, monkeypatch, tmp_path):
    async with EmbeddedStack(tmp_path / ".fleet") as stack:
        monkeypatch.setenv("TEMPORAL_ADDRESS", stack.endpoints.temporal)
        settings = environment.load()
        async with exporting(settings, loaded, host="127.0.0.1", port=0, every_s=EVERY_S) as url:
            await until(http, url, up(temporal=1, redis=1, database=0))
            await upgrade(settings.database())
            async with Limiter.from_url(stack.endpoints.redis, quotas(loaded)) as shared:
                for quota in quotas(loaded).values():
                    await shared.seed(quota)
            await until(http, url, lambda found: ("fleet_quota_pace_ratio", "email/relay") in found)
            found = await until(http, url, up(temporal=1, redis=1, database=1))
            names = {key[0] for key in found}
            # of what needs versions, and answers of providers, there is nothing to tell
            silent = {"fleet_version_runs", "fleet_version_draining_seconds", "fleet_quota_granted_ratio"}
            wanted = {metric.exposed for metric in REGISTRY.values() if metric.source.value == "exporter"}
            assert wanted - names == silent
            await stack.kill_redis()
            await until(http, url, up(temporal=1, redis=0, database=1))
            await until(http, url, only("fleet_runs", "fleet_approvals_open", without="quota"))
            await stack.restart_redis()
            await until(http, url, up(temporal=1, redis=1, database=1))
            await stack.kill_temporal()
            await until(http, url, up(temporal=0, redis=1, database=1))
            await until(http, url, only("fleet_quota_pace_ratio", "fleet_approvals_open", without="runs"))
            await stack.restart_temporal()
            found = await until(http, url, up(temporal=1, redis=1, database=1))
            assert found["fleet_runs", "payer", "working"] == 0


async def test_what_cannot_be_is_refused_before_it_begins(loaded, monkeypatch):
    async def begin(port=0, **variables):
        with pytest.MonkeyPatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            async with exporting(environment.load(), loaded, host="127.0.0.1", port=port, every_s=1):
                raise AssertionError("it began")

    with pytest.raises(BadInput, match="FLEET_REDIS_URL: "):
        await begin(FLEET_REDIS_URL="http://x")
    with pytest.raises(BadInput, match=r"FLEET_DATABASE_URL: .*not a database URL"):
        await begin(FLEET_DATABASE_URL="mysql://x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=rf"exporter 127\.0\.0\.1:{port} .*choose another with --host and --port"):
            await begin(port=port)
