"""Requests that must not be made twice: when nothing was sent, and when nobody knows."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx2

from workers.providers import errors
from workers.providers.outbound import ONE_EACH, Forbidden, Guard, GuardedTransport, capped, trust

MAX_ANSWER_BYTES = 64 * 1024
"""Of an answer to a request that must not be made twice: more of it is not read."""
SETTLES_S = 10.0
"""After a connection that broke the other end may still be at it: so long before it is asked."""
LONGEST_KEY = 255
"""Characters that Stripe takes as an idempotency key; Resend takes 256."""

Before = Callable[[], Awaitable[bool]]
"""Asked once, when all is ready and nothing is sent: whether this attempt may still go on."""


def client(timeout_s: float, *, guard: Guard | None = None, verify: ssl.SSLContext | None = None) -> httpx2.AsyncClient:
    """A client for one request: it follows no redirect and keeps no connection. Making one takes 0.1 ms.

    Args:
        timeout_s: of each step, connecting and reading.
        guard: for URLs that come from elsewhere. Without one the environment's proxies are used.
        verify: whom to trust. Default: whom the system trusts.
    """
    if guard is not None:
        return httpx2.AsyncClient(transport=GuardedTransport(guard, verify=verify), timeout=timeout_s, trust_env=False)
    return httpx2.AsyncClient(verify=verify or trust(), timeout=timeout_s, limits=ONE_EACH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    """Its first `MAX_ANSWER_BYTES`."""

    def json(self) -> Any:
        """The body, decoded. Raises ValueError."""
        return json.loads(self.body)

    def said(self, *, without: str = "") -> str:
        """What the answer says of itself, in one line of at most 200 characters.

        Title and detail (RFC 9457), else `message`, else the beginning of a text.

        Args:
            without: a secret that it must not repeat.
        """
        try:
            found = self.json()
        except ValueError:
            found = self.body[:2000].decode(errors="replace") if _is_text(self.headers) else ""
        if isinstance(found, dict):
            inner = found.get("error")
            found = inner if isinstance(inner, dict) else found
            parts = [found.get(name) for name in ("title", "detail")]
            told = ": ".join(part for part in parts if isinstance(part, str) and part)
            found = told or found.get("message") or found.get("error") or ""
        line = " ".join(str(found).split())
        return (line.replace(without, "***") if without else line)[:200]


def _is_text(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "text/plain").startswith("text/plain")


async def always() -> bool:
    """Nobody else can be at it."""
    return True


async def once(
    http: httpx2.AsyncClient,
    request: httpx2.Request,
    *,
    where: str,
    before: Before = always,
    broken: type[errors.Unavailable] = errors.Unavailable,
    max_s: float,
    needs_body: bool = True,
) -> Answer:
    """Send a request, once, and tell what is known where it got no answer.

    Args:
        http: sends it; made by `client`.
        request: built by it.
        where: who is asked, for error texts; no secret.
        before: asked when the connection stands, before the first byte of the request.
        broken: what to raise once it has been sent, and no answer came.
        max_s: seconds for all of it.
        needs_body: an answer whose body breaks off is none.

    Raises:
        Fenced: `before` has said no; nothing was sent.
        NotSent: no connection.
        BadRequest: the request cannot be written, or must not go there.
        Unavailable: as `broken` says.
    """
    began = False

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        nonlocal began
        if not event.endswith("send_request_headers.started") or began:
            return
        if getattr(info.get("request"), "method", b"") == b"CONNECT":
            return  # to a proxy
        if not await before():
            raise errors.Fenced(f"{where}: a later attempt is at it; nothing was sent")
        began = True

    request.extensions["trace"] = trace
    try:
        async with asyncio.timeout(max_s) as deadline:
            return await _exchanged(http, request, needs_body=needs_body)
    except (Forbidden, errors.NotSent) as error:
        raise type(error)(f"{where}: {error}") from None
    except httpx2.LocalProtocolError:
        # its text may quote a header, and with it the key
        raise errors.BadRequest(f"{where}: the request cannot be written as HTTP") from None
    except httpx2.HTTPError as error:
        why = f"{type(error).__name__} {error}".strip()
    except TimeoutError:
        if not deadline.expired():
            raise
        why = f"no answer within {max_s:g} s"
    if began:
        raise broken(f"{where}: no answer after the request was sent: {why}", retry_after_s=SETTLES_S)
    raise errors.NotSent(f"{where}: no connection: {why}")


async def _exchanged(http: httpx2.AsyncClient, request: httpx2.Request, *, needs_body: bool) -> Answer:
    response = await http.send(request, stream=True)
    try:
        body, _ = await capped(response.aiter_bytes(), MAX_ANSWER_BYTES)
    except httpx2.HTTPError:
        if needs_body:
            raise
        body = b""
    finally:
        await response.aclose()
    return Answer(status=response.status_code, headers=response.headers, body=body)


def header_key(key: str) -> str:
    """An idempotency key as a header carries it: itself, or where it is too long or not plain text its SHA-256.

    Raises:
        BadRequest: it is empty.
    """
    if not key:
        raise errors.BadRequest("the idempotency key is empty: it must be the same for every attempt, and no other's")
    plain = key.isascii() and key.isprintable() and " " not in key and len(key) <= LONGEST_KEY
    return key if plain else sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def bearer(where: str, key: str) -> dict[str, str]:
    """The header that proves who asks.

    Raises:
        Refused: the key cannot travel in a header; the text does not quote it.
    """
    if not key.strip() or not key.isascii() or not key.strip().isprintable():
        raise errors.Refused(f"{where}: the API key is empty or not plain text: set it in the settings")
    return {"authorization": f"Bearer {key.strip()}"}
