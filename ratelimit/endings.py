"""The part of a limiter that takes permits back."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from ratelimit import events
from ratelimit.arithmetic import unit_of
from ratelimit.clock import Clock
from ratelimit.errors import StoreLost, UnknownLimit
from ratelimit.headers import Observed
from ratelimit.leases import Leases
from ratelimit.line import Line
from ratelimit.listener import Listener
from ratelimit.permits import Use, claim_of, is_local
from ratelimit.places import SILENCE, Kind, Permit, Place
from ratelimit.quota import Cost, Quota, check_cost
from ratelimit.store import Store


class Endings(Listener):
    """Settles and cancels."""

    def __init__(
        self, store: Store, quotas: Mapping[str, Quota], observer: Callable[[events.Event], None] | None, clock: Clock
    ) -> None:
        """Args:
        store: shared state.
        quotas: by scope.
        observer: told of everything that happens.
        clock: local time.
        """
        super().__init__(store, quotas, observer)
        self._leases = Leases(store, clock, self._chains.of)
        self._returns: set[asyncio.Task[None]] = set()

    async def end(self, use: Use) -> None:
        """Settle or cancel what `using` has given out."""
        try:
            if use.was_sent or use.actual is not None:
                await self.settle(use.permit, use.actual or {}, use.observed)
            else:
                await self.cancel(use.permit)
        except StoreLost:
            return  # the cost stays charged, which is safe

    async def settle(
        self,
        permit: Permit | Place,
        actual: Cost,
        observed: Mapping[str, Observed] = SILENCE,
        *,
        age: timedelta = timedelta(0),
    ) -> None:
        """Replace the estimate by the actual cost. Settling again changes nothing.

        Args:
            permit: what was granted.
            actual: by limit; a limit that is missing keeps its estimate.
            observed: what the answer's headers say, by limit; as for `observe`, in the same call.
            age: how old that may be: since the call was made. What may have come back meanwhile is added to the rest.

        Raises:
            BadCost: a cost is negative or not a number.
            UnknownLimit: the quota counts no such thing.
            StoreLost: the store does not answer; the estimate stands.
        """
        if is_local(permit):
            self._end_local(permit)
            return
        for name in actual:
            if name not in permit.cost and name not in self.counts(permit.scope):
                raise UnknownLimit(f"{permit.scope}: no limit of the quota counts {name!r}")
        self._leases.drop(permit)
        line, heard = self._line(permit.scope), self._chains.counted(permit.scope)
        outcome, readings = await self._store.settle(
            line.scopes,
            claim_of(permit),
            actual=check_cost(actual),
            observed=self._aged(line, heard, observed, age),
            heard=heard,
        )
        line.refresh(readings)
        if outcome == "done":
            self._tell_settled(line, permit, actual, heard)

    async def cancel(self, permit: Permit | Place) -> None:
        """Give a place back that was not used. Cancelling again changes nothing.

        Raises:
            StoreLost: the store does not answer; the cost stays charged.
        """
        if is_local(permit):
            self._end_local(permit)
            return
        self._leases.drop(permit)
        line = self._line(permit.scope)
        outcome, readings = await self._store.cancel(line.scopes, claim_of(permit))
        line.refresh(readings)
        if outcome == "done":
            self._tell(events.Cancelled(scope=line.label))

    def _tell_settled(self, line: Line, permit: Permit | Place, actual: Cost, counted: int) -> None:
        if self._observer is None:
            return
        spent: dict[tuple[str, str], float] = {}
        for i in range(counted, len(permit.parts)):
            dials = line.dials(i)
            for name, estimate in permit.parts[i].cost.items():
                if name in dials and dials[name].kind is not Kind.IN_FLIGHT:
                    spent[line.scopes[i], name] = actual.get(name, actual.get(unit_of(name), estimate))
        self._tell(events.Settled(scope=line.label, spent=spent))

    def _end_local(self, permit: Permit | Place) -> None:
        if self._outage is not None:
            self._outage.shares.end(permit.id)

    @staticmethod
    def _aged(line: Line, heard: int, observed: Mapping[str, Observed], age: timedelta) -> Mapping[str, Observed]:
        dials = line.dials(heard)
        seconds = max(0.0, age.total_seconds())
        return {
            name: replace(said, remaining=said.remaining + dials[name].rate * seconds)
            if said.remaining is not None and name in dials
            else said
            for name, said in observed.items()
        }

    def _give_back(self, place: Place) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._end(place))
        self._returns.add(task)
        task.add_done_callback(self._returns.discard)
        return task

    async def _end(self, place: Place) -> None:
        try:
            await self.cancel(place)
        except StoreLost:
            return  # the cost stays charged, which is safe
