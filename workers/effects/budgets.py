"""What tenants may spend in a day."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

from fleet.budget import cost
from fleet.contracts.llm import ChatResult
from fleet.contracts.names import FailureType
from fleet.contracts.runs import Price
from fleet.tables import DailySpec
from workers import failures
from workers.database.engine import DatabaseLost
from workers.effects.attempts import database
from workers.effects.spend import Spend


class Budgets:
    """What tenants may spend in a day, over the whole fleet. Calls under way may go beyond it by what they cost."""

    def __init__(self, spend: Spend, daily: Callable[[str], DailySpec | None], prices: Mapping[str, Price]) -> None:
        self._spend = spend
        self._daily = daily
        self._prices = prices

    async def check(self, tenant: str) -> None:
        """Refuse a call of a tenant that has spent its day's budget.

        Raises:
            ApplicationError: `BudgetExhausted`, with what is used up; a wait while the database is away.
        """
        daily = self._daily(tenant)
        if daily is None:
            return
        async with database():
            spent = await self._spend.total(tenant, datetime.now(UTC).date())
        for used, most, unit in (
            (spent.steps, daily.steps, "steps"),
            (spent.tokens, daily.tokens, "tokens"),
            (spent.money, daily.money, "of money"),
            (spent.seconds, daily.time.total_seconds() if daily.time else None, "seconds of model time"),
        ):
            if most is not None and used >= most:
                told = f"tenant {tenant} has used {_plain(used)} of {_plain(most)} {unit} today"
                raise failures.final(FailureType.BUDGET_EXHAUSTED, f"{told}; the day ends at midnight UTC")

    async def book(self, tenant: str, call: str, model: str, result: ChatResult) -> None:
        """Count one call, once. A database that is away loses the count, not the call."""
        if self._daily(tenant) is None:
            return
        with suppress(DatabaseLost):
            await self._spend.add(
                tenant=tenant,
                day=datetime.now(UTC).date(),
                call=call,
                steps=1,
                tokens=result.usage.total_tokens,
                money=cost(self._prices.get(model), result.usage),
                seconds=result.duration_s,
            )


def _plain(units: float | Decimal) -> str:
    return f"{units:f}" if isinstance(units, Decimal) else f"{units:.0f}"
