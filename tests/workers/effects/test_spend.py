"""What tenants have spent: exact, and each call once."""

import asyncio
from datetime import date, timedelta
from decimal import Decimal

import pytest

from workers.effects.spend import Spend, Spent

DAY = date(2026, 5, 1)
CALL = {"tenant": "acme", "day": DAY, "steps": 1, "tokens": 10, "money": Decimal("0.0000001"), "seconds": 0.5}


@pytest.fixture
def spend(database):
    return Spend(database)


async def test_who_has_spent_nothing_has_spent_nothing(spend):
    assert await spend.total("acme", DAY) == Spent() == Spent(steps=0, tokens=0, money=Decimal(0), seconds=0.0)


async def test_a_call_counts_once_however_often_it_is_reported(spend):
    await asyncio.gather(*(spend.add(call=f"run/{n % 4}", **CALL) for n in range(16)))
    assert await spend.total("acme", DAY) == Spent(steps=4, tokens=40, money=Decimal("0.0000004"), seconds=2.0)


async def test_tenants_and_days_are_apart(spend):
    await spend.add(call="a", **CALL)
    await spend.add(call="b", **(CALL | {"tenant": "umbrella", "tokens": 2**40}))
    await spend.add(call="c", **(CALL | {"day": DAY + timedelta(days=1), "tokens": 7}))
    totals = [await spend.total("acme", DAY), await spend.total("umbrella", DAY)]
    assert [total.tokens for total in totals] == [10, 2**40]
    assert (await spend.total("acme", DAY + timedelta(days=1))).tokens == 7


async def test_money_is_never_rounded(spend):
    coins = [Decimal("0.1")] * 10 + [Decimal("123456789012.000000000001"), Decimal("-0.000000000001")]
    for number, money in enumerate(coins):
        await spend.add(call=str(number), **(CALL | {"money": money}))
    assert (await spend.total("acme", DAY)).money == Decimal(123456789013)


async def test_sweeping_forgets_calls_and_keeps_sums(spend):
    for number in range(3):
        await spend.add(call=str(number), **(CALL | {"day": DAY + timedelta(days=number)}))
    assert await spend.sweep(DAY + timedelta(days=2)) == 2
    assert await spend.sweep(DAY + timedelta(days=2)) == 0
    await spend.add(call="2", **(CALL | {"day": DAY + timedelta(days=2)}))
    assert [(await spend.total("acme", DAY + timedelta(days=n))).steps for n in range(3)] == [1, 1, 1]
