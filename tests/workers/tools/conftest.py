"""The simulated world and a ledger on SQLite; the ledger itself is tested on both dialects."""

import shutil

import pytest

from tests.workers.attempting import Outside
from tests.workers.conftest import sqlite_url


@pytest.fixture
async def database_url(_sqlite_template, tmp_path):
    file = tmp_path / "fleet.db"
    shutil.copy(_sqlite_template, file)
    return sqlite_url(file)


@pytest.fixture
async def outside(simulators, database):
    """Of simulators with their defaults."""
    return Outside(await simulators(), database)
