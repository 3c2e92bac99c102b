"""Attempts at a transfer: whatever befalls them, it is booked once, and never called failed while it may be booked."""

import asyncio
import json
from datetime import timedelta

import pytest
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from fleet.contracts import metrics
from fleet.contracts.effects import POLICY, EffectState, Mode
from fleet.contracts.names import FailureType
from fleet.contracts.runs import CallPolicy
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from ratelimit.places import Kind
from ratelimit.quota import Limit, Quota
from tests.workers.attempting import KEY, Outside, asked, content, environment
from workers.admission import Admission
from workers.effects import attempts
from workers.effects.attempts import Attempts, Had, Recipe
from workers.effects.ledger import Ledger
from workers.metrics import Metrics
from workers.providers import errors
from workers.providers.payments import Bank
from workers.tools.payments import PaymentTools

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ORDER = {"payee": "DE01ACME", "amount": "120.50", "currency": "EUR", "reference": "invoice 17"}
TRANSFER = asked("transfer", ORDER)
KINDS = {
    "keys": {"honours_keys": True, "looks_up": False},
    "keys and look-ups": {"honours_keys": True, "looks_up": True},
    "look-ups": {"honours_keys": False, "looks_up": True},
    "neither": {"honours_keys": False, "looks_up": False},
}
LONG_AGO = timedelta(minutes=5)


class Payer(Outside):
    """Pays through a bank of one kind, and looks into the bank's own book."""

    bank: Bank
    key = "sk-bank"

    def of_kind(self, kind):
        self.bank = Bank(
            name="bank", base_url=f"{self.where.http}/bank", key=self.key, timeout_s=5, **KINDS[kind]
        )  # fmt: skip
        return self

    async def pay(self, request=TRANSFER, *, ledger=None, where=None, key=None, payees=()):
        bank = self.bank if key is None else Bank(name="bank", base_url=self.bank.base_url, key=key, timeout_s=5)
        tools = PaymentTools(self.attempts(ledger), bank, list(payees))
        return await (where or environment()).run(tools.transfer, request)

    async def refused(self, request=TRANSFER, **options):
        """What the attempt fails with."""
        with pytest.raises(ApplicationError) as raised:
            await self.pay(request, **options)
        return raised.value

    async def booked(self):
        return len(await self.get("/_bank"))

    async def posts(self):
        rows = await self.get("/_ledger", provider="bank")
        # a look-up that failed has no key yet
        return len([row for row in rows if row["path"] == "/bank/transfers" and row["idempotency_key"]])

    async def until_posted(self):
        """Until a transfer has reached the bank."""
        async with asyncio.timeout(10):
            while not await self.booked():
                await asyncio.sleep(0.01)


@pytest.fixture
async def payer(simulators, database):
    return Payer(await simulators(bank={"keys": ["sk-bank"]}), database).of_kind("keys")


@pytest.fixture(params=KINDS)
async def any_payer(payer, request):
    payer.of_kind(request.param)
    if not payer.bank.honours_keys:
        await payer.control(bank={"honours_keys": False})
    if not payer.bank.looks_up:
        await payer.control(bank={"lookup": False})
    return payer


async def test_a_first_attempt_has_it_and_records_what_proves_it(any_payer):
    result = await any_payer.pay()
    assert (result.state, await any_payer.booked()) == (EffectState.DONE, 1)
    entry = await any_payer.entry()
    assert (entry.state, entry.result, entry.evidence) == (EffectState.DONE, result.content, result.evidence)
    assert entry.evidence["transfer_id"] == (await any_payer.get("/_bank"))[0]["id"]


async def test_what_is_done_is_answered_from_the_ledger_and_nobody_is_called(any_payer):
    first = await any_payer.pay()
    again = await any_payer.pay()
    assert (again.state, again.content, again.evidence) == (first.state, first.content, first.evidence)
    assert await any_payer.posts() == 1
    # nor when it is only to be accounted for, or somebody has said what became of it
    for fields in ({"mode": Mode.ACCOUNT, "why": "withdrawn"}, {"was_had": False, "by": "ann"}):
        assert (await any_payer.pay(asked("transfer", ORDER, **fields))).content == first.content
    assert len(await any_payer.get("/_ledger", provider="bank")) == 1


async def test_what_is_done_waits_for_no_quota(payer):
    await payer.pay()
    closed = Quota(scope="bank/x", limits={"requests": Limit(capacity=1, period=timedelta(hours=1))})
    async with Limiter(MemoryStore(), {"bank/x": closed}) as limiter:
        await limiter.configure(closed)
        tools = PaymentTools(Attempts(payer.ledger, Admission(limiter, timedelta(0)), "bank/x"), payer.bank, [])
        assert (await environment().run(tools.transfer, TRANSFER)).state is EffectState.DONE
        with pytest.raises(ApplicationError) as raised:
            await environment().run(tools.transfer, asked("transfer", ORDER, step="4.1"))
    assert raised.value.type == FailureType.QUOTA_WAIT


async def test_a_key_that_stands_for_another_call_is_refused(payer):
    await payer.pay()
    before = await payer.entry()
    other = {**ORDER, "reference": "invoice no. 17"}
    # it may be the same in other words: nobody is told that it was not had
    for fields in ({}, {"was_had": False, "by": POLICY}, {"mode": Mode.ACCOUNT, "why": "withdrawn"}):
        error = await payer.refused(asked("transfer", other, **fields))
        assert (error.type, error.non_retryable) == (FailureType.EFFECT_UNKNOWN, True)
        for told in ("another call was recorded under this key: it is done", TRANSFER.digest, "needs another key"):
            assert told in error.message
    # a human knows
    assert (await payer.pay(asked("transfer", other, was_had=True, by="ann"))).state is EffectState.DONE
    answered = await payer.pay(asked("transfer", other, was_had=False, by="ann"))
    assert (answered.state, answered.reason.partition(":")[0]) == (EffectState.FAILED, "not had, says ann")
    assert (await payer.posts(), await payer.entry()) == (1, before)


async def test_a_bank_that_honours_keys_is_asked_again_and_books_once(payer):
    await payer.fault("bank", drop=True)
    error = await payer.refused()
    assert (error.type, error.non_retryable) == (FailureType.PROVIDER_FAILED, False)
    assert (await payer.entry()).state is EffectState.EXECUTING
    result = await payer.pay()
    assert result.evidence["transfer_id"] == (await payer.get("/_bank"))[0]["id"]
    assert (await payer.posts(), await payer.booked()) == (2, 1)


async def test_a_bank_that_only_looks_up_is_asked_and_not_paid_through_again(any_payer):
    payer = any_payer.of_kind("look-ups")
    await payer.control(bank={"honours_keys": False, "lookup": True})
    await payer.fault("bank", drop=True)
    assert not (await payer.refused()).non_retryable
    assert (await payer.pay()).state is EffectState.DONE
    assert (await payer.posts(), await payer.booked()) == (1, 1)


async def test_what_a_look_up_does_not_find_is_had_once_it_can_no_longer_arrive(payer):
    payer.of_kind("look-ups")
    await payer.control(bank={"honours_keys": False})
    await payer.fault("bank", drop=True, after=False)
    await payer.refused()
    # the request may still be on its way: nothing found proves nothing yet
    error = await payer.refused()
    assert not error.non_retryable
    assert error.next_retry_delay > timedelta(seconds=5)
    assert "may still be taken" in error.message
    assert await payer.posts() == 1
    await payer.age(LONG_AGO)
    assert (await payer.pay()).state is EffectState.DONE
    assert await payer.booked() == 1


async def test_where_nobody_can_be_asked_nobody_pays_again(payer):
    payer.of_kind("neither")
    await payer.control(bank={"honours_keys": False, "lookup": False})
    await payer.fault("bank", drop=True)
    await payer.refused()
    error = await payer.refused()
    assert (error.type, error.non_retryable) == (FailureType.EFFECT_UNKNOWN, True)
    assert "has not told its end" in error.message
    entry = await payer.entry()
    assert (entry.state, entry.reason) == (EffectState.UNKNOWN, error.message)
    assert (await payer.refused()).type == FailureType.EFFECT_UNKNOWN
    assert await payer.posts() == 1


async def unknown(payer, *, after=True):
    """An effect of which nobody knows whether it was had."""
    payer.of_kind("neither")
    await payer.control(bank={"honours_keys": False, "lookup": False})
    await payer.fault("bank", drop=True, after=after)
    await payer.refused()
    await payer.refused()
    assert (await payer.entry()).state is EffectState.UNKNOWN


async def test_a_human_says_that_it_was_had(payer):
    await unknown(payer)
    result = await payer.pay(asked("transfer", ORDER, was_had=True, by="ann@example.com"))
    assert content(result) == {"done": True, "as_said_by": "ann@example.com"}
    entry = await payer.entry()
    assert (entry.state, entry.evidence) == (EffectState.DONE, {"settled_by": "ann@example.com"})
    assert await payer.posts() == 1


async def test_a_human_says_that_it_was_not_had(payer):
    await unknown(payer, after=False)
    result = await payer.pay(asked("transfer", ORDER, was_had=False, by="ann"), where=environment(carried_by="child-2"))
    assert result.state is EffectState.DONE
    assert await payer.booked() == 1


async def test_a_humans_word_is_good_for_one_end_and_not_for_the_next(payer):
    await unknown(payer, after=False)
    said = asked("transfer", ORDER, was_had=False, by="ann")
    await payer.fault("bank", drop=True)
    await payer.refused(said, where=environment(carried_by="child-2"))
    # it is booked now, and nobody knows: the old word does not tell of it, whatever has become of its first attempt
    for _ in range(3):
        error = await payer.refused(said, where=environment(carried_by="child-2"))
        assert error.type == FailureType.EFFECT_UNKNOWN
    assert await payer.booked() == 1
    entry = await payer.entry()
    assert (entry.state, entry.evidence["settled_by"]) == (EffectState.UNKNOWN, "ann")
    # another word does
    settled = asked("transfer", ORDER, was_had=True, by="ann")
    assert (await payer.pay(settled, where=environment(carried_by="child-3"))).state is EffectState.DONE
    assert await payer.booked() == 1


async def test_a_word_is_heard_whatever_the_ledger_has_come_to(payer):
    payer.of_kind("neither")
    await payer.begun(TRANSFER)
    settled = asked("transfer", ORDER, was_had=True, by="ann")
    assert (await payer.pay(settled)).state is EffectState.DONE
    # done by hand before anything began
    by_hand = asked("transfer", ORDER, step="9.9", was_had=True, by="ann")
    assert (await payer.pay(by_hand)).state is EffectState.DONE
    assert await payer.posts() == 0


async def test_what_the_bank_says_counts_more_than_what_a_human_says(payer):
    payer.of_kind("look-ups")
    await payer.control(bank={"honours_keys": False})
    await payer.fault("bank", drop=True)
    await payer.refused()
    result = await payer.pay(asked("transfer", ORDER, was_had=False, by="ann"))
    assert result.state is EffectState.DONE
    assert await payer.booked() == 1


async def test_a_policy_pays_again_only_what_the_bank_cannot_be_asked_about(payer):
    payer.of_kind("look-ups")
    await payer.control(bank={"honours_keys": False, "lookup": False})
    await payer.fault("bank", drop=True)
    await payer.refused()
    again = asked("transfer", ORDER, was_had=False, by=POLICY, max_failures=1)
    for _ in range(2):
        assert (await payer.refused(again)).type == FailureType.EFFECT_UNKNOWN
    assert (await payer.posts(), (await payer.entry()).state) == (1, EffectState.UNKNOWN)
    # once it answers it is believed
    await payer.control(bank={"lookup": True})
    assert (await payer.pay(again)).state is EffectState.DONE
    assert await payer.booked() == 1


async def test_a_policy_has_it_again_where_nobody_can_be_asked_and_accounts_for_nothing(payer):
    await unknown(payer, after=False)
    accounted = asked("transfer", ORDER, was_had=False, by=POLICY, mode=Mode.ACCOUNT, why="withdrawn")
    assert (await payer.refused(accounted)).type == FailureType.EFFECT_UNKNOWN
    assert (await payer.pay(asked("transfer", ORDER, was_had=False, by=POLICY))).state is EffectState.DONE
    assert await payer.booked() == 1


async def test_the_ledger_knows_what_was_asked_for_and_no_secret(payer):
    order = {**ORDER, "reference": "pay with sk-live0123456789abcdef01"}
    await payer.pay(asked("transfer", order))
    assert (await payer.entry()).arguments == {**order, "reference": "pay with sk-[redacted]"}


async def test_a_key_of_which_the_bank_may_know_no_more_is_not_relied_upon(payer):
    await payer.fault("bank", drop=True)
    await payer.refused()
    # as a bank that has forgotten the key
    await payer.control(bank={"honours_keys": False})
    await payer.age(timedelta(hours=22))
    assert (await payer.refused()).type == FailureType.EFFECT_UNKNOWN
    payer.of_kind("keys and look-ups")
    assert (await payer.pay()).state is EffectState.DONE
    assert (await payer.posts(), await payer.booked()) == (1, 1)


def account(**fields):
    return asked("transfer", ORDER, mode=Mode.ACCOUNT, why="withdrawn", **fields)


async def test_accounting_for_what_nobody_began_says_that_it_was_not_done(any_payer):
    for _ in range(2):
        result = await any_payer.pay(account())
        assert (result.state, result.reason) == (EffectState.FAILED, "not done: withdrawn")
    assert (await any_payer.entry()).state is EffectState.FAILED
    assert await any_payer.posts() == 0


async def test_accounting_asks_the_bank_and_begins_nothing(payer):
    payer.of_kind("keys and look-ups")
    await payer.fault("bank", drop=True)
    await payer.refused()
    assert (await payer.pay(account())).state is EffectState.DONE
    other = asked("transfer", ORDER, step="4.1")
    await payer.begun(other)
    accounted = account(step="4.1")
    assert "may still be taken" in (await payer.refused(accounted)).message
    await payer.age(LONG_AGO, other.key)
    assert (await payer.pay(accounted)).state is EffectState.FAILED
    assert (await payer.posts(), await payer.booked()) == (1, 1)


@pytest.mark.parametrize("kind", ["keys", "neither"])
async def test_accounting_where_nobody_can_be_asked_is_unknown(payer, kind):
    payer.of_kind(kind)
    await payer.fault("bank", drop=True)
    await payer.refused()
    for _ in range(2):
        assert (await payer.refused(account())).type == FailureType.EFFECT_UNKNOWN
        assert (await payer.entry()).state is EffectState.UNKNOWN
    said = await payer.pay(account(was_had=False, by="ann"))
    assert (said.state, said.reason) == (EffectState.FAILED, "not done: withdrawn")
    assert await payer.posts() == 1


async def test_what_the_bank_refuses_has_failed_and_the_model_is_told_why(payer):
    await payer.control(bank={"accounts": {"EUR": "100"}})
    error = await payer.refused()
    assert (error.type, error.non_retryable) == (FailureType.BAD_REQUEST, True)
    assert "Insufficient funds: The account has 100 EUR, not 120.50" in error.message
    entry = await payer.entry()
    assert (entry.state, entry.reason) == (EffectState.FAILED, error.message)


@pytest.mark.parametrize(
    ("order", "state", "kind"),
    [
        ({"status": 429, "retry_after": 1}, EffectState.FAILED, FailureType.RATE_LIMITED),
        ({"status": 503}, EffectState.EXECUTING, FailureType.PROVIDER_FAILED),
        ({"status": 500}, EffectState.EXECUTING, FailureType.PROVIDER_FAILED),
        ({"drop": True, "after": False}, EffectState.EXECUTING, FailureType.PROVIDER_FAILED),
    ],
)
async def test_what_may_work_later_is_tried_later_and_booked_once(payer, order, state, kind):
    await payer.fault("bank", **order)
    error = await payer.refused()
    assert (error.type, error.non_retryable, (await payer.entry()).state) == (kind, False, state)
    assert (await payer.pay()).state is EffectState.DONE
    assert await payer.booked() == 1


async def test_a_first_attempt_with_a_wrong_key_has_failed_for_certain(payer):
    error = await payer.refused(key="sk-other")
    assert (error.type, error.non_retryable) == (FailureType.PROVIDER_REFUSED, True)
    assert (await payer.entry()).state is EffectState.FAILED


@pytest.mark.parametrize("order", [{"status": 401}, {"status": 403}, {"status": 400}, {"status": 404}, {"status": 422}])
async def test_what_is_refused_the_second_time_may_have_been_taken_the_first_time(payer, order):
    await payer.fault("bank", drop=True)
    await payer.refused()
    await payer.fault("bank", **order)
    error = await payer.refused()
    assert (error.type, error.non_retryable) == (FailureType.EFFECT_UNKNOWN, True)
    assert "an earlier attempt may have been taken" in error.message
    assert (await payer.entry()).state is EffectState.UNKNOWN
    # and the bank knows it in the end
    assert (await payer.pay()).state is EffectState.DONE
    assert await payer.booked() == 1


async def test_a_refusal_of_a_repetition_is_cleared_up_where_the_bank_can_be_asked(payer):
    payer.of_kind("keys and look-ups")
    await payer.fault("bank", drop=True)
    await payer.refused()
    await payer.fault("bank", status=422)
    assert (await payer.pay()).state is EffectState.DONE
    # nothing was booked under this key: the refusal counts
    other = asked("transfer", ORDER, step="4.1")
    await payer.begun(other)
    await payer.age(LONG_AGO, other.key)
    await payer.fault("bank", status=422)
    assert (await payer.refused(other)).type == FailureType.BAD_REQUEST
    assert (await payer.entry(other.key)).state is EffectState.FAILED
    assert await payer.booked() == 1


async def test_a_repetition_that_does_not_get_through_is_no_failure(payer):
    await payer.fault("bank", drop=True)
    await payer.refused()
    closed, payer.bank = payer.bank, Bank(name="bank", base_url="http://127.0.0.1:9", key="k", timeout_s=5)
    patient = asked("transfer", ORDER, max_failures=1)
    assert (await payer.refused()).type == FailureType.PROVIDER_FAILED
    error = await payer.refused(patient)
    assert error.type == FailureType.EFFECT_UNKNOWN
    assert (await payer.entry()).state is EffectState.UNKNOWN
    payer.bank = closed
    assert (await payer.pay()).state is EffectState.DONE
    assert await payer.booked() == 1


@pytest.mark.parametrize("order", [{"status": 500}, {"status": 401}, {"status": 404}, {"drop": True}])
async def test_a_look_up_that_fails_leaves_it_open(payer, order):
    payer.of_kind("look-ups")
    await payer.control(bank={"honours_keys": False})
    await payer.fault("bank", drop=True)
    await payer.refused()
    await payer.fault("bank", **order)
    error = await payer.refused()
    assert (error.type, error.non_retryable) == (FailureType.PROVIDER_FAILED, False)
    assert (await payer.entry()).state is EffectState.EXECUTING
    await payer.fault("bank", **order)
    assert (await payer.refused(asked("transfer", ORDER, max_failures=1))).type == FailureType.EFFECT_UNKNOWN
    assert (await payer.entry()).state is EffectState.UNKNOWN
    assert (await payer.pay()).state is EffectState.DONE
    assert (await payer.posts(), await payer.booked()) == (1, 1)


async def test_a_look_up_over_the_quota_is_a_wait(payer):
    payer.of_kind("look-ups")
    await payer.fault("bank", drop=True)
    await payer.refused()
    await payer.fault("bank", status=429, retry_after=3)
    error = await payer.refused(asked("transfer", ORDER, max_failures=1))
    assert (error.type, error.category) == (FailureType.RATE_LIMITED, ApplicationErrorCategory.BENIGN)
    assert (await payer.entry()).state is EffectState.EXECUTING


async def test_what_costs_more_than_the_quota_ever_grants_leaves_an_open_end_open(payer):
    quota = Quota(scope="bank/x", limits={"requests": Limit(capacity=1, kind=Kind.FIXED)})
    had = Recipe(have=never)
    async with Limiter(MemoryStore(), {"bank/x": quota}) as limiter:
        await limiter.configure(quota, full=True)
        made = Attempts(payer.ledger, Admission(limiter, timedelta(0)), "bank/x")

        async def kind(request):
            with pytest.raises(ApplicationError) as raised:
                await environment().run(attempting(made, had, {"requests": 1e6}), request)
            return raised.value.type

        assert await kind(asked("transfer", ORDER, step="4.1")) == FailureType.BAD_REQUEST
        await payer.begun(TRANSFER)
        assert await kind(TRANSFER) == FailureType.EFFECT_UNKNOWN
    assert (await payer.entry()).state is EffectState.UNKNOWN


async def never(before):
    raise AssertionError("nobody may be called")


def attempting(made, recipe, cost=None):
    async def activity(request):
        return await made.make(request, recipe, cost or {})

    return activity


async def test_who_may_not_be_paid_is_not_paid_and_the_model_is_told(payer):
    error = await payer.refused(payees=["FR*"])
    assert (error.type, error.message) == (
        FailureType.TOOL_FAILED, "payments: 'DE01ACME' may not be paid by this fleet",
    )  # fmt: skip
    entry = await payer.entry()
    assert (entry.state, entry.reason) == (EffectState.FAILED, error.message)
    assert await payer.posts() == 0
    # the operator lets it: the same effect may be had
    assert (await payer.pay(payees=["FR*", "de*"])).state is EffectState.DONE


async def test_a_list_that_was_changed_since_makes_nothing_undone(payer):
    done = await payer.pay()
    assert (await payer.pay(payees=["FR*"])).content == done.content
    other = asked("transfer", ORDER, step="4.1")
    await payer.fault("bank", drop=True)
    await payer.refused(other)
    assert (await payer.refused(other, payees=["FR*"])).type == FailureType.EFFECT_UNKNOWN
    payer.of_kind("keys and look-ups")
    assert (await payer.pay(other, payees=["FR*"])).state is EffectState.DONE
    # one that never arrived is not had any more
    third = asked("transfer", ORDER, step="5.1")
    await payer.begun(third)
    await payer.age(LONG_AGO, third.key)
    assert (await payer.refused(third, payees=["FR*"])).type == FailureType.TOOL_FAILED
    assert (await payer.entry(third.key)).state is EffectState.FAILED
    assert await payer.booked() == 2


class Overtaken(Ledger):
    """Another attempt claims the effect between this one's claim and its beginning."""

    async def begin(self, key, fence):
        await self.claim(key)
        return await super().begin(key, fence)


async def test_an_attempt_that_was_overtaken_sends_nothing_and_records_nothing(any_payer):
    error = await any_payer.refused(ledger=Overtaken(any_payer.database))
    assert (error.type, error.non_retryable) == (FailureType.PROVIDER_FAILED, False)
    assert "a later attempt is at it; nothing was sent" in error.message
    assert (await any_payer.posts(), (await any_payer.entry()).state) == (0, EffectState.INTENDED)
    assert (await any_payer.pay()).state is EffectState.DONE
    assert await any_payer.booked() == 1


async def test_who_was_held_up_while_showing_the_fence_shows_it_again(payer, monkeypatch):
    claimed = []

    class Frozen(Ledger):
        async def begin(self, key, fence):
            begun = await super().begin(key, fence)
            if not claimed:
                # its process stands still, and another attempt takes over
                claimed.append(await self.claim(key))
                await asyncio.sleep(0.3)
            return begun

    where = environment(heartbeat_timeout=timedelta(seconds=0.4))
    error = await payer.refused(ledger=Frozen(payer.database), where=where)
    assert "a later attempt is at it" in error.message
    assert await payer.posts() == 0


async def test_a_database_that_is_always_slow_is_waited_for_and_leaves_nothing_open(payer):
    payer.of_kind("neither")
    payer.flaky.after, payer.flaky.slow, payer.flaky.slow_s = 2, 99, 0.02
    where = environment(heartbeat_timeout=timedelta(seconds=0.02))
    error = await payer.refused(ledger=payer.flaky_ledger(), where=where)
    assert error.type == FailureType.DATABASE_LOST
    assert (await payer.entry()).state is EffectState.FAILED
    assert (await payer.pay()).state is EffectState.DONE
    assert await payer.booked() == 1


STEPS = {"intend": 0, "claim": 1, "begin": 2, "record": 3}


@pytest.mark.parametrize("committed", [False, True], ids=["not written", "written, but not told"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_database_that_is_away_for_a_moment_costs_no_second_transfer(any_payer, step, committed):
    flaky = any_payer.flaky
    flaky.after, flaky.away, flaky.committed = STEPS[step], 1, committed
    if step == "record":
        # it is written down patiently
        assert (await any_payer.pay(ledger=any_payer.flaky_ledger())).state is EffectState.DONE
    else:
        error = await any_payer.refused(ledger=any_payer.flaky_ledger())
        assert (error.type, error.category) == (FailureType.DATABASE_LOST, ApplicationErrorCategory.BENIGN)
        assert not error.non_retryable
        assert await any_payer.posts() == 0
        assert (await any_payer.pay(ledger=any_payer.flaky_ledger())).state is EffectState.DONE
    assert (await any_payer.entry()).state is EffectState.DONE
    assert (await any_payer.posts(), await any_payer.booked()) == (1, 1)


async def test_a_database_that_stays_away_after_the_transfer_is_waited_for(any_payer, monkeypatch):
    monkeypatch.setattr(attempts, "RECORD_PAUSES_S", (0.01, 0.01))
    any_payer.flaky.after, any_payer.flaky.away = 3, 3
    error = await any_payer.refused(ledger=any_payer.flaky_ledger())
    assert error.type == FailureType.DATABASE_LOST
    assert ((await any_payer.entry()).state, await any_payer.booked()) == (EffectState.EXECUTING, 1)
    if any_payer.bank.honours_keys or any_payer.bank.looks_up:
        assert (await any_payer.pay()).state is EffectState.DONE
    else:
        assert (await any_payer.refused()).type == FailureType.EFFECT_UNKNOWN
    assert await any_payer.booked() == 1


async def test_without_a_database_nothing_is_done(payer, tmp_path):
    (tmp_path / "fleet.db").rename(tmp_path / "away.db")
    (tmp_path / "fleet.db").write_text("this is no database, and longer than its header would be" * 99)
    await payer.database.aclose()
    error = await payer.refused()
    assert (error.type, error.category) == (FailureType.DATABASE_LOST, ApplicationErrorCategory.BENIGN)
    assert await payer.posts() == 0


class Held(Ledger):
    """Stands still at its beginning, before or after it is written."""

    def __init__(self, database, *, written):
        super().__init__(database)
        self.reached = asyncio.Event()
        self._written = written

    async def begin(self, key, fence):
        if self._written:
            await super().begin(key, fence)
        self.reached.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("written", [False, True], ids=["before", "while"])
async def test_a_cancellation_before_the_point_of_no_return_withdraws(any_payer, written):
    ledger, where = Held(any_payer.database, written=written), environment()
    paying = asyncio.create_task(any_payer.pay(ledger=ledger, where=where))
    await ledger.reached.wait()
    where.cancel()
    with pytest.raises(asyncio.CancelledError):
        await paying
    assert ((await any_payer.entry()).state, await any_payer.posts()) == (EffectState.FAILED, 0)
    # and its accounting is certain, whatever the bank can be asked
    assert (await any_payer.pay(account())).state is EffectState.FAILED


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancellation_after_the_point_of_no_return_goes_to_its_end(payer, times):
    await payer.control(bank={"faults": {"rate_hang": 1.0, "hang_s": 0.5}})
    where = environment()
    paying = asyncio.create_task(payer.pay(where=where))
    await payer.until_posted()
    for _ in range(times):
        for running in where._activities:
            running.task.cancel()
        await asyncio.sleep(0.01)
    result = await paying
    assert (result.state, (await payer.entry()).state) == (EffectState.DONE, EffectState.DONE)
    assert await payer.booked() == 1


async def test_a_cancellation_while_it_is_recorded_does_not_keep_it_from_being_recorded(payer):
    recording, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Ledger):
        async def record(self, *arguments, **fields):
            recording.set()
            await go_on.wait()
            return await super().record(*arguments, **fields)

    where = environment()
    paying = asyncio.create_task(payer.pay(ledger=Slow(payer.database), where=where))
    await recording.wait()
    where.cancel()
    await asyncio.sleep(0)
    go_on.set()
    assert (await paying).state is EffectState.DONE
    assert (await payer.entry()).state is EffectState.DONE


async def test_of_many_attempts_at_once_one_books(payer):
    ends = await asyncio.gather(*(payer.pay() for _ in range(8)), return_exceptions=True)
    failed = [end for end in ends if isinstance(end, BaseException)]
    assert not [end for end in failed if not isinstance(end, ApplicationError) or end.non_retryable]
    assert (await payer.pay()).state is EffectState.DONE
    assert await payer.booked() == 1


async def test_a_defect_of_ours_leaves_the_end_open(payer):
    async def stumbles(before):
        assert await before()
        raise RuntimeError("a defect")

    made = payer.attempts()
    with pytest.raises(RuntimeError):
        await environment().run(attempting(made, Recipe(have=stumbles)), TRANSFER)
    assert (await payer.entry()).state is EffectState.EXECUTING
    with pytest.raises(ApplicationError) as raised:
        await environment().run(attempting(made, Recipe(have=never)), TRANSFER)
    assert raised.value.type == FailureType.EFFECT_UNKNOWN


async def test_failures_that_are_too_many_tell_a_lost_end_from_a_certain_one(payer):
    async def lost(before):
        assert await before()
        raise errors.Lost("no answer")

    async def not_sent(before):
        raise errors.NotSent("no connection")

    for step, have, kind in (("4.1", lost, "EffectUnknown"), ("5.1", not_sent, "ProviderFailed")):
        request = asked("transfer", ORDER, step=step, max_failures=1)
        with pytest.raises(ApplicationError) as raised:
            await environment().run(attempting(payer.attempts(), Recipe(have=have)), request)
        assert (raised.value.type, raised.value.non_retryable) == (kind, True)


async def test_what_is_recorded_can_be_read_by_a_model(payer):
    async def have(before):
        assert await before()
        return Had(content=json.dumps({"ok": True}), evidence={"id": "1"})

    result = await environment().run(attempting(payer.attempts(), Recipe(have=have)), TRANSFER)
    assert (content(result), result.duration_s > 0, result.quota) == ({"ok": True}, True, None)
    assert (TRANSFER.key, TRANSFER.policy) == (KEY, CallPolicy(max_failures=5))


@pytest.fixture
def told(monkeypatch):
    """How often an end of a transfer was told, by its state."""
    found = Metrics()
    monkeypatch.setattr(attempts, "METRICS", found)

    def told():
        counts = {
            state: found.registry.get_sample_value("fleet_effects_total", {"tool": "transfer", "state": state})
            for state in metrics.EFFECTS.values["state"]
        }
        return {state: count for state, count in counts.items() if count}

    return told


async def test_an_end_is_told_once_however_often_it_is_asked_for(payer, told):
    await payer.pay()
    await payer.pay()
    assert told() == {"done": 1}
    # the first answer is lost after it was written
    payer.flaky.after, payer.flaky.away, payer.flaky.committed = 3, 1, True
    await payer.pay(asked("transfer", ORDER, step="4.1"), ledger=payer.flaky_ledger())
    assert told() == {"done": 2}


async def test_what_a_provider_refuses_and_what_the_fleet_forbids_have_failed(payer, told):
    await payer.fault("bank", status=422)
    assert (await payer.refused()).type == FailureType.BAD_REQUEST
    assert told() == {"failed": 1}
    assert (await payer.refused(asked("transfer", ORDER, step="4.1"), payees=["DE99"])).type == FailureType.TOOL_FAILED
    assert told() == {"failed": 2}


async def test_what_nobody_knows_is_told_as_unknown(payer, told):
    await unknown(payer)
    assert told() == {"unknown": 1}
