"""What tenants have spent, by day."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from sqlalchemy import delete, select, update

from workers.database.engine import Database
from workers.database.tables import spend, spend_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one tenant has spent on one day, in UTC."""

    steps: int = 0
    """Calls of the model."""
    tokens: int = 0
    money: Decimal = Decimal(0)
    """Exact, in the currency of the manifest's prices."""
    seconds: float = 0.0


class Spend:
    """Sums by tenant and day. Each call counts once, however often it is reported.

    Every method raises `DatabaseLost` when the database does not answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, *, tenant: str, day: date, call: str, steps: int, tokens: int, money: Decimal, seconds: float
    ) -> None:
        """Count one call, unless it is counted already.

        Args:
            tenant: who pays.
            day: in UTC.
            call: the call's own id, the same whenever it is reported.
            steps: calls of the model.
            tokens: input and output.
            money: what it cost.
            seconds: how long it took.
        """
        seen = self._database.insert(spend_calls).values(call=call, day=day)
        first = self._database.insert(spend).values(
            tenant=tenant, day=day, steps=0, tokens=0, money=Decimal(0), seconds=0.0
        )
        here = (spend.c.tenant == tenant) & (spend.c.day == day)
        async with self._database.begin() as connection:
            if (await connection.execute(seen.on_conflict_do_nothing())).rowcount != 1:
                return
            await connection.execute(first.on_conflict_do_nothing())
            # added up here, not by SQL: SQLite has no exact decimals
            before = (await connection.execute(select(spend).where(here).with_for_update())).one()
            await connection.execute(
                update(spend)
                .where(here)
                .values(
                    steps=before.steps + steps,
                    tokens=before.tokens + tokens,
                    money=before.money + money,
                    seconds=before.seconds + seconds,
                )
            )

    async def total(self, tenant: str, day: date) -> Spent:
        """What the tenant has spent on that day, in UTC."""
        query = select(spend).where(spend.c.tenant == tenant, spend.c.day == day)
        async with self._database.reading() as connection:
            found = (await connection.execute(query)).one_or_none()
        if found is None:
            return Spent()
        return Spent(steps=found.steps, tokens=found.tokens, money=found.money, seconds=found.seconds)

    async def sweep(self, before: date) -> int:
        """Forget which calls of earlier days were counted; the sums stay. A call reported later counts again.

        Returns:
            How many were forgotten.
        """
        async with self._database.begin() as connection:
            return (await connection.execute(delete(spend_calls).where(spend_calls.c.day < before))).rowcount
