"""Mail through an HTTP API with idempotency keys, as Resend documents its own.

https://resend.com/docs/api-reference/emails/send-email, …/errors, …/docs/dashboard/emails/idempotency-keys
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from time import time
from typing import Any

import httpx2

from ratelimit.headers import retry_after
from workers.providers import errors
from workers.providers.once import SETTLES_S, Answer, Before, always, bearer, client, header_key, once

_IN_PROGRESS = "concurrent_idempotent_requests"
_MONTH_IS_USED_UP = "monthly_quota_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class MailApi:
    """Where to send mail: `POST {base_url}/emails`."""

    name: str = "email"
    base_url: str = "https://api.resend.com"
    key: str = field(repr=False)
    sender: str
    honours_keys: bool = True
    key_lifetime: timedelta = timedelta(hours=24)
    timeout_s: float = 30.0
    """Seconds for one call."""

    @property
    def looks_up(self) -> bool:
        """It finds messages by its own ids only."""
        return False

    async def send(self, message: EmailMessage, *, key: str, before: Before = always) -> str:
        """Hand in one message, once. Returns the API's id of it.

        Raises:
            Fenced: `before` has said no.
            NotSent: no connection.
            Lost: it may have been accepted: no answer, a 5xx, or an earlier request under the key is in progress.
            BadRequest: never, as it stands; or the key was used for another message.
            Refused: 401, 403.
            RateLimited: 429: later.
            Exhausted: the month's quota is used up.
        """
        headers = {"idempotency-key": header_key(key)}
        answer = await self._post(self._payload(message), headers, before=before, broken=errors.Lost)
        if not 200 <= answer.status < 300:
            raise self._refusal(answer)
        try:
            return str(answer.json()["id"])
        except (ValueError, TypeError, LookupError):
            text = f"{self.name}: the answer {answer.status} is not what this API sends"
            raise errors.Lost(text, retry_after_s=SETTLES_S) from None

    async def accepted(self, message_id: str, key: str) -> bool | None:
        """None: it cannot be asked. Within `key_lifetime` sending again under the key is safe."""
        del message_id, key
        return None

    async def check(self) -> None:
        """Hand in a message without sender, recipient and text: refused for what it lacks, the key is right.

        Keys that may only send are let do nothing else.

        Raises:
            ProviderError: no connection, a refused key, or no such API.
        """
        answer = await self._post({}, {}, before=always, broken=errors.Unavailable)
        if answer.status not in (400, 422):
            raise self._refusal(answer)

    async def _post(
        self,
        payload: Mapping[str, Any],
        headers: Mapping[str, str],
        *,
        before: Before,
        broken: type[errors.Unavailable],
    ) -> Answer:
        sent = {**bearer(self.name, self.key), "accept": "application/json", **headers}
        async with client(self.timeout_s) as http:
            try:
                request = http.build_request("POST", f"{self.base_url.rstrip('/')}/emails", json=payload, headers=sent)
            except (httpx2.InvalidURL, ValueError) as error:
                raise errors.BadRequest(
                    f"{self.name}: the request cannot be written ({type(error).__name__}): is base_url right?"
                ) from None
            return await once(http, request, where=self.name, before=before, broken=broken, max_s=self.timeout_s)

    def _payload(self, message: EmailMessage) -> dict[str, Any]:
        body = message.get_body(preferencelist=("plain",))
        if body is None or any(True for _ in message.iter_attachments()):
            raise errors.BadRequest(f"{self.name}: the message must be one plain text without attachments")
        payload: dict[str, Any] = {
            "from": str(message["From"] or self.sender),
            "to": _addresses(message, "To"),
            "subject": str(message["Subject"] or ""),
            "text": body.get_content(),
            "headers": {"Message-ID": str(message["Message-ID"])} if message["Message-ID"] else {},
        }
        optional = {"cc": "Cc", "bcc": "Bcc", "reply_to": "Reply-To"}
        return payload | {name: _addresses(message, header) for name, header in optional.items() if message[header]}

    def _refusal(self, answer: Answer) -> errors.ProviderError:
        said = f"{self.name}: {answer.status} {answer.said(without=self.key)}"
        wait = retry_after(answer.headers, time())
        kind = _kind(answer)
        if answer.status == 409:
            in_progress = kind == _IN_PROGRESS
            return errors.Lost(said, retry_after_s=wait or SETTLES_S) if in_progress else errors.BadRequest(said)
        if answer.status >= 500 or answer.status == 408:
            return errors.Lost(f"{said}: it may have been accepted", retry_after_s=wait)
        if answer.status == 429 and kind == _MONTH_IS_USED_UP:
            return errors.Exhausted(said)
        if 300 <= answer.status < 400:
            return errors.BadRequest(f"{said}: redirects are not followed: is base_url right?")
        return errors.from_status(answer.status, said, answer.headers)


def _kind(answer: Answer) -> str:
    """The API's own name of the error."""
    try:
        return str(answer.json()["name"])
    except (ValueError, TypeError, LookupError):
        return ""


def _addresses(message: EmailMessage, header: str) -> list[str]:
    return [str(address) for found in message.get_all(header, []) for address in found.addresses]
