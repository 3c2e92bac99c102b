"""A discrete-event simulation of the fleet: runs pass the door, their calls the engine, a queue, a quota and a slot.

The levels are refilled, charged and settled by the limiter's own functions, so that both agree. What is not simulated:
faults, 429s and cooldowns, humans, the second that a call may wait inside its slot, polling.
"""

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

from fleet.errors import BadInput
from load import queueing
from load.measures import Curve, Line, Metered, Pool, Simulated
from load.queueing import ALWAYS, FairQueue
from load.workload import Call, Run
from ratelimit import flow
from ratelimit.places import Kind, Snapshot
from ratelimit.quota import Quota
from ratelimit.state import Bucket, Scope

ENGINE, DOOR, SLOTS, OVERSIZED = "the engine", "the door", "slots", "larger than the burst"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a workload meets."""

    quotas: Mapping[str, Quota]
    slots: Mapping[str, int] = field(default_factory=dict)
    """Calls at once by pool, all processes together. Missing: any number."""
    patience_s: Mapping[str, float] = field(default_factory=dict)
    """By gated pool, how long a call may wait for more than a burst holds. Missing: for ever."""
    max_active: int | None = None
    """Most runs between door and end. None: any number."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of tenants. Missing: 1."""
    activities_per_s: float | None = None
    """What the engine carries. None: anything."""
    dispatch_s: float = 0.0
    """From a call's end to the next one's place in the queue, beside its own gap."""
    ordered: bool = True
    """False: first come, first served, whatever the priority and the tenant, and new runs as those in flight."""
    full: bool = True
    """Begin with full bursts, as after a pause. False: with empty ones, as after a start or a loss of state."""
    seen: Mapping[str, Snapshot] = field(default_factory=dict)
    """Begin with the levels of a live limiter instead, by scope."""
    provider: bool = False
    """Hold the true costs against the whole of each quota too, as the provider does: counts calls it would refuse."""


@dataclass(slots=True)
class _Step:
    """One call, made ready for its tenant."""

    call: Call
    line: Line
    chain: list[Scope]
    charged: list[dict[str, float]]
    flat: list[tuple[Bucket, float]]
    """Limits that can hold the call up."""
    meters: list[tuple[Metered, float]]
    settles: bool
    patience: float
    gap: float


def simulate(runs: Sequence[Run], conditions: Conditions) -> Simulated:
    """Let the runs pass.

    Raises:
        BadInput: a call costs more than a limit ever grants, or a scope is closed for ever.
    """
    return _Simulation(runs, conditions).result()


class _Simulation:
    def __init__(self, runs: Sequence[Run], conditions: Conditions) -> None:
        self._runs = runs
        self._given = conditions
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._number = 0
        self._scopes: dict[str, Scope] = {}
        self._of_scope: dict[str, list[Line]] = {}
        self._truth: dict[str, Scope] = {}
        self._lines: dict[tuple[str, str], Line] = {}
        self._pools: dict[str, Pool] = {}
        self._meters: dict[str, dict[str, Metered]] = {}
        self._ready: dict[tuple[int, str], list[_Step]] = {}
        self._scripts: list[list[_Step]] = []
        self._closable = any(s.closed_for or s.pace < 1 for s in conditions.seen.values()) or any(
            one.closed_for for s in conditions.seen.values() for one in s.limits.values()
        )
        self._engine_free = 0.0
        self._door = FairQueue(ordered=conditions.ordered)
        self._active = 0
        self._next = [0] * len(runs)
        self._asked = [0.0] * len(runs)
        self._joined = [0.0] * len(runs)
        self._first = [math.nan] * len(runs)
        self._ended = [math.nan] * len(runs)
        self._entered = [math.nan] * len(runs)
        self._waits, self._of_run, self._of_line = array("d"), array("l"), array("l")
        self._numbers: dict[int, int] = {}
        self._curve = Curve()
        self._refused: dict[str, int] = defaultdict(int)
        self._activities = 0.0

    def result(self) -> Simulated:
        for number, run in enumerate(self._runs):
            self._scripts.append(self._prepared(run))
            self._at(run.at_s, self._arrive, number)
        events = self._events
        while events:
            self._now, _, what, about = heappop(events)
            what(about)
        left = next((line for line in self._lines.values() if line.queue.size), None)
        if left is not None:
            raise BadInput(f"{left.scope}: {left.queue.size} calls wait for ever for {left.reason}")
        for pool in self._pools.values():
            pool.seconds[pool.busy] += self._now - pool.since
        return Simulated(
            self._runs, self._first, self._ended, self._entered, self._waits, self._of_run, self._of_line,
            list(self._lines.values()), self._pools, self._meters, self._curve, dict(self._refused), self._activities,
        )  # fmt: skip

    def _at(self, at: float, what: Callable[[Any], None], about: Any) -> None:
        self._number += 1
        heappush(self._events, (at, self._number, what, about))

    # ---- what is made ready before it begins

    def _prepared(self, run: Run) -> list[_Step]:
        share = run.tenant if any(name.endswith("/*") for name in self._given.quotas) else ""
        key = (id(run.calls), share)
        found = self._ready.get(key)
        if found is None:
            found = self._ready[key] = [self._step(call, run) for call in run.calls]
        return found

    def _step(self, call: Call, run: Run) -> _Step:
        scope = call.scope if call.scope in self._given.quotas else ""
        line = self._line(call.pool, scope)
        chain = [self._scope(name) for name in self._chain(scope, run.tenant)] if scope else []
        charged = [queueing.charges(state, call.estimate) for state in chain]
        names = self._chain(scope, run.tenant) if scope else []
        actual = call.estimate if call.actual is None else call.actual
        flat, meters, settles, patience = [], [], call.actual is not None, 0.0
        for name, state, costs in zip(names, chain, charged, strict=True):
            for limit, units in costs.items():
                bucket = state.buckets[limit]
                patience = max(patience, self._possible(name, limit, bucket, units, call.pool))
                settles = settles or bucket.kind is Kind.IN_FLIGHT
                if not bucket.shadow:
                    flat.append((bucket, units))
                if name in self._meters:
                    spent = queueing.charges(state, actual).get(limit, units)
                    meters.append((self._meters[name][limit], spent))
        gap = call.gap_s + self._given.dispatch_s
        return _Step(call, line, chain, charged, flat, meters, settles, patience, gap)

    def _possible(self, scope: str, limit: str, bucket: Bucket, units: float, pool: str) -> float:
        """Seconds that a call waits because it costs more than the burst.

        Raises:
            BadInput: it would wait for ever.
        """
        if bucket.shadow or units <= bucket.burst:
            return 0.0
        wait = (units - bucket.burst) / bucket.rate
        most = self._given.patience_s.get(pool, math.inf) if bucket.kind is Kind.CONTINUOUS else 0.0
        if wait <= most and bucket.kind is Kind.CONTINUOUS:
            return wait
        more = f" and {most:g} s of refill" if most else ""
        raise BadInput(
            f"{scope} {limit}: a call costs {units:,.0f}, and at most {bucket.burst:,.0f} at once{more} are ever"
            " granted: raise the burst or lower what a call may cost"
        )

    def _chain(self, scope: str, tenant: str) -> list[str]:
        quotas = self._given.quotas
        names = [f"{scope}/{tenant}"] if f"{scope}/*" in quotas else []
        outer: str | None = scope
        while outer is not None:
            names.append(outer)
            outer = quotas[outer].outer
        return names

    def _scope(self, name: str) -> Scope:
        found = self._scopes.get(name)
        if found is None:
            given = self._given
            own = given.quotas.get(name)
            quota = own or given.quotas[f"{name.rpartition('/')[0]}/*"].of(name)
            full = given.full or quota.starts_full
            found = queueing.scope_state(quota, 0.0, full=full, seen=given.seen.get(name))
            self._scopes[name] = found
            if own is not None:
                self._meters[name] = {n: Metered(b, b.level) for n, b in found.buckets.items()}
        return found

    def _line(self, pool: str, scope: str) -> Line:
        found = self._lines.get((pool, scope))
        if found is None:
            slots = self._pools.get(pool)
            if slots is None:
                slots = self._pools[pool] = Pool(self._given.slots.get(pool, math.inf))
            found = Line(pool, scope, slots, FairQueue(ordered=self._given.ordered))
            self._lines[pool, scope] = found
            self._numbers[id(found)] = len(self._numbers)
            slots.lines.append(found)
            for name in self._chain(scope, "") if scope else []:
                self._of_scope.setdefault(name, []).append(found)
        return found

    # ---- what happens

    def _arrive(self, number: int) -> None:
        most = self._given.max_active
        run = self._runs[number]
        if most is not None and not run.begun:
            self._door.push(number, run.priority, run.tenant)
            self._open()
        else:
            self._enter(number)

    def _open(self) -> None:
        most = self._given.max_active
        while most is not None and self._door.size and self._active < most:
            head = self._door.head()
            assert head is not None
            self._enter(self._door.pop(self._weight(head)))

    def _enter(self, number: int) -> None:
        self._active += 1
        self._entered[number] = self._now
        self._curve.add(self._now, 1)
        self._go_on(number)

    def _go_on(self, number: int) -> None:
        script = self._scripts[number]
        if self._next[number] >= len(script):
            self._ended[number] = self._now
            self._curve.add(self._now, -1)
            self._active -= 1
            self._open()
            return
        gap = script[self._next[number]].gap
        if gap > 0:
            self._at(self._now + gap, self._ask, number)
        else:
            self._ask(number)

    def _ask(self, number: int) -> None:
        self._asked[number] = now = self._now
        rate = self._given.activities_per_s
        if rate is None:
            self._join(number)
            return
        step = self._scripts[number][self._next[number]]
        self._activities += step.call.activities
        ready = max(now, self._engine_free)
        self._engine_free = ready + step.call.activities / rate
        if ready > now:
            step.line.waited[ENGINE] += ready - now
            self._at(ready, self._join, number)
        else:
            self._join(number)

    def _join(self, number: int) -> None:
        run, at = self._runs[number], self._next[number]
        line = self._scripts[number][at].line
        self._joined[number] = self._now
        line.queue.push(number, run.priority + (at == 0 and not run.begun), run.tenant)
        line.queued.add(self._now, 1)
        # whoever is not at the head changes nothing
        if line.queue.size == 1 or (not line.reason) or line.queue.head() == number:
            self._serve(line)

    def _serve(self, line: Line) -> None:
        queue, pool = line.queue, line.pool
        while queue.size:
            if pool.free < 1:
                pool.starved = True
                line.reason = f"{SLOTS} of {line.pool_name}"
                return
            head = queue.head()
            if head is None:
                return
            step = self._scripts[head][self._next[head]]
            wait, where, limit = self._wait(step)
            if wait > step.patience + ALWAYS:
                line.reason = limit
                if where < len(step.chain) and step.chain[where].passing:
                    self._at(self._now + wait, self._unpark, (line, *queue.park()))
                    continue
                if self._now + wait < line.wakes_at:
                    line.wakes_at = self._now + wait
                    self._at(line.wakes_at, self._wake, (line, line.wakes_at))
                return
            queue.pop(self._weight(head))
            self._start(head, step, wait if wait > ALWAYS else 0.0)
        line.reason = ""

    def _wait(self, step: _Step) -> tuple[float, int, str]:
        now = self._now
        for scope in step.chain:
            if scope.at < now:
                flow.refill(scope, now)
        if not self._closable:
            for bucket, units in step.flat:
                if units > bucket.level:
                    break
            else:
                return 0.0, 0, ""
        return queueing.wait(step.chain, step.charged, now)

    def _wake(self, about: tuple[Line, float]) -> None:
        line, at = about
        if line.wakes_at == at:
            line.wakes_at = math.inf
            self._serve(line)

    def _unpark(self, about: tuple[Line, int, str]) -> None:
        line, priority, tenant = about
        line.queue.unpark(priority, tenant)
        self._serve(line)

    def _start(self, number: int, step: _Step, late: float) -> None:
        now, line, pool = self._now, step.line, step.line.pool
        for scope, charged in zip(step.chain, step.charged, strict=True):
            queueing.charge(scope, charged)
        started = now + late
        waited = started - self._asked[number]
        queued = started - self._joined[number]
        if queued > 0:
            line.waited[line.reason or OVERSIZED] += queued
        if self._next[number] == 0:
            self._first[number] = started
        self._waits.append(waited)
        self._of_run.append(number)
        self._of_line.append(self._numbers[id(line)])
        line.queued.add(now, -1)
        pool.seconds[pool.busy] += now - pool.since
        pool.since = now
        pool.busy += 1
        pool.free -= 1
        latency = step.call.latency_s
        for meter, units in step.meters:
            spent = units * latency if meter.bucket.kind is Kind.IN_FLIGHT else units
            meter.used += spent
            meter.first = min(meter.first, now)
            meter.last = now
            meter.curve.add(started, spent)
        if self._given.provider and step.chain:
            self._count(step, started)
        self._at(started + latency, self._end, number)

    def _count(self, step: _Step, now: float) -> None:
        """Whether the provider's own bucket, of the whole quota, can pay for what the call really costs."""
        name = step.line.scope
        truth = self._truth.get(name)
        if truth is None:
            quota = self._given.quotas[name]
            truth = self._truth[name] = queueing.scope_state(whole(quota), 0.0, full=True)
        actual = step.call.estimate if step.call.actual is None else step.call.actual
        flow.refill(truth, now)
        charged = {n: u for n, u in queueing.charges(truth, actual).items() if truth.buckets[n].kind is Kind.CONTINUOUS}
        if any(units > truth.buckets[n].level + ALWAYS * truth.buckets[n].rate for n, units in charged.items()):
            self._refused[name] += 1
        else:
            queueing.charge(truth, charged)

    def _end(self, number: int) -> None:
        now = self._now
        step = self._scripts[number][self._next[number]]
        pool = step.line.pool
        pool.seconds[pool.busy] += now - pool.since
        pool.since = now
        pool.busy -= 1
        pool.free += 1
        self._next[number] += 1
        self._go_on(number)
        freed = False
        if step.settles:
            actual = step.call.estimate if step.call.actual is None else step.call.actual
            for scope, charged in zip(step.chain, step.charged, strict=True):
                freed = queueing.settle(scope, charged, actual, now) or freed
        if freed:
            for line in self._sharing(step.line):
                if line.queue.size:
                    self._serve(line)
        if pool.starved:
            pool.starved = False
            for line in sorted((one for one in pool.lines if one.queue.size), key=lambda one: one.queue.head_rank()):
                self._serve(line)

    def _sharing(self, line: Line) -> list[Line]:
        if line.sharing is None:
            names = self._chain(line.scope, "")
            line.sharing = list(dict.fromkeys(one for name in names for one in self._of_scope[name]))
        return line.sharing

    def _weight(self, number: int) -> float:
        return self._given.weights.get(self._runs[number].tenant, 1.0)


def whole(quota: Quota) -> Quota:
    """What the provider itself grants: without headroom."""
    return replace(quota, headroom=1.0, burst_headroom=1.0)
