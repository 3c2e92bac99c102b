"""Where quotas and state live: the protocol, and Redis."""

import asyncio
import re
import ssl
import struct
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol, Self

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from ratelimit import codec, scripts
from ratelimit.codec import text
from ratelimit.errors import StoreLost
from ratelimit.estimates import Learnt
from ratelimit.headers import Observed
from ratelimit.keys import changes_key, done_key, learnt_key, live_key, place_key, quota_key, scope_key
from ratelimit.places import SILENCE, Ask, Bookings, Claim, ClockReading, Closed, Readings, Rejection, Snapshot
from ratelimit.quota import Change, Quota
from ratelimit.routes import Routes, routes
from ratelimit.state import Record
from ratelimit.wire import Command

ACTIONS = {Closed.NO: "thaw", Closed.FROZEN: "freeze", Closed.BILLING: "billing"}
"""How closing and opening are called in the list of changes."""


Answer = Callable[[Bookings | StoreLost | None], None]
"""Takes the answer to a batch: None for a scope that is not configured."""
Observer = Callable[[str, float, bool], None]
"""Takes a verb or a command in small letters, how many seconds it took, and whether the server has answered. What it
refuses (out of memory, a replica, no permission) is no answer: nothing can be granted by it."""

_REFUSALS = (NoPermissionError, OutOfMemoryError, ReadOnlyError, BusyLoadingError)


class Store(Protocol):
    """Holds the state of all scopes; every verb is atomic.

    `now` is for tests; without it the store's own clock counts. Verbs answer None (or False, None) for a scope that is
    not configured.

    Raises:
        StoreLost: any verb, if the store does not answer.
    """

    def book(self, scopes: Sequence[str], asks: Sequence[Ask], answer: Answer, *, now: float | None = None) -> None:
        """Take places in line, in order; each is charged to every limit of every scope or to none.

        `answer` is called once. `scopes` are those of a chain, innermost first, here and below.
        """
        ...

    async def clock(self, scopes: Sequence[str], *, now: float | None = None) -> Readings | None:
        """Refill and read the clocks of a chain."""
        ...

    async def settle(
        self,
        scopes: Sequence[str],
        claim: Claim,
        *,
        actual: Mapping[str, float],
        observed: Mapping[str, Observed] = SILENCE,
        heard: int = 0,
        now: float | None = None,
    ) -> tuple[str, Readings | None]:
        """Replace the estimate by the actual, once; then observe for the scope number `heard` of the chain.

        Answers `done`, `again`, `stale` (the place has been booked anew), `lost` or `unconfigured`.
        """
        ...

    async def observe(
        self, scope: str, *, told: Mapping[str, Observed], now: float | None = None
    ) -> tuple[bool, ClockReading | None]:
        """Take note of what the provider says is left; answers whether that is less than was thought."""
        ...

    async def cancel(
        self, scopes: Sequence[str], claim: Claim, *, now: float | None = None
    ) -> tuple[str, Readings | None]:
        """Give a place back, once: answers as `settle`."""
        ...

    async def renew(
        self, scope: str, leases: Sequence[int], *, now: float | None = None
    ) -> tuple[int, ClockReading | None]:
        """Keep leases of calls that are in flight; answers how many of them were there."""
        ...

    async def learnt(self, scope: str, role: str) -> Learnt | None:
        """What is known of what calls of a role use."""
        ...

    async def learn(
        self, scope: str, role: str, *, characters: float, input_tokens: float, output_tokens: float
    ) -> Learnt:
        """Take note of what a call has used; answers what is known since."""
        ...

    async def present(self, scope: str, process: str, within_s: float, *, now: float | None = None) -> int:
        """Say that a process uses the scope; answers how many have said so within so many seconds."""
        ...

    async def cool_down(
        self, scope: str, rejection: Rejection, *, now: float | None = None
    ) -> tuple[bool, float, ClockReading | None]:
        """Close the scope for a while; answers whether the pace was cut, and for how many seconds it is closed."""
        ...

    async def close(
        self, scope: str, cause: Closed, *, by: str = "", reason: str = "", now: float | None = None
    ) -> tuple[bool, ClockReading | None]:
        """Close the scope until somebody opens it, or open it; answers whether that is new."""
        ...

    async def configure(
        self,
        quota: Quota,
        *,
        full: bool,
        seed: bool,
        expect: int | None = None,
        for_s: float | None = None,
        by: str = "",
        reason: str = "",
        now: float | None = None,
    ) -> bool:
        """Set the quota; with `seed` only if there is none, with `expect` only over that version.

        With `for_s` the quota before it is back after so many seconds. Answers whether it was set.
        """
        ...

    async def quota(self, scope: str) -> Quota | None:
        """The quota in force."""
        ...

    async def changes(self, scope: str, limit: int) -> list[Change]:
        """Changes of the quota, newest first."""
        ...

    async def inspect(self, scope: str, *, now: float | None = None) -> Snapshot:
        """Look; leaves no trace in the counters."""
        ...

    async def places(self, scope: str, limit: int) -> dict[str, Record]:
        """Places that are held or taken under a key, by the key; in no order, `limit` at most."""
        ...

    async def ping(self) -> None:
        """Answer, or raise StoreLost."""
        ...

    async def aclose(self) -> None:
        """Let go of all connections."""
        ...


async def reserve(
    store: Store, scopes: Sequence[str], asks: Sequence[Ask], *, now: float | None = None
) -> Bookings | None:
    """Book, and wait for the answer; None if a scope is not configured.

    Raises:
        StoreLost: the store does not answer.
    """
    answer: asyncio.Future[Bookings | None] = asyncio.get_running_loop().create_future()

    def answered(found: Bookings | StoreLost | None) -> None:
        if answer.done():
            return
        if isinstance(found, StoreLost):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    store.book(scopes, asks, answered, now=now)
    return await answer


class RedisStore:
    """The state in Redis or Valkey, changed only by scripts. One connection, shared by all tasks of the process."""

    def __init__(self, routes: Routes, *, observer: Observer | None = None) -> None:
        """Args:
        routes: the connections.
        observer: told of each call; must not block or raise.
        """
        self._routes = routes
        self._observer = observer

    @classmethod
    def from_url(cls, url: str, *, observer: Observer | None = None) -> Self:
        """A store over one server, Sentinel or a Cluster; see `ratelimit.routes`. Connects with the first call.

        Raises:
            ValueError: it is no such URL.
        """
        return cls(routes(url), observer=observer)

    def book(self, scopes: Sequence[str], asks: Sequence[Ask], answer: Answer, *, now: float | None = None) -> None:
        """Take places in line, in order; each is charged to every limit or to none. `answer` is called once."""
        keys, args, entries = codec.asked(scopes, asks)
        script = scripts.script("reserve")

        def answered(reply: Any) -> None:
            if reply is None:
                answer(None)
            elif isinstance(reply, list):
                try:
                    found: Bookings | StoreLost = codec.bookings(scopes, reply, entries)
                except (ValueError, TypeError, LookupError, struct.error) as error:
                    found = StoreLost(f"{self._routes.where} answers what nobody understands ({type(error).__name__})")
                answer(found)
            elif isinstance(reply, NoScriptError):
                again = ("EVAL", script.text, len(keys), *keys, _instant(now), *args)
                self._send("reserve", again, keys[0], answered)
            else:
                answer(self._lost(reply))

        self._send("reserve", ("EVALSHA", script.sha, len(keys), *keys, _instant(now), *args), keys[0], answered)

    async def clock(self, scopes: Sequence[str], *, now: float | None = None) -> Readings | None:
        """Refill and read the clocks of a chain."""
        reply = await self._call("clock", [scope_key(scope) for scope in scopes], [_instant(now)])
        return None if reply is None else codec.readings(reply)

    async def settle(
        self,
        scopes: Sequence[str],
        claim: Claim,
        *,
        actual: Mapping[str, float],
        observed: Mapping[str, Observed] = SILENCE,
        heard: int = 0,
        now: float | None = None,
    ) -> tuple[str, Readings | None]:
        """Replace the estimate by the actual, once; then observe."""
        args = [str(heard + 1), *codec.charged(claim), str(len(actual))]
        args += [*codec.pairs(actual), *codec.said(observed)]
        return await self._finish("settle", scopes, claim, args, now)

    async def observe(
        self, scope: str, *, told: Mapping[str, Observed], now: float | None = None
    ) -> tuple[bool, ClockReading | None]:
        """Take note of what the provider says is left; answers whether that is less than was thought."""
        reply = await self._call("observe", [scope_key(scope)], [_instant(now), *codec.said(told)])
        return (False, None) if reply is None else (bool(reply[0]), codec.reading(reply[1]))

    async def cancel(
        self, scopes: Sequence[str], claim: Claim, *, now: float | None = None
    ) -> tuple[str, Readings | None]:
        """Give a place back, once."""
        return await self._finish("cancel", scopes, claim, codec.charged(claim), now)

    async def renew(
        self, scope: str, leases: Sequence[int], *, now: float | None = None
    ) -> tuple[int, ClockReading | None]:
        """Keep leases of calls that are in flight; answers how many of them were there."""
        reply = await self._call("renew", [scope_key(scope)], [_instant(now), *map(str, leases)])
        return (0, None) if reply is None else (reply[0], codec.reading(reply[1]))

    async def learnt(self, scope: str, role: str) -> Learnt | None:
        """What is known of what calls of a role use."""
        raw = await self._call("learn", [learnt_key(scope)], [role, "", "", ""])
        return None if raw is None else codec.learnt(raw)

    async def learn(
        self, scope: str, role: str, *, characters: float, input_tokens: float, output_tokens: float
    ) -> Learnt:
        """Take note of what a call has used; answers what is known since."""
        args = [role, text(characters), text(input_tokens), text(output_tokens)]
        return codec.learnt(await self._call("learn", [learnt_key(scope)], args))

    async def present(self, scope: str, process: str, within_s: float, *, now: float | None = None) -> int:
        """Say that a process uses the scope; answers how many have said so within so many seconds."""
        return int(await self._call("present", [live_key(scope)], [_instant(now), process, text(within_s)]))

    async def cool_down(
        self, scope: str, rejection: Rejection, *, now: float | None = None
    ) -> tuple[bool, float, ClockReading | None]:
        """Close the scope for a while; answers whether the pace was cut, and for how many seconds it is closed."""
        keys = [scope_key(scope)]
        if rejection.key is not None:
            keys.append(place_key(*rejection.key))
        args = [_instant(now), "" if rejection.for_s is None else text(rejection.for_s)]
        args += ["" if rejection.epoch is None else str(rejection.epoch), "1" if rejection.cut else "0"]
        args += [rejection.limit or "", text(rejection.jitter), str(rejection.generation)]
        reply = await self._call("cool_down", keys, args)
        return (False, 0.0, None) if reply is None else (bool(reply[0]), float(reply[2]), codec.reading(reply[1]))

    async def close(
        self, scope: str, cause: Closed, *, by: str = "", reason: str = "", now: float | None = None
    ) -> tuple[bool, ClockReading | None]:
        """Close the scope until somebody opens it, or open it; answers whether that is new."""
        args = [_instant(now), str(int(cause)), codec.note(by, reason, ACTIONS[cause])]
        reply = await self._call("close", [scope_key(scope)], args)
        return (False, None) if reply is None else (bool(reply[0]), codec.reading(reply[1]))

    async def configure(
        self,
        quota: Quota,
        *,
        full: bool,
        seed: bool,
        expect: int | None = None,
        for_s: float | None = None,
        by: str = "",
        reason: str = "",
        now: float | None = None,
    ) -> bool:
        """Set the quota; with `seed` only if there is none, with `expect` only over that version."""
        args = [_instant(now), "seed" if seed else "set", "" if expect is None else str(expect)]
        args += ["full" if full else "cold", "" if for_s is None else text(for_s)]
        note = "" if quota.passing else codec.note(by, reason, "set", for_s)
        return bool(
            await self._call("configure", [scope_key(quota.scope)], [*args, codec.spec(quota), quota.document(), note])
        )

    async def quota(self, scope: str) -> Quota | None:
        """The quota in force."""
        found = await self.execute("GET", quota_key(scope))
        return None if found is None else Quota.of_document(scope, found.decode())

    async def changes(self, scope: str, limit: int) -> list[Change]:
        """Changes of the quota, newest first."""
        found = await self.execute("LRANGE", changes_key(scope), 0, limit - 1)
        return [codec.change(scope, entry) for entry in found]

    async def places(self, scope: str, limit: int) -> dict[str, Record]:
        """Places that are held or taken under a key, by the key; in no order, `limit` at most."""
        prefix, cursor = place_key(scope, ""), b"0"
        found: dict[str, Record] = {}
        pattern = re.sub(r"([\[\]*?\\^])", r"\\\1", prefix) + "*"
        while len(found) < limit:
            cursor, keys = await self.execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1000, key=prefix)
            for key, raw in zip(keys, await self.execute("MGET", *keys) if keys else [], strict=True):
                if raw is not None and not raw.startswith(b"S"):
                    found[key.decode().removeprefix(prefix)] = codec.place(raw)
            if cursor == b"0":
                break
        return dict(list(found.items())[:limit])

    async def inspect(self, scope: str, *, now: float | None = None) -> Snapshot:
        """Look; leaves no trace in the counters."""
        reply = await self._call("inspect", [scope_key(scope)], [_instant(now)])
        return Snapshot(scope=scope, configured=False) if reply is None else codec.snapshot(scope, reply)

    async def ping(self) -> None:
        """Answer, or raise StoreLost."""
        await self.execute("PING")

    async def execute(self, *command: str | bytes | int, key: str = "") -> Any:
        """Send one command of the server's own.

        Args:
            command: its name and arguments.
            key: whose server is meant, for a command that names none first.

        Raises:
            StoreLost: it is refused, or there is no answer.
        """
        first = command[1] if len(command) > 1 else ""
        try:
            verb = str(command[0]).lower()
            return await self._reply(verb, command, key or (first if isinstance(first, str) else ""))
        except (RedisError, OSError) as error:
            raise self._lost(error) from None

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._routes.aclose()

    async def _finish(
        self, verb: str, scopes: Sequence[str], claim: Claim, args: Sequence[str], now: float | None
    ) -> tuple[str, Readings | None]:
        keys = [*map(scope_key, scopes), done_key(scopes[0], claim.permit)]
        if claim.key is not None:
            keys.append(place_key(scopes[0], claim.key))
        head = [_instant(now), str(len(scopes)), str(claim.generation), text(claim.booked_at)]
        reply = await self._call(verb, keys, [*head, *args])
        return ("unconfigured", None) if reply is None else (reply[0].decode(), codec.readings(reply[1]))

    async def _call(self, verb: str, keys: Sequence[str], args: Sequence[str | bytes]) -> Any:
        known = scripts.script(verb)
        try:
            try:
                return await self._reply(verb, ("EVALSHA", known.sha, len(keys), *keys, *args), keys[0])
            except NoScriptError:
                return await self._reply(verb, ("EVAL", known.text, len(keys), *keys, *args), keys[0])
        except (RedisError, OSError) as error:
            raise self._lost(error) from None

    async def _reply(self, verb: str, command: Command, key: str) -> Any:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answer(found: Any) -> None:
            if reply.done():
                return
            if isinstance(found, Exception):
                reply.set_exception(found)
            else:
                reply.set_result(found)

        self._send(verb, command, key, answer)
        return await reply

    def _send(self, verb: str, command: Command, key: str, answer: Callable[[Any], None]) -> None:
        observer = self._observer
        if observer is None:
            self._routes.send(command, key, answer)
            return
        began = perf_counter()

        def observed(reply: Any) -> None:
            # whoever asked hears StoreLost of every exception but this one
            answered = not isinstance(reply, Exception) or isinstance(reply, NoScriptError)
            observer(verb, perf_counter() - began, answered)
            answer(reply)

        self._routes.send(command, key, observed)

    def _lost(self, error: Exception) -> StoreLost:
        # the client's own text may quote a URL, and so a password: the kind of error says enough
        # over a socket file redis-py wraps the refusal into a lost connection
        if isinstance(error, AuthenticationError) or isinstance(error.__context__, AuthenticationError):
            return StoreLost(f"{self._routes.where} refuses the user or the password")
        # the server's own words, which repeat a user's name, a command and a key at most
        if type(error) is ResponseError or isinstance(error, _REFUSALS):
            return StoreLost(f"{self._routes.where} refuses: {str(error)[:200]}")
        return StoreLost(f"{self._routes.where} does not answer ({_why(error)})")


def _instant(now: float | None) -> str:
    return "" if now is None else text(now)


def _why(error: BaseException) -> str:
    """What keeps a connection from being made, in words that have nothing of the URL."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {cause.reason or type(cause).__name__}"
        if isinstance(cause, FileNotFoundError):
            return "a file is not there: its socket, or a certificate"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
