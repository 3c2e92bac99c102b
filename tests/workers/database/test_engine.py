"""The database as its users see it: one kind of error, and a server that may go and come back."""

import asyncio
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError, StatementError

from tests.postgres import running_postgres
from tests.workers.conftest import sqlite_url
from workers.database import Database, DatabaseLost, upgrade
from workers.database.tables import audit, spend_calls

SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        f"mysql://u:{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h/d",
        f"postgresql+asyncpg://u:{SECRET}:{SECRET}@h:{SECRET}@h/d",
        "sqlite:///fleet.db",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
    ],
)
def test_what_is_no_url_is_one_line_that_does_not_repeat_it(url):
    with pytest.raises(DatabaseLost, match=r"^the database cannot be opened: not a database URL, as in .*$") as raised:
        Database(url)
    assert SECRET not in str(raised.value)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseLost, match="the database cannot be opened: "):
        Database(sqlite_url(tmp_path / "file" / "fleet.db"))


async def test_a_file_that_cannot_be_opened_is_one_line(tmp_path):
    async with aclosing(Database(sqlite_url(tmp_path))) as database:
        with pytest.raises(DatabaseLost, match=r"^the database does not answer: unable to open database file$"):
            await database.open()


async def test_a_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "fleet.db").write_text("not a database" * 100)
    async with aclosing(Database(sqlite_url(tmp_path / "fleet.db"))) as database:
        with pytest.raises(DatabaseLost, match=r"^the database does not answer: file is not a database$"):
            await database.open()


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("@127.0.0.1:1/d", "the database does not answer: .*Connect call failed"),
        ("@127.0.0.1:1/d?keepalives=1", "the database cannot be opened: .*keepalives"),
        ("@nowhere.invalid/d", "the database does not answer: .*"),
    ],
)
async def test_a_server_that_is_not_there_is_one_line(rest, says):
    async with aclosing(Database(f"postgresql+asyncpg://u:{SECRET}{rest}")) as database:
        with pytest.raises(DatabaseLost, match=f"^{says}") as raised:
            await database.open()
    assert SECRET not in str(raised.value)


async def test_a_database_that_is_not_there_is_one_line(postgres):
    async with aclosing(Database(postgres.url("absent"))) as database:
        with pytest.raises(DatabaseLost, match=r'^the database does not answer: database "absent" does not exist$'):
            await database.open()


async def test_a_server_that_takes_no_connection_in_time_is_lost():
    async def silent(_reader, writer):
        silenced.append(writer)

    silenced: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(silent, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    async with aclosing(Database(f"postgresql+asyncpg://u@127.0.0.1:{port}/d", connect_s=0.1)) as database:
        with pytest.raises(DatabaseLost, match="no answer in time"):
            await database.open()
    for writer in silenced:
        writer.close()
    server.close()
    await server.wait_closed()


async def test_an_error_of_sql_is_one_line_without_the_statement(database):
    with pytest.raises(DatabaseLost, match=r"^the database does not answer: .*absent") as raised:
        async with database.begin() as connection:
            await connection.execute(text("SELECT * FROM absent"))
    assert "SELECT" not in str(raised.value)


async def test_a_forbidden_row_is_told_apart(database):
    row = insert(spend_calls).values(call="a", day=datetime.now(UTC).date())

    async def twice():
        async with database.begin() as connection:
            await connection.execute(row)
            await connection.execute(row)

    with pytest.raises(IntegrityError):
        await twice()
    async with database.reading() as connection:
        assert (await connection.execute(select(spend_calls))).all() == []


async def test_sqlite_is_durable_and_shared(tmp_path):
    url = sqlite_url(tmp_path / "deep" / "fleet.db")
    await upgrade(url)
    async with aclosing(Database(url)) as database:
        await database.open()
        async with database.reading() as connection:
            found = [
                (await connection.execute(text(f"PRAGMA {name}"))).scalar()
                for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
            ]
    assert found == ["wal", 2, 10_000, 1]


async def test_a_moment_comes_back_in_utc_whatever_its_offset(database):
    moment = datetime(2026, 3, 29, 2, 30, 0, 123456, timezone(timedelta(hours=2)))
    row = {"at": moment, "what": "w", "subject": "s", "run_id": "", "tenant": "", "actor": "", "channel": ""}
    async with database.begin() as connection:
        await connection.execute(insert(audit).values(**row, comment="", detail={}))
        found = (await connection.execute(select(audit.c.at))).scalar_one()
        assert (await connection.execute(select(audit.c.id).where(audit.c.at == moment.astimezone(UTC)))).scalar_one()
    assert (found, found.tzinfo) == (moment, UTC)


async def test_a_moment_without_an_offset_is_a_defect_not_an_outage(database):
    with pytest.raises(StatementError, match="has no offset"):
        async with database.begin() as connection:
            await connection.execute(select(audit).where(audit.c.at > datetime(2026, 1, 1)))  # noqa: DTZ001


async def test_what_no_database_can_store_is_replaced(database):
    hard = "nul \x00, half \ud800, whole \U0001f600"
    row = {"at": datetime.now(UTC), "what": "w", "subject": "s", "run_id": "", "tenant": "", "actor": "", "channel": ""}
    async with database.begin() as connection:
        await connection.execute(insert(audit).values(**row, comment=hard, detail={hard: hard}))
        found = (await connection.execute(select(audit.c.comment, audit.c.detail))).one()
    assert found.comment == "nul  , half ?, whole \U0001f600"
    assert found.detail == {hard: hard}


async def test_readers_do_not_wait_for_a_writer(database):
    async with database.begin() as writing:
        await writing.execute(insert(spend_calls).values(call="a", day=datetime.now(UTC).date()))
        async with asyncio.timeout(5), database.reading() as reading:
            assert (await reading.execute(select(spend_calls))).all() == []


QUIET = {"capture_output": True, "text": True, "check": False}
WRITER = """
import asyncio, sys
from sqlalchemy import text
from workers.database import Database

async def main():
    database = Database(sys.argv[1])
    await database.open()
    async def one():
        for _ in range(10):
            async with database.begin() as connection:
                # reads before it writes: with a deferred BEGIN this fails with SQLITE_BUSY_SNAPSHOT
                tokens = (await connection.execute(text(sys.argv[2]))).scalar()
                await connection.execute(text(f"UPDATE spend SET tokens = {tokens + 1}"))
    await asyncio.gather(*(one() for _ in range(5)))
    await database.aclose()

asyncio.run(main())
"""


async def test_several_processes_read_and_write_in_one_transaction(database, database_url):
    async with database.begin() as connection:
        await connection.execute(text("INSERT INTO spend VALUES ('t', '2026-01-01', 0, 0, '0', 0)"))
    query = "SELECT tokens FROM spend" + ("" if database.sqlite else " FOR UPDATE")
    command = [sys.executable, "-c", WRITER, database_url, query]
    ends = await asyncio.gather(*(asyncio.to_thread(subprocess.run, command, **QUIET) for _ in range(2)))
    assert [end.stderr for end in ends] == ["", ""]
    async with database.reading() as connection:
        assert (await connection.execute(text("SELECT tokens FROM spend"))).scalar() == 100


async def test_what_a_transaction_has_read_is_true_until_it_writes(tmp_path):
    url = sqlite_url(tmp_path / "fleet.db")
    await upgrade(url)
    day = datetime.now(UTC).date()

    async def other_process():
        async with aclosing(Database(url)) as database, database.begin() as connection:
            await connection.execute(insert(spend_calls).values(call="theirs", day=day))

    async with aclosing(Database(url)) as database:
        async with database.begin() as connection:
            assert (await connection.execute(select(spend_calls))).all() == []
            theirs = asyncio.create_task(other_process())
            # it gets nowhere meanwhile; else the write below would fail with SQLITE_BUSY_SNAPSHOT
            assert (await asyncio.wait([theirs], timeout=0.3))[0] == set()
            await connection.execute(insert(spend_calls).values(call="ours", day=day))
        await theirs
        async with database.reading() as connection:
            assert len((await connection.execute(select(spend_calls))).all()) == 2


async def test_a_cancelled_transaction_leaves_nothing_and_holds_nobody_up(database):
    begun = asyncio.Event()

    async def write():
        async with database.begin() as connection:
            await connection.execute(insert(spend_calls).values(call="a", day=datetime.now(UTC).date()))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5), database.begin() as connection:
        assert (await connection.execute(select(spend_calls))).all() == []


async def _answers(database):
    async with database.reading() as connection:
        return (await connection.execute(text("SELECT 1"))).scalar()


async def test_a_postgresql_that_was_killed_and_restarted_is_used_again():
    with running_postgres() as server:
        async with aclosing(Database(server.url("postgres"))) as database:
            assert await asyncio.gather(*(_answers(database) for _ in range(5))) == [1] * 5
            server.kill()
            with pytest.raises(DatabaseLost, match=r"^the database does not answer: .+"):
                await _answers(database)
            server.start()
            assert await asyncio.gather(*(_answers(database) for _ in range(5))) == [1] * 5
            # and unnoticed: nobody has asked in between
            server.kill()
            server.start()
            assert await asyncio.gather(*(_answers(database) for _ in range(5))) == [1] * 5


async def test_a_postgresql_that_dies_in_a_transaction_is_lost():
    with running_postgres() as server:
        async with aclosing(Database(server.url("postgres"))) as database:

            async def interrupted():
                async with database.begin() as connection:
                    await connection.execute(text("SELECT 1"))
                    server.kill()
                    await connection.execute(text("SELECT 1"))

            with pytest.raises(DatabaseLost, match=r"^the database does not answer: .+"):
                await interrupted()


async def test_a_postgresql_that_hangs_is_lost_in_time_and_used_again_afterwards():
    with running_postgres() as server:
        async with aclosing(Database(server.url("postgres"), connect_s=0.5, command_s=0.5)) as database:
            assert await _answers(database) == 1
            server.suspend(signal.SIGSTOP)
            began = time.monotonic()
            try:
                with pytest.raises(DatabaseLost, match="no answer in time"):
                    await _answers(database)
                took = time.monotonic() - began
            finally:
                server.suspend(signal.SIGCONT)
            assert took < 8
            assert await _answers(database) == 1


async def test_a_statement_without_end_is_lost_in_time(postgres):
    async with aclosing(Database(postgres.url("postgres"), command_s=0.2)) as database:
        with pytest.raises(DatabaseLost, match="no answer in time"):
            async with database.begin() as connection:
                await connection.execute(text("SELECT pg_sleep(60)"))
        assert await _answers(database) == 1
