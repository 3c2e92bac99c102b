"""When a run would begin and end, by whoever is registered to say so (`fleet.forecasters`). Breaks nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from temporalio.client import Client

from fleet.contracts.names import RUNNING_RUNS
from fleet.manifest import Manifest
from fleet.settings import Settings

if TYPE_CHECKING:
    from ratelimit.limiter import Snapshot

T = TypeVar("T")

GROUP = "fleet.forecasters"
WITHIN_S = 1.0
"""After this nobody waits for it any more."""

Forecast = dict[str, float]
"""Seconds from now: `first_call_s`, `done_s`, `done_p90_s`."""


class Forecaster(Protocol):
    """What an entry point of the group loads. Called in a thread of its own."""

    def __call__(
        self,
        manifest: Manifest,
        agent: str,
        *,
        seen: "Mapping[str, Snapshot]",
        running: int,
        tenant: str,
        priority: int,
    ) -> Forecast | None:
        """When a run that starts now makes its first call and is done.

        Args:
            manifest: the fleet.
            agent: whose run it is.
            seen: the live limiter's scopes.
            running: how many runs are in flight, without this one.
            tenant: whose run it is.
            priority: 1 (first) to 4.

        Returns:
            None if it cannot be said.
        """


def registered() -> list[Forecaster]:
    """Those of all installed packages."""
    return [found.load() for found in entry_points(group=GROUP)]


@asynccontextmanager
async def asked(
    client: Client,
    settings: Settings,
    manifest: Manifest,
    agent: str,
    *,
    tenant: str,
    priority: int,
    forecasters: Callable[[], Iterable[Forecaster]] | None = None,
    within_s: float | None = None,
) -> "AsyncIterator[asyncio.Task[Forecast | None]]":
    """Ask at once, beside what the block does. The task ends in time or with the block, and raises nothing."""

    async def ask() -> Forecast | None:
        # whatever goes wrong: the run matters, not what is said of it
        with suppress(Exception):
            async with asyncio.timeout(WITHIN_S if within_s is None else within_s):
                return await _ask(client, settings, manifest, agent, tenant, priority, forecasters or registered)
        return None

    task = asyncio.create_task(ask())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _ask(
    client: Client,
    settings: Settings,
    manifest: Manifest,
    agent: str,
    tenant: str,
    priority: int,
    forecasters: Callable[[], Iterable[Forecaster]],
) -> Forecast | None:
    found = await aside(lambda: _prepared(forecasters))
    if not found:
        return None
    from workers.bootstrap import limiter

    count = asyncio.create_task(client.count_workflows(RUNNING_RUNS))
    try:
        async with limiter(settings, manifest) as shared:
            seen = {scope: await shared.inspect(scope) for scope in manifest.scopes()}
        running = (await count).count
    finally:
        count.cancel()
    for one in found:
        said: Forecast | None = await aside(
            lambda one=one: one(manifest, agent, seen=seen, running=running, tenant=tenant, priority=priority)  # type: ignore[misc]
        )
        if said is not None:
            return said
    return None


def _prepared(forecasters: Callable[[], Iterable[Forecaster]]) -> list[Forecaster]:
    found = list(forecasters())
    if found:
        import workers.bootstrap  # noqa: F401 - takes a while, which nobody is to wait for
    return found


async def aside(work: Callable[[], T]) -> T:
    """Do it in a thread that nobody waits for: neither a time-out nor the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(set_: Callable[[Any], None], what: Any) -> None:
        if not done.done():
            set_(what)

    def run() -> None:
        try:
            set_, what = done.set_result, work()
        except BaseException as error:  # noqa: BLE001 - told to whoever awaits it
            set_, what = done.set_exception, error  # type: ignore[assignment]
        # the loop may have ended long ago
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, set_, what)

    threading.Thread(target=run, name="forecast", daemon=True).start()
    return await done


def text(forecast: Mapping[str, float]) -> str:
    """For people, in one line."""
    first, done, p90 = (_about(forecast[name]) for name in ("first_call_s", "done_s", "done_p90_s"))
    return f"about {first} to its first call, done in about {done} (p90 {p90})"


def _about(seconds: float) -> str:
    """With no more digits than are known."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
