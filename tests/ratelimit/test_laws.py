"""The laws of the arithmetic, as properties of the model, which the Lua equals."""

import copy
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.arithmetic import seconds_at_full_pace, seconds_until, shortfall
from ratelimit.model import Model, permit_id
from ratelimit.places import Ask, Booking, Claim, Outcome, Part, Rejection
from ratelimit.quota import Limit, Quota
from ratelimit.state import Record

SCOPE = "openai/sim"
CHAIN = (SCOPE,)
RATE, BURST = 2.0, 10.0
QUOTA = Quota(scope=SCOPE, limits={"requests": Limit(capacity=RATE * 60, burst=BURST)})
WIDE = Quota(scope=SCOPE, limits={"requests": Limit(capacity=60.0), "tokens": Limit(capacity=6000.0, burst=500.0)})
MICROSECOND = 1e-6


class Simulation:
    """Callers that start exactly when they are due, on a clock that jumps from event to event."""

    def __init__(self, *, full: bool) -> None:
        self.model = Model()
        self.now = 1000.0
        self.waiting: list[tuple[int, Booking]] = []
        self.started: list[tuple[float, float, int]] = []
        self.arrived = 0
        self.cancelled = 0.0
        self.model.configure(QUOTA, full=full, seed=True, now=self.now)

    def arrive(self, cost: float) -> None:
        ask = Ask(cost={"requests": cost}, max_wait=1e9)
        answer = self.model.reserve(CHAIN, [ask], now=self.now)
        assert answer is not None
        self.arrived += 1
        self.waiting.append((self.arrived, answer.bookings[0]))
        self.start_the_due()

    def cool_down(self, for_s: float) -> None:
        self.model.cool_down(SCOPE, Rejection(for_s), now=self.now)

    def cancel_the_first(self) -> None:
        if self.waiting:
            number, booking = self.waiting.pop(0)
            claim = Claim(f"p{number}", None, 1, booking.booked_at, booking.parts)
            self.model.cancel(CHAIN, claim, now=self.now)
            self.cancelled += booking.parts[0].cost["requests"]
            self.start_the_due()

    def pass_time(self, until: float) -> None:
        while self.waiting:
            wait = self.wait_of(self.waiting[0][1])
            if self.now + wait > until:
                break
            self.now += wait + MICROSECOND
            before = len(self.waiting)
            self.start_the_due()
            assert len(self.waiting) < before, "the expected wait was too short"
        self.now = max(self.now, until)

    def wait_of(self, booking: Booking) -> float:
        probe = copy.deepcopy(self.model)
        key = "probe"
        record = probe.places.setdefault((SCOPE, key), _record(booking))
        record.mode = "H"
        answer = probe.reserve(CHAIN, [Ask(cost={}, max_wait=1e9, key=key)], now=self.now)
        assert answer is not None
        return answer.bookings[0].wait

    def start_the_due(self) -> None:
        reading = self.model.clock(CHAIN, now=self.now)
        assert reading is not None
        for entry in list(self.waiting):
            number, booking = entry
            due = booking.parts[0].due["requests"]
            if reading[0].closed_for == 0 and shortfall(due, reading[0].dials["requests"].clock) == 0:
                self.waiting.remove(entry)
                self.started.append((self.now, booking.parts[0].cost["requests"], number))


def _record(booking: Booking) -> Record:
    parts = [Part(0, 0, dict(part.cost), dict(part.due)) for part in booking.parts]
    return Record("T", 1, booking.booked_at, booking.first_at, "", parts)


arrivals = st.tuples(st.just("arrive"), st.floats(0.1, BURST))
cooldowns = st.tuples(st.just("cool_down"), st.floats(0, 20))
pauses = st.tuples(st.just("pause"), st.floats(0, 10))
cancels = st.tuples(st.just("cancel"), st.just(0.0))


def _run(steps: list[tuple[str, float]], *, full: bool) -> Simulation:
    simulation = Simulation(full=full)
    for verb, value in steps:
        if verb == "arrive":
            simulation.arrive(value)
        elif verb == "cool_down":
            simulation.cool_down(value)
        elif verb == "cancel":
            simulation.cancel_the_first()
        else:
            simulation.pass_time(simulation.now + value)
    simulation.pass_time(simulation.now + 1e6)
    return simulation


@settings(max_examples=100, deadline=None)
@given(st.lists(arrivals | arrivals | cooldowns | pauses, max_size=40), st.booleans())
def test_no_window_ever_grants_more_than_a_burst_and_its_refill(steps, full) -> None:
    simulation = _run(steps, full=full)
    assert not simulation.waiting
    _assert_every_window(simulation, BURST)


@settings(max_examples=100, deadline=None)
@given(st.lists(arrivals | arrivals | pauses | cancels, max_size=40), st.booleans())
def test_cancelled_places_free_their_cost_and_no_more_and_leave_nobody_behind(steps, full) -> None:
    simulation = _run(steps, full=full)
    assert not simulation.waiting
    _assert_every_window(simulation, BURST + simulation.cancelled)


def _assert_every_window(simulation: Simulation, bound: float) -> None:
    starts = simulation.started
    sums = [0.0, *accumulate(cost for _, cost, _ in starts)]
    for i in range(len(starts)):
        for j in range(i, len(starts)):
            window = starts[j][0] - starts[i][0]
            assert sums[j + 1] - sums[i] <= bound + RATE * window + 1e-4


@settings(max_examples=100, deadline=None)
@given(st.lists(arrivals | arrivals | cooldowns | pauses, max_size=40), st.booleans())
def test_first_come_first_served(steps, full) -> None:
    order = [number for _, _, number in _run(steps, full=full).started]
    assert order == sorted(order)


state = st.lists(
    st.tuples(st.sampled_from(["reserve", "cool_down", "pause"]), st.floats(0, 30), st.floats(0, 900)), max_size=12
)
wide_costs = st.fixed_dictionaries({"requests": st.floats(0, 20), "tokens": st.floats(0, 2000)})


def _some_state(steps: list[tuple[str, float, float]], *, full: bool = True) -> tuple[Model, float]:
    model, now = Model(), 1000.0
    model.configure(WIDE, full=full, seed=True, now=now)
    for verb, small, large in steps:
        if verb == "reserve":
            model.reserve(CHAIN, [Ask(cost={"requests": small, "tokens": large}, max_wait=1e9)], now=now)
        elif verb == "cool_down":
            model.cool_down(SCOPE, Rejection(small, cut=large > 450), now=now)
        else:
            now += small
    return model, now


def _ask(model: Model, now: float, ask: Ask) -> Booking:
    answer = model.reserve(CHAIN, [ask], now=now)
    assert answer is not None
    return answer.bookings[0]


@settings(max_examples=100, deadline=None)
@given(state, wide_costs, st.booleans())
def test_retry_after_is_sufficient_and_tight(steps, cost, full) -> None:
    model, now = _some_state(steps, full=full)
    denied = _ask(model, now, Ask(cost=cost, max_wait=-1.0))
    assert denied.outcome is Outcome.DENIED
    wait = denied.wait
    held = _ask(model, now, Ask(cost=cost, max_wait=-1.0, key="k", hold=True))
    assert held.wait == wait

    early = copy.deepcopy(model)
    assert _ask(model, now + wait + MICROSECOND, Ask(cost={}, max_wait=0.0, key="k")).outcome is Outcome.TAKEN
    if wait > 1e-3:
        assert _ask(early, now + wait * 0.999 - 1e-4, Ask(cost={}, max_wait=0.0, key="k")).outcome is Outcome.HELD


@settings(max_examples=100, deadline=None)
@given(state, wide_costs, st.floats(0, 0.999))
def test_a_denial_changes_nothing_but_the_counters(steps, cost, share) -> None:
    model, now = _some_state(steps)
    model.clock(CHAIN, now=now)
    wait = _ask(copy.deepcopy(model), now, Ask(cost=cost, max_wait=-1.0)).wait
    before = copy.deepcopy(model)
    # what has not to wait is denied only to those who would not wait at all
    max_wait = wait * share if wait > 0 else -1.0
    assert _ask(model, now, Ask(cost=cost, max_wait=max_wait, key="k")).outcome is Outcome.DENIED
    before.scopes[SCOPE].calls += 1
    before.scopes[SCOPE].denials += 1
    assert model.scopes == before.scopes
    assert model.places == before.places


@settings(max_examples=100, deadline=None)
@given(state, wide_costs, wide_costs, wide_costs)
def test_settling_twice_equals_settling_once(steps, cost, actual, other) -> None:
    model, now = _some_state(steps)
    booking = _ask(model, now, Ask(cost=cost, max_wait=1e9, key="k"))
    claim = Claim(permit_id("k", booking.generation), "k", booking.generation, booking.booked_at, booking.parts)
    assert model.settle(CHAIN, claim, actual=actual, now=now)[0] == "done"
    before = copy.deepcopy(model)
    assert model.settle(CHAIN, claim, actual=other, now=now)[0] == "again"
    before.scopes[SCOPE].calls += 1
    assert model.scopes == before.scopes
    assert model.places == before.places


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 30), st.booleans()), max_size=20))
def test_a_cooldown_never_shrinks(cooldowns) -> None:
    model, now = _some_state([])
    until = now
    for for_s, pause, cut in cooldowns:
        _, _, reading = model.cool_down(SCOPE, Rejection(for_s, cut=cut), now=now)
        assert reading is not None
        until = max(until, now + for_s)
        assert reading.closed_for == pytest.approx(until - now, abs=1e-6)
        now += pause


@settings(max_examples=100, deadline=None)
@given(st.floats(0.05, 1), st.floats(1e-3, 10), st.floats(0, 1e4))
def test_the_wait_inverts_the_integral_of_the_pace(pace, recovery, dt) -> None:
    assert seconds_until(seconds_at_full_pace(dt, pace, recovery), pace, recovery) == pytest.approx(dt, rel=1e-9)
