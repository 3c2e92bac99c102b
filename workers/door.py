"""The door: only so many runs are active at once, in the whole fleet.

A run holds one unit of a quota in flight, from its start to its end. Each call of a model keeps it; a run that has
called none for `IDLE`, because a human sleeps over it, lets another in and goes on later without asking.
"""

from datetime import timedelta
from typing import Final

from temporalio import activity

from fleet.contracts.names import FailureType
from fleet.contracts.tools import DOOR_ENTER, DOOR_LEAVE
from ratelimit.errors import Denied, StoreLost
from ratelimit.limiter import Limiter, Place
from ratelimit.places import Kind
from ratelimit.quota import Limit, Quota
from workers import failures
from workers.admission import STORE_RETRY

DOOR: Final = "fleet/runs"
"""The scope that active runs are counted in."""
IDLE = timedelta(minutes=10)
LOOK = timedelta(seconds=5)
"""How soon a run that was sent away looks again."""
_ONE = {"requests": 1.0}
_RUN = "run"


def door_quota(max_active: int) -> Quota:
    """At most so many runs."""
    limit = Limit(capacity=max_active, period=IDLE, kind=Kind.IN_FLIGHT)
    return Quota(scope=DOOR, limits={"in_flight": limit}, starts_full=True)


class Door:
    """Serves `door.enter` and `door.leave`."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    @activity.defn(name=DOOR_ENTER)
    async def enter(self) -> None:
        """Come in, or come back."""
        if not self._limiter.counts(DOOR):
            return  # the manifest has no max_active any more
        run_id = activity.info().workflow_id or ""
        try:
            # no place is kept: the gate would stay shut behind one that nobody picks up
            await self._limiter.acquire(DOOR, _ONE, max_wait=timedelta(0), key=run_id, asker=_RUN)
        except Denied as denied:
            raise failures.wait(
                FailureType.QUOTA_WAIT,
                "waits at the door: as many runs are active as may be",
                min(LOOK, denied.retry_after),
            ) from None
        except StoreLost as lost:
            raise failures.wait(FailureType.STORE_LOST, f"waits for the limiter's store: {lost}", STORE_RETRY) from None

    @activity.defn(name=DOOR_LEAVE)
    async def leave(self) -> None:
        """Let another in."""
        place = await self._place(activity.info().workflow_id or "")
        if place is not None:
            await self._limiter.settle(place, {})

    async def still_active(self, run_id: str) -> None:
        """A run that has entered goes on: it stays active, whoever else is."""
        await self._place(run_id)

    async def _place(self, run_id: str) -> Place | None:
        if not self._limiter.counts(DOOR):
            return None
        try:
            found = await self._limiter.reserve(DOOR, _ONE, max_wait=timedelta.max, key=run_id, asker=_RUN)
        except StoreLost:
            return None  # the lease covers the run meanwhile
        return found if isinstance(found, Place) else None
