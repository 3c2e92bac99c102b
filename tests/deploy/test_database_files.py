"""The roles of `deploy/postgres/init.sh`: who owns, who writes, who reads, by their own passwords on a real server."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from fleet.contracts.effects import EffectState
from fleet.contracts.memories import Finding, Keep
from tests.deploy.serving import initialised
from tests.postgres import Postgres, running_postgres
from workers.database import Database
from workers.effects.book import Book
from workers.effects.ledger import Ledger
from workers.effects.spend import Spend
from workers.memory.store import MemoryStore

Roles = tuple[Postgres, dict[str, str]]
"""A server, and the password of each of its roles."""
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roles]:
    """A server with the roles, whose tables the owner has made by `fleet db upgrade`."""
    folder = tmp_path_factory.mktemp("init")
    with running_postgres() as found:
        passwords = initialised(found, folder)
        (folder / "url").write_text(url(found, passwords, "fleet_owner"))
        told = {"FLEET_DATABASE_URL_FILE": str(folder / "url"), "FLEET_STATE_DIR": str(folder)}
        fleet = Path(sys.executable).with_name("fleet")
        done = subprocess.run(
            [fleet, "db", "upgrade"], env=os.environ | told, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        yield found, passwords


def url(server: Postgres, passwords: dict[str, str], role: str, database: str = "fleet") -> str:
    """SQLAlchemy's."""
    return f"postgresql+asyncpg://{role}:{quote(passwords[role])}@127.0.0.1:{server.port}/{database}"


@pytest.fixture
async def database(server: Roles) -> AsyncIterator[Database]:
    """As workers have it."""
    found = Database(url(*server, "fleet"))
    await found.open()
    yield found
    await found.aclose()


async def refused(server: Roles, role: str, statement: str, database: str = "fleet") -> str:
    """Why the server does not do it for that role; empty if it does."""
    found, passwords = server
    try:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=found.port, user=role, password=passwords[role], database=database
        )
    except asyncpg.PostgresError as error:
        return str(error)
    try:
        await connection.execute(statement)
    except asyncpg.PostgresError as error:
        return str(error)
    finally:
        await connection.close()
    return ""


async def test_workers_do_all_that_they_do_with_the_rights_of_their_role(database: Database) -> None:
    ledger = Ledger(database)
    call: dict[str, Any] = {"tool": "send_email", "digest": "d", "run_id": "run", "agent": "writer", "tenant": "t"}
    await ledger.intend("run/1", **call)
    claim = await ledger.claim("run/1")
    assert await ledger.begin("run/1", claim.fence)
    assert await ledger.record("run/1", claim.fence, EffectState.DONE, result="sent")
    assert [entry.key for entry in await ledger.entries()] == ["run/1"]
    book = Book(database)
    await book.note(what="stop", subject="run", run_id="run", actor="ana", at=NOW)
    assert [row.actor for row in await book.audit(subject="run")] == ["ana"]
    store = MemoryStore(database)
    keep = Keep(
        tenant="t", agent="scout", run_id="run", step="1", findings=[Finding(text="The cat sat.")],
        expires_s=60, max_bytes=1000,
    )  # fmt: skip
    await store.keep(keep, now=NOW)
    assert [memory.text for memory in await store.recall("t", "scout", "cats", now=NOW)] == ["The cat sat."]
    assert await store.forget_where("t") == 1
    spend = Spend(database)
    await spend.add(tenant="t", day=date(2026, 5, 1), call="c", steps=1, tokens=9, money=Decimal("0.5"), seconds=1.0)


@pytest.mark.parametrize(
    ("role", "statement", "why"),
    [
        ("fleet", "CREATE TABLE mine (x int)", "permission denied for schema public"),
        ("fleet", "DROP TABLE effects", "must be owner of table effects"),
        ("fleet", "ALTER TABLE effects ADD COLUMN x int", "must be owner of table effects"),
        ("fleet", "TRUNCATE effects", "permission denied for table effects"),
        ("fleet", "UPDATE audit SET actor = 'somebody else'", "permission denied for table audit"),
        ("fleet", "DELETE FROM audit", "permission denied for table audit"),
        ("fleet", "UPDATE alembic_version SET version_num = 'x'", "permission denied for table alembic_version"),
        ("fleet", "CREATE ROLE other", "permission denied to create role"),
        ("fleet", "COPY effects TO PROGRAM 'cat'", "external program"),
        ("fleet", "SET ROLE fleet_owner", "permission denied to set role"),
        ("fleet_reader", "DELETE FROM effects", "read-only transaction"),
        ("fleet_reader", "SET TRANSACTION READ WRITE; DELETE FROM effects", "permission denied for table effects"),
        ("fleet_owner", "CREATE DATABASE other", "permission denied to create database"),
        ("temporal", "CREATE ROLE other", "permission denied to create role"),
    ],
)
async def test_what_a_role_may_not_do_is_refused(server: Roles, role: str, statement: str, why: str) -> None:
    assert why in await refused(server, role, statement, "temporal" if role == "temporal" else "fleet")


@pytest.mark.parametrize(
    ("role", "statement", "database"),
    [
        ("fleet_reader", "SELECT key, state FROM effects", "fleet"),
        ("fleet_owner", "CREATE TABLE passing (x int); DROP TABLE passing", "fleet"),
        # what Temporal's own tools do
        ("temporal", "CREATE TABLE schema_version (x int)", "temporal"),
        ("temporal", "CREATE EXTENSION IF NOT EXISTS btree_gin", "temporal_visibility"),
    ],
)
async def test_what_a_role_is_for_it_may_do(server: Roles, role: str, statement: str, database: str) -> None:
    assert await refused(server, role, statement, database) == ""


@pytest.mark.parametrize(
    ("role", "database"), [("fleet", "temporal"), ("fleet_reader", "temporal_visibility"), ("temporal", "fleet")]
)
async def test_a_role_sees_no_other_database(server: Roles, role: str, database: str) -> None:
    assert "permission denied for database" in await refused(server, role, "SELECT 1", database)


async def test_a_wrong_password_is_refused(server: Roles) -> None:
    found, passwords = server
    assert "password authentication failed" in await refused((found, {"fleet": passwords["fleet_reader"]}), "fleet", "")


async def test_a_later_migration_s_tables_are_the_workers_too(server: Roles) -> None:
    made = "CREATE TABLE later (number bigserial PRIMARY KEY)"
    assert await refused(server, "fleet_owner", made) == ""
    assert await refused(server, "fleet", "INSERT INTO later DEFAULT VALUES") == ""
    assert await refused(server, "fleet_reader", "SELECT * FROM later") == ""
    assert await refused(server, "fleet_owner", "DROP TABLE later") == ""
