"""The limiter for programs without an event loop: the same verbs, from any thread."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from ratelimit.headers import Observed
from ratelimit.limiter import Limiter
from ratelimit.permits import Use
from ratelimit.places import SILENCE, Permit, Place, Snapshot
from ratelimit.quota import Cost, Quota

T = TypeVar("T")


class BlockingLimiter:
    """Runs a `Limiter` in a thread of its own. Safe to share between threads."""

    def __init__(self, url: str, quotas: Mapping[str, Quota], **more: Any) -> None:
        """Args:
        url: of the store, as for `Limiter.from_url`.
        quotas: by scope.
        more: as for `Limiter`.

        Raises:
            ValueError: it is no such URL.
            BadQuota: the quotas contradict each other.
        """
        self._loop = asyncio.new_event_loop()
        self._limiter = Limiter.from_url(url, quotas, **more)
        self._thread = threading.Thread(target=self._loop.run_forever, name="ratelimit", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store; whoever still waits gets `StoreLost`."""
        if self._loop.is_closed():
            return
        self._run(self._limiter.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def acquire(self, scope: str, cost: Cost, *, max_wait: timedelta, **more: Any) -> Permit:
        """As `Limiter.acquire`."""
        return self._run(self._limiter.acquire(scope, cost, max_wait=max_wait, **more))

    def settle(
        self,
        permit: Permit | Place,
        actual: Cost,
        observed: Mapping[str, Observed] = SILENCE,
        *,
        age: timedelta = timedelta(0),
    ) -> None:
        """As `Limiter.settle`."""
        self._run(self._limiter.settle(permit, actual, observed, age=age))

    def cancel(self, permit: Permit | Place) -> None:
        """As `Limiter.cancel`."""
        self._run(self._limiter.cancel(permit))

    def cool_down(self, scope: str, **more: Any) -> None:
        """As `Limiter.cool_down`."""
        self._run(self._limiter.cool_down(scope, **more))

    def configure(self, quota: Quota, **more: Any) -> None:
        """As `Limiter.configure`."""
        self._run(self._limiter.configure(quota, **more))

    def inspect(self, scope: str) -> Snapshot:
        """As `Limiter.inspect`."""
        return self._run(self._limiter.inspect(scope))

    @contextmanager
    def using(self, scope: str, cost: Cost, *, max_wait: timedelta, **more: Any) -> Iterator[Use]:
        """As `Limiter.using`."""
        use = Use(self.acquire(scope, cost, max_wait=max_wait, **more))
        try:
            yield use
        finally:
            self._run(self._limiter.end(use))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
