"""What every test needs: a clean environment, and real servers on free ports."""

import asyncio
import functools
import gc
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import _worker as temporal_worker
from xdist.scheduler import LoadGroupScheduling

from fleet import attributes
from load.simulators.options import Options
from load.simulators.server import Serving, Where, running
from tests import containers, temporals
from tests.ratelimit.servers import on_socket, redis_binary, valkey_binary

# what `workers.embedded` gives its server too: short queues, no throttled dispatch
TUNING = [
    f"--dynamic-config-value={key}={value}"
    for key, value in {
        "history.transferProcessorMaxPollRPS": "2000",
        "history.timerProcessorMaxPollRPS": "2000",
        "matching.numTaskqueueReadPartitions": "1",
        "matching.numTaskqueueWritePartitions": "1",
        "matching.enableFairness": "true",
        # else no timer, retries included, fires before a second has passed
        "history.timerProcessorMaxTimeShift": '"50ms"',
    }.items()
]


# the SDK hashes all modules of a process for the first worker that names no build: seconds
temporal_worker._default_build_id = "tests"


# what the system trusts is read for 40 ms by every client of a test, which speaks plain HTTP
httpcore2.default_ssl_context = functools.cache(httpcore2.default_ssl_context)


def binary(name: str) -> str:
    """A program of this virtual environment."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} is not installed"
    return found


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in os.environ:
        if name.startswith(("FLEET_", "TEMPORAL_", "OTEL_")) or name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLEET_STATE_DIR", str(tmp_path / ".fleet"))


@pytest.fixture(scope="session")
def temporal_address():
    """Address of a real Temporal server, one for each test process."""
    if containers.wanted():
        with containers.temporal(*TUNING) as address:
            asyncio.run(_answers(address))
            yield address
        return
    # as the embedded stack does: collect garbage less often
    os.environ["GOGC"] = "400"
    starting = partial(
        WorkflowEnvironment.start_local,
        dev_server_existing_path=binary("temporal"),
        dev_server_extra_args=TUNING,
        dev_server_log_level="error",
        search_attributes=attributes.KEYS,
    )
    with temporals.served(starting) as address:
        yield address


async def _answers(address: str) -> None:
    """Return once the server there serves its namespace."""
    async with asyncio.timeout(60):
        while True:
            try:
                client = await Client.connect(address)
                await client.count_workflows()
            except (RuntimeError, RPCError):
                await asyncio.sleep(0.05)
            else:
                return


@pytest.fixture
async def temporal(temporal_address):
    """A client of it."""
    return await Client.connect(temporal_address)


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """URL of a Valkey that keeps nothing."""
    with containers.valkey() if containers.wanted() else on_socket(valkey_binary()) as url:
        yield url


@pytest.fixture(scope="session")
def redis7() -> Iterator[str]:
    """URL of a Redis 7 that keeps nothing."""
    with containers.redis() if containers.wanted() else on_socket(redis_binary()) as url:
        yield url


@pytest.fixture
async def simulators(tmp_path):
    """Start simulated providers with the options given, as often as needed."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Where:
            options.setdefault("latency", {"base_s": 0, "per_output_token_s": 0})
            serving = Serving(options=Options.of(options), maildir=tmp_path / "mail" / "Maildir")
            return await stack.enter_async_context(running(serving))

        yield start


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        named = item.get_closest_marker("by_name")
        if named is not None and named.args[0] not in config.getoption("keyword"):
            item.add_marker(pytest.mark.skip(reason=f"repeats at length what others try: -k {named.args[0]}"))


def pytest_configure() -> None:
    containers.chosen(os.environ)
    gc.disable()


def pytest_collection_finish() -> None:
    # thousands of tests and their modules stay: the collector need not look at them again and again
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    # A Temporal client alive at interpreter exit aborts one process in ten; a pause lets its threads end.
    time.sleep(0.3)


class Groups(LoadGroupScheduling):
    """Of whole fleets two run at a time at most: that of the scenarios, and another.

    By name: the marker `xdist_group` comes to nothing, because pytest 9 tells other node ids than xdist 3.8 has set.
    """

    def _split_scope(self, nodeid: str) -> str:
        if not nodeid.startswith("tests/integration/"):
            return nodeid
        return "scenarios" if "/test_scenarios.py" in nodeid else "fleets"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadGroupScheduling | None:
    return Groups(config, log) if config.getvalue("dist") == "loadgroup" else None
