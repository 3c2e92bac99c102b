"""The part of a limiter that hears what the provider says, and where the scope stands."""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta

from ratelimit import events
from ratelimit.desk import Desk
from ratelimit.errors import BadCost, StoreLost
from ratelimit.estimates import Estimate, Learnt, Used
from ratelimit.headers import Observed
from ratelimit.line import TICK_S, Line
from ratelimit.outage import UNHINTED_S, Outage
from ratelimit.permits import is_local, upwards
from ratelimit.places import Ahead, ClockReading, Permit, Place, Rejection


class Listener(Desk, ABC):
    """Takes note of answers."""

    _outage: Outage | None = None

    @abstractmethod
    def _line(self, scope: str) -> Line:
        """The scope's line within this process."""

    async def observe(self, scope: str, said: Mapping[str, Observed]) -> bool:
        """Take note of what a provider's headers say: a count of what is left below ours lowers ours, never raises it.

        Everybody in line starts later by the same amount. Answers whether anything was lowered: somebody else uses
        the key, or an answer was charged more than was thought. What was said is kept for `inspect`, also of limits
        that the quota does not have.

        Args:
            scope: what the provider counts by.
            said: by limit, as `ratelimit.headers.read` answers it.

        Raises:
            UnknownScope: nobody configured the scope.
            StoreLost: the store does not answer.
        """
        lowered, reading = await self._store.observe(scope, told=said)
        if reading is None:
            await self._seed([scope])
            lowered, reading = await self._store.observe(scope, told=said)
        self._heard(scope, reading)
        if lowered:
            self._tell(events.Lowered(scope=scope))
        return lowered

    async def cool_down(
        self,
        scope: str,
        *,
        retry_after: timedelta | None = None,
        permit: Permit | Place | None = None,
        cut: bool = True,
        limit: str | None = None,
    ) -> None:
        """Close the scope for the whole fleet because the provider said so. A cooldown is never shortened.

        Args:
            scope: what the provider counts by. For a tenant's scope the one around it that the provider counts by.
            retry_after: for how long, from now. None: nobody said; then the cooldown doubles with each rejection.
            permit: of the call that was rejected: many 429s of one burst cut the pace once, and one of a call whose
                place has been booked anew changes nothing.
            cut: also halve the pace, to recover with time.
            limit: only this limit is exhausted; calls that do not spend from it go on.

        Raises:
            BadCost: `retry_after` is negative.
            UnknownScope: nobody configured the scope.
            StoreLost: the store does not answer.
        """
        for_s = None if retry_after is None else retry_after.total_seconds()
        if for_s is not None and for_s < 0:
            raise BadCost(f"retry_after is {for_s:g} s: must be 0 or more")
        rejection = Rejection(for_s, cut=cut, limit=limit, jitter=random.random())
        scope = self._chains.of(scope)[self._chains.counted(scope)]
        if self._outage is not None and (self._outage.lasts or (permit is not None and is_local(permit))):
            self._outage.shares.cool_down(scope, UNHINTED_S if for_s is None else for_s)
            return
        if permit is not None:
            chain = self._chains.of(permit.scope)
            if scope in chain:
                rejection.epoch = permit.parts[chain.index(scope)].epoch
            rejection.key = None if permit.key is None else (permit.scope, permit.key)
            rejection.generation = permit.generation
        done, closed_s, reading = await self._store.cool_down(scope, rejection)
        if reading is None:
            await self._seed([scope])
            rejection.epoch = None
            done, closed_s, reading = await self._store.cool_down(scope, rejection)
        self._heard(scope, reading)
        self._tell(events.Cooled(scope=scope, for_s=closed_s, cut=done))

    async def estimate(self, scope: str, role: str, *, characters: int, max_output_tokens: int) -> Estimate:
        """What a call will use, by what the fleet has learnt of calls of its role.

        Args:
            scope: the model.
            role: calls of one role use alike: an agent's name.
            characters: of the request.
            max_output_tokens: it may write no more.

        Raises:
            StoreLost: the store does not answer, and this process has learnt nothing yet.
        """
        known = self._learnt.get((scope, role))
        if known is None:
            known = await self._store.learnt(scope, role) or Learnt()
            self._learnt[scope, role] = known
        return known.estimate(characters, max_output_tokens)

    async def learn(self, scope: str, role: str, *, characters: int, estimate: Estimate, used: Used) -> None:
        """Take note of what a call has used: the whole fleet estimates the better for it.

        Args:
            scope: the model.
            role: as for `estimate`.
            characters: of the request.
            estimate: what had been thought.
            used: what the provider says.

        Raises:
            StoreLost: the store does not answer; nothing is learnt.
        """
        for what in ("input_tokens", "output_tokens"):
            actual = getattr(used, what)
            if actual > 0:
                self._tell(events.Estimated(scope=scope, what=what, ratio=getattr(estimate, what) / actual))
        self._learnt[scope, role] = await self._store.learn(
            scope, role, characters=characters, input_tokens=used.input_tokens, output_tokens=used.output_tokens
        )

    async def clock(self, scope: str) -> ClockReading:
        """Read a scope's clock.

        Raises:
            UnknownScope: nobody configured the scope.
            StoreLost: the store does not answer.
        """
        line = self._line(scope)
        return (await line.read())[0]

    async def ahead(self, scope: str) -> Ahead:
        """How long a call that asks now would wait, by an answer of the last quarter second.

        Raises:
            UnknownScope: nobody configured the scope.
            StoreLost: the store does not answer.
        """
        line = self._line(scope)
        wait = line.ahead_s(TICK_S)
        if wait is None and not (self._outage is not None and self._outage.lasts):
            try:
                await self.clock(scope)
            except StoreLost:
                if self._outage is None:
                    raise
                self._outage.began()
            wait = line.ahead_s(TICK_S)
        return Ahead(wait=upwards(wait or 0.0), per_call=timedelta(seconds=line.per_call_s))
