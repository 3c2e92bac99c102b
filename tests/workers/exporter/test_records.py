"""Approvals and effects that wait for a human, in each dialect."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from fleet.contracts.approvals import Approval, ApprovalEvent, ApprovalState, Ask
from fleet.contracts.effects import EffectState
from fleet.contracts.metrics import (
    APPROVALS_EXPIRING,
    APPROVALS_OLDEST,
    APPROVALS_OPEN,
    EFFECTS_RECENT,
    EFFECTS_UNKNOWN,
)
from tests.workers.conftest import sqlite_url
from workers.database import Database
from workers.database.engine import DatabaseLost
from workers.database.tables import effects
from workers.effects.book import Book
from workers.effects.ledger import Ledger
from workers.exporter.records import Records

TOOLS = ["transfer", "send_email"]


async def ask(database, name, tool, *, age_s, left_s, state=ApprovalState.OPEN):
    now = datetime.now(UTC)
    approval = Approval(
        id=f"{name}/1", run_id=name, agent="payer", tenant="t", ask=Ask.ALLOW, tool=tool, arguments={}, digest="d",
        why="w", goal="g", opened_at=now - timedelta(seconds=age_s), expires_at=now + timedelta(seconds=left_s),
    )  # fmt: skip
    book = Book(database)
    await book.record(ApprovalEvent(approval=approval, what="opened", at=approval.opened_at))
    if state is not ApprovalState.OPEN:
        ended = replace(approval, state=state, decided_at=now)
        await book.record(ApprovalEvent(approval=ended, what=state.value, at=now))


async def have(database, key, tool, state):
    ledger = Ledger(database)
    call = {"tool": tool, "digest": "d", "run_id": "r", "agent": "a", "tenant": "t"}
    await ledger.intend(key, **call)
    claim = await ledger.claim(key)
    await ledger.begin(key, claim.fence)
    await ledger.record(key, claim.fence, state)


def told(samples, metric):
    return {sample.labels[0]: sample.value for sample in samples if sample.metric is metric}


async def test_an_empty_database_says_zero_of_every_tool(database):
    found = await Records(database, TOOLS).look()
    for metric in (APPROVALS_OPEN, APPROVALS_OLDEST, APPROVALS_EXPIRING, EFFECTS_UNKNOWN, EFFECTS_RECENT):
        assert told(found, metric) == dict.fromkeys(TOOLS, 0)


async def test_open_approvals_are_counted_by_tool_with_their_age_and_what_they_have_left(database):
    await ask(database, "a", "transfer", age_s=600, left_s=7200)
    await ask(database, "b", "transfer", age_s=9600, left_s=3000)
    await ask(database, "late", "transfer", age_s=500, left_s=-5)
    await ask(database, "c", "transfer", age_s=99_000, left_s=100, state=ApprovalState.APPROVED)
    await ask(database, "d", "gone_tool", age_s=330, left_s=100)
    await ask(database, "e", "older_tool", age_s=340, left_s=7200)
    found = await Records(database, TOOLS).look()
    assert told(found, APPROVALS_OPEN) == {"transfer": 3, "send_email": 0, "other": 2}
    assert told(found, APPROVALS_EXPIRING) == {"transfer": 2, "send_email": 0, "other": 1}
    oldest = told(found, APPROVALS_OLDEST)
    assert 9600 <= oldest["transfer"] < 9660
    assert 340 <= oldest["other"] < 400
    assert oldest["send_email"] == 0


async def test_an_approval_with_little_time_is_about_to_expire_in_the_last_quarter_of_it(database):
    await ask(database, "new", "transfer", age_s=60, left_s=1740)
    await ask(database, "half", "transfer", age_s=900, left_s=900)
    assert told(await Records(database, TOOLS).look(), APPROVALS_EXPIRING) == {"transfer": 0, "send_email": 0}
    await ask(database, "late", "transfer", age_s=1400, left_s=400)
    await ask(database, "long", "send_email", age_s=80_000, left_s=3700)
    assert told(await Records(database, TOOLS).look(), APPROVALS_EXPIRING) == {"transfer": 1, "send_email": 0}


async def test_what_should_have_expired_long_ago_is_no_longer_awaited(database):
    await ask(database, "gone", "transfer", age_s=90_000, left_s=-1000)
    await ask(database, "gone_too", "send_email", age_s=90_000, left_s=-1000)
    await ask(database, "just", "send_email", age_s=5000, left_s=-800)
    found = await Records(database, TOOLS).look()
    assert told(found, APPROVALS_OPEN) == {"transfer": 1, "send_email": 2}
    assert told(found, APPROVALS_EXPIRING) == {"transfer": 0, "send_email": 1}
    oldest = told(found, APPROVALS_OLDEST)
    assert oldest["transfer"] == 0
    assert 5000 <= oldest["send_email"] < 5060


async def test_effects_that_became_unknown_within_a_day_are_counted_apart(database):
    for number in range(5):
        await have(database, f"r/{number}", "transfer", EffectState.UNKNOWN)
    old = effects.c.key.in_(["r/0", "r/1"])
    async with database.begin() as connection:
        yesterday = datetime.now(UTC) - timedelta(hours=25)
        await connection.execute(update(effects).where(old).values(updated_at=yesterday))
    found = await Records(database, TOOLS).look()
    assert told(found, EFFECTS_UNKNOWN) == {"transfer": 5, "send_email": 0}
    assert told(found, EFFECTS_RECENT) == {"transfer": 3, "send_email": 0}


async def test_effects_that_are_unknown_are_counted_by_tool(database):
    await have(database, "r/1", "transfer", EffectState.UNKNOWN)
    await have(database, "r/2", "transfer", EffectState.UNKNOWN)
    await have(database, "r/3", "transfer", EffectState.DONE)
    await have(database, "r/4", "send_email", EffectState.FAILED)
    await have(database, "r/5", "pigeon", EffectState.UNKNOWN)
    found = await Records(database, TOOLS).look()
    assert told(found, EFFECTS_UNKNOWN) == {"transfer": 2, "send_email": 0, "other": 1}


async def test_a_database_that_is_made_later_is_read_then(tmp_path, database_url):
    file = tmp_path / "later.db"
    if "sqlite" not in database_url:
        pytest.skip("of files")
    database = Database(sqlite_url(file))
    records = Records(database, TOOLS)
    with pytest.raises(DatabaseLost, match=r"there is no database .*later\.db: run `fleet db upgrade`"):
        await records.look()
    assert not file.exists()
    (tmp_path / "fleet.db").rename(file)
    assert told(await records.look(), APPROVALS_OPEN) == dict.fromkeys(TOOLS, 0)
    await database.aclose()


async def test_tables_of_another_release_are_not_read(empty_url):
    database = Database(empty_url)
    await database.prepare()
    with pytest.raises(DatabaseLost, match="run `fleet db upgrade`"):
        await Records(database, TOOLS).look()
    await database.aclose()
