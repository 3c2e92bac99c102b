"""Send an e-mail, once."""

import json
from datetime import UTC, datetime, timedelta
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses, parseaddr
from hashlib import sha256

from temporalio import activity

from fleet.conditions import fits
from fleet.contracts.effects import EffectRequest, EffectResult
from fleet.contracts.names import FailureType
from fleet.contracts.tools import EMAIL_SEND
from workers import failures
from workers.effects.attempts import Attempts, Had, Recipe
from workers.providers.mail import Mailer
from workers.providers.once import SETTLES_S, Before

_COST = {"messages": 1.0, "recipients": 1.0}


class MailTools:
    """Serves `email.send`."""

    def __init__(self, attempts: Attempts, mailer: Mailer, recipients: list[str]) -> None:
        """Args:
        attempts: of the pool.
        mailer: the relay or API.
        recipients: patterns of addresses that may be written to at all; empty: all.
        """
        self._attempts = attempts
        self._mailer = mailer
        self._recipients = recipients

    @activity.defn(name=EMAIL_SEND.name)
    async def send(self, request: EffectRequest) -> EffectResult:
        """Hand the message in, unless an earlier attempt already has."""
        mailer = self._mailer
        message = compose(
            mailer.sender,
            request.key,
            to=str(request.arguments.get("to", "")),
            subject=str(request.arguments.get("subject", "")),
            body=str(request.arguments.get("body", "")),
        )
        to, message_id = str(message["To"]), str(message["Message-ID"])
        # the address itself: a name beside it may look like another
        address = message["To"].addresses[0].addr_spec
        allowed = not self._recipients or any(fits(address, pattern) for pattern in self._recipients)

        def had(reply: str) -> Had:
            content = {"sent": True, "to": to, "message_id": message_id}
            evidence = {"message_id": message_id, "to": to, "reply": reply}
            return Had(content=json.dumps(content, ensure_ascii=False), evidence=evidence)

        async def have(before: Before) -> Had:
            return had(await mailer.send(message, key=request.key, before=before))

        async def find() -> Had | None:
            accepted = await mailer.accepted(message_id, request.key)
            return had("accepted, found by Message-ID") if accepted else None

        recipe = Recipe(
            have=have,
            find=find if mailer.looks_up else None,
            honours_keys=mailer.honours_keys,
            key_lifetime=mailer.key_lifetime,
            settles=timedelta(seconds=SETTLES_S),
            barred="" if allowed else f"email: {to[:80]!r} may not be written to by this fleet",
        )
        return await self._attempts.make(request, recipe, _COST)


def compose(sender: str, key: str, *, to: str, subject: str, body: str) -> EmailMessage:
    """A message whose Message-ID is the same for every attempt under the key, so that a relay can be asked for it.

    Raises:
        ApplicationError: `ToolFailed`: it has not exactly one recipient, or its text is not accepted.
    """
    to = to.strip()
    if len(getaddresses([to])) != 1 or "@" not in parseaddr(to)[1]:
        raise failures.final(FailureType.TOOL_FAILED, f"email: {to[:80]!r} is not one address")
    message = EmailMessage()
    try:
        message["From"] = sender
        message["To"] = to
        message["Subject"] = " ".join(subject.split())[:200]
        message.set_content(body)
        recipients = message["To"].addresses
    except (ValueError, LookupError, AttributeError, MessageError) as error:
        # Python's own parser stumbles over some
        raise failures.final(FailureType.TOOL_FAILED, f"email: the text is not accepted: {error}") from None
    if len(recipients) != 1:
        # encoded words may hold more of them (RFC 2047)
        raise failures.final(FailureType.TOOL_FAILED, f"email: {to[:80]!r} is not one address")
    message["Date"] = format_datetime(datetime.now(UTC))
    domain = parseaddr(sender)[1].partition("@")[2] or "localhost"
    message["Message-ID"] = f"<{sha256(key.encode()).hexdigest()[:32]}@{domain}>"
    return message
