"""A bank: `POST /bank/transfers` books a transfer, once per Idempotency-Key if the bank honours keys.

Errors are problem details (RFC 9457). Keys follow draft-ietf-httpapi-idempotency-key-header: 400 without one, 422 for
another payload, 409 while the first request is still being carried out.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from load.simulators.calls import Call, Reception
from load.simulators.idempotency import Answers, Busy, Reused, unquoted
from load.simulators.options import BankOptions
from load.simulators.quota import Standing
from load.simulators.world import World

_AMOUNT = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,4})?")
_CURRENCY = re.compile(r"[A-Z]{3}")
_MOST = {"payee": 64, "reference": 140}
"""Characters; 140 is SEPA's limit for what the payee will read."""
_TITLES = {401: "Unauthorized", 429: "Too Many Requests", 404: "Not Found"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Money that has moved."""

    id: str
    payee: str
    amount: str
    """As it was asked for."""
    currency: str
    reference: str
    created_at: str
    idempotency_key: str
    """Empty: none was given."""
    at: float
    """Wall-clock seconds."""

    def document(self) -> dict[str, str]:
        """As the bank tells its clients."""
        told = ("id", "payee", "amount", "currency", "reference", "created_at")
        return {name: str(getattr(self, name)) for name in told} | {"status": "booked"}


class Book:
    """Every transfer ever booked."""

    def __init__(self) -> None:
        self._transfers: list[Transfer] = []
        self._totals: dict[str, Decimal] = {}

    def add(self, transfer: Transfer) -> None:
        """Book it."""
        self._transfers.append(transfer)
        self._totals[transfer.currency] = self.total(transfer.currency) + Decimal(transfer.amount)

    def total(self, currency: str) -> Decimal:
        """What has been paid in this currency."""
        return self._totals.get(currency, Decimal(0))

    def of(self, key: str) -> list[Transfer]:
        """The transfers of an idempotency key, oldest first."""
        return [transfer for transfer in self._transfers if transfer.idempotency_key == key]

    def rows(self) -> list[dict[str, Any]]:
        """All transfers, oldest first."""
        return [asdict(transfer) | {"status": "booked"} for transfer in self._transfers]

    def summary(self) -> dict[str, Any]:
        """How many, how many of them once too often (by key or by content), and how much."""
        keys: set[str] = set()
        contents: set[tuple[str, Decimal, str, str]] = set()
        duplicates = 0
        for one in self._transfers:
            content = (one.payee, Decimal(one.amount), one.currency, one.reference)
            duplicates += one.idempotency_key in keys or content in contents
            contents.add(content)
            if one.idempotency_key:
                keys.add(one.idempotency_key)
        return {
            "transfers": len(self._transfers),
            "keys": len(keys),
            "duplicates": duplicates,
            "total": {currency: str(total) for currency, total in self._totals.items()},
        }


class _BankWords:
    """The bank's words."""

    provider = "bank"
    wrong_key = 401

    def error(self, status: int, detail: str) -> Response:
        """Problem details."""
        return _problem(status, _TITLES.get(status, "The bank could not do this"), detail)

    def headers(self, standing: Mapping[str, Standing]) -> dict[str, str]:
        """None: this bank does not tell its limits."""
        del standing
        return {}


class BankApi:
    """The routes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reception = Reception(world, _BankWords())
        self._answers = Answers()
        self.book = Book()

    def routes(self) -> list[Route]:
        """Under `/bank`."""
        return [
            Route("/bank/transfers", self._transfer, methods=["POST"]),
            Route("/bank/transfers", self._lookup, methods=["GET"]),
        ]

    async def _transfer(self, request: Request) -> Response:
        options = self._world.options.bank
        call = await self._reception.admit(request, options.limits(), options.latency_s, options.keys)
        if isinstance(call, Response):
            return call
        return await self._reception.answer(call, await self._carried_out(call, options))

    async def _lookup(self, request: Request) -> Response:
        options = self._world.options.bank
        call = await self._reception.admit(request, options.limits(), options.latency_s, options.keys)
        if isinstance(call, Response):
            return call
        await self._reception.take_time(call)
        key = unquoted(request.query_params.get("idempotency_key"))
        # tells the lookups from the transfers
        call.row.path += "?idempotency_key"
        call.row.idempotency_key = key
        if options.lookup and key:
            found: Response = JSONResponse([transfer.document() for transfer in self.book.of(key)])
        elif options.lookup:
            found = _problem(400, "idempotency_key is missing", "Say which transfers: ?idempotency_key=KEY.")
        else:
            found = _problem(404, "Not Found", "This bank does not look transfers up.")
        return await self._reception.answer(call, found)

    async def _carried_out(self, call: Call, options: BankOptions) -> Response:
        key = unquoted(call.row.idempotency_key)
        if options.honours_keys and not key:
            return _problem(400, "Idempotency-Key is missing", "Every transfer needs the header Idempotency-Key.")
        try:
            order = json.loads(call.raw)
        except ValueError:
            return _problem(400, "The body is not JSON", "Send one JSON object.")
        if fault := _fault_of(order, options):
            return _problem(422, "The transfer is not valid", fault)
        if not options.honours_keys:
            await self._reception.take_time(call)
            return self._book(order, key, options)
        try:
            recorded = self._answers.begin(key, order, self._world.now())
        except Reused:
            return _problem(422, "Idempotency-Key is already used", "The key belongs to a transfer with other content.")
        except Busy:
            return _problem(409, "A request is outstanding for this Idempotency-Key", "Repeat the request later.")
        if recorded is not None:
            return recorded
        await self._reception.take_time(call)
        answer = self._book(order, key, options)
        self._answers.finish(key, answer)
        return answer

    def _book(self, order: dict[str, str], key: str, options: BankOptions) -> Response:
        currency, amount = order["currency"], Decimal(order["amount"])
        if options.accounts is not None:
            left = options.accounts[currency] - self.book.total(currency)
            if amount > left:
                return _problem(402, "Insufficient funds", f"The account has {left} {currency}, not {amount}.")
        now = self._world.now()
        transfer = Transfer(
            id=f"tr_{uuid4().hex}",
            payee=order["payee"],
            amount=order["amount"],
            currency=currency,
            reference=order["reference"],
            created_at=datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z"),
            idempotency_key=key,
            at=now,
        )
        self.book.add(transfer)
        return JSONResponse(transfer.document(), 201)


def _fault_of(order: Any, options: BankOptions) -> str | None:
    """What is wrong with a transfer."""
    if not isinstance(order, dict):
        return "the body must be a JSON object"
    for name in ("payee", "amount", "currency", "reference"):
        if not isinstance(order.get(name), str):
            return f"{name} must be a string"
    for name, most in _MOST.items():
        if len(order[name]) > most:
            return f"{name} has {len(order[name])} characters: at most {most}"
    if not order["payee"].strip():
        return "payee must not be empty"
    if not _AMOUNT.fullmatch(order["amount"]) or Decimal(order["amount"]) == 0:
        return f"amount is {order['amount']!r}: a decimal above 0 with at most 4 fraction digits, as 120.50"
    if not _CURRENCY.fullmatch(order["currency"]):
        return f"currency is {order['currency']!r}: three capital letters, as EUR"
    if options.accounts is not None and order["currency"] not in options.accounts:
        return f"there is no account in {order['currency']}: {', '.join(options.accounts) or 'there is none at all'}"
    return None


def _problem(status: int, title: str, detail: str) -> Response:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")
