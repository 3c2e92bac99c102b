"""An SMTP relay, and the question whether it has accepted a message."""

from dataclasses import dataclass
from email.message import EmailMessage
from typing import Literal

import aiosmtplib
import httpx2

from workers.providers import errors


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
        except aiosmtplib.SMTPAuthenticationError:
            raise errors.Refused(f"{where}: user or password was refused") from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise errors.Unavailable(f"{where}: {error}") from None
        try:
            _, reply = await client.send_message(message)
        except aiosmtplib.SMTPRecipientsRefused as error:
            refused = error.recipients[0]
            raise _answer(where, refused.code, refused.message) from None
        except aiosmtplib.SMTPResponseException as error:
            raise _answer(where, error.code, error.message) from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise Lost(f"{where}: the connection broke: {error}") from None
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
        except aiosmtplib.SMTPAuthenticationError:
            raise errors.Refused(f"email {self.host}:{self.port}: user or password was refused") from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise errors.Unavailable(f"email {self.host}:{self.port}: {error}") from None


class Lost(errors.Unavailable):
    """The message may have been accepted: look it up before sending again."""


def _answer(where: str, code: int, text: str) -> errors.ProviderError:
    message = f"{where}: {code} {text}"
    if code in (421, 450, 451, 452, 454):
        return errors.RateLimited(message)
    return errors.Unavailable(message) if 400 <= code < 500 else errors.BadRequest(message)
