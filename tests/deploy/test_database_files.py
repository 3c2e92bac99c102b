"""The roles of `deploy/postgres/init.sh`: who owns, who writes, who reads, by their own passwords on a real server."""

import asyncio
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
from tests.deploy.serving import initialise, initialised, passwords_of_roles
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
        # the most talkative there is
        asyncio.run(found.execute("ALTER SYSTEM SET log_statement = 'all'"))
        asyncio.run(found.execute("ALTER SYSTEM SET log_min_duration_statement = 0"))
        asyncio.run(found.execute("SELECT pg_reload_conf()"))
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


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE audit_new AS SELECT * FROM audit",
        "SELECT * INTO audit_new FROM audit",
        "CREATE TABLE audit_new (LIKE audit)",
    ],
)
async def test_an_audit_that_was_made_anew_is_only_added_to(server: Roles, made: str) -> None:
    renamed = "ALTER TABLE audit RENAME TO audit_old; ALTER TABLE audit_new RENAME TO audit"
    assert await refused(server, "fleet_owner", f"{made}; {renamed}") == ""
    try:
        for statement in ("UPDATE audit SET actor = 'somebody else'", "DELETE FROM audit", "TRUNCATE audit"):
            assert "permission denied for table audit" in await refused(server, "fleet", statement)
        added = "INSERT INTO audit SELECT * FROM audit_old LIMIT 0"
        assert await refused(server, "fleet", added) == ""
    finally:
        back = "DROP TABLE audit; ALTER TABLE audit_old RENAME TO audit"
        assert await refused(server, "fleet_owner", back) == ""


def test_a_second_time_is_refused_in_one_line_and_no_password_is_in_the_servers_log(
    server: Roles, tmp_path: Path
) -> None:
    found, _ = server
    passwords_of_roles(tmp_path / "secrets")
    done = initialise(found, tmp_path / "secrets")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "there already: role temporal, role fleet_owner, role fleet, role fleet_reader, database" in done.stderr
    log = (found.folder / "log").read_text()
    assert "keep_the_record" in log
    assert "s-fleet" not in log
    assert "PASSWORD" not in log


async def test_who_is_no_superuser_makes_all_but_the_event_trigger_and_is_told(tmp_path: Path) -> None:
    passwords = passwords_of_roles(tmp_path / "secrets")
    with running_postgres() as found:
        if (await version(found)) < 150000:
            pytest.skip("the schema `public` of PostgreSQL 14 is a superuser's")
        await found.execute("CREATE ROLE manager LOGIN CREATEROLE CREATEDB")
        done = await asyncio.to_thread(initialise, found, tmp_path / "secrets", user="manager")
        assert done.returncode == 0, done.stderr
        said = [line.partition("WARNING:  ")[2] for line in done.stderr.splitlines()]
        assert [line.partition(":")[0] for line in said] == [
            "this role may not say what is logged", "this role may make no event trigger",
        ]  # fmt: skip
        server = (found, passwords)
        assert await refused(server, "fleet_owner", "CREATE TABLE audit (x int)") == ""
        assert await refused(server, "fleet", "UPDATE audit SET x = 1") == ""
        # what docs/servers.md says to do then
        assert await refused(server, "fleet_owner", "REVOKE UPDATE, DELETE ON audit FROM fleet") == ""
        assert "permission denied for table audit" in await refused(server, "fleet", "UPDATE audit SET x = 1")
        assert await refused(server, "temporal", "CREATE TABLE schema_version (x int)", "temporal") == ""


async def version(server: Postgres) -> int:
    """Such as 170004."""
    connection = await server.connect()
    try:
        return int(await connection.fetchval("SHOW server_version_num"))
    finally:
        await connection.close()
