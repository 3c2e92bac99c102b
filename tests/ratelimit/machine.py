"""The state machine that drives a real server and the model side by side."""

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ratelimit.headers import Observed
from ratelimit.keys import held_key, leases_key, place_key, scope_key
from ratelimit.model import Model, permit_id
from ratelimit.places import Ask, Claim, Closed, Kind, Outcome, Rejection
from ratelimit.quota import Limit, Quota
from ratelimit.state import Record
from ratelimit.store import RedisStore, reserve

SIM, ORG, ACME = "openai/sim", "openai/org", "openai/sim/acme"
CHAINS = [(SIM,), (SIM,), (SIM, ORG), (ACME, SIM, ORG)]

QUOTAS = {
    SIM: [
        Quota(scope=SIM, limits={"requests": Limit(capacity=60)}),
        Quota(
            scope=SIM, limits={"requests": Limit(capacity=500), "tokens": Limit(capacity=1e5, burst=7e3)}, headroom=0.9
        ),
        Quota(
            scope=SIM,
            limits={
                "tokens": Limit(capacity=3e4, period=timedelta(seconds=7)),
                "requests": Limit(capacity=7, burst=1.5),
            },
            recovery=timedelta(seconds=13),
        ),
        Quota(
            scope=SIM,
            limits={
                "in_flight": Limit(capacity=30, period=timedelta(seconds=20), kind=Kind.IN_FLIGHT),
                "tokens": Limit(capacity=3e4, shadow=True),
                "requests": Limit(capacity=90),
            },
        ),
        Quota(
            scope=SIM,
            limits={
                "requests_per_minute": Limit(capacity=20, kind=Kind.FIXED, offset=timedelta(seconds=11)),
                "tokens_per_month": Limit(capacity=1e5, kind=Kind.MONTHS),
                "tokens_in_flight": Limit(capacity=4e3, period=timedelta(seconds=50), kind=Kind.IN_FLIGHT),
                "tokens": Limit(capacity=6e4),
            },
        ),
    ],
    ORG: [
        Quota(scope=ORG, limits={"requests": Limit(capacity=90), "tokens": Limit(capacity=9e4, burst=2e4)}),
        Quota(scope=ORG, limits={"in_flight": Limit(capacity=40, period=timedelta(seconds=9), kind=Kind.IN_FLIGHT)}),
    ],
    ACME: [
        Quota(scope=ACME, limits={"tokens": Limit(capacity=2e4)}, within=SIM, passing=True),
        Quota(scope=ACME, limits={"requests": Limit(capacity=30, shadow=True)}, within=SIM, passing=True),
    ],
}

names = st.sampled_from(["requests", "tokens"])
units = st.floats(0, 3000) | st.integers(0, 20).map(float)
costs = st.dictionaries(names, units, max_size=2) | units.map(lambda u: {"requests": u})
asks = st.builds(
    Ask,
    cost=costs,
    max_wait=st.sampled_from([0.0, 0.5, 5.0, 60.0, 1e6]),
    hold=st.booleans(),
    key=st.none() | st.sampled_from(["a", "b", "c"]),
    asker=st.sampled_from(["1", "2", ""]),
)
told = st.dictionaries(
    st.sampled_from(["requests", "tokens", "in_flight", "unheard"]),
    st.builds(Observed, remaining=st.none() | units, limit=st.none() | units),
    max_size=2,
)
scopes = st.sampled_from([SIM, SIM, ORG, ACME])
quotas = scopes.flatmap(lambda scope: st.sampled_from(QUOTAS[scope]))


class LuaAndModel(RuleBasedStateMachine):
    """A real server and the model, side by side."""

    url: str
    runner: asyncio.Runner
    focus: int | None = None
    """Which of the quotas of `SIM` every machine begins with; None: any."""

    def __init__(self) -> None:
        super().__init__()
        self.store = RedisStore.from_url(self.url)
        self.model = Model()
        self.now = 0.0
        self.permits: list[tuple[tuple[str, ...], Claim]] = []
        self.runner.run(self.store.execute("FLUSHALL"))

    def teardown(self) -> None:
        self.runner.run(self.store.aclose())

    def both(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        call = partial(reserve, self.store) if verb == "reserve" else getattr(self.store, verb)
        real = self.runner.run(call(*args, now=self.now, **kwargs))
        assert real == getattr(self.model, verb)(*args, now=self.now, **kwargs)
        return real

    @initialize(
        at=st.sampled_from([0.0, 1795244434.424444]),
        sim=st.sampled_from(QUOTAS[SIM]),
        org=st.sampled_from(QUOTAS[ORG]),
        acme=st.sampled_from(QUOTAS[ACME]),
        full=st.booleans(),
    )
    def begin(self, at: float, sim: Quota, org: Quota, acme: Quota, full: bool) -> None:
        self.now = at
        if self.focus is not None:
            sim = QUOTAS[SIM][self.focus]
        for quota in (sim, org, acme):
            self.both("configure", quota, full=full, seed=True)

    @rule(dt=st.floats(0, 100) | st.floats(0, 0.5) | st.floats(-5, 0) | st.sampled_from([86400.0, 1e7]))
    def time_passes(self, dt: float) -> None:
        self.now = max(0.0, self.now + dt)

    @rule(chain=st.sampled_from(CHAINS), batch=st.lists(asks, min_size=1, max_size=4))
    def reserve(self, chain: tuple[str, ...], batch: list[Ask]) -> None:
        answer = self.both("reserve", chain, batch)
        for ask, booking in zip(batch, answer.bookings if answer else [], strict=False):
            if booking.outcome in (Outcome.TAKEN, Outcome.HELD):
                anonymous = f"anonymous{len(self.permits)}"
                permit = anonymous if ask.key is None else permit_id(ask.key, booking.generation)
                claim = Claim(permit, ask.key, booking.generation, booking.booked_at, booking.parts)
                self.permits.append((chain, claim))

    @rule(chain=st.sampled_from(CHAINS))
    def clock(self, chain: tuple[str, ...]) -> None:
        self.both("clock", chain)

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), actual=costs, observed=st.just({}) | told)
    def settle(self, data: st.DataObject, actual: dict[str, float], observed: dict[str, Observed]) -> None:
        chain, claim = data.draw(st.sampled_from(self.permits))
        heard = data.draw(st.integers(0, len(chain) - 1))
        self.both("settle", chain, claim, actual=actual, observed=observed, heard=heard)

    @rule(scope=scopes, told=told)
    def observe(self, scope: str, told: dict[str, Observed]) -> None:
        self.both("observe", scope, told=told)

    @precondition(lambda self: self.permits)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.both("cancel", *data.draw(st.sampled_from(self.permits)))

    @precondition(lambda self: self.permits)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        chain, claim = data.draw(st.sampled_from(self.permits))
        i = data.draw(st.integers(0, len(chain) - 1))
        self.both("renew", chain[i], [claim.parts[i].lease, 1])

    @rule(
        scope=scopes,
        rejection=st.builds(
            Rejection,
            for_s=st.none() | st.floats(0, 60),
            epoch=st.none() | st.integers(0, 3),
            cut=st.booleans(),
            limit=st.none() | names,
            jitter=st.floats(0, 0.99),
            key=st.none() | st.tuples(scopes, st.sampled_from(["a", "b"])),
            generation=st.integers(0, 3),
        ),
    )
    def cool_down(self, scope: str, rejection: Rejection) -> None:
        self.both("cool_down", scope, rejection)

    @rule(scope=scopes, cause=st.sampled_from([Closed.NO, Closed.NO, Closed.FROZEN, Closed.BILLING]))
    def close(self, scope: str, cause: Closed) -> None:
        self.both("close", scope, cause)

    @rule(
        quota=quotas,
        full=st.booleans(),
        seed=st.booleans(),
        expect=st.none() | st.integers(0, 3),
        for_s=st.none() | st.floats(0, 100),
    )
    def configure(self, quota: Quota, full: bool, seed: bool, expect: int | None, for_s: float | None) -> None:
        self.both("configure", quota, full=full, seed=seed, expect=expect, for_s=for_s)

    @rule(scope=scopes, places_too=st.booleans())
    def lose_state(self, scope: str, places_too: bool) -> None:
        self.runner.run(self.store.execute("DEL", scope_key(scope)))
        self.model.scopes.pop(scope, None)
        if places_too:
            self.runner.run(self.store.execute("FLUSHALL"))
            self.model.scopes.clear()
            self.model.places.clear()
            self.model.done.clear()

    @invariant()
    def the_states_are_equal(self) -> None:
        for scope in (SIM, ORG, ACME):
            self.both("inspect", scope)

    @invariant()
    def the_leases_are_equal(self) -> None:
        for name, scope in self.model.scopes.items():
            real = self.runner.run(self.store.execute("ZRANGE", leases_key(name), 0, -1, "WITHSCORES"))
            ends = {int(number): float(end) for number, end in zip(real[::2], real[1::2], strict=True)}
            assert ends == {number: lease.ends for number, lease in scope.leases.items()}
            assert self.runner.run(self.store.execute("HLEN", held_key(name))) == len(ends)

    @invariant()
    def the_places_are_equal(self) -> None:
        for scope in (SIM, ACME):
            for key in "abc":
                raw = self.runner.run(self.store.execute("GET", place_key(scope, key)))
                record = self.model.places.get((scope, key))
                assert raw == (None if record is None else _lines(record).encode())


def _lines(record: Record) -> str:
    lines = [record.mode, *map(_text, (record.generation, record.booked_at, record.first_at)), record.asker]
    for part in record.parts:
        lines += [_text(part.epoch), _text(part.lease), _text(len(part.cost))]
        for name, cost in part.cost.items():
            lines += [name, _text(cost), _text(part.due[name])]
    return "".join(f"{line}\n" for line in lines)


def _text(number: float) -> str:
    return format(float(number), ".17g")


def drive(url: str, examples: int, *, focus: int | None = None, **more: Any) -> None:
    """Run the machine against a server."""
    machine = type("LuaAndModel", (LuaAndModel,), {"url": url, "focus": focus})
    with asyncio.Runner() as machine.runner:
        profile = settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **more,
        )
        run_state_machine_as_test(machine, settings=profile)
