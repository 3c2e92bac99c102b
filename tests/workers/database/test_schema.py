"""The schema: what migrations make is what the code expects, on both dialects."""

import asyncio
import subprocess
import sys
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from fleet.contracts.effects import EffectState
from workers.database import Database, SchemaOutdated, current, revisions, upgrade
from workers.database.tables import metadata, ours
from workers.effects.ledger import Ledger

RELEASE_0_1 = """
CREATE TABLE effects (
    key VARCHAR(512) NOT NULL, state VARCHAR(16) NOT NULL, fence INTEGER NOT NULL, evidence VARCHAR(2048) NOT NULL,
    updated_at {time} NOT NULL, PRIMARY KEY (key)
)
"""


def _differences(connection):
    context = MigrationContext.configure(
        connection, opts={"include_object": ours, "compare_type": True, "target_metadata": metadata}
    )
    return compare_metadata(context, metadata)


async def test_migrations_make_exactly_the_tables_of_the_code(database):
    async with database.reading() as connection:
        assert await connection.run_sync(_differences) == []


async def test_an_upgrade_says_what_it_has_applied_and_a_second_one_has_nothing_to_do(empty_url, capsys):
    assert await current(empty_url) == (None, "0003")
    assert await upgrade(empty_url) == ["0001", "0002", "0003"]
    assert await upgrade(empty_url) == []
    assert await current(empty_url) == ("0003", "0003")
    assert capsys.readouterr() == ("", "")


def test_the_names_of_files_are_the_revisions_in_alembics_order():
    migrations = Path(revisions.__file__).parent / "migrations"
    scripts = ScriptDirectory(str(migrations))
    assert [script.revision for script in scripts.walk_revisions()][::-1] == revisions._released()
    assert revisions.newest() == scripts.get_current_head()


async def test_asking_for_the_revision_makes_no_file(tmp_path):
    assert await current(f"sqlite+aiosqlite:///{tmp_path / 'fleet.db'}") == (None, "0003")
    assert not (tmp_path / "fleet.db").exists()


async def test_a_database_without_tables_is_not_opened(empty_url):
    async with aclosing(Database(empty_url)) as database:
        with pytest.raises(SchemaOutdated, match=r"at revision none, needs 0003: run `fleet db upgrade`"):
            await database.open()


async def test_a_database_of_a_later_release_is_not_opened(database_url):
    async with aclosing(Database(database_url)) as database:
        async with database.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
        with pytest.raises(SchemaOutdated, match="at revision 0999, which this release does not know"):
            await database.open()


@pytest.fixture
async def empty(empty_url):
    """A database without tables, of each dialect."""
    async with aclosing(Database(empty_url)) as found:
        await found.prepare()
        yield found


async def test_the_ledger_of_release_0_1_is_taken_over(empty, empty_url):
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    stamp = "'2026-01-02 03:04:05.000000'" if empty.sqlite else "'2026-01-02 03:04:05+00'"
    async with empty.begin() as connection:
        time = "DATETIME" if empty.sqlite else "TIMESTAMP WITH TIME ZONE"
        await connection.execute(text(RELEASE_0_1.format(time=time)))
        for row in ("'a/1', 'done', 1, '250 \"OK\"'", "'a/2', 'executing', 2, ''", "'a/3', 'failed', 3, ''"):
            await connection.execute(text(f"INSERT INTO effects VALUES ({row}, {stamp})"))
    assert await upgrade(empty_url) == ["0001", "0002", "0003"]
    ledger = Ledger(empty)
    done, executing, failed = [await ledger.get(f"a/{number}") for number in (1, 2, 3)]
    assert (done.state, done.fence, done.evidence) == (EffectState.DONE, 1, {"reply": '250 "OK"'})
    assert (executing.state, executing.fence, executing.executing_since) == (EffectState.EXECUTING, 2, moment)
    assert (failed.state, failed.fence, failed.executing_since, failed.updated_at) == (
        EffectState.FAILED, 3, None, moment,
    )  # fmt: skip
    # that release did not know its calls: the row is the first one's that asks
    assert executing.arguments == {}
    call = {"tool": "send_email", "digest": "d", "run_id": "a", "agent": "x", "tenant": "t", "arguments": {"n": 1}}
    entry = await ledger.intend("a/2", **call)
    assert (entry.state, entry.tool, entry.run_id) == (EffectState.EXECUTING, "send_email", "a")
    assert entry.arguments == {"n": 1}
    async with empty.reading() as connection:
        assert await connection.run_sync(_differences) == []


async def test_a_failed_upgrade_leaves_everything_as_it_was(empty, empty_url):
    async with empty.begin() as connection:
        await connection.execute(text("CREATE TABLE spend (amount INTEGER)"))
    with pytest.raises(Exception, match=r"spend.* already exists"):
        await upgrade(empty_url)
    assert await current(empty_url) == (None, "0003")
    async with empty.begin() as connection:
        await connection.execute(text("DROP TABLE spend"))
    assert await upgrade(empty_url) == ["0001", "0002", "0003"]


async def test_of_two_processes_that_upgrade_at_once_one_does_and_both_succeed(empty_url):
    program = "import asyncio, sys\nfrom workers.database import upgrade\nprint(asyncio.run(upgrade(sys.argv[1])))"
    command = [sys.executable, "-c", program, empty_url]
    quiet = {"capture_output": True, "text": True, "check": False}
    ends = await asyncio.gather(*(asyncio.to_thread(subprocess.run, command, **quiet) for _ in range(2)))
    assert [end.stderr for end in ends] == ["", ""]
    assert sorted(end.stdout.strip() for end in ends) == ["['0001', '0002', '0003']", "[]"]


async def test_many_tasks_upgrade_at_once(empty_url):
    answers = await asyncio.gather(*(upgrade(empty_url) for _ in range(4)))
    assert sorted(answers) == [[], [], [], ["0001", "0002", "0003"]]
