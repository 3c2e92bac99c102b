"""The effect ledger: intent before, one holder of the fence, nothing by a stale attempt."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime

import pytest

from fleet.contracts.effects import EffectState
from workers.database import Database
from workers.effects.ledger import KeyReused, Ledger, NotIntended

CALL = {
    "tool": "send_email", "digest": "d1", "run_id": "run", "agent": "writer", "tenant": "t",
    "arguments": {"to": "a@example.com", "n": [1, None]},
}  # fmt: skip
KEY = "run/1"


@pytest.fixture
def ledger(database):
    return Ledger(database)


async def test_what_is_intended_can_be_read(ledger):
    before = datetime.now(UTC)
    entry = await ledger.intend(KEY, **CALL)
    assert entry == await ledger.get(KEY)
    assert (entry.key, entry.state, entry.fence, entry.executing_since) == (KEY, EffectState.INTENDED, 0, None)
    assert {name: getattr(entry, name) for name in CALL} == CALL
    assert (entry.result, entry.evidence, entry.reason) == ("", {}, "")
    assert before <= entry.created_at == entry.updated_at <= datetime.now(UTC)


async def test_what_nobody_intended_is_not_there(ledger):
    assert await ledger.get(KEY) is None
    with pytest.raises(NotIntended, match="effect run/1: not in the ledger"):
        await ledger.claim(KEY)
    assert not await ledger.begin(KEY, 0)
    assert not await ledger.record(KEY, 0, EffectState.DONE)


async def test_intending_again_changes_nothing(ledger):
    first = await ledger.intend(KEY, **CALL)
    claim = await ledger.claim(KEY)
    await ledger.begin(KEY, claim.fence)
    again = await ledger.intend(KEY, **CALL)
    assert (again.state, again.fence, again.created_at) == (EffectState.EXECUTING, 1, first.created_at)


@pytest.mark.parametrize("other", [{"digest": "d2"}, {"tool": "transfer"}])
async def test_a_key_is_never_used_for_two_different_calls(ledger, other):
    await ledger.intend(KEY, **CALL)
    with pytest.raises(KeyReused, match="effect run/1: written down for send_email d1, asked for") as raised:
        await ledger.intend(KEY, **(CALL | other))
    assert raised.value.entry == await ledger.get(KEY)
    assert raised.value.entry.digest == "d1"


async def test_of_many_that_intend_at_once_all_see_the_same(ledger):
    entries = await asyncio.gather(*(ledger.intend(KEY, **CALL) for _ in range(8)))
    assert len({entry.created_at for entry in entries}) == 1


async def test_of_many_that_intend_different_calls_at_once_one_call_wins(ledger):
    asked = [ledger.intend(KEY, **(CALL | {"digest": f"d{number}"})) for number in range(8)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(answer, KeyReused) for answer in answers) == 7
    assert (await ledger.get(KEY)).digest == next(a.digest for a in answers if not isinstance(a, KeyReused))


async def test_a_claim_alone_has_begun_nothing(ledger):
    entry = await ledger.intend(KEY, **CALL)
    claim = await ledger.claim(KEY)
    assert (claim.mine, claim.fence, claim.entry) == (True, 1, entry)
    assert (await ledger.claim(KEY)).entry.state is EffectState.INTENDED


async def test_a_claim_shows_the_effect_as_it_was_before(ledger):
    await ledger.intend(KEY, **CALL)
    first = await ledger.claim(KEY)
    await ledger.begin(KEY, first.fence)
    before = await ledger.get(KEY)
    second = await ledger.claim(KEY)
    assert (second.mine, second.fence, second.entry) == (True, 2, before)
    assert before.state is EffectState.EXECUTING


async def test_the_first_beginning_is_kept(ledger):
    await ledger.intend(KEY, **CALL)
    assert await ledger.begin(KEY, (await ledger.claim(KEY)).fence)
    since = (await ledger.get(KEY)).executing_since
    await ledger.record(KEY, 1, EffectState.FAILED, reason="refused")
    assert await ledger.begin(KEY, (await ledger.claim(KEY)).fence)
    assert (await ledger.get(KEY)).executing_since == since is not None


async def test_a_stale_attempt_begins_and_records_nothing(ledger):
    await ledger.intend(KEY, **CALL)
    stale, fresh = await ledger.claim(KEY), await ledger.claim(KEY)
    assert not await ledger.begin(KEY, stale.fence)
    assert not await ledger.record(KEY, stale.fence, EffectState.DONE, result="stale")
    assert await ledger.begin(KEY, fresh.fence)
    assert await ledger.record(KEY, fresh.fence, EffectState.DONE, result="fresh")
    assert (await ledger.get(KEY)).result == "fresh"


async def test_of_many_claims_each_has_its_own_fence_and_only_the_last_one_begins(ledger):
    await ledger.intend(KEY, **CALL)
    claims = await asyncio.gather(*(ledger.claim(KEY) for _ in range(8)))
    assert sorted(claim.fence for claim in claims) == list(range(1, 9))
    assert all(claim.mine and claim.entry.fence == claim.fence - 1 for claim in claims)
    begun = await asyncio.gather(*(ledger.begin(KEY, claim.fence) for claim in claims))
    assert [claim.fence for claim, has in zip(claims, begun, strict=True) if has] == [8]


async def test_a_done_effect_answers_with_its_result_and_is_not_begun_again(ledger):
    await ledger.intend(KEY, **CALL)
    await ledger.begin(KEY, (await ledger.claim(KEY)).fence)
    evidence = {"reply": "250 OK ☃", "to": "a@example.com"}
    assert await ledger.record(KEY, 1, EffectState.DONE, result='{"sent": true}', evidence=evidence)
    claim = await ledger.claim(KEY)
    assert (claim.mine, claim.fence, claim.entry.state) == (False, 1, EffectState.DONE)
    assert (claim.entry.result, claim.entry.evidence) == ('{"sent": true}', evidence)
    assert not await ledger.begin(KEY, 1)


async def test_what_is_done_stays_done(ledger):
    await ledger.intend(KEY, **CALL)
    await ledger.claim(KEY)
    await ledger.record(KEY, 1, EffectState.DONE, result="r")
    assert not await ledger.record(KEY, 1, EffectState.FAILED)
    assert await ledger.record(KEY, 1, EffectState.DONE, result="r")
    assert (await ledger.get(KEY)).state is EffectState.DONE


@pytest.mark.parametrize("state", [EffectState.FAILED, EffectState.UNKNOWN])
async def test_what_is_not_done_can_be_claimed_and_begun_again(ledger, state):
    await ledger.intend(KEY, **CALL)
    await ledger.claim(KEY)
    assert await ledger.record(KEY, 1, state, reason="why")
    claim = await ledger.claim(KEY)
    assert (claim.mine, claim.entry.state, claim.entry.reason) == (True, state, "why")
    assert await ledger.begin(KEY, claim.fence)


async def test_a_result_may_hold_anything(ledger):
    await ledger.intend(KEY, **CALL)
    await ledger.claim(KEY)
    text = "'; DROP TABLE effects; -- " + "☃" * 100_000
    await ledger.record(KEY, 1, EffectState.DONE, result=text, evidence={"n\x00l": "\ud800"}, reason="n\x00l")
    entry = await ledger.get(KEY)
    assert (entry.result, entry.evidence, entry.reason) == (text, {"n\x00l": "\ud800"}, "n l")


async def test_effects_are_listed_newest_first(ledger):
    for number in range(5):
        await ledger.intend(f"run/{number}", **CALL)
    await ledger.intend("other/0", **(CALL | {"run_id": "other"}))
    await ledger.claim("run/3")
    await ledger.record("run/3", 1, EffectState.UNKNOWN)
    assert [e.key for e in await ledger.entries(limit=3)] == ["other/0", "run/4", "run/3"]
    assert [e.key for e in await ledger.entries(run_id="other")] == ["other/0"]
    assert [e.key for e in await ledger.entries(state=EffectState.UNKNOWN)] == ["run/3"]
    assert await ledger.entries(state=EffectState.UNKNOWN, run_id="other") == []


async def test_it_survives_its_process(database, database_url):
    ledger = Ledger(database)
    await ledger.intend(KEY, **CALL)
    await ledger.claim(KEY)
    await ledger.record(KEY, 1, EffectState.DONE, result="sent")
    await database.aclose()
    async with aclosing(Database(database_url)) as again:
        await again.open()
        assert (await Ledger(again).claim(KEY)).entry.result == "sent"
