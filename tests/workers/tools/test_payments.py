"""Transfers: what the bank is asked, who may be paid, what the model is told."""

from datetime import timedelta
from decimal import Decimal

import pytest
from temporalio.exceptions import ApplicationError

from fleet.contracts.effects import EffectState
from fleet.contracts.names import FailureType
from fleet.contracts.tools import TOOLS
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from ratelimit.quota import Limit, Quota
from tests.workers.attempting import KEY, asked, content, environment
from workers.admission import Admission
from workers.effects.attempts import Attempts
from workers.providers.payments import Bank
from workers.tools.payments import PaymentTools

ORDER = {"payee": "DE01ACME", "amount": "120.50", "currency": "EUR", "reference": "invoice 17, März"}


@pytest.fixture
def bank(outside):
    return Bank(name="bank", base_url=f"{outside.where.http}/bank", key="sk-bank", timeout_s=5)


@pytest.fixture
def pay(outside, bank):
    async def one(arguments=ORDER, payees=(), **fields):
        tools = PaymentTools(outside.attempts(), bank, list(payees))
        return await environment().run(tools.transfer, asked("transfer", arguments, **fields))

    return one


async def test_the_bank_gets_every_digit_and_the_effects_own_key(outside, pay):
    result = await pay({**ORDER, "amount": "0000120.5000"})
    (booked,) = await outside.get("/_bank")
    assert (booked["idempotency_key"], Decimal(booked["amount"])) == (KEY, Decimal("120.5"))
    assert {name: booked[name] for name in ("payee", "currency", "reference")} == {
        name: ORDER[name] for name in ("payee", "currency", "reference")
    }
    told = content(result)
    assert (told["booked"], told["transfer_id"], told["payee"]) == (True, booked["id"], "DE01ACME")
    assert result.evidence["status"] == "booked"


@pytest.mark.parametrize("amount", ["0", "-1", "1e400x", "NaN", "Infinity", "", "twelve", "0.000"])
async def test_what_is_no_amount_is_told_to_the_model(outside, pay, amount):
    with pytest.raises(ApplicationError) as raised:
        await pay({**ORDER, "amount": amount})
    assert (raised.value.type, raised.value.non_retryable) == (FailureType.TOOL_FAILED, True)
    assert "is not an amount above 0" in raised.value.message
    assert await outside.get("/_bank") == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"amount": "1.23456"}, "at most 4 fraction digits"),
        ({"currency": "eur"}, "three capital letters"),
        ({"reference": "x" * 141}, "reference has 141 characters: at most 140"),
    ],
)
async def test_what_the_bank_does_not_accept_has_failed_with_its_own_words(outside, pay, wrong, told):
    with pytest.raises(ApplicationError) as raised:
        await pay({**ORDER, **wrong})
    assert (raised.value.type, raised.value.non_retryable) == (FailureType.BAD_REQUEST, True)
    assert told in raised.value.message
    assert (await outside.entry()).state is EffectState.FAILED
    assert "sk-bank" not in raised.value.message


@pytest.mark.parametrize(
    ("payee", "payees", "may"),
    [
        ("DE01ACME", [], True),
        ("DE01ACME", ["DE*"], True),
        ("de01acme", ["DE01ACME"], True),
        ("FR01ACME", ["DE*"], False),
        ("DE01ACME2", ["DE01ACME"], False),
        ("DE[1]", ["DE[0-9]"], False),
        ("EVIL DE01", ["DE*"], False),
    ],
)
async def test_only_those_on_the_fleets_list_are_paid(outside, pay, payee, payees, may):
    if may:
        assert (await pay({**ORDER, "payee": payee}, payees)).state is EffectState.DONE
    else:
        with pytest.raises(ApplicationError) as raised:
            await pay({**ORDER, "payee": payee}, payees)
        assert raised.value.type == FailureType.TOOL_FAILED
        assert raised.value.message == f"payments: {payee!r} may not be paid by this fleet"
        assert (await outside.entry()).state is EffectState.FAILED
    assert len(await outside.get("/_bank")) == may


async def test_a_transfer_is_charged_to_the_banks_quota_and_one_that_is_not_made_is_not(outside, bank):
    scope = "bank/x"
    quota = Quota(scope=scope, limits={"requests": Limit(capacity=5, period=timedelta(hours=1))})
    async with Limiter(MemoryStore(), {scope: quota}) as limiter:
        await limiter.configure(quota, full=True)
        tools = PaymentTools(Attempts(outside.ledger, Admission(limiter, timedelta(0)), scope), bank, ["DE*"])
        result = await environment().run(tools.transfer, asked("transfer", ORDER))
        assert (result.quota.scope, result.quota.cost) == (scope, {"requests": 1.0})
        for order, step in ((ORDER, "3.1"), ({**ORDER, "payee": "FR1"}, "4.1")):
            with_end = environment().run(tools.transfer, asked("transfer", order, step=step))
            if step == "4.1":
                with pytest.raises(ApplicationError):
                    await with_end
            else:
                assert (await with_end).quota is None
        assert 4 <= (await limiter.inspect(scope)).limits["requests"].level < 4.1


async def test_a_bank_over_its_quota_is_a_wait_and_the_transfer_is_not_open(outside, pay):
    await outside.fault("bank", status=429, retry_after=2)
    with pytest.raises(ApplicationError) as raised:
        await pay()
    assert raised.value.type == FailureType.RATE_LIMITED
    assert (await outside.entry()).state is EffectState.FAILED
    assert (await pay()).state is EffectState.DONE
    assert len(await outside.get("/_bank")) == 1


def test_the_tool_asks_for_what_the_activity_takes():
    assert set(TOOLS["transfer"].spec.parameters["required"]) == set(ORDER)
