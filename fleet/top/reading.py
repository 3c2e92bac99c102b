"""Reading what `fleet top` shows. Every read is bounded: counts by query, and a page of rows."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError

from fleet import pools
from fleet.cli import database, output
from fleet.cli.quota import in_words, limits_of, told_of
from fleet.client import FleetClient, connect
from fleet.contracts.approvals import Approval, ApprovalState
from fleet.errors import FleetError, Unreachable
from fleet.manifest import Manifest
from fleet.pools import PoolView
from fleet.settings import Settings
from fleet.top.picture import ApprovalsSeen, ChangeSeen, LimitSeen, PlaceSeen, QuotaDetail, QuotaSeen, RunsSeen, Seen
from fleet.top.runs import Known, runs_seen
from ratelimit.errors import RateLimitError
from ratelimit.limiter import Limiter
from workers.bootstrap import limiter
from workers.database.engine import DatabaseLost
from workers.effects.book import Book
from workers.redaction import REDACTOR

WITHIN_S: Final = 5.0
"""How long a source is waited for."""
POOLS_WITHIN_S: Final = 12.0
"""The same of the pools: where all workers are silent, their next heartbeat is waited for."""
PAGE: Final = 100
"""Most approvals that are listed."""
IN_LINE: Final = 200
"""Most places that are looked at for who stands in line."""
CHANGES: Final = 10
LATELY_S: Final = 60.0
RATE_S: Final = 10.0
_CLOSE_S: Final = 2.0

LOST: Final = (RateLimitError, DatabaseLost, RPCError)
"""What the rooms below raise where something does not answer."""

T = TypeVar("T")


class _Held(Generic[T]):
    """One connection: opened when it is first needed, and again after a loss."""

    def __init__(self, opening: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._opening = opening
        self._lock = asyncio.Lock()
        self._open: tuple[T, AsyncExitStack] | None = None

    async def get(self) -> T:
        async with self._lock:
            if self._open is None:
                stack = AsyncExitStack()
                self._open = await stack.enter_async_context(self._opening()), stack
            return self._open[0]

    async def drop(self) -> None:
        """Close it. What goes wrong is of no interest: it is lost."""
        async with self._lock:
            held, self._open = self._open, None
        if held is not None:
            with suppress(Exception):
                await asyncio.wait_for(held[1].aclose(), _CLOSE_S)


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    grants: int
    waited_s: float
    rejections: int


class Reading:
    """Asks the limiter's store, Temporal and the database. One that is away disturbs no other.

    Every method raises `Unreachable` where its source does not answer in time, and connects anew with the next call.
    """

    def __init__(self, settings: Settings, manifest: Manifest, path: Path | None = None) -> None:
        """Args:
        settings: where everything is.
        manifest: what the fleet is.
        path: the manifest's, where a command names one.
        """
        self.settings = settings
        self.manifest = manifest
        self.path = path
        self._limiter: _Held[Limiter] = _Held(lambda: limiter(settings, manifest))
        self._temporal: _Held[FleetClient] = _Held(self._connected)
        self._database = _Held(lambda: database.opened(settings))
        self._looks: dict[str, deque[_Look]] = {}
        self._known: Known = {}

    async def aclose(self) -> None:
        """Close what is open."""
        await asyncio.gather(self._limiter.drop(), self._temporal.drop(), self._database.drop())

    async def client(self) -> FleetClient:
        """The runs."""
        return await self._temporal.get()

    async def limiter(self) -> Limiter:
        """The quotas."""
        return await self._limiter.get()

    async def book(self) -> Book:
        """The approvals and the audit."""
        return Book(await self._database.get())

    async def quotas(self) -> tuple[QuotaSeen, ...]:
        """Every scope of the manifest, in its order."""

        async def read() -> tuple[QuotaSeen, ...]:
            shared = await self.limiter()
            found = await asyncio.gather(*(told_of(shared, scope) for scope in self.manifest.scopes()))
            return tuple(self._quota(told) for told in found)

        return await self._asked(read(), WITHIN_S, self._limiter)

    async def quota(self, scope: str) -> QuotaDetail:
        """One scope, who stands in line, and who has changed it."""

        async def read() -> QuotaDetail:
            shared = await self.limiter()
            told, standing, changes = await asyncio.gather(
                told_of(shared, scope), shared.standing(scope, IN_LINE), shared.changes(scope, CHANGES)
            )
            return QuotaDetail(
                quota=self._quota(told),
                line=tuple(
                    PlaceSeen(key=one.key, wait_s=one.wait.total_seconds(), limit=one.limit, held=one.held)
                    for one in standing
                ),
                changes=tuple(
                    ChangeSeen(
                        at=datetime.fromtimestamp(one.at, UTC),
                        action=one.action,
                        by=one.by,
                        reason=one.reason,
                        limits=in_words(limits_of(one.quota)),
                    )
                    for one in changes
                ),
            )

        return await self._asked(read(), WITHIN_S, self._limiter)

    async def pools(self) -> tuple[PoolView, ...]:
        """Every pool of the manifest, in its order."""

        async def read() -> tuple[PoolView, ...]:
            return tuple(await pools.survey((await self.client()).temporal, self.manifest))

        return await self._asked(read(), POOLS_WITHIN_S, self._temporal)

    async def runs(self, wanted: str = "") -> RunsSeen:
        """Counts of all runs, and a page: the newest, the oldest, the failed, and those that are looked for.

        Args:
            wanted: the beginning of an id, an agent or a tenant, or a status.
        """

        async def read() -> RunsSeen:
            return await runs_seen(await self.client(), self.manifest, wanted, self._known)

        return await self._asked(read(), WITHIN_S, self._temporal)

    async def approvals(self) -> ApprovalsSeen:
        """Open approvals, the next to expire first."""

        async def read() -> ApprovalsSeen:
            found = await (await self.book()).approvals(state=ApprovalState.OPEN, limit=PAGE + 1)
            return ApprovalsSeen(rows=tuple(map(cleaned, found[:PAGE])), more=len(found) > PAGE)

        return await self._asked(read(), WITHIN_S, self._database)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[FleetClient]:
        yield FleetClient(await connect(self.settings, runtime=_quiet()), self.manifest)

    async def _asked(self, reading: Coroutine[Any, Any, T], within_s: float, held: _Held[Any]) -> T:
        try:
            return await asyncio.wait_for(reading, within_s)
        except TimeoutError:
            await held.drop()
            raise Unreachable(f"no answer within {within_s:g} s") from None
        except LOST as error:
            await held.drop()
            raise Unreachable(str(error)) from None
        except Unreachable:
            await held.drop()
            raise

    def _quota(self, told: dict[str, Any]) -> QuotaSeen:
        before, now = self._noted(told)
        past = now.at - before.at
        grants = now.grants - before.grants
        limits = tuple(
            LimitSeen(
                name=name,
                rate=limit["rate"],
                level=limit["level"],
                burst=limit["burst"],
                waiting=limit["waiting"],
                closed_s=limit["closed_s"],
                shadow=limit["shadow"],
                shadowed=limit["shadowed"],
                said=_said(told["heard"].get(name)),
            )
            for name, limit in told["limits"].items()
        )
        return QuotaSeen(
            scope=told["scope"],
            within=told["within"] or "",
            version=told["version"],
            limits=limits,
            pace=told["pace"],
            closed=told["closed"] or "",
            closed_s=told["closed_s"],
            line_s=told["line_s"],
            grants=told["grants"],
            rejections=told["rejections"],
            lately=now.rejections - self._looks[told["scope"]][0].rejections,
            calls_per_s=grants / past if past > 0 else None,
            wait_s=(now.waited_s - before.waited_s) / grants if past > 0 and grants > 0 else None,
        )

    def _noted(self, told: dict[str, Any]) -> tuple[_Look, _Look]:
        """The look that rates are counted from, and this one."""
        now = _Look(time.monotonic(), told["grants"], told["waited_s"], told["rejections"])
        looks = self._looks.setdefault(told["scope"], deque())
        # a store that was emptied counts from zero
        if looks and (now.grants < looks[-1].grants or now.rejections < looks[-1].rejections):
            looks.clear()
        looks.append(now)
        while len(looks) > 2 and looks[1].at <= now.at - LATELY_S:
            looks.popleft()
        earlier = list(looks)[:-1]
        return next((one for one in earlier if one.at >= now.at - RATE_S), earlier[-1] if earlier else now), now


class Source(Generic[T]):
    """One thing that is read again and again; remembers what it said last."""

    def __init__(self, name: str, read: Callable[[], Awaitable[T]]) -> None:
        """Args:
        name: who is asked, in words.
        read: asks.
        """
        self.seen: Seen[T] = Seen(source=name)
        self._read = read

    async def look(self) -> Seen[T]:
        """Ask once. Never raises: what went wrong is part of the answer, beside the data of the last look."""
        try:
            data = await self._read()
        except FleetError as error:
            self.seen = replace(self.seen, error=told(error))
        except Exception as defect:  # noqa: BLE001 - the other sources go on being shown
            self.seen = replace(self.seen, error=f"a defect of fleet top: {type(defect).__name__}: {told(defect)}")
        else:
            self.seen = replace(self.seen, data=data, at=datetime.now(UTC), error="")
        return self.seen


def told(error: Exception) -> str:
    """An error's words in one line, without secrets."""
    return output.visible(REDACTOR.clean(" ".join(str(error).split())))


def cleaned(approval: Approval) -> Approval:
    """The approval, its texts without secrets that this process knows. Its digest stays that of the real arguments."""
    return replace(
        approval,
        arguments=REDACTOR.clean_value(approval.arguments),
        goal=REDACTOR.clean(approval.goal),
        said=REDACTOR.clean(approval.said),
        votes=REDACTOR.clean_value(approval.votes),
    )


def _said(heard: dict[str, Any] | None) -> str:
    if heard is None or (heard["remaining"] is None and heard["granted"] is None):
        return ""
    granted = "" if heard["granted"] is None else f" of {heard['granted']:,.0f}"
    return f"{granted.strip()}" if heard["remaining"] is None else f"{heard['remaining']:,.0f}{granted} left"


@cache
def _quiet() -> Runtime:
    """The SDK's core writes what it misses over the screen otherwise."""
    return Runtime(telemetry=TelemetryConfig(logging=None))
