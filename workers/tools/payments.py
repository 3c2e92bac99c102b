"""Transfer money, once."""

import json
from datetime import timedelta
from decimal import Decimal, InvalidOperation

from temporalio import activity

from fleet.conditions import fits
from fleet.contracts.effects import EffectRequest, EffectResult
from fleet.contracts.names import FailureType
from fleet.contracts.tools import PAYMENTS_TRANSFER
from workers import failures
from workers.effects.attempts import Attempts, Had, Recipe
from workers.providers.once import SETTLES_S, Before
from workers.providers.payments import Bank, Transfer


class PaymentTools:
    """Serves `payments.transfer`."""

    def __init__(self, attempts: Attempts, bank: Bank, payees: list[str]) -> None:
        """Args:
        attempts: of the pool.
        bank: its client.
        payees: patterns of accounts that may be paid at all; empty: all.
        """
        self._attempts = attempts
        self._bank = bank
        self._payees = payees

    @activity.defn(name=PAYMENTS_TRANSFER.name)
    async def transfer(self, request: EffectRequest) -> EffectResult:
        """Have the transfer booked, unless an earlier attempt already has."""
        asked = {name: str(request.arguments.get(name, "")) for name in ("payee", "amount", "currency", "reference")}
        amount = _amount(asked["amount"])
        allowed = not self._payees or any(fits(asked["payee"], pattern) for pattern in self._payees)

        def had(booked: Transfer) -> Had:
            content = {"booked": True, "transfer_id": booked.id, **asked}
            evidence = {"transfer_id": booked.id, "status": booked.status, **asked}
            return Had(content=json.dumps(content, ensure_ascii=False), evidence=evidence)

        async def have(before: Before) -> Had:
            booked = await self._bank.transfer(
                request.key,
                payee=asked["payee"],
                amount=amount,
                currency=asked["currency"],
                reference=asked["reference"],
                before=before,
            )
            return had(booked)

        async def find() -> Had | None:
            booked = await self._bank.find(request.key)
            return None if booked is None else had(booked)

        recipe = Recipe(
            have=have,
            find=find if self._bank.looks_up else None,
            honours_keys=self._bank.honours_keys,
            key_lifetime=self._bank.key_lifetime,
            settles=timedelta(seconds=self._bank.timeout_s + SETTLES_S),
            barred="" if allowed else f"payments: {asked['payee'][:80]!r} may not be paid by this fleet",
        )
        return await self._attempts.make(request, recipe, {"requests": 1.0})


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount <= 0:
        raise failures.final(FailureType.TOOL_FAILED, f"payments: {text[:40]!r} is not an amount above 0")
    return amount
