"""Inside an activity: the exact cost is booked, a short wait is slept in the slot, a longer one gives the slot back."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic, time

from temporalio import activity

from fleet.contracts import metrics
from fleet.contracts.llm import QuotaUse
from fleet.contracts.names import FailureType, place_key
from ratelimit.errors import NEVER, CostTooLarge, Denied, StoreLost
from ratelimit.estimates import Estimate, Learnt, Used
from ratelimit.headers import Observed, read
from ratelimit.limiter import Closed, Limiter, Permit
from workers import failures, tracing
from workers.heartbeat import Progress, beating
from workers.metrics import METRICS
from workers.providers import errors
from workers.timing import OK, Timing

SHORT_WAIT = timedelta(seconds=30)
"""A call that waits no longer comes back once, for its place."""

CLOSED_LOOK = timedelta(minutes=1)
"""How soon a call looks again at a scope that is closed until somebody opens it."""

STORE_RETRY = timedelta(seconds=3)
"""How soon a call comes back while Redis is unreachable."""


@dataclass(slots=True)
class Admitted:
    """A call that may be made now."""

    scope: str | None
    permit: Permit | None
    actual: Mapping[str, float] | None = None
    """Set by the caller once the provider has told the usage: what the call really cost."""
    observed: Mapping[str, Observed] = field(default_factory=dict)
    """What the provider says of its limits."""
    was_sent: bool = False
    refused_counts: bool = True
    """Whether the provider charges for a call that it turns away."""
    since: float = field(default_factory=monotonic)
    """When the call could start: what the provider says is no older."""
    progress: Progress | None = None
    timing: Timing | None = None

    @property
    def asked(self) -> str:
        """The scope that was asked for, whether it has a quota or not; empty: none."""
        return self.timing.scope if self.timing is not None else self.scope or ""

    def sent(self) -> None:
        """The call leaves now: from here on the provider may count it."""
        self.was_sent = True
        if self.timing is not None:
            self.timing.sent()
        if self.progress is not None:
            self.progress.enter("the provider has the call")

    def hear(self, dialect: str, headers: Mapping[str, str]) -> None:
        """Take note of an answer's rate-limit headers."""
        self.observed = read(headers, dialect, now=time()).limits

    def use(self) -> QuotaUse | None:
        """What the call costs and how long it stood in line; None without a quota."""
        if self.scope is None or self.permit is None:
            return None
        cost = dict(self.actual or self.permit.cost)
        return QuotaUse(scope=self.scope, waited_s=self.permit.waited.total_seconds(), cost=cost)


class Admission:
    """The way from an activity to a provider. One for each pool of a process."""

    def __init__(
        self,
        limiter: Limiter,
        max_inline_wait: timedelta,
        *,
        gated: bool = False,
    ) -> None:
        """Args:
        limiter: shared by all pools of the process. Scopes that have no quota there are not limited.
        max_inline_wait: longest wait inside a slot.
        gated: the pool polls its queue only while the quota grants (`workers/gate.py`). A call that must wait longer
            goes back there and keeps no place: those before it in the queue would make it late for it.
        """
        self._limiter = limiter
        self._gated = gated
        self._max_inline_wait = max_inline_wait

    @asynccontextmanager
    async def admitted(
        self, scope: str | None, cost: Mapping[str, float], *, max_failures: int, agent: str = ""
    ) -> AsyncIterator[Admitted]:
        """Heartbeat, wait for a permit, let the block make its call, settle it.

        The block says with `sent()` that the call leaves: a permit whose call was never sent is given back, one whose
        call was sent and has told no usage keeps its estimate. A `scope` of None is charged nothing.

        A `ProviderError` that leaves the block becomes the failure that Temporal understands; a 429 or an overload
        closes the scope for the whole fleet first.

        Args:
            scope: what the provider counts by.
            cost: what the call will spend, by limit.
            max_failures: real failures of the provider before the call is given up.
            agent: whose time it takes.

        Raises:
            ApplicationError: a wait, a failure or a final failure, by the table in `workers/failures.py`.
        """
        async with beating() as progress:
            timing = Timing(agent, scope)
            share = "" if scope is None else self._limiter.share_of(scope, activity.info().priority.fairness_key or "")
            counted = self._limiter.counts(share) if share else frozenset()
            if counted:
                progress.enter(f"waits for its place in {share}")
                charged = {name: units for name, units in cost.items() if name in counted}
                permit = await self._permit(share, charged)
                timing.permitted(permit.waited.total_seconds())
                tracing.waited(scope or share, share, permit.waited.total_seconds(), permit.limit)
                admitted = Admitted(scope, permit, progress=progress, timing=timing)
            else:
                timing.permitted(0.0)
                admitted = Admitted(None, None, progress=progress, timing=timing)
            try:
                yield admitted
            except errors.ProviderError as error:
                timing.ended(type(error).__name__)
                raise await self._failed(error, admitted, progress, max_failures) from None
            except BaseException as error:
                timing.ended(type(error).__name__)
                await self._end(admitted, frozenset())
                raise
            timing.ended(OK)
            await self._end(admitted, counted)

    async def estimate(self, scope: str, role: str, *, characters: int, max_output_tokens: int) -> Estimate:
        """What a call of a model will use, by what the fleet has learnt of its role."""
        try:
            return await self._limiter.estimate(scope, role, characters=characters, max_output_tokens=max_output_tokens)
        except StoreLost:
            return Learnt().estimate(characters, max_output_tokens)

    async def learn(self, scope: str, role: str, *, characters: int, estimate: Estimate, used: Used) -> None:
        """Take note of what it has used."""
        with suppress(StoreLost):
            await self._limiter.learn(scope, role, characters=characters, estimate=estimate, used=used)

    async def _permit(self, scope: str, cost: Mapping[str, float]) -> Permit:
        info = activity.info()
        waiting = asyncio.create_task(
            self._limiter.acquire(
                scope,
                cost,
                max_wait=self._max_inline_wait,
                key=place_key(info.workflow_id or "", info.workflow_run_id or "", info.activity_id),
                asker=str(info.attempt),
                hold=not self._gated,
            )
        )
        draining = asyncio.create_task(activity.wait_for_worker_shutdown())
        try:
            await asyncio.wait({waiting, draining}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise failures.wait(
                    FailureType.SHUTTING_DOWN, "the worker drains; the call starts elsewhere", timedelta(seconds=0.1)
                )
            return waiting.result()
        except Denied as denied:
            # without number are the shares of tenants, not the scopes that providers count by
            METRICS.of(metrics.QUOTA_DEFERRALS).labels(self._limiter.counted(scope)).inc()
            told, later = _told(denied, held=not self._gated), self._come_back(denied.retry_after)
            tracing.deferred(denied.scope, denied.limit, later.total_seconds())
            raise failures.wait(FailureType.QUOTA_WAIT, told, later) from None
        except StoreLost as lost:
            raise failures.wait(FailureType.STORE_LOST, f"waits for the limiter's store: {lost}", STORE_RETRY) from None
        except CostTooLarge as large:
            raise failures.final(FailureType.BAD_REQUEST, str(large)) from None
        finally:
            for task in (waiting, draining):
                task.cancel()
            await asyncio.gather(waiting, draining, return_exceptions=True)

    def _come_back(self, retry_after: timedelta) -> timedelta:
        if retry_after >= NEVER:
            return CLOSED_LOOK
        # a little early: the rest is waited in the slot, so that the call starts on its due time and not after it
        early = max(timedelta(milliseconds=50), retry_after - self._max_inline_wait / 2)
        if self._gated:
            # who keeps no place must not come back together with all others
            early *= random.uniform(1.0, 1.25)
        # a long wait is looked at again half-way: the quota may have been raised, or a debt settled
        return early if early <= SHORT_WAIT else max(SHORT_WAIT, early / 2)

    async def _failed(
        self, error: errors.ProviderError, admitted: Admitted, progress: Progress, max_failures: int
    ) -> Exception:
        cooled = False
        tracing.turned_away(admitted.asked, error)
        match error:
            case errors.RateLimited() | errors.Overloaded():
                METRICS.of(metrics.PROVIDER_REJECTIONS).labels(admitted.asked, type(error).__name__).inc()
                cooled = await self._close(admitted, error)
            case errors.Exhausted():
                cooled = await self._close(admitted, error)
            case errors.Unavailable():
                progress.failed()
                METRICS.of(metrics.PROVIDER_FAILURES).labels(admitted.asked).inc()
        refused = isinstance(error, errors.RateLimited | errors.Overloaded) and not admitted.refused_counts
        admitted.was_sent = admitted.was_sent and not refused and not isinstance(error, errors.NotSent)
        await self._end(admitted, frozenset())
        return failures.failure(error, failures=progress.failures, max_failures=max_failures, cooled=cooled)

    async def _close(self, admitted: Admitted, error: errors.ProviderError) -> bool:
        """Close the scope for the whole fleet, for a while or until somebody has paid; answers whether it is closed."""
        permit = admitted.permit
        if permit is None or admitted.scope is None:
            return False
        try:
            if isinstance(error, errors.Exhausted):
                await self._limiter.close(admitted.scope, Closed.BILLING, by="provider", reason=str(error))
                admitted.was_sent = False  # nothing is counted of what is not paid
            else:
                hint = None if error.retry_after_s is None else timedelta(seconds=error.retry_after_s)
                await self._limiter.cool_down(permit.scope, retry_after=hint, permit=permit, limit=error.limit)
        except StoreLost:
            return False
        return True

    async def _end(self, admitted: Admitted, counted: frozenset[str]) -> None:
        """Nothing is in flight any more: the permit is settled, or given back if its call was never sent."""
        permit = admitted.permit
        if permit is None:
            return
        if not (admitted.was_sent or admitted.actual or admitted.observed):
            with suppress(StoreLost):
                await self._limiter.cancel(permit)
            return
        actual = {name: units for name, units in (admitted.actual or {}).items() if name in counted}
        try:
            age = timedelta(seconds=monotonic() - admitted.since)
            await self._limiter.settle(permit, actual, admitted.observed, age=age)
        except StoreLost:
            # the estimate stands, which is safe; the call itself has succeeded and must not be repeated
            METRICS.of(metrics.QUOTA_SETTLES_LOST).labels(self._limiter.counted(permit.scope)).inc()


def _told(denied: Denied, *, held: bool) -> str:
    if denied.retry_after >= NEVER:
        return f"waits for {denied.scope}, which is closed ({denied.limit}) until somebody opens it: fleet quota thaw"
    wait = denied.retry_after.total_seconds()
    when = f"its place comes in {wait:.1f} s" if held else f"about {wait:.1f} s"
    return f"waits for {denied.scope} {denied.limit}: {when}"
