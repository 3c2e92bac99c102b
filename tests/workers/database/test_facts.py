"""What a database says of itself to whoever looks after it."""

import pytest

from tests.postgres import Postgres
from workers.database import DatabaseLost
from workers.database.facts import facts


async def test_a_file_has_no_server(tmp_path):
    found = await facts(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}")
    assert (found.sqlite, found.version, found.superuser) == (True, None, None)


async def test_a_server_tells_what_it_is(postgres: Postgres):
    found = await facts(postgres.url("postgres"))
    assert (found.sqlite, found.host, found.encoding, found.user) == (False, "127.0.0.1", "UTF8", "postgres")
    assert (found.superuser, found.encrypted, found.standby) == (True, False, False)
    # that of the tests runs with -F
    assert found.durable is False
    assert found.version is not None
    assert found.version >= 13
    assert found.ahead_s is not None
    assert abs(found.ahead_s) < 1


async def test_a_role_of_its_own_is_no_superuser(postgres: Postgres):
    await postgres.execute("CREATE ROLE narrow LOGIN")
    try:
        found = await facts(postgres.url("postgres").replace("postgres@", "narrow@"))
        assert (found.user, found.superuser) == ("narrow", False)
    finally:
        await postgres.execute("DROP ROLE narrow")


async def test_another_encoding_is_told(postgres: Postgres):
    await postgres.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        assert (await facts(postgres.url("latin"))).encoding == "LATIN1"
    finally:
        await postgres.drop("latin")


async def test_who_does_not_answer_is_lost():
    with pytest.raises(DatabaseLost):
        await facts("postgresql+asyncpg://fleet@127.0.0.1:1/fleet")


async def test_a_look_makes_no_folder(tmp_path):
    assert (await facts(f"sqlite+aiosqlite:///{tmp_path}/none/ledger.db")).sqlite
    assert not (tmp_path / "none").exists()
    for url in ("sqlite+aiosqlite://", "nonsense"):
        with pytest.raises(DatabaseLost):
            await facts(url)
