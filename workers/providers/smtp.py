"""An SMTP relay, and the question whether it has accepted a message."""

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from typing import Literal

import aiosmtplib
import httpx2
from aiosmtplib.email import extract_recipients, extract_sender, flatten_message

from workers.providers import errors
from workers.providers.once import SETTLES_S, Before, always

DATA_TIMEOUT_S = 540.0
"""Longest wait for the reply to a message: giving up early makes duplicates (RFC 5321 §4.5.3.2.6: 10 min)."""
QUIT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Where to hand in mail. One connection per message: relays close idle ones."""

    host: str
    port: int
    tls: Literal["none", "starttls", "implicit"]
    sender: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    """PEM file of those whose certificates are trusted. Default: the system's."""
    lookup_url: str | None = None
    timeout_s: float = 30.0

    @property
    def honours_keys(self) -> bool:
        """SMTP knows no keys."""
        return False

    @property
    def key_lifetime(self) -> timedelta:
        """None."""
        return timedelta()

    @property
    def looks_up(self) -> bool:
        """Whether it can be asked for a Message-ID."""
        return self.lookup_url is not None

    async def send(self, message: EmailMessage, *, key: str = "", before: Before = always) -> str:
        """Hand in one message, once. Returns the relay's reply.

        Sender and recipients go first: a relay that refuses one of them has not seen the message. DATA is the point
        of no return.

        Args:
            message: its Message-ID is what it can be looked up by.
            key: not sent.
            before: asked once, after the recipients and before DATA.

        Raises:
            Fenced: `before` has said no.
            RateLimited: 421, 450, 451, 452, 454: later.
            BadRequest: 5xx: never, as it stands.
            Refused: wrong user or password; no TLS or no log-in where one is asked for.
            NotSent: no connection, or a certificate that is not trusted.
            Unavailable: the connection broke before DATA.
            Lost: it broke after DATA: the message may have been accepted.
        """
        del key
        where = f"email {self.host}:{self.port}"
        client = await self._connected(where)
        try:
            content = await _handed_envelope(client, message, where)
            if not await before():
                await _leave(client, reset=True)
                raise errors.Fenced(f"{where}: a later attempt is at it; the message was not handed in")
            reply = await _handed_message(client, content, where)
            await _leave(client)
        finally:
            client.close()
        return reply

    async def accepted(self, message_id: str, key: str = "") -> bool | None:
        """Whether the relay has accepted the message; None if it cannot be asked."""
        del key
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
        where = f"email {self.host}:{self.port}"
        client = await self._connected(where)
        try:
            await client.noop()
            await _leave(client)
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _at_connect(where, error) from None
        finally:
            client.close()

    async def _connected(self, where: str) -> aiosmtplib.SMTP:
        """A connection that is encrypted and logged in as it must be."""
        client = aiosmtplib.SMTP(
            hostname=self.host,
            port=self.port,
            timeout=self.timeout_s,
            use_tls=self.tls == "implicit",
            start_tls=self.tls == "starttls",
            username=self.username,
            password=self.password,
            tls_context=await self._trust(where),
        )
        try:
            await client.connect()
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _at_connect(where, error) from None
        return client

    async def _trust(self, where: str) -> ssl.SSLContext | None:
        if self.ca_file is None or self.tls == "none":
            return None
        try:
            return await asyncio.to_thread(ssl.create_default_context, cafile=self.ca_file)
        except OSError as error:
            raise errors.Refused(f"{where}: ca_file {self.ca_file} cannot be read: {error}") from None


async def _handed_envelope(client: aiosmtplib.SMTP, message: EmailMessage, where: str) -> bytes:
    """MAIL FROM and RCPT TO, all of them or none. Returns the message as it is to follow."""
    try:
        sender, recipients = extract_sender(message), extract_recipients(message)
        if not sender or not recipients:
            raise errors.BadRequest(f"{where}: the message has no From, or no To, Cc or Bcc")
        await _greeted(client)
        plain = "".join((sender, *recipients)).isascii()
        if not plain and not client.supports_extension("smtputf8"):
            raise errors.BadRequest(f"{where}: it takes no addresses but ASCII (no SMTPUTF8)")
        eight = client.supports_extension("8bitmime")
        content = flatten_message(message, utf8=not plain, cte_type="8bit" if eight else "7bit")
        options = ["BODY=8BITMIME"] if eight else []
        options += [] if plain else ["SMTPUTF8"]
        if client.supports_extension("size"):
            options.append(f"SIZE={len(content)}")
        encoding = "ascii" if plain else "utf-8"
        await client.mail(sender, options=options, encoding=encoding)
        for recipient in recipients:
            await client.rcpt(recipient, encoding=encoding)
    except aiosmtplib.SMTPRecipientRefused as refused:
        # one mailbox's trouble: not the relay's quota
        kind = errors.Unavailable if 400 <= refused.code < 500 else errors.BadRequest
        raise kind(f"{where}: {refused.code} {refused.message}") from None
    except aiosmtplib.SMTPResponseException as error:
        raise _answer(where, error.code, error.message) from None
    except (aiosmtplib.SMTPException, OSError) as error:
        raise errors.Unavailable(f"{where}: the connection broke before the message: {error}") from None
    except ValueError as error:
        raise errors.BadRequest(f"{where}: the message cannot be written: {error}") from None
    return content


async def _handed_message(client: aiosmtplib.SMTP, content: bytes, where: str) -> str:
    """DATA and the message. Returns the reply."""
    try:
        return (await client.data(content, timeout=DATA_TIMEOUT_S)).message
    except aiosmtplib.SMTPResponseException as error:
        if 200 <= error.code < 300:
            return error.message
        if 400 <= error.code < 600:
            raise _answer(where, error.code, error.message) from None
        why = f"its reply makes no sense: {error.code} {error.message}"
    except (aiosmtplib.SMTPException, OSError) as error:
        why = f"the connection broke: {error}"
    raise errors.Lost(f"{where}: after DATA {why}", retry_after_s=SETTLES_S)


async def _greeted(client: aiosmtplib.SMTP) -> None:
    if not client.is_ehlo_or_helo_needed:
        return
    try:
        await client.ehlo()
    except aiosmtplib.SMTPHeloError:
        await client.helo()


async def _leave(client: aiosmtplib.SMTP, *, reset: bool = False) -> None:
    """Say goodbye; what becomes of the message is known already."""
    with suppress(aiosmtplib.SMTPException, OSError):
        if reset:
            await client.rset(timeout=QUIT_TIMEOUT_S)
        await client.quit(timeout=QUIT_TIMEOUT_S)


def _at_connect(where: str, error: Exception) -> errors.ProviderError:
    """What went wrong before any message was handed in."""
    if isinstance(error, aiosmtplib.SMTPAuthenticationError) and error.code >= 500:
        return errors.Refused(f"{where}: user or password was refused")
    if isinstance(error, aiosmtplib.SMTPResponseException) and 400 <= error.code < 600:
        return _answer(where, error.code, error.message)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__
    if cause is not None:
        return errors.NotSent(f"{where}: its certificate is not trusted ({cause.verify_message}): set ca_file")
    if type(error) is aiosmtplib.SMTPException:
        # the relay lacks what the settings ask for: STARTTLS, AUTH
        return errors.Refused(f"{where}: {error}")
    return errors.NotSent(f"{where}: {error}")


def _answer(where: str, code: int, text: str) -> errors.ProviderError:
    message = f"{where}: {code} {text}"
    if code in (421, 450, 451, 452, 454):
        return errors.RateLimited(message)
    return errors.BadRequest(message) if 500 <= code < 600 else errors.Unavailable(message)
