"""Effects, memories, the audit and the database's revisions, as operators read them."""

from datetime import UTC, datetime

import pytest

from fleet.contracts.effects import EffectState
from fleet.contracts.memories import Finding, Keep
from workers.effects.book import Book
from workers.effects.ledger import Ledger
from workers.memory.store import MemoryStore


async def _effect(ledger: Ledger, key: str, state: EffectState, **how) -> None:
    call = {"tool": "transfer", "digest": "d1", "run_id": "run-1", "agent": "payer", "tenant": "acme"}
    await ledger.intend(key, arguments={"reference": "r\u202e1\n"}, **call)
    fence = (await ledger.claim(key)).fence
    assert await ledger.begin(key, fence)
    assert await ledger.record(key, fence, state, **how)


async def test_effects_that_nobody_knows_of_and_dead_letters_are_found(operator, database):
    ledger = Ledger(database)
    await _effect(ledger, "run-1/1.1", EffectState.UNKNOWN, reason="the bank hung up")
    await _effect(ledger, "run-1/2.1", EffectState.FAILED, reason="webhook hook: a dead letter: not delivered")
    await _effect(ledger, "run-1/3.1", EffectState.DONE, result='{"id": 1}', evidence={"transfer_id": "tr_1"})
    listed = (await operator.aside("effects", "ls", "--state", "unknown")).stdout
    assert "run-1/1.1" in listed
    assert "the bank hung up" in listed
    assert "run-1/2.1" not in listed
    assert "a dead letter" in (await operator.aside("effects", "ls", "--state", "failed")).stdout
    everything = (await operator.aside("effects", "ls", "--run", "run-1", "--limit", "2", "--json")).stdout
    assert '"run-1/3.1"' in everything
    assert '"run-1/1.1"' not in everything
    done = (await operator.aside("effects", "show", "run-1/3.1")).stdout
    assert 'argument  reference: "r\\u202e1\\n"' in done
    for word in ("state     done, fence 1", "evidence  transfer_id: tr_1", 'answered  {"id": 1}', "begun     20"):
        assert word in done
    unknown = (await operator.aside("effects", "show", "run-1/1.1")).stdout
    assert "because   the bank hung up" in unknown
    assert "fleet approvals ls --state all --run run-1" in unknown


def test_an_effect_that_there_is_not_is_refused(operator):
    assert "no effect 'x'" in operator.refused("effects", "show", "x")
    assert "'lost' is not one of intended, executing" in operator.refused("effects", "ls", "--state", "lost")
    assert operator.said("effects", "ls", "--run", "x") == "no effects\n"


@pytest.fixture
async def memories(database):
    """What two agents of two tenants remember."""
    store = MemoryStore(database)
    for tenant, agent in (("acme", "analyst"), ("acme", "payer"), ("other", "analyst")):
        findings = [Finding(text=f"{agent} of {tenant}: otters sleep afloat", subject="Otters")]
        keep = Keep(
            tenant=tenant, agent=agent, run_id="r", step="1", findings=findings, expires_s=3600, max_bytes=10_000
        )
        await store.keep(keep, now=datetime.now(UTC))
    return store


async def test_memories_are_searched_shown_and_forgotten(operator, memories, database):
    found = (await operator.aside("memory", "search", "otters", "--tenant", "acme", "--agent", "payer")).stdout
    assert "payer of acme: otters sleep afloat" in found
    assert "analyst" not in found
    (mine,) = await memories.search(tenant="other")
    shown = (await operator.aside("memory", "show", mine.id)).stdout
    for word in (
        f"memory    {mine.id} (finding)",
        "agent analyst, tenant other",
        "subject   Otters",
        "from      r, step 1",
    ):
        assert word in shown
    assert (await operator.aside("memory", "forget", mine.id)).stdout == "forgot 1 memory\n"
    assert await memories.get(mine.id) is None
    wanted = ("memory", "forget", "--tenant", "acme", "--subject", "OTTERS")
    refused = await operator.aside(*wanted)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "add --yes" in refused.stderr
    assert len(await memories.search()) == 2
    assert (await operator.aside(*wanted, "--yes")).stdout == "forgot 2 memories\n"
    assert await memories.search() == []
    many, one = await Book(database).audit()
    assert (many.what, many.tenant, many.detail["forgotten"]) == ("memory.forgotten", "acme", 2)
    assert (one.subject, one.tenant, one.channel) == (mine.id, "other", "cli")


def test_what_is_not_remembered_is_not_forgotten(operator):
    assert "no memory 'x'" in operator.refused("memory", "show", "x")
    assert "no memory 'x'" in operator.refused("memory", "forget", "x")
    assert "one of both" in operator.refused("memory", "forget")
    assert "one of both" in operator.refused("memory", "forget", "x", "--tenant", "t", "--yes")
    assert "an ID names one memory" in operator.refused("memory", "forget", "x", "--agent", "a")
    assert operator.said("memory", "search", "nothing") == "nothing is remembered\n"


async def test_the_audit_is_read_newest_first(operator, database):
    book = Book(database)
    await book.note(
        what="run.stopped", subject="run-1", run_id="run-1", actor="ana", channel="api", comment="[/b]\x1b[2K"
    )
    await book.note(what="run.paused", subject="run-2", run_id="run-2", actor="bo", channel="api")
    lines = (await operator.aside("audit")).stdout.splitlines()
    assert [line.split()[2:4] for line in lines[1:]] == [["run.paused", "run-2"], ["run.stopped", "run-1"]]
    # what strangers wrote is neither markup nor an order to the terminal
    assert "[/b]\\x1b[2K" in lines[2]
    assert "run-2" not in (await operator.aside("audit", "--run", "run-1")).stdout
    assert (await operator.aside("audit", "--subject", "x")).stdout == "nothing is written down\n"


def test_a_database_is_upgraded_once(operator, tmp_path):
    new = {"FLEET_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/new/fleet.db"}
    before = operator("db", "status", **new)
    assert before.returncode == 2
    assert "current   none" in before.stdout
    assert "upgrade   fleet db upgrade" in before.stdout
    assert operator.said("db", "upgrade", **new).startswith("applied 0001")
    assert operator.said("db", "upgrade", **new) == "up to date\n"
    assert operator.document("db", "upgrade", **new) == {"applied": []}
    after = operator.document("db", "status", **new)
    assert after["current"] == after["newest"]


def test_a_database_that_does_not_answer_is_one_line(operator, tmp_path):
    (tmp_path / "text.db").write_text("this is no database, and long enough to be taken for a broken one" * 20)
    broken = {"FLEET_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/text.db"}
    wrong = {"FLEET_DATABASE_URL": "mysql://host/name"}
    for command in (["db", "upgrade"], ["db", "status"], ["audit"], ["effects", "ls"], ["memory", "search"]):
        assert "FLEET_DATABASE_URL" in operator.refused(*command, **broken)
        assert "FLEET_DATABASE_URL" in operator.refused(*command, **wrong)
