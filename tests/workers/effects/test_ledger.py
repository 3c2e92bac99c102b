"""The effect ledger: one winner, and nothing recorded by a stale attempt."""

import asyncio

import pytest

from workers.effects.ledger import Ledger, LedgerLost, State


@pytest.fixture
async def ledger(tmp_path):
    found = Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}")
    await found.open()
    yield found
    await found.aclose()


async def test_the_first_claim_is_free_to_execute(ledger):
    claim = await ledger.claim("run/1")
    assert (claim.mine, claim.state, claim.fence) == (True, State.FAILED, 1)


async def test_a_done_effect_answers_with_its_evidence(ledger):
    claim = await ledger.claim("run/1")
    assert await ledger.record("run/1", claim.fence, State.DONE, "250 OK")
    again = await ledger.claim("run/1")
    assert (again.mine, again.state, again.evidence) == (False, State.DONE, "250 OK")


async def test_an_attempt_that_died_leaves_a_question(ledger):
    await ledger.claim("run/1")
    assert (await ledger.claim("run/1")).state is State.EXECUTING


async def test_a_certain_failure_leaves_none(ledger):
    claim = await ledger.claim("run/1")
    await ledger.record("run/1", claim.fence, State.FAILED)
    assert (await ledger.claim("run/1")).state is State.FAILED


async def test_a_stale_attempt_records_nothing(ledger):
    stale = await ledger.claim("run/1")
    fresh = await ledger.claim("run/1")
    assert not await ledger.record("run/1", stale.fence, State.DONE, "stale")
    assert await ledger.record("run/1", fresh.fence, State.DONE, "fresh")
    assert (await ledger.claim("run/1")).evidence == "fresh"


async def test_of_many_first_claims_one_wins(ledger):
    claims = await asyncio.gather(*(ledger.claim("run/1") for _ in range(8)))
    assert len({c.fence for c in claims if c.mine}) == sum(c.mine for c in claims)
    assert sum(c.mine and c.state is State.FAILED for c in claims) == 1


async def test_it_survives_its_process(tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path / 'deep' / 'ledger.db'}"
    first = Ledger(url)
    await first.open()
    await first.record("k", (await first.claim("k")).fence, State.DONE, "sent")
    await first.aclose()
    second = Ledger(url)
    await second.open()
    assert (await second.claim("k")).evidence == "sent"
    await second.aclose()


async def test_a_database_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    broken = Ledger(f"sqlite+aiosqlite:///{tmp_path}")
    with pytest.raises(LedgerLost, match=r"the effect ledger does not answer: .*unable to open"):
        await broken.open()
    await broken.aclose()
