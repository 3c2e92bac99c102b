"""An `httpx2` transport that waits for a permit before each request: any SDK built on httpx2 is limited by it.

It needs httpx2, which the rest of the room does without.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic, time
from typing import Any, TypeVar

import httpx2

from ratelimit.billing import codes, out_of_money
from ratelimit.errors import BadQuota, StoreLost
from ratelimit.estimates import Estimate, Learnt, Used
from ratelimit.headers import read
from ratelimit.limiter import Limiter
from ratelimit.places import Closed
from ratelimit.profiles import PROFILES, Profile
from ratelimit.quota import Cost

REJECTED = (429, 503, 529)
MAX_OUTPUT_TOKENS = 1024
"""Taken for a request that sets no limit of its own."""

_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
"""What an HTTP client raises for a request that nobody has heard of."""

Client = TypeVar("Client")


class LimitedTransport(httpx2.AsyncBaseTransport):
    """Books each request, tells the fleet what the answer says, and settles what it used.

    A request that was never sent is given back. One that was sent and whose usage is unknown, because it failed
    half-way or is streamed, keeps its estimate.
    """

    def __init__(
        self,
        limiter: Limiter,
        scope: str,
        *,
        profile: Profile = PROFILES["openai"],
        cost: Callable[[httpx2.Request], Cost] | None = None,
        role: str = "sdk",
        max_wait: timedelta = timedelta(minutes=5),
        inner: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Args:
        limiter: shared.
        scope: what the provider counts by.
        profile: how the provider counts.
        cost: what a request costs. Default: by the profile, from the body's length and its limit of output tokens,
            and by what the fleet has learnt of requests of the role.
        role: requests of one role use alike.
        max_wait: a request that would wait longer raises `Denied`.
        inner: sends the requests.
        """
        self._limiter = limiter
        self._scope = scope
        self._profile = profile
        self._cost = cost
        self._role = role
        self._max_wait = max_wait
        self._inner = inner or httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Wait, send, settle.

        Raises:
            Denied: it would wait longer than `max_wait`.
            StoreLost: the store does not answer, and nothing was sent.
        """
        counted = self._limiter.counts(self._scope)
        guess = None if self._cost is not None else await self._guess(request)
        whole = self._cost(request) if self._cost is not None else self._charged(guess)
        cost = {name: units for name, units in whole.items() if name in counted}
        permit = await self._limiter.acquire(self._scope, cost, max_wait=self._max_wait)
        since = monotonic()
        try:
            response = await self._inner.handle_async_request(request)
        except NOT_SENT:
            with suppress(StoreLost):
                await self._limiter.cancel(permit)
            raise
        except BaseException:
            with suppress(StoreLost):
                await self._limiter.settle(permit, {})
            raise
        said = read(response.headers, self._profile.dialect, now=time())
        if response.is_error and out_of_money(
            self._profile.dialect, response.status_code, codes(_object(await response.aread()))
        ):
            with suppress(StoreLost):
                await self._limiter.close(self._counted_scope(), Closed.BILLING, by="provider")
                await self._limiter.cancel(permit)
            return response
        if response.status_code in REJECTED:
            hint = None if said.retry_after_s is None else timedelta(seconds=said.retry_after_s)
            with suppress(StoreLost):
                await self._limiter.cool_down(self._scope, retry_after=hint, permit=permit, limit=said.exhausted())
                if self._profile.refused_counts:
                    await self._limiter.settle(permit, {})
                else:
                    await self._limiter.cancel(permit)
            return response
        used = await self._used(response)
        actual = {} if used is None else self._profile.actual(whole, used)
        if used is not None and guess is not None:
            await self._learn(guess, used)
        actual = {name: units for name, units in actual.items() if name in counted}
        # without the store the estimate stands; the call itself has been answered, and must not be repeated
        with suppress(StoreLost):
            await self._limiter.settle(permit, actual, said.limits, age=timedelta(seconds=monotonic() - since))
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

    def _counted_scope(self) -> str:
        """The scope that the provider itself counts by."""
        return self._limiter.counted(self._scope)

    async def _guess(self, request: httpx2.Request) -> "_Guess | None":
        body = _object(request.content)
        if body is None:
            return None
        most = next((body[name] for name in _LIMITS if isinstance(body.get(name), int)), MAX_OUTPUT_TOKENS)
        characters = len(request.content)
        try:
            estimate = await self._limiter.estimate(
                self._counted_scope(), self._role, characters=characters, max_output_tokens=most
            )
        except StoreLost:
            estimate = Learnt().estimate(characters, most)
        return _Guess(estimate, most)

    def _charged(self, guess: "_Guess | None") -> Cost:
        return {"requests": 1.0} if guess is None else self._profile.cost(guess.estimate, guess.most)

    async def _learn(self, guess: "_Guess", used: Used) -> None:
        with suppress(StoreLost):
            await self._limiter.learn(
                self._counted_scope(),
                self._role,
                characters=guess.estimate.characters,
                estimate=guess.estimate,
                used=used,
            )

    @staticmethod
    async def _used(response: httpx2.Response) -> Used | None:
        if not response.headers.get("content-type", "").startswith("application/json"):
            return None
        usage = (_object(await response.aread()) or {}).get("usage")
        return _usage(usage) if isinstance(usage, dict) else None


@dataclass(frozen=True, slots=True)
class _Guess:
    """What a request is thought to use, and the most it may write."""

    estimate: Estimate
    most: int


def limited(client: Client, limiter: Limiter, scope: str, **more: Any) -> Client:
    """A copy of an SDK's client (`openai.AsyncOpenAI`, `anthropic.AsyncAnthropic`) whose every request waits its turn.

    Args:
        client: built with `max_retries=0`.
        limiter: shared.
        scope: what the provider counts by.
        more: as for `LimitedTransport`.

    Raises:
        BadQuota: the client retries by itself: each of its retries would be a request that nobody has booked, and a
            429 that the fleet has understood would be met again.
    """
    retries = getattr(client, "max_retries", 0)
    if retries:
        raise BadQuota(f"max_retries is {retries}: must be 0, for retries have one owner: build the client with it")
    copy = client.copy  # type: ignore[attr-defined]
    limited_copy: Client = copy(http_client=httpx2.AsyncClient(transport=LimitedTransport(limiter, scope, **more)))
    return limited_copy


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _usage(usage: dict[str, Any]) -> Used:
    """Usage as OpenAI and Anthropic write it."""

    def count(*names: str) -> int:
        return next((usage[name] for name in names if isinstance(usage.get(name), int)), 0)

    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    read = count("cache_read_input_tokens")
    return Used(
        input_tokens=count("prompt_tokens", "input_tokens") + read + count("cache_creation_input_tokens"),
        output_tokens=count("completion_tokens", "output_tokens"),
        cached_tokens=read or int(details.get("cached_tokens") or 0),
    )
