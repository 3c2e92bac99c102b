"""Where quotas and state live: the protocol, and Redis."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ratelimit import scripts
from ratelimit.errors import StoreLost
from ratelimit.keys import done_key, place_key, scope_key
from ratelimit.places import (
    Ask,
    Booking,
    Bookings,
    ClockReading,
    Counters,
    Dial,
    LimitSnapshot,
    Origin,
    Outcome,
    Snapshot,
)
from ratelimit.quota import Quota

CONNECTIONS = 8
TIMEOUT_S = 2.0


class Store(Protocol):
    """Holds the state of all scopes; every verb is atomic.

    `now` is for tests; without it the store's own clock counts. Verbs answer None (or False, None) for a scope that is
    not configured.

    Raises:
        StoreLost: any verb, if the store does not answer.
    """

    async def reserve(self, scope: str, asks: Sequence[Ask], *, now: float | None = None) -> Bookings | None:
        """Take places in line, in order; each is charged to every limit or to none."""
        ...

    async def clock(self, scope: str, *, now: float | None = None) -> ClockReading | None:
        """Refill and read the clock."""
        ...

    async def settle(
        self,
        scope: str,
        *,
        permit: str,
        key: str | None,
        generation: int,
        booked_at: float,
        cost: Mapping[str, float],
        actual: Mapping[str, float],
        now: float | None = None,
    ) -> tuple[str, ClockReading | None]:
        """Replace the estimate by the actual, once: `done`, `again`, `lost` or `unconfigured`."""
        ...

    async def cancel(
        self,
        scope: str,
        *,
        permit: str,
        key: str | None,
        generation: int,
        booked_at: float,
        cost: Mapping[str, float],
        now: float | None = None,
    ) -> tuple[str, ClockReading | None]:
        """Give a place back, once: `done`, `again`, `lost` or `unconfigured`."""
        ...

    async def cool_down(
        self, scope: str, *, for_s: float, epoch: int | None, cut: bool, now: float | None = None
    ) -> tuple[bool, ClockReading | None]:
        """Close the scope for a while; answers whether the pace was cut."""
        ...

    async def configure(self, quota: Quota, *, full: bool, seed: bool, now: float | None = None) -> bool:
        """Set the quota; with `seed` only if there is none. Answers whether it was set."""
        ...

    async def inspect(self, scope: str, *, now: float | None = None) -> Snapshot:
        """Look without touching."""
        ...

    async def ping(self) -> None:
        """Answer, or raise StoreLost."""
        ...

    async def aclose(self) -> None:
        """Let go of all connections."""
        ...


class RedisStore:
    """The state in Redis or Valkey, changed only by scripts."""

    def __init__(self, redis: "Redis", where: str = "Redis") -> None:
        """Args:
        redis: a client that decodes responses.
        where: names the server in errors.
        """
        self._redis = redis
        self._where = where

    @classmethod
    def from_url(cls, url: str) -> Self:
        """A store over `redis://`, `rediss://` or `unix://`. Connects with the first call."""
        parts = urlsplit(url)
        where = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            health_check_interval=30,
            # one more try finds the server that was restarted behind a pooled connection
            retry=Retry(NoBackoff(), 1),
            decode_responses=True,
        )
        return cls(Redis.from_pool(pool), f"Redis at {where}")

    async def reserve(self, scope: str, asks: Sequence[Ask], *, now: float | None = None) -> Bookings | None:
        """Take places in line, in order; each is charged to every limit or to none."""
        keys, args = [scope_key(scope)], [_instant(now)]
        for ask in asks:
            if ask.key is not None:
                keys.append(place_key(scope, ask.key))
            flags = ("" if ask.key is None else "k") + ("h" if ask.hold else "")
            args += [_text(ask.max_wait), flags, ask.asker, str(len(ask.cost))]
            for name, units in ask.cost.items():
                args += [name, _text(units)]
        reply = await self._call("reserve", keys, args)
        if reply is None:
            return None
        return Bookings(reading=_reading(reply[0]), bookings=[_booking(r) for r in reply[1:]])

    async def clock(self, scope: str, *, now: float | None = None) -> ClockReading | None:
        """Refill and read the clock."""
        reply = await self._call("clock", [scope_key(scope)], [_instant(now)])
        return None if reply is None else _reading(reply)

    async def settle(
        self,
        scope: str,
        *,
        permit: str,
        key: str | None,
        generation: int,
        booked_at: float,
        cost: Mapping[str, float],
        actual: Mapping[str, float],
        now: float | None = None,
    ) -> tuple[str, ClockReading | None]:
        """Replace the estimate by the actual, once."""
        args = [_instant(now), str(generation), _text(booked_at)]
        for name, units in actual.items():
            args += [name, _text(cost.get(name, 0.0)), _text(units)]
        return await self._finish("settle", scope, permit, key, args)

    async def cancel(
        self,
        scope: str,
        *,
        permit: str,
        key: str | None,
        generation: int,
        booked_at: float,
        cost: Mapping[str, float],
        now: float | None = None,
    ) -> tuple[str, ClockReading | None]:
        """Give a place back, once."""
        args = [_instant(now), str(generation), _text(booked_at)]
        for name, units in cost.items():
            args += [name, _text(units)]
        return await self._finish("cancel", scope, permit, key, args)

    async def cool_down(
        self, scope: str, *, for_s: float, epoch: int | None, cut: bool, now: float | None = None
    ) -> tuple[bool, ClockReading | None]:
        """Close the scope for a while; answers whether the pace was cut."""
        args = [_instant(now), _text(for_s), "" if epoch is None else str(epoch), "1" if cut else "0"]
        reply = await self._call("cool_down", [scope_key(scope)], args)
        return (False, None) if reply is None else (bool(reply[0]), _reading(reply[1]))

    async def configure(self, quota: Quota, *, full: bool, seed: bool, now: float | None = None) -> bool:
        """Set the quota; with `seed` only if there is none. Answers whether it was set."""
        recovery = _text(1 / quota.recovery.total_seconds())
        args = [_instant(now), "seed" if seed else "set", "full" if full else "cold", recovery]
        for name in quota.limits:
            args += [name, _text(quota.rate(name)), _text(quota.burst(name))]
        return bool(await self._call("configure", [scope_key(quota.scope)], args))

    async def inspect(self, scope: str, *, now: float | None = None) -> Snapshot:
        """Look without touching."""
        reply = await self._call("inspect", [scope_key(scope)], [_instant(now)])
        return Snapshot(scope=scope, configured=False) if reply is None else _snapshot(scope, reply)

    async def ping(self) -> None:
        """Answer, or raise StoreLost."""
        try:
            await self._redis.ping()
        except (RedisError, OSError) as error:
            raise self._lost(error) from None

    async def aclose(self) -> None:
        """Let go of all connections."""
        await self._redis.aclose()

    async def _finish(
        self, verb: str, scope: str, permit: str, key: str | None, args: Sequence[str]
    ) -> tuple[str, ClockReading | None]:
        keys = [scope_key(scope), done_key(scope, permit)]
        if key is not None:
            keys.append(place_key(scope, key))
        reply = await self._call(verb, keys, args)
        return ("unconfigured", None) if reply is None else (reply[0], _reading(reply[1]))

    async def _call(self, verb: str, keys: Sequence[str], args: Sequence[str]) -> Any:
        try:
            return await scripts.call(self._redis, verb, keys, args)
        except (RedisError, OSError) as error:
            raise self._lost(error) from None

    def _lost(self, error: Exception) -> StoreLost:
        # the client's own text may quote a URL; its first line without the URL's userinfo says enough
        return StoreLost(f"{self._where} does not answer ({type(error).__name__})")


def _text(number: float) -> str:
    return format(number, ".17g")


def _instant(now: float | None) -> str:
    return "" if now is None else _text(now)


def _reading(flat: Sequence[str]) -> ClockReading:
    now, closed_for, pace, epoch, born, recovery = flat[:6]
    dials = {
        flat[i]: Dial(clock=float(flat[i + 1]), rate=float(flat[i + 2]), burst=float(flat[i + 3]))
        for i in range(6, len(flat), 4)
    }
    return ClockReading(
        now=float(now),
        closed_for=float(closed_for),
        pace=float(pace),
        epoch=int(float(epoch)),
        born=float(born),
        recovery=float(recovery),
        dials=dials,
    )


def _booking(flat: Sequence[str]) -> Booking:
    outcome, origin, wait, limit = flat[:4]
    if len(flat) == 4:
        return Booking(outcome=Outcome(outcome), origin=Origin(origin), wait=float(wait), limit=limit)
    generation, epoch, booked_at, first_at = flat[4:8]
    return Booking(
        outcome=Outcome(outcome),
        origin=Origin(origin),
        wait=float(wait),
        limit=limit,
        generation=int(float(generation)),
        epoch=int(float(epoch)),
        booked_at=float(booked_at),
        first_at=float(first_at),
        cost={flat[i]: float(flat[i + 1]) for i in range(8, len(flat), 3)},
        due={flat[i]: float(flat[i + 2]) for i in range(8, len(flat), 3)},
    )


def _snapshot(scope: str, flat: Sequence[str]) -> Snapshot:
    pace, closed_for, epoch, strikes, *counts = (float(value) for value in flat[:9])
    calls, grants, denials, rebooked, rejections = (int(count) for count in counts)
    limits = {}
    for i in range(9, len(flat), 6):
        level, burst, rate, clock, tail = (float(value) for value in flat[i + 1 : i + 6])
        limits[flat[i]] = LimitSnapshot(level=level, burst=burst, rate=rate, clock=clock, tail=tail)
    return Snapshot(
        scope=scope,
        configured=True,
        limits=limits,
        pace=pace,
        closed_for=timedelta(seconds=closed_for),
        epoch=int(epoch),
        strikes=int(strikes),
        counters=Counters(calls=calls, grants=grants, denials=denials, rebooked=rebooked, rejections=rejections),
    )
