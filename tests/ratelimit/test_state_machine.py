import asyncio
import os
from datetime import timedelta
from functools import partial

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

from ratelimit.keys import place_key, scope_key
from ratelimit.model import Model, permit_id
from ratelimit.places import Ask, Outcome
from ratelimit.quota import Limit, Quota
from ratelimit.state import Record
from ratelimit.store import RedisStore, reserve

SCOPE = "openai/sim"
EXAMPLES = int(os.environ.get("FLEET_STATE_MACHINE_EXAMPLES", "100"))

QUOTAS = [
    Quota(scope=SCOPE, limits={"requests": Limit(capacity=60)}),
    Quota(
        scope=SCOPE, limits={"requests": Limit(capacity=500), "tokens": Limit(capacity=1e5, burst=7e3)}, headroom=0.9
    ),
    Quota(
        scope=SCOPE,
        limits={"tokens": Limit(capacity=3e4, period=timedelta(seconds=7)), "requests": Limit(capacity=7, burst=1.5)},
        recovery=timedelta(seconds=13),
    ),
]

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


class LuaAndModel(RuleBasedStateMachine):
    """Real Valkey and the model, side by side."""

    url: str
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.store = RedisStore.from_url(self.url)
        self.model = Model()
        self.now = 0.0
        self.permits: list[dict] = []
        self.runner.run(self.store.execute("FLUSHALL"))

    def teardown(self) -> None:
        self.runner.run(self.store.aclose())

    def both(self, verb: str, *args, **kwargs):
        call = partial(reserve, self.store) if verb == "reserve" else getattr(self.store, verb)
        real = self.runner.run(call(*args, now=self.now, **kwargs))
        assert real == getattr(self.model, verb)(*args, now=self.now, **kwargs)
        return real

    @initialize(at=st.sampled_from([0.0, 1795244434.424444]), quota=st.sampled_from(QUOTAS), full=st.booleans())
    def begin(self, at: float, quota: Quota, full: bool) -> None:
        self.now = at
        self.both("configure", quota, full=full, seed=True)

    @rule(dt=st.floats(0, 100) | st.floats(0, 0.5) | st.floats(-5, 0))
    def time_passes(self, dt: float) -> None:
        self.now = max(0.0, self.now + dt)

    @rule(batch=st.lists(asks, min_size=1, max_size=4))
    def reserve(self, batch: list[Ask]) -> None:
        answer = self.both("reserve", SCOPE, batch)
        for ask, booking in zip(batch, answer.bookings if answer else [], strict=False):
            if booking.outcome in (Outcome.TAKEN, Outcome.HELD):
                anonymous = f"anonymous{len(self.permits)}"
                self.permits.append(
                    {
                        "permit": anonymous if ask.key is None else permit_id(ask.key, booking.generation),
                        "key": ask.key,
                        "generation": booking.generation,
                        "booked_at": booking.booked_at,
                        "cost": booking.cost,
                    }
                )

    @rule()
    def clock(self) -> None:
        self.both("clock", SCOPE)

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), actual=costs, observed=st.just({}) | costs)
    def settle(self, data: st.DataObject, actual: dict[str, float], observed: dict[str, float]) -> None:
        self.both("settle", SCOPE, **data.draw(st.sampled_from(self.permits)), actual=actual, observed=observed)

    @rule(remaining=costs)
    def observe(self, remaining: dict[str, float]) -> None:
        self.both("observe", SCOPE, remaining=remaining)

    @precondition(lambda self: self.permits)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.both("cancel", SCOPE, **data.draw(st.sampled_from(self.permits)))

    @rule(for_s=st.floats(0, 60), epoch=st.none() | st.integers(0, 3), cut=st.booleans())
    def cool_down(self, for_s: float, epoch: int | None, cut: bool) -> None:
        self.both("cool_down", SCOPE, for_s=for_s, epoch=epoch, cut=cut)

    @rule(quota=st.sampled_from(QUOTAS), full=st.booleans(), seed=st.booleans(), expect=st.none() | st.integers(0, 3))
    def configure(self, quota: Quota, full: bool, seed: bool, expect: int | None) -> None:
        self.both("configure", quota, full=full, seed=seed, expect=expect)

    @rule(places_too=st.booleans())
    def lose_state(self, places_too: bool) -> None:
        self.runner.run(self.store.execute("DEL", scope_key(SCOPE)))
        self.model.scopes.clear()
        if places_too:
            self.runner.run(self.store.execute("FLUSHALL"))
            self.model.places.clear()
            self.model.done.clear()

    @invariant()
    def the_states_are_equal(self) -> None:
        self.both("inspect", SCOPE)

    @invariant()
    def the_places_are_equal(self) -> None:
        for key in "abc":
            raw = self.runner.run(self.store.execute("GET", place_key(SCOPE, key)))
            record = self.model.places.get((SCOPE, key))
            assert raw == (None if record is None else _lines(record).encode())


def _lines(record: Record) -> str:
    numbers = [record.generation, record.epoch, record.booked_at, record.first_at]
    lines = [record.mode, *(format(float(n), ".17g") for n in numbers), record.asker]
    for name in record.due:
        lines += [name, format(record.cost[name], ".17g"), format(record.due[name], ".17g")]
    return "".join(f"{line}\n" for line in lines)


def test_the_lua_equals_the_model(valkey: str) -> None:
    LuaAndModel.url = valkey
    with asyncio.Runner() as LuaAndModel.runner:
        profile = settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(LuaAndModel, settings=profile)
