"""An SMTP relay, and the question whether it has accepted a message."""

from dataclasses import dataclass
from email.message import EmailMessage
from typing import Literal

import aiosmtplib
import httpx2

from workers.providers import errors

DATA_TIMEOUT_S = 540.0
"""Longest wait for the reply to a message: giving up early makes duplicates (RFC 5321 §4.5.3.2.6: 10 min)."""
SETTLES_S = 10.0
"""After a connection that broke the relay may still be at it: so long before it is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Where to hand in mail. One connection per message: relays close idle ones."""

    host: str
    port: int
    tls: Literal["none", "starttls", "implicit"]
    sender: str
    username: str | None = None
    password: str | None = None
    lookup_url: str | None = None
    timeout_s: float = 30.0

    async def send(self, message: EmailMessage) -> str:
        """Hand in one message, once. Returns the relay's reply.

        Raises:
            RateLimited: 421, 450, 451, 452, 454: later.
            BadRequest: 5xx: never, as it stands.
            Refused: wrong user or password.
            Unavailable: no connection before the message was handed in.
            Lost: the connection broke while the message was handed in: it may have been accepted.
        """
        client = aiosmtplib.SMTP(
            hostname=self.host,
            port=self.port,
            timeout=self.timeout_s,
            use_tls=self.tls == "implicit",
            start_tls=self.tls == "starttls",
            username=self.username,
            password=self.password,
        )
        where = f"email {self.host}:{self.port}"
        try:
            await client.connect()
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _at_connect(where, error) from None
        try:
            _, reply = await client.send_message(message, timeout=DATA_TIMEOUT_S)
        except aiosmtplib.SMTPRecipientsRefused as error:
            refused = error.recipients[0]
            # one mailbox's trouble: not the relay's quota
            kind = errors.Unavailable if 400 <= refused.code < 500 else errors.BadRequest
            raise kind(f"{where}: {refused.code} {refused.message}") from None
        except aiosmtplib.SMTPResponseException as error:
            raise _answer(where, error.code, error.message) from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise errors.Lost(f"{where}: the connection broke: {error}", retry_after_s=SETTLES_S) from None
        finally:
            client.close()
        return reply

    async def accepted(self, message_id: str) -> bool | None:
        """Whether the relay has accepted the message; None if it cannot be asked."""
        if self.lookup_url is None:
            return None
        try:
            async with httpx2.AsyncClient(timeout=self.timeout_s) as client:
                answer = await client.get(self.lookup_url, params={"message_id": message_id})
                answer.raise_for_status()
                return bool(answer.json())
        except (httpx2.HTTPError, ValueError) as error:
            raise errors.Unavailable(f"email {self.lookup_url}: {error}") from None

    async def check(self) -> None:
        """Connect, greet, log in."""
        client = aiosmtplib.SMTP(
            hostname=self.host,
            port=self.port,
            timeout=self.timeout_s,
            use_tls=self.tls == "implicit",
            start_tls=self.tls == "starttls",
            username=self.username,
            password=self.password,
        )
        try:
            async with client:
                await client.noop()
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _at_connect(f"email {self.host}:{self.port}", error) from None


def _at_connect(where: str, error: Exception) -> errors.ProviderError:
    """What went wrong before any message was handed in."""
    if isinstance(error, aiosmtplib.SMTPAuthenticationError) and error.code >= 500:
        return errors.Refused(f"{where}: user or password was refused")
    if isinstance(error, aiosmtplib.SMTPResponseException) and 400 <= error.code < 600:
        return _answer(where, error.code, error.message)
    return errors.NotSent(f"{where}: {error}")


def _answer(where: str, code: int, text: str) -> errors.ProviderError:
    message = f"{where}: {code} {text}"
    if code in (421, 450, 451, 452, 454):
        return errors.RateLimited(message)
    return errors.Unavailable(message) if 400 <= code < 500 else errors.BadRequest(message)
