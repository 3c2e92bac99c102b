"""Databases for the tests of everything that writes to one: SQLite and PostgreSQL."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.postgres import Postgres, shared_postgres
from workers.database import Database, upgrade

T = TypeVar("T")


def sqlite_url(file: Path) -> str:
    """SQLAlchemy's."""
    return f"sqlite+aiosqlite:///{file}"


def _apart(work: Coroutine[Any, Any, T]) -> T:
    """Run it on a loop of its own: the test's may be running already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL, one for each test process."""
    with shared_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def _postgres_template(postgres: Postgres) -> str:
    """Name of a database that is at the newest revision."""
    name = _apart(postgres.create())
    _apart(upgrade(postgres.url(name)))
    return name


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is at the newest revision."""
    file = tmp_path_factory.mktemp("database") / "template.db"
    _apart(upgrade(sqlite_url(file)))
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """URL of a database without tables, of each dialect."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "fleet.db")
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = await server.create()
    yield server.url(name)
    await server.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """URL of a database at the newest revision, of each dialect."""
    if request.param == "sqlite":
        file = tmp_path / "fleet.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), file)
        yield sqlite_url(file)
        return
    template = request.getfixturevalue("_postgres_template")
    server: Postgres = request.getfixturevalue("postgres")
    name = await server.create(template)
    yield server.url(name)
    await server.drop(name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open database of each dialect."""
    found = Database(database_url)
    await found.open()
    yield found
    await found.aclose()
