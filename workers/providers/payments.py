"""A bank's transfers over HTTP, each had once by its idempotency key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from time import time
from typing import Any

import httpx2

from ratelimit.headers import retry_after
from workers.providers import errors
from workers.providers.once import SETTLES_S, Answer, Before, always, bearer, client, header_key, once

_NOBODYS_KEY = "no-such-key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A transfer that the bank has booked."""

    id: str
    status: str
    """The bank's own word for where it stands."""
    replayed: bool = False
    """The bank had booked it before, under the same key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """A bank's API: `POST /transfers` with an `Idempotency-Key`, and `GET /transfers?idempotency_key=`.

    Statuses as the IETF's draft-ietf-httpapi-idempotency-key-header-07 §2.7 has them, errors as RFC 9457.
    """

    name: str = "payments"
    base_url: str
    key: str = field(repr=False)
    honours_keys: bool = True
    """A transfer under a key that the bank knows is not booked again."""
    looks_up: bool = True
    """The bank can be asked what it has booked under a key."""
    key_lifetime: timedelta = timedelta(hours=24)
    """How long it knows a key. Stripe: keys may be removed once they are at least 24 hours old."""
    timeout_s: float = 30.0
    """Seconds for one call."""

    async def transfer(
        self, key: str, *, payee: str, amount: Decimal, currency: str, reference: str, before: Before = always
    ) -> Transfer:
        """Have money moved, once.

        Args:
            key: of the effect; the same for every attempt.
            payee: as the bank names it.
            amount: above 0, sent with exactly its digits.
            currency: ISO 4217.
            reference: for the payee's statement.
            before: asked once, when the connection stands and nothing was sent.

        Raises:
            Fenced: `before` has said no.
            NotSent: no connection.
            Lost: it may have been booked: no answer, a 5xx, a redirect (a 303 may follow success, RFC 9110
                §15.4.4), or an earlier request under the key is in progress (409).
            BadRequest: 400, 402, 422 and other refusals, insufficient funds among them: not booked.
            Refused: 401, 403.
            RateLimited: 429: not booked.
        """
        if not amount.is_finite() or amount <= 0:
            raise errors.BadRequest(f"{self.name}: the amount is {amount}: must be above 0")
        transfer = {"payee": payee, "amount": f"{amount:f}", "currency": currency, "reference": reference}
        headers = {"idempotency-key": header_key(key)}
        answer = await self._ask("POST", json=transfer, headers=headers, before=before, broken=errors.Lost)
        if not 200 <= answer.status < 300:
            raise self._refusal(answer)
        try:
            return _transfer(answer.json(), replayed=answer.headers.get("idempotent-replayed", "") == "true")
        except (ValueError, TypeError, LookupError):
            text = f"{self.name}: the answer {answer.status} is not what this API sends"
            raise errors.Lost(text, retry_after_s=SETTLES_S) from None

    async def find(self, key: str) -> Transfer | None:
        """What the bank has booked under the key; None if nothing: only an empty list says so.

        Raises:
            BadRequest: this bank cannot be asked: `looks_up` is false, or it answers 404.
            ProviderError: no answer.
        """
        if not self.looks_up:
            raise errors.BadRequest(f"{self.name}: it cannot be asked what it has booked (`looks_up` is false)")
        answer = await self._ask("GET", params={"idempotency_key": header_key(key)})
        if not 200 <= answer.status < 300:
            raise self._error(answer)
        with errors.understood(self.name):
            found = _listed(answer.json())
            return _transfer(found[0], replayed=True) if found else None

    async def check(self) -> None:
        """Ask for a transfer that cannot exist. A bank that answers anything but a refusal of the key is there.

        Raises:
            ProviderError: as `find` does.
        """
        answer = await self._ask("GET", params={"idempotency_key": _NOBODYS_KEY})
        if answer.status in (401, 403, 429) or answer.status >= 500:
            raise self._error(answer)

    async def _ask(
        self,
        method: str,
        *,
        before: Before = always,
        broken: type[errors.Unavailable] = errors.Unavailable,
        headers: Mapping[str, str] | None = None,
        **request: Any,
    ) -> Answer:
        sent = {**bearer(self.name, self.key), "accept": "application/json", **(headers or {})}
        async with client(self.timeout_s) as http:
            try:
                url = f"{self.base_url.rstrip('/')}/transfers"
                built = http.build_request(method, url, headers=sent, **request)
            except (httpx2.InvalidURL, ValueError) as error:
                raise errors.BadRequest(
                    f"{self.name}: the request cannot be written ({type(error).__name__}): is base_url right?"
                ) from None
            return await once(http, built, where=self.name, before=before, broken=broken, max_s=self.timeout_s)

    def _refusal(self, answer: Answer) -> errors.ProviderError:
        """What a POST that is not a success means: whether it may have been booked."""
        if answer.status == 409:
            wait = retry_after(answer.headers, time())
            text = (
                f"{self.name}: 409, an earlier request under this key is in progress: {answer.said(without=self.key)}"
            )
            return errors.Lost(text, retry_after_s=SETTLES_S if wait is None else wait)
        if answer.status >= 500 or answer.status == 408:
            text = f"{self.name}: {answer.status}, it may have been booked: {answer.said(without=self.key)}"
            return errors.Lost(text, retry_after_s=retry_after(answer.headers, time()))
        if 300 <= answer.status < 400:
            why = "redirects are not followed: is base_url right?"
            text = f"{self.name}: {answer.status}, it may have been booked: {why}"
            return errors.Lost(text, retry_after_s=SETTLES_S)
        if answer.status == 402:
            return errors.BadRequest(f"{self.name}: 402, not booked: {answer.said(without=self.key)}")
        if answer.status == 425:
            return errors.Unavailable(f"{self.name}: 425, too early", retry_after_s=retry_after(answer.headers, time()))
        return self._error(answer)

    def _error(self, answer: Answer) -> errors.ProviderError:
        said = answer.said(without=self.key)
        if 300 <= answer.status < 400:
            said = "redirects are not followed: is base_url right?"
        return errors.from_status(answer.status, f"{self.name}: {answer.status} {said}", answer.headers)


def _listed(body: Any) -> list[Any]:
    """The list in the answer: bare, or under `transfers` or `data`."""
    found = body if isinstance(body, list) else body["transfers"] if "transfers" in body else body["data"]
    if not isinstance(found, list):
        raise TypeError("no list")
    return found


def _transfer(body: Any, *, replayed: bool) -> Transfer:
    found = Transfer(id=str(body["id"]), status=str(body.get("status", "booked")), replayed=replayed)
    if not found.id:
        raise ValueError("no id")
    return found
