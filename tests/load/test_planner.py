"""The planner agrees with the limiter, serves in the fleet's order, and its advice does what it says."""

import heapq
import json
import math
import random
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
import typer

from fleet import manifest as manifests
from fleet.cli import main
from fleet.errors import BadInput
from load import advice, cli_planner, figures, planner, queueing
from load.behaviour import Habits
from load.simulation import Conditions, simulate
from load.trial import Arrival
from load.workload import Call, Mix, Run, Shape, Spread
from ratelimit.model import Model, permit_id
from ratelimit.places import Ask, Claim, Closed, Kind, LimitSnapshot, Outcome, Snapshot
from ratelimit.quota import Limit, Quota
from ratelimit.waits import expected

MANIFEST = Path(__file__).parents[2] / "deploy" / "fleet.toml"
SCOPE = "openai/m"
PER_MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def manifest():
    return manifests.load(MANIFEST)


def quota(scope=SCOPE, **limits):
    return Quota(scope=scope, limits=limits, headroom=0.98, burst_headroom=0.9)


TOKENS = quota(requests=Limit(capacity=600, burst=60), tokens=Limit(capacity=60_000, burst=10_000))


def call(latency_s=1.0, tokens=500.0, actual=None, pool="llm", gap_s=0.0, scope=SCOPE):
    settled = None if actual is None else {"requests": 1.0, "tokens": actual}
    return Call(
        latency_s=latency_s, pool=pool, scope=scope, gap_s=gap_s, actual=settled,
        estimate={"requests": 1.0, "tokens": tokens},
    )  # fmt: skip


def drawn(agents, seed, calls=4):
    source = random.Random(seed)
    return [
        Run(
            at_s=source.random() * 20,
            run_id=f"r{n}",
            calls=[
                call(
                    source.uniform(0.5, 5), source.uniform(200, 3000), source.uniform(100, 4000), gap_s=source.random()
                )
                for _ in range(calls)
            ],
        )
        for n in range(agents)
    ]


# ---- the planner and the limiter


def test_levels_equal_the_model_to_the_last_bit():
    limits = {
        "requests": Limit(capacity=600, burst=60),
        "tokens": Limit(capacity=60_000, burst=10_000),
        "tokens_per_day": Limit(capacity=900_000, period=timedelta(days=1), kind=Kind.FIXED),
    }
    given, source = quota(**limits), random.Random(7)
    model, granted, denied = Model(), 0, 0
    model.configure(given, full=True, seed=True, now=0.0)
    ours = queueing.scope_state(given, 0.0, full=True)
    # a cut pace recovers in both
    model.scopes[SCOPE].pace = ours.pace = 0.4
    now = 0.0
    for number in range(3000):
        now += source.expovariate(3)
        cost = {"requests": 1.0, "tokens": source.uniform(10, 4000)}
        charged = queueing.charges(ours, cost)
        wait, _, limit = queueing.wait([ours], [charged], now)
        found = model.reserve([SCOPE], [Ask(cost=cost, max_wait=0.0, key=f"k{number}")], now=now).bookings[0]
        assert (found.outcome is Outcome.TAKEN) == (wait == 0.0)
        assert found.wait == wait
        if wait > 0:
            denied += 1
            assert found.limit == limit
        else:
            granted += 1
            queueing.charge(ours, charged)
            actual = {"requests": 1.0, "tokens": source.uniform(10, 4000)}
            now += source.random()
            queueing.settle(ours, charged, actual, now)
            claim = Claim(permit_id(f"k{number}", 1), f"k{number}", 1, found.booked_at, found.parts)
            model.settle([SCOPE], claim, actual=actual, now=now)
        theirs = model.scopes[SCOPE].buckets
        assert {n: b.level for n, b in ours.buckets.items()} == {n: b.level for n, b in theirs.items()}
    assert granted > 300
    assert denied > 300


def through_the_model(runs, given):
    """Agents that book places in the limiter's model, first come, first served, and wait until the clock is there."""
    model, events, numbers, waiting = Model(), [], count(), []
    model.configure(given, full=True, seed=True, now=0.0)
    look = math.inf
    done, ended = [0] * len(runs), [0.0] * len(runs)

    def later(at, what, n):
        heapq.heappush(events, (at, next(numbers), what, n))

    for n, run in enumerate(runs):
        later(run.at_s + run.calls[0].gap_s, "ask", n)
    while events:
        now, _, what, n = heapq.heappop(events)
        look = math.inf if now >= look else look
        if what == "ask":
            key = f"{n}/{done[n]}"
            ask = Ask(cost=runs[n].calls[done[n]].estimate, max_wait=math.inf, key=key)
            waiting.append((n, key, model.reserve([SCOPE], [ask], now=now).bookings[0]))
        elif what == "end":
            made = runs[n].calls[done[n]]
            key, booking = ended[n]
            claim = Claim(permit_id(key, 1), key, 1, booking.booked_at, booking.parts)
            model.settle([SCOPE], claim, actual=made.actual or made.estimate, now=now)
            done[n] += 1
            ended[n] = now
            if done[n] < len(runs[n].calls):
                later(now + runs[n].calls[done[n]].gap_s, "ask", n)
        readings = model.clock([SCOPE], now=now)
        while waiting:
            first, key, booking = waiting[0]
            wait, _ = expected([SCOPE], booking, readings)
            if wait > 1e-6:
                if now + wait < look:
                    look = now + wait
                    later(look, "look", first)
                break
            waiting.pop(0)
            ended[first] = (key, booking)
            later(now + runs[first].calls[done[first]].latency_s, "end", first)
    return ended


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_few_hundred_agents_end_when_the_limiter_says(seed):
    runs = drawn(300, seed)
    theirs = through_the_model(runs, TOKENS)
    ours = simulate(runs, Conditions(quotas={SCOPE: TOKENS}, ordered=False)).ended_at
    assert max(ours) == pytest.approx(max(theirs), rel=0.02)
    for mine, other in zip(sorted(ours), sorted(theirs), strict=True):
        assert mine == pytest.approx(other, rel=0.02)


def test_predict_takes_the_evidence_of_a_trial():
    runs = drawn(200, 5)
    arrivals = [Arrival(at_s=r.at_s, run_id=r.run_id, agent="a", goal="x") for r in runs]
    found = planner.predict(arrivals, {r.run_id: r.calls for r in runs}, {SCOPE: TOKENS}, ordered=False)
    assert found.finished_s == pytest.approx(max(through_the_model(runs, TOKENS)), rel=0.02)
    assert found.ended_s.keys() == {r.run_id for r in runs}
    assert all(found.first_call_s[one] < found.ended_s[one] for one in found.ended_s)
    with pytest.raises(BadInput, match="'stranger' of agent 'b' has no profile"):
        planner.predict([Arrival(at_s=0, run_id="stranger", agent="b", goal="x")], {}, {SCOPE: TOKENS})


def test_more_is_never_granted_than_burst_and_refill():
    runs = drawn(400, 9)
    found = simulate(runs, Conditions(quotas={SCOPE: TOKENS}))
    used = figures.limits(found)[SCOPE]
    # the last calls' refunds and debts come after their starts
    assert 0.97 <= used["tokens"]["utilisation"] <= 1.03


def test_what_is_in_flight_is_bounded_and_busy():
    given = quota(in_flight=Limit(capacity=5, kind=Kind.IN_FLIGHT))
    runs = [Run(at_s=0.0, calls=[call(2.0)]) for _ in range(50)]
    found = simulate(runs, Conditions(quotas={SCOPE: given}))
    assert found.finished == pytest.approx(20.0)
    assert found.pools["llm"].seconds.keys() <= {0, 1, 2, 3, 4, 5}
    assert figures.limits(found)[SCOPE]["in_flight"]["utilisation"] == pytest.approx(1.0, abs=0.15)


# ---- who comes first

SLOW = quota(requests=Limit(capacity=60, burst=1))


def test_runs_in_flight_come_before_new_ones():
    runs = [Run(at_s=0.0, calls=[call(0.1, 1.0), call(0.1, 1.0)]) for _ in range(20)]
    ordered = simulate(runs, Conditions(quotas={SCOPE: SLOW}))
    fifo = simulate(runs, Conditions(quotas={SCOPE: SLOW}, ordered=False))
    assert min(ordered.ended_at) < 4 < min(fifo.ended_at)
    assert ordered.finished == pytest.approx(fifo.finished, rel=0.02)


def test_priorities_go_first_and_tenants_share_by_weight():
    def runs(**more):
        return [Run(at_s=0.0, calls=[call(0.1, 1.0)], **more) for _ in range(40)]

    offer = [*runs(priority=3), *runs(priority=1)]
    found = simulate(offer, Conditions(quotas={SCOPE: SLOW}))
    assert max(found.ended_at[41:]) < min(found.ended_at[1:40])
    offer = [*runs(tenant="small"), *runs(tenant="large")]
    found = simulate(offer, Conditions(quotas={SCOPE: SLOW}, weights={"large": 3.0}))
    soon = sorted(range(80), key=lambda n: found.ended_at[n])[:40]
    assert sum(offer[n].tenant == "large" for n in soon) == pytest.approx(30, abs=2)


def test_a_tenant_whose_share_is_used_up_holds_up_nobody_else():
    share = Quota(scope=f"{SCOPE}/*", limits={"requests": Limit(capacity=6, burst=1)})
    wide = quota(requests=Limit(capacity=600, burst=60))
    offer = [Run(at_s=0.0, calls=[call(0.1, 1.0)], tenant="a", priority=1) for _ in range(10)]
    offer += [Run(at_s=0.0, calls=[call(0.1, 1.0)], tenant=f"t{n}") for n in range(30)]
    found = simulate(offer, Conditions(quotas={SCOPE: wide, share.scope: share}))
    assert max(found.ended_at[10:]) < 1
    assert max(found.ended_at[:10]) == pytest.approx(90, rel=0.05)


def test_slots_the_door_and_the_engine_bound_what_runs_at_once():
    runs = [Run(at_s=0.0, calls=[call(1.0)]) for _ in range(40)]
    plenty = {SCOPE: quota(requests=Limit(capacity=1e6))}
    slots = simulate(runs, Conditions(quotas=plenty, slots={"llm": 4}))
    assert (slots.finished, max(slots.pools["llm"].seconds)) == (pytest.approx(10), 4)
    door = simulate(runs, Conditions(quotas=plenty, max_active=8))
    assert (door.finished, max(door.entered_at)) == (pytest.approx(5), pytest.approx(4))
    engine = simulate(runs, Conditions(quotas=plenty, activities_per_s=10))
    assert engine.finished == pytest.approx(4.9)
    assert figures.waits(engine)[SCOPE]["for"] == {"the engine": 1.0}


# ---- what it is asked


def test_a_call_that_no_limit_ever_grants_is_refused():
    runs = [Run(at_s=0.0, calls=[call(tokens=20_000.0)])]
    assert simulate(runs, Conditions(quotas={SCOPE: TOKENS})).finished > 10
    with pytest.raises(BadInput, match="openai/m tokens: a call costs 20,000, and at most 9,000 at once and 2 s"):
        simulate(runs, Conditions(quotas={SCOPE: TOKENS}, patience_s={"llm": 2.0}))


def test_other_limits_are_written_as_people_write_them(manifest):
    given = planner.conditions(manifest, processes={}).quotas
    found = planner.with_limits(given, ["openai/sim-large:tokens=180k/m"])["openai/sim-large"]
    assert found.limits["tokens"].capacity == 180_000
    assert found.limits["tokens"].burst == 15_000
    for bad in ("tokens=5/m", "openai/none:tokens=5/m", "openai/sim-large:cats=5/m", "openai/sim-large:tokens=lots"):
        with pytest.raises(BadInput):
            planner.with_limits(given, [bad])


def test_shapes_arrive_as_they_say():
    assert Shape().arrivals(3, 1) == [0, 0, 0]
    assert Shape(kind="over", span_s=30).arrivals(3, 1) == [0, 10, 20]
    rounds = Shape(kind="every", span_s=60, jitter_s=5, rounds=2).arrivals(50, 1)
    assert all(0 <= at < 5 for at in rounds[:50])
    assert all(60 <= at < 65 for at in rounds[50:])
    assert sum(Shape(kind="rate", span_s=0.2).arrivals(2000, 1)[-1:]) == pytest.approx(400, rel=0.1)


def test_figures_add_up(manifest):
    mix = Mix(agents={"researcher": 3, "mailer": 1}, tenants={"a": 1, "b": 1}, priorities={1: 1, 3: 1})
    runs = planner.workload(manifest, mix, Shape(kind="over", span_s=60), 200, habits=Habits())
    told = planner.plan(runs, planner.conditions(manifest, processes={"llm": 2}), curves=True)
    assert told["runs"] == 200
    assert {n: one["runs"] for n, one in told["agents"].items()} == {"mailer": 50, "researcher": 150}
    assert sum(one["money"]["USD"] for one in told["tenants"].values()) == pytest.approx(told["money"]["USD"], abs=1e-3)
    assert told["limits"]["email/relay"]["messages"]["used"] == 200
    assert 0.9 < told["limits"]["openai/sim-large"]["tokens"]["utilisation"] <= 1.01
    assert told["curves"]["active"][-1][1] == 0
    json.dumps(told)


def test_the_same_seed_gives_the_same_plan(manifest):
    mix = Mix(agents={"researcher": 1})
    one, two = (planner.workload(manifest, mix, Shape(jitter_s=9), 30, habits=Habits(), seed=4) for _ in range(2))
    given = planner.conditions(manifest, processes={})
    assert planner.plan(one, given) == planner.plan(two, given)


# ---- advice


def asked(runs_at, given, wait_s=20.0, shape=None):
    calls = [call(1.0, 1000.0)]

    def offer(of):
        return [Run(at_s=at, calls=calls) for at in sorted(of.arrivals(runs_at, 1))]

    return advice.Question(offer=offer, shape=shape or Shape(), conditions=given, wait_s=wait_s, slots={"llm": 4})


def test_advice_does_what_it_says():
    question = asked(200, Conditions(quotas={SCOPE: TOKENS}))
    told = {one.what: one for one in advice.advise(question)}
    jitter = float(told["jitter"].value[:-1])
    assert question.waits(Shape(jitter_s=jitter), question.conditions) <= 20
    assert question.waits(Shape(jitter_s=jitter * 0.8), question.conditions) > 20
    tokens = told[f'quotas."{SCOPE}".tokens']
    raised = planner.with_limits(question.conditions.quotas, [f"{SCOPE}:tokens={tokens.value}"])
    assert question.waits(Shape(), replace(question.conditions, quotas=raised)) <= 21
    assert f'quotas."{SCOPE}".requests' not in told
    assert "Little's law" in told["pools.llm"].reason
    assert all("\n" not in one.reason for one in told.values())


def test_advice_says_when_nothing_helps():
    period = Shape(kind="every", span_s=60)
    told = {one.what: one for one in advice.advise(asked(200, Conditions(quotas={SCOPE: TOKENS}), 5.0, period))}
    assert told["jitter"].value == ""
    assert "the whole period" in told["jitter"].reason
    bound = Conditions(quotas={SCOPE: TOKENS}, activities_per_s=1)
    told = {one.what: one for one in advice.advise(asked(200, bound, 5.0))}
    assert "calls wait for the engine" in told["quotas"].reason


def test_a_large_load_is_thinned_and_waits_alike():
    given = Conditions(quotas={SCOPE: planner.scaled({SCOPE: TOKENS}, 20)[SCOPE]})
    question = asked(3 * advice.THINNED, given)
    assert question.waits(Shape(), given) == pytest.approx(
        advice.wait_p99(simulate(question.offer(Shape()), given)), rel=0.03
    )


# ---- forecasts


def seen(level=0.0, **more):
    limits = {
        "requests": LimitSnapshot(level=54, burst=54, rate=9.8, clock=0, tail=0),
        "tokens": LimitSnapshot(level=level, burst=13_500, rate=1470, clock=0, tail=0),
    }
    return {"openai/sim-large": Snapshot(scope="openai/sim-large", configured=True, limits=limits, **more)}


def test_a_forecast_waits_for_what_the_line_owes(manifest):
    at_once = planner.forecast(manifest, "researcher", seen=seen(13_500), running=0)
    owing = planner.forecast(manifest, "researcher", seen=seen(-1470 * 60), running=0)
    assert at_once["first_call_s"] < 2
    assert owing["first_call_s"] == pytest.approx(60, abs=3)
    assert owing["first_call_s"] < owing["done_s"] <= owing["done_p90_s"]


def test_a_forecast_counts_those_in_flight_and_cooldowns(manifest):
    alone = planner.forecast(manifest, "researcher", seen=seen(), running=0)
    crowd = planner.forecast(manifest, "researcher", seen=seen(), running=100)
    masses = planner.forecast(manifest, "researcher", seen=seen(), running=4000)
    assert alone["done_s"] < crowd["done_s"] < masses["done_s"]
    assert crowd["first_call_s"] > 60
    cooling = seen(13_500, closed_for=timedelta(seconds=30))
    assert planner.forecast(manifest, "researcher", seen=cooling, running=0)["first_call_s"] == pytest.approx(30, abs=2)
    frozen = seen(13_500, closed=Closed.FROZEN, closed_for=timedelta.max)
    assert planner.forecast(manifest, "researcher", seen=frozen, running=0) is None


def test_a_schedule_fits_its_period_or_not(manifest):
    def preview(runs, **more):
        return planner.forecast_schedule(manifest, "researcher", runs=runs, every_s=600, rounds=2, **more)

    assert preview(50)["fits"] is True
    assert preview(400)["fits"] is False
    assert preview(50, jitter_s=300)["call_wait_s"]["p99"] < preview(50)["call_wait_s"]["p99"]
    with pytest.raises(BadInput, match="at most the period"):
        preview(50, jitter_s=601)


# ---- the command


@pytest.fixture
def command(capsys):
    app = typer.Typer()
    app.command("simulate")(cli_planner.simulate)
    app.command("replay")(cli_planner.replay)

    def run(*arguments):
        code = main._run(lambda **options: app([*arguments, "--manifest", str(MANIFEST)], **options))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_simulate_prints_figures_for_people_and_programs(command):
    code, out, _ = command("simulate", "--agents", "40")
    assert code == 0
    assert "40 with 280 calls" in out
    assert "openai/sim-large" in out
    code, out, _ = command("simulate", "--agents", "60", "--agent", "researcher=2", "--agent", "mailer", "--json",
                           "--every", "10m", "--rounds", "2", "--jitter", "1m", "--advise", "--curves")  # fmt: skip
    told = json.loads(out)
    assert code == 0
    assert told["runs"] == 120
    assert told["fits"] is True
    assert {one["what"] for one in told["advice"]} >= {"jitter", "pools.llm"}
    assert set(told["agents"]) == {"researcher", "mailer"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--agents", "0"), "1 to 100,000"),
        (("--agents", "100001"), "1 to 100,000"),
        (("--agents", "60000", "--every", "1h", "--rounds", "2"), "1 to 100,000"),
        (("--agents", "5", "--agent", "nobody"), "unknown agent 'nobody'"),
        (("--agents", "5", "--set", "openai/sim-large:tokens=6/m"), "a call costs 400"),
        (("--agents", "5", "--set", "tokens=6/m"), "scope:limit=rate"),
        (("--agents", "5", "--over", "1m", "--every", "1h"), "in one way"),
        (("--agents", "5", "--every", "1m", "--jitter", "2m"), "at most the period"),
        (("--agents", "5", "--priority", "7"), "between 1 (first) and 4"),
        (("--agents", "5", "--pools", "cats=1"), "unknown pool 'cats'"),
        (("--agents", "5", "--over", "soon"), "is not a duration"),
    ],
)
def test_what_makes_no_sense_is_one_line(command, arguments, words):
    code, out, err = command("simulate", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_latencies_follow_what_is_said(manifest):
    habits = Habits(latency=Spread(median=7.0), calls=2)
    (run,) = planner.workload(manifest, Mix(agents={"researcher": 1}), Shape(), 1, habits=habits)
    assert [c.latency_s for c in run.calls if c.pool == "llm"] == [7.0, 7.0]
