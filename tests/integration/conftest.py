"""A whole fleet for a test: real servers, simulators and worker processes."""

import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from fleet import settings
from fleet.client import FleetClient, connect
from load.local import LocalFleet, Plan
from load.providers import Ledgers

MANIFEST = Path(__file__).parents[2] / "deploy" / "fleet.toml"


@pytest.fixture
async def local_fleet(tmp_path):
    """Start a fleet with the shipped manifest, changed by regular expressions."""
    async with AsyncExitStack() as stack:

        async def start(pools, *changes, **plan):
            text = MANIFEST.read_text()
            for pattern, replacement in changes:
                text, count = re.subn(pattern, replacement, text)
                assert count, pattern
            source = tmp_path / "source.toml"
            source.write_text(text)
            found = LocalFleet(Plan(folder=tmp_path / "fleet", manifest=source, pools=pools, **plan), settings.load())
            await stack.enter_async_context(found)
            await found.workers_ready()
            found.client = FleetClient(
                await connect(found.settings(), address=found.endpoints.temporal), found.manifest
            )
            found.ledgers = Ledgers(found.simulators["http"])
            stack.push_async_callback(found.ledgers.aclose)
            return found

        yield start
