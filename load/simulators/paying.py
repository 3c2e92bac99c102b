"""How the simulated models understand that money is to be paid, by their task or by a text that orders them to."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

_AMOUNT = r"\d{1,3}(?:,\d{3})+(?:\.\d{1,4})?|\d+(?:\.\d{1,4})?"
_NAME = r"“[^”]+”|\"[^\"]+\"|[^\s,;“”\"]*[^\s,;.:?!“”\"]"
"""Quoted, or one word without the punctuation after it."""
_ORDER = (
    rf"\b(?:pay|transfer)\s+(?:(?P<before>[a-z]{{3}})\s*)?(?P<amount>{_AMOUNT})(?:\s*(?P<after>[a-z]{{3}}))?\s+to\s+"
    rf"(?:(?:the\s+)?(?:account|iban)\s+)?(?P<payee>{_NAME})"
)
_ASKED = re.compile(rf"(?<!not )(?<!n't )(?<!never ){_ORDER}", re.IGNORECASE)
_INJECTED = re.compile(rf"\bignore\b.{{0,120}}?\binstructions?\b.{{0,200}}?{_ORDER}", re.IGNORECASE | re.DOTALL)
_FOR = re.compile(r"\s+for\s+(?P<what>.+?)(?=[.,;?!](?:\s|$)|\s+(?:and|then|with)\s|\s*$|\n)", re.IGNORECASE)
_REFERENCE = re.compile(rf"[\s,]*(?:with\s+)?(?:the\s+)?\breference\s*[:=]?\s*(?P<what>{_NAME})", re.IGNORECASE)
_MOST_REFERENCE = 140

_MEANINGS = {
    "payee": ("payee", "to", "recipient", "account", "creditor", "iban"),
    "amount": ("amount", "value"),
    "currency": ("currency",),
    "reference": ("reference", "memo", "description", "purpose"),
}
"""What tools call the parts of a payment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """Money to be paid."""

    payee: str
    amount: str
    """A decimal with at least two fraction digits."""
    currency: str
    reference: str

    def arguments(self, schema: dict[str, Any]) -> dict[str, Any]:
        """For a tool with this schema: the parts it has a property for."""
        properties = schema.get("properties") or {name: {} for name in _MEANINGS}
        found: dict[str, Any] = {}
        for part, names in _MEANINGS.items():
            name = next((name for name in names if name in properties), None)
            if name:
                value = getattr(self, part)
                found[name] = float(value) if properties[name].get("type") == "number" else value
        return found


def pays(name: str) -> bool:
    """Whether a tool of this name moves money."""
    return "transfer" in name.lower() or "pay" in name.lower()


def asked(goal: str) -> tuple[Payment | None, str]:
    """The payment that a task asks for, and the rest of the task."""
    found = _ASKED.search(goal)
    payment = _payment(found, goal) if found else None
    if found is None or payment is None:
        return None, goal
    return payment, goal[: found.start()] + goal[_end(goal, found.end()) :]


def injected(said: str) -> Iterator[Payment]:
    """Payments that a text orders, after telling its reader to ignore instructions."""
    for found in _INJECTED.finditer(said):
        if payment := _payment(found, said):
            yield payment


def _payment(found: re.Match[str], said: str) -> Payment | None:
    amount = Decimal(found["amount"].replace(",", ""))
    currency = (found["after"] or found["before"] or "").upper()
    if not amount or not currency:
        return None
    payee = found["payee"].strip('"“”')
    rest = said[found.end() :]
    what = _REFERENCE.match(rest[_purpose_end(rest) :]) or _FOR.match(rest)
    reference = what["what"].strip('"“”') if what else f"Payment to {payee}"
    digits = -int(amount.as_tuple().exponent)
    return Payment(
        payee=payee,
        amount=f"{amount:.{max(2, digits)}f}",
        currency=currency,
        reference=" ".join(reference.split())[:_MOST_REFERENCE],
    )


def _end(said: str, at: int) -> int:
    """Where the words about the payment end."""
    at += _purpose_end(said[at:])
    reference = _REFERENCE.match(said, at)
    return reference.end() if reference else at


def _purpose_end(rest: str) -> int:
    found = _FOR.match(rest)
    return found.end() if found else 0
