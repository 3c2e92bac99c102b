"""Telling others by HTTP: Standard Webhooks, Slack-compatible incoming webhooks, CloudEvents."""

import json
import ssl
from binascii import Error as NotBase64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import time
from typing import Any

from cloudevents.core.bindings.http import to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from ratelimit.headers import retry_after
from workers.providers import errors
from workers.providers.once import Answer, Before, always, client, header_key, once
from workers.providers.outbound import Guard, parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to tell something."""

    name: str
    """In error texts it stands for the URL, which may be a secret (Slack's is)."""
    url: str = field(repr=False)
    secret: str = field(default="", repr=False)
    """`whsec_…`, for signing. Two of them, with a space between, while it is changed: both sign."""
    allow_private: bool = False
    """It may be in our own network."""
    timeout_s: float = 20.0
    """Seconds for one delivery. The Standard Webhooks specification recommends 15 to 30."""


def _now() -> datetime:
    return datetime.now(UTC)


class WebhookClient:
    """Delivers to endpoints, one attempt each. It keeps no connections."""

    def __init__(self, *, verify: ssl.SSLContext | None = None, now: Callable[[], datetime] = _now) -> None:
        """Args:
        verify: whom to trust. Default: whom the system trusts.
        now: the time, in UTC.
        """
        self._verify = verify
        self._now = now

    async def deliver(
        self,
        endpoint: Endpoint,
        *,
        message_id: str,
        body: bytes,
        content_type: str = "application/json",
        before: Before = always,
    ) -> str:
        """Deliver a message by the Standard Webhooks specification. Returns the status, such as `204`.

        Args:
            endpoint: with a secret.
            message_id: the same for every attempt: by it the receiver knows a message that it already has.
            body: JSON in UTF-8.
            content_type: of the body.
            before: asked once, when the connection stands and nothing was sent.

        Raises:
            Fenced: `before` has said no.
            NotSent: no connection.
            RateLimited: 429.
            Overloaded: 503.
            Unavailable: other 5xx, 408, 409, 425, or no answer: the message may be delivered again.
            BadRequest: 410, a redirect or another 4xx, a URL that must not be asked: not as it stands.
            Refused: the endpoint's secret cannot sign.
        """
        headers = {
            "content-type": content_type,
            **signed(endpoint, message_id=header_key(message_id), body=body, at=self._now()),
        }
        answer = await self._post(endpoint, body, headers, before=before, broken=errors.Unavailable)
        if 200 <= answer.status < 300:
            return str(answer.status)
        raise _refusal(endpoint, answer)

    async def slack(
        self,
        endpoint: Endpoint,
        *,
        text: str,
        blocks: Sequence[Mapping[str, Any]] | None = None,
        before: Before = always,
    ) -> str:
        """Post to a Slack-compatible incoming webhook. Returns the status.

        It knows no message ids: what is posted again is seen again.
        https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks

        Args:
            endpoint: its URL is the secret.
            text: the message, and what notifications show of one with blocks.
            blocks: of Slack's Block Kit.
            before: as for `deliver`.

        Raises:
            Lost: no answer: it may have been posted.
            Refused: 403, `action_prohibited`.
            ProviderError: as `deliver` does otherwise.
        """
        payload = {"text": text} | ({"blocks": list(blocks)} if blocks else {})
        body = json.dumps(payload).encode()
        headers = {"content-type": "application/json"}
        answer = await self._post(endpoint, body, headers, before=before, broken=errors.Lost)
        if 200 <= answer.status < 300:
            return str(answer.status)
        if answer.status == 403:
            raise errors.Refused(_told(endpoint, answer))
        raise _refusal(endpoint, answer)

    async def _post(
        self,
        endpoint: Endpoint,
        body: bytes,
        headers: Mapping[str, str],
        *,
        before: Before,
        broken: type[errors.Unavailable],
    ) -> Answer:
        where = f"webhook {endpoint.name}"
        guard = Guard(allow_private=endpoint.allow_private)
        async with client(endpoint.timeout_s, guard=guard, verify=self._verify) as http:
            try:
                request = http.build_request("POST", parsed(endpoint.url), content=body, headers=dict(headers))
            except errors.BadRequest:
                raise errors.BadRequest(f"{where}: its URL is none: give an http:// or https:// URL") from None
            return await once(
                http, request, where=where, before=before, broken=broken, max_s=endpoint.timeout_s, needs_body=False
            )


def signed(endpoint: Endpoint, *, message_id: str, body: bytes, at: datetime) -> dict[str, str]:
    """The three headers of the Standard Webhooks specification.

    Args:
        endpoint: its secret signs.
        message_id: of the message.
        body: what is signed with it; UTF-8.
        at: of the attempt; aware.

    Raises:
        Refused: no secret, or one that is not base64.
        BadRequest: the body is not UTF-8.
    """
    where = f"webhook {endpoint.name}"
    at = at.astimezone(UTC)
    try:
        signers = [Webhook(secret) for secret in endpoint.secret.split()]
    except (NotBase64, EmptyWebhookSecretError, ValueError):
        signers = []
    if not signers:
        raise errors.Refused(f"{where}: its secret is missing or not base64 after `whsec_`: set it in the settings")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise errors.BadRequest(f"{where}: the body is not UTF-8") from None
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signer.sign(message_id, at, text) for signer in signers),
    }


def cloud_event(
    *,
    id: str,  # noqa: A002 - the specification's name
    source: str,
    type: str,  # noqa: A002
    subject: str,
    time: datetime,
    data: Mapping[str, Any],
) -> tuple[bytes, str]:
    """A CloudEvents 1.0 event as JSON in structured mode: the body and its content type.

    Args:
        id: with `source` it is unique, and the same for every attempt.
        source: URI reference of what tells it.
        type: such as `fleet.approval.opened`.
        subject: what it is about.
        time: when it happened; aware.
        data: JSON.
    """
    attributes = {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": type,
        "subject": subject,
        "time": time.astimezone(UTC),
        "datacontenttype": "application/json",
    }
    message = to_structured(CloudEvent(attributes, dict(data)), JSONFormat())
    return message.body, JSONFormat.CONTENT_TYPE


def _told(endpoint: Endpoint, answer: Answer) -> str:
    return f"webhook {endpoint.name}: {answer.status} {answer.said(without=endpoint.url)}"


def _refusal(endpoint: Endpoint, answer: Answer) -> errors.ProviderError:
    told = _told(endpoint, answer)
    if answer.status == 410:
        return errors.BadRequest(f"{told}: it wants no more; take the endpoint out, or give it another URL")
    if 300 <= answer.status < 400:
        return errors.BadRequest(f"{told}: redirects are not followed; give the endpoint its new URL")
    if answer.status == 425:
        return errors.Unavailable(told, retry_after_s=retry_after(answer.headers, time()))
    if 400 <= answer.status < 500 and answer.status not in (408, 409, 429):
        return errors.BadRequest(told)
    return errors.from_status(answer.status, told, answer.headers)
