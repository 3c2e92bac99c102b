"""Every oracle lets a healthy trial pass and finds the fault that is planted for it."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import process_time

import pytest

from load.oracles import (
    ORACLES,
    CallsWhileClosed,
    Dip,
    Drain,
    Drained,
    FairnessAgents,
    FairnessTenants,
    MemoryFlat,
    NothingLost,
    NothingTwice,
    Oracle,
    Overrun,
    Recovery,
    Refusals429,
    ShareKept,
    Starved,
    Utilisation,
    VersionKept,
    Waits,
    judged,
)
from load.shapes import Burst, Constant
from load.trial import Arrival, Call, Change, Deploy, Ended, Evidence, Mark, Rated
from tests.load.made import BEGAN, LIMITS, MODEL, RELAY, WORKERS, Made

TENANTS = {"acme": 2.0, "globex": 1.0, "initech": 1.0}


def steady(**more) -> Evidence:
    """More is offered in 40 s than the quota grants in 60."""
    times = Constant(for_s=40, count=400).times(random.Random(1))
    return Made(**{"times": times, "tenants": TENANTS, **more}).evidence()


def deployed() -> Evidence:
    """v2 takes over after 20 s."""
    evidence = steady()
    change = BEGAN + 20.0
    started = {a.run_id: BEGAN + a.at_s for a in evidence.arrivals}
    builds = {run: frozenset({"v1" if at < change else "v2"}) for run, at in started.items()}
    last = max(end.at for run, end in evidence.ended.items() if builds[run] == {"v1"})
    deploy = Deploy(before="v1", after="v2", promoting_at=change, promoted_at=change, drained_at=last + 4)
    return replace(evidence, deploys=[deploy], builds=builds, started=started)


def flooded(*, fair: bool) -> Evidence:
    """One tenant comes with 300 runs at once, two others with 20 each over 20 s."""
    flood = [("noisy", at) for at in Burst(count=300, width_s=1).times(random.Random(2))]
    quiet = [(name, at) for name in ("one", "two") for at in Constant(for_s=20, count=20).times(random.Random(3))]
    both = sorted([*flood, *quiet], key=lambda pair: pair[1])
    return Made(
        times=[at for _, at in both],
        whose=[name for name, _ in both],
        tenants={"noisy": 1.0, "one": 1.0, "two": 1.0},
        fair=fair,
    ).evidence()


def pressed(*, fair: bool, light: int = 150) -> Evidence:
    """Within 40 s one tenant comes with 400 runs, one with 150: more than an equal share. A third has `light`."""
    counts = {"heavy": 400, "even": 150, "light": light}
    pairs = sorted(
        (at, name) for name, n in counts.items() for at in Constant(for_s=40, count=n).times(random.Random(name))
    )
    return Made(
        times=[at for at, _ in pairs], whose=[name for _, name in pairs], tenants=dict.fromkeys(counts, 1.0), fair=fair
    ).evidence()


def lost_redis(until_s: float) -> Evidence:
    """Redis is away from second 20 to 25; nothing is granted until `until_s`."""
    mark = Mark(kind="redis_down", what="kill -9 of redis", at=BEGAN + 20, until=BEGAN + 25)
    return steady(stopped=[(20, until_s)], marks=[mark])


def storm(scope: str = MODEL) -> Evidence:
    """The model's provider refuses everything from second 20 to 30, and nobody asks it."""
    mark = Mark(kind="provider", what="429s", at=BEGAN + 20, until=BEGAN + 30, scope=scope)
    return steady(stopped=[(20, 30)], marks=[mark])


def restarted(until_s: float = 20) -> Evidence:
    """Two pools are restarted; nothing is granted from second 20 to `until_s`."""
    marks = [
        Mark(kind="restart", what=f"{pool}-1", at=BEGAN + at, until=BEGAN + at + 4, target=pool)
        for pool, at in (("agents", 10), ("llm", 20))
    ]
    return steady(stopped=[(20, until_s)], marks=marks)


def healthy() -> Evidence:
    return HEALTHY


HEALTHY = steady()


# ---- faults


def ended(evidence: Evidence, later_s: Callable[[Arrival], float]) -> Evidence:
    """Runs that end later than they did."""
    ends = {
        a.run_id: replace(evidence.ended[a.run_id], at=evidence.ended[a.run_id].at + later_s(a))
        for a in evidence.arrivals
    }
    return replace(evidence, ended=ends, finished=max(end.at for end in ends.values()))


def without(evidence: Evidence, run_id: str) -> Evidence:
    return replace(evidence, ended={run: end for run, end in evidence.ended.items() if run != run_id})


def with_calls(evidence: Evidence, *more: Call, scope: str = MODEL) -> Evidence:
    calls = sorted([*evidence.calls[scope], *more], key=lambda call: call.at)
    return replace(evidence, calls={**evidence.calls, scope: calls})


def call(at_s: float, tokens: float = 400.0, outcome: str = "ok", **more) -> Call:
    cost = {"requests": 1.0, "tokens": tokens}
    at = BEGAN + at_s
    return Call(
        **{"at": at, "ended": at + 0.1, "outcome": outcome, "asked": cost, "charged": cost, "run_id": "run-00000"}
        | more
    )


def refused(at_s: float, **more) -> Call:
    return call(at_s, outcome="429", charged={"requests": 1.0}, **more)


def one_mail_less(evidence: Evidence) -> Evidence:
    return replace(evidence, mails={name: n for name, n in evidence.mails.items() if name != "00007@example.com"})


def one_failed(evidence: Evidence) -> Evidence:
    failure = Ended(outcome="failed", at=BEGAN + 9, reason="out of steps")
    return replace(evidence, ended={**evidence.ended, "run-00003": failure})


def leaking(evidence: Evidence) -> Evidence:
    looks = [
        replace(look, rss_mb={**look.rss_mb, WORKERS[1]: look.rss_mb[WORKERS[1]] + 0.5 * (look.at - BEGAN)})
        for look in evidence.looks
    ]
    return replace(evidence, looks=looks)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """One fault, and what the oracle says of it."""

    oracle: Oracle
    fault: Callable[[Evidence], Evidence]
    says: str
    whole: Callable[[], Evidence] = healthy


PLANTED: dict[str, dict[str, Planted]] = {
    "nothing_lost": {
        "a run without an end": Planted(
            oracle=NothingLost(), fault=lambda e: without(e, "run-00005"), says="run-00005 has not ended"
        ),
        "a run that failed": Planted(oracle=NothingLost(), fault=one_failed, says="run-00003 failed (out of steps)"),
        "an e-mail that nobody got": Planted(
            oracle=NothingLost(), fault=one_mail_less, says="no e-mail for 00007@example.com"
        ),
        "a transfer that nobody got": Planted(
            oracle=NothingLost(),
            fault=lambda e: replace(e, arrivals=[replace(e.arrivals[0], pays="DE1"), *e.arrivals[1:]]),
            says="no transfer for DE1",
        ),
    },
    "nothing_twice": {
        "an e-mail twice": Planted(
            oracle=NothingTwice(),
            fault=lambda e: replace(e, mails={**e.mails, "00007@example.com": 2}),
            says="2 e-mails to 00007@example.com instead of 1",
        ),
        "a transfer that nobody asked for": Planted(
            oracle=NothingTwice(),
            fault=lambda e: replace(e, transfers={"EVIL": 1}),
            says="1 transfers to EVIL that nobody asked for",
        ),
    },
    "overrun": {
        "a herd": Planted(
            oracle=Overrun(),
            fault=lambda e: with_calls(e, *(call(30) for _ in range(100))),
            says="openai/sim, tokens, 30.0 s",
        ),
        "a herd that was refused": Planted(
            oracle=Overrun(),
            fault=lambda e: with_calls(e, *(refused(30, asked={"requests": 1.0}) for _ in range(100))),
            says="openai/sim, requests, 30.0 s",
        ),
    },
    "refusals_429": {
        "ten calls too early": Planted(
            oracle=Refusals429(),
            fault=lambda e: with_calls(e, *(refused(n) for n in range(10))),
            says="openai/sim: 10 of 1610 calls",
        ),
    },
    "calls_while_closed": {
        "calls into a closed provider": Planted(
            oracle=CallsWhileClosed(),
            whole=storm,
            fault=lambda e: with_calls(e, *(refused(20 + n / 10) for n in range(100))),
            says="openai/sim: 80 calls in 8.0 s of 429s",
        ),
        "calls into a provider that no mark names": Planted(
            oracle=CallsWhileClosed(),
            whole=lambda: storm(scope=""),
            fault=lambda e: with_calls(e, *(refused(20 + n / 10) for n in range(100))),
            says="openai/sim: 80 calls in 8.0 s of 429s",
        ),
    },
    "utilisation": {
        "a limiter that rests": Planted(
            oracle=Utilisation(), fault=lambda _: steady(stopped=[(30, 35)]), says="openai/sim: "
        ),
        "a limiter that is too careful": Planted(
            oracle=Utilisation(), fault=lambda _: steady(headroom=0.9), says="tokens while work was queued"
        ),
        "no work in line": Planted(
            oracle=Utilisation(),
            fault=lambda e: replace(e, looks=[replace(look, waiting={}) for look in e.looks]),
            says="never saturated",
        ),
    },
    "fairness_tenants": {
        "whoever has most goes first": Planted(
            oracle=FairnessTenants(),
            whole=lambda: pressed(fair=True),
            fault=lambda _: pressed(fair=False),
            says="heavy",
        ),
        "weights that nobody heeds": Planted(
            oracle=FairnessTenants(),
            fault=lambda e: replace(e, weights={"acme": 1.0, "globex": 4.0, "initech": 1.0}),
            says="acme 49%",
        ),
        "one tenant only": Planted(
            oracle=FairnessTenants(),
            fault=lambda e: replace(e, arrivals=[replace(a, tenant="acme") for a in e.arrivals]),
            says="no two tenants",
        ),
    },
    "share_kept": {
        "whoever has most goes first": Planted(
            oracle=ShareKept(noisy=("noisy",)),
            whole=lambda: flooded(fair=True),
            fault=lambda _: flooded(fair=False),
            says="its own share allows",
        ),
    },
    "fairness_agents": {
        "every fifth run is forgotten": Planted(
            oracle=FairnessAgents(),
            fault=lambda e: ended(e, lambda a: 150.0 if a.run_id.endswith(("3", "8")) else 0.0),
            says="runs of mailer of",
        ),
    },
    "starved": {
        "one run is forgotten": Planted(
            oracle=Starved(),
            fault=lambda e: ended(e, lambda a: 60.0 if a.run_id == "run-00100" else 0.0),
            says="run-00100, arrived at",
        ),
        "one run never ends": Planted(
            oracle=Starved(),
            fault=lambda e: replace(without(e, "run-00100"), finished=BEGAN + 120),
            says="run-00100, arrived at",
        ),
    },
    "drain": {
        "the last run is late": Planted(
            oracle=Drain(),
            fault=lambda e: ended(e, lambda a: 15.0 if e.ended[a.run_id].at + 1 > e.finished else 0.0),
            says="the quota implies",
        ),
    },
    "waits": {
        "a few are very late": Planted(
            oracle=Waits(),
            fault=lambda e: ended(e, lambda a: 40.0 if a.run_id.endswith("50") else 0.0),
            says="the quota implies",
        ),
    },
    "recovery": {
        "ten seconds of nothing after Redis is back": Planted(
            oracle=Recovery(within_s=5),
            whole=lambda: lost_redis(26),
            fault=lambda _: lost_redis(36),
            says="kill -9 of redis, 20 s after the begin",
        ),
    },
    "version_kept": {
        "a run changes its version": Planted(
            oracle=VersionKept(),
            whole=deployed,
            fault=lambda e: replace(e, builds={**e.builds, "run-00010": frozenset({"v1", "v2"})}),
            says="run-00010 was on v1 and v2 instead of v1",
        ),
        "a new run begins on the old version": Planted(
            oracle=VersionKept(),
            whole=deployed,
            fault=lambda e: replace(e, builds={**e.builds, "run-00390": frozenset({"v1"})}),
            says="run-00390 was on v1 instead of v2",
        ),
        "workers without a version": Planted(
            oracle=VersionKept(),
            whole=deployed,
            fault=lambda e: replace(e, builds={}),
            says="run-00000 was on none that is known instead of v1; ",
        ),
        "nothing is deployed": Planted(
            oracle=VersionKept(), whole=deployed, fault=lambda e: replace(e, deploys=[]), says="no version was deployed"
        ),
        "nothing was there before": Planted(
            oracle=VersionKept(),
            whole=deployed,
            fault=lambda e: replace(
                e,
                deploys=[replace(e.deploys[0], promoting_at=BEGAN - 1, promoted_at=BEGAN - 1)],
                builds=dict.fromkeys(e.builds, frozenset({"v2"})),
            ),
            says="nothing to compare",
        ),
        "nothing is under way at the change": Planted(
            oracle=VersionKept(),
            whole=deployed,
            fault=lambda e: replace(
                e,
                ended={
                    run: replace(end, at=min(end.at, BEGAN + 19.9)) if e.builds[run] == {"v1"} else end
                    for run, end in e.ended.items()
                },
            ),
            says="0 runs were under way when the version changed, less than 3",
        ),
    },
    "drained": {
        "Temporal says so while a run is under way": Planted(
            oracle=Drained(),
            whole=deployed,
            fault=lambda e: replace(e, deploys=[replace(e.deploys[0], drained_at=BEGAN + 21)]),
            says=" s before its last run ended",
        ),
        "the old version is never free": Planted(
            oracle=Drained(),
            whole=deployed,
            fault=lambda e: replace(e, deploys=[replace(e.deploys[0], drained_at=None, left="agents: 3 running")]),
            says="v1 was never free: agents: 3 running",
        ),
        "Temporal notices late": Planted(
            oracle=Drained(within_s=10),
            whole=deployed,
            fault=lambda e: replace(e, deploys=[replace(e.deploys[0], drained_at=BEGAN + 200)]),
            says="v1 was free 180 s after the change",
        ),
    },
    "dip": {
        "seven seconds of nothing": Planted(
            oracle=Dip(),
            whole=restarted,
            fault=lambda _: restarted(27),
            says="agents 0.0 s, llm 6.5 s; the longest begins",
        ),
        "half of the quota for ten seconds": Planted(
            oracle=Dip(scopes=(MODEL,)),
            whole=restarted,
            fault=lambda e: replace(
                e,
                calls={MODEL: [c for n, c in enumerate(e.calls[MODEL]) if n % 2 or not 20 < c.at - BEGAN < 30]},
            ),
            says="agents 0.0 s, llm 9.1 s; the longest begins",
        ),
        "nothing is restarted": Planted(
            oracle=Dip(), whole=restarted, fault=lambda e: replace(e, marks=[]), says="nothing was restarted"
        ),
        "a pool is restarted when nobody waits": Planted(
            oracle=Dip(targets=("agents", "llm")),
            whole=restarted,
            fault=lambda e: replace(e, marks=[e.marks[0], replace(e.marks[1], until=e.finished + 20)]),
            says="no restart of llm lay in a time in which work was queued; agents 0.0 s, llm 0.0 s",
        ),
        "a quota without a line": Planted(
            oracle=Dip(scopes=(MODEL,)),
            whole=restarted,
            fault=lambda e: replace(e, looks=[replace(look, waiting={}) for look in e.looks]),
            says="never saturated: openai/sim",
        ),
    },
    "memory_flat": {
        "one worker leaks": Planted(oracle=MemoryFlat(warm_up_s=15), fault=leaking, says=f"{WORKERS[1]}: +"),
    },
}


def test_every_oracle_has_a_planted_fault():
    assert PLANTED.keys() == ORACLES.keys()
    assert all(p.oracle.name == name for name, faults in PLANTED.items() for p in faults.values())


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name, faults in PLANTED.items() for fault in faults])
def test_a_planted_fault_is_found_and_its_place_named(name, fault):
    planted = PLANTED[name][fault]
    whole = planted.whole()
    before, after = planted.oracle.judge(whole), planted.oracle.judge(planted.fault(whole))
    assert before.ok, before
    assert before.judged, before
    assert not after.ok, after
    assert planted.says in after.says
    for found in (before, after):
        assert found.name == name
        assert found.bound == planted.oracle.bound
        assert found.says
        assert "\n" not in found.says


def test_names_are_those_of_the_classes_and_meanings_are_one_line():
    for name, oracle in ORACLES.items():
        assert name.replace("_", "") == oracle.__name__.lower()
        assert oracle.says
        assert "\n" not in oracle.says


# ---- evidence of next to nothing

EVERY: list[Oracle] = [
    NothingLost(), NothingTwice(), Overrun(), Refusals429(), CallsWhileClosed(), Utilisation(), FairnessTenants(),
    ShareKept(noisy=("acme",)), FairnessAgents(), Starved(), Drain(), Waits(), Recovery(), MemoryFlat(),
    VersionKept(), Drained(), Dip(),
]  # fmt: skip
EMPTY = Evidence(
    began=BEGAN, load_s=10, finished=BEGAN + 10, arrivals=[], ended={}, calls={}, limits=LIMITS
)  # fmt: skip
DEMANDING = {"utilisation", "fairness_tenants", "share_kept", "version_kept", "drained", "dip"}
"""Oracles of scenarios that exist to bring about what they judge."""


def test_a_trial_in_which_nothing_happened_has_nothing_to_judge():
    found = {finding.name: finding for finding in judged(EVERY, EMPTY)}
    assert [f.name for f in found.values()] == [oracle.name for oracle in EVERY]
    assert {name for name, f in found.items() if not f.ok} == DEMANDING
    assert {name for name, f in found.items() if f.judged} == {"nothing_twice"}


def test_a_single_run_is_enough_for_every_oracle():
    evidence = Made(times=[1.0]).evidence()
    mark = Mark(kind="kill", what="kill -9 of llm-1", at=BEGAN + 2, until=BEGAN + 2)
    found = judged(EVERY, replace(evidence, marks=[mark]))
    assert {f.name for f in found if not f.ok} == DEMANDING - {"share_kept"}


def test_runs_without_calls_looks_or_marks_are_judged_by_their_ends():
    evidence = replace(HEALTHY, calls={}, looks=[])
    found = {f.name: f for f in judged(EVERY, evidence)}
    assert {name for name, f in found.items() if f.judged} == {
        "nothing_lost", "nothing_twice", "share_kept", "fairness_agents", "starved", "drain", "waits",
    }  # fmt: skip


def test_an_interrupted_trial_has_lost_nothing_that_is_under_way():
    at = BEGAN + 25
    cut = replace(
        HEALTHY,
        interrupted=True,
        finished=at,
        arrivals=[a for a in HEALTHY.arrivals if a.at_s < 25],
        ended={run: end for run, end in HEALTHY.ended.items() if end.at < at},
        mails={a.mails_to: 1 for a in HEALTHY.arrivals if HEALTHY.ended[a.run_id].at < at},
        calls={scope: [c for c in calls if c.at < at] for scope, calls in HEALTHY.calls.items()},
        looks=[look for look in HEALTHY.looks if look.at < at],
    )
    late = ("recovery", "memory_flat", "calls_while_closed", "version_kept", "drained", "dip")
    assert {f.name for f in judged(EVERY, cut) if not f.ok} == set()
    assert {f.name for f in judged(EVERY, cut) if not f.judged} == set(late)
    assert NothingLost().judge(replace(cut, interrupted=False)).value == len(cut.arrivals) - len(cut.ended)
    assert not NothingLost().judge(one_failed(cut)).ok


def test_what_judging_takes_grows_with_the_calls_and_not_with_their_square():
    marks = [Mark(kind="kill", what="kill", at=BEGAN + at, until=BEGAN + at) for at in range(50, 600, 50)]
    took = []
    for runs in (1000, 4000):
        times = Burst(count=runs, width_s=60).times(random.Random(5))
        evidence = Made(times=times, tenants=TENANTS, marks=marks).evidence()
        assert sum(map(len, evidence.calls.values())) == 5 * runs
        begin = process_time()
        found = judged(EVERY, evidence)
        took.append(process_time() - begin)
        assert all(f.ok for f in found if f.judged), [f for f in found if not f.ok]
    # four times as many; the square would be sixteen times
    assert took[1] < 10 * took[0]


# ---- what each oracle lets pass, and what not


def test_a_run_may_end_otherwise_where_that_is_allowed_and_then_owes_nothing():
    stopped = Ended(outcome="stopped", at=BEGAN + 9)
    evidence = one_mail_less(replace(HEALTHY, ended={**HEALTHY.ended, "run-00007": stopped}))
    assert not NothingLost().judge(evidence).ok
    assert NothingLost(allowed=frozenset({"completed", "stopped"})).judge(evidence).ok
    assert NothingTwice().judge(evidence).ok


def test_two_runs_may_write_to_one_address_and_owe_two_e_mails():
    first, second, *rest = HEALTHY.arrivals
    shared = replace(HEALTHY, arrivals=[first, replace(second, mails_to=first.mails_to), *rest])
    mails = {name: count for name, count in HEALTHY.mails.items() if name != second.mails_to}
    assert NothingLost().judge(replace(shared, mails=mails)).value == 1
    both = replace(shared, mails={**mails, first.mails_to: 2})
    assert NothingLost().judge(both).ok
    assert NothingTwice().judge(both).ok
    assert NothingTwice().judge(replace(shared, mails={**mails, first.mails_to: 3})).value == 1


def test_many_losses_are_counted_and_the_first_are_named():
    found = NothingLost().judge(replace(HEALTHY, mails={}))
    assert found.value == 400
    assert found.says.endswith("; and 397 more")


def test_an_overrun_is_told_in_bursts_and_one_burst_is_the_bound():
    evidence = replace(EMPTY, calls={MODEL: [call(1, tokens=10_000), call(1, tokens=5_000)]})
    found = Overrun().judge(evidence)
    assert (found.value, found.ok) == (0.5, True)
    assert not Overrun(bound=0.4).judge(evidence).ok


def test_outsiders_count_in_an_overrun_only_if_asked():
    evidence = replace(EMPTY, calls={MODEL: [call(1, tokens=30_000, outsider=True), call(1)]})
    assert Overrun().judge(evidence).value == 0
    assert Overrun(outsiders=True).judge(evidence).value == pytest.approx(2.04)


def test_a_quota_that_was_cut_is_an_overrun_from_then_on():
    calls = [call(5 + n / 25) for n in range(500)]
    evidence = replace(EMPTY, calls={MODEL: calls}, finished=BEGAN + 30)
    assert Overrun().judge(evidence).value == 0
    cut = Change(at=BEGAN + 10, scope=MODEL, limit="tokens", to=Rated(rate=1000, burst=1000))
    found = Overrun().judge(replace(evidence, changes=[cut]))
    assert found.value > 100
    assert "tokens, 25.0 s" in found.says


def test_what_outsiders_use_is_used():
    half = replace(
        HEALTHY,
        calls={**HEALTHY.calls, MODEL: [replace(c, outsider=n % 2 == 0) for n, c in enumerate(HEALTHY.calls[MODEL])]},
    )
    assert Utilisation().judge(half).value == Utilisation().judge(HEALTHY).value


def test_every_scope_that_must_be_saturated_must_be():
    found = Utilisation(scopes=(MODEL, RELAY)).judge(HEALTHY)
    assert not found.ok
    assert "never saturated: email/relay" in found.says


def test_active_runs_are_queued_work_where_the_scenario_says_so():
    unseen = replace(HEALTHY, looks=[replace(look, waiting={}) for look in HEALTHY.looks])
    assert Utilisation(busy_from=50, scopes=(MODEL,)).judge(unseen).ok


def test_faults_are_spared_where_the_scenario_says_so():
    evidence = lost_redis(26)
    assert not Utilisation().judge(evidence).ok
    assert Utilisation(spared_s=3).judge(evidence).ok
    struck = with_calls(evidence, *(refused(20 + n / 10) for n in range(50)))
    assert not Refusals429().judge(struck).ok
    assert Refusals429(spared_s=0).judge(struck).ok


def test_a_provider_that_failed_spares_its_own_scopes_only():
    evidence = with_calls(storm("openai"), *(refused(20 + n / 10) for n in range(50)))
    assert Refusals429(spared_s=0).judge(evidence).ok
    assert not Refusals429(spared_s=0).judge(replace(evidence, marks=storm("email").marks)).ok


def test_looks_that_are_missing_are_no_evidence_of_a_queue():
    seen = [look for look in HEALTHY.looks if not 10 < look.at - BEGAN < 20]
    whole = Utilisation(least_s=30).judge(HEALTHY)
    assert whole.judged
    assert Utilisation(least_s=50).judge(replace(HEALTHY, looks=seen)).judged is False


def test_the_first_seconds_refusals_may_be_forgiven():
    evidence = with_calls(HEALTHY, *(refused(n / 10) for n in range(10)))
    assert not Refusals429().judge(evidence).ok
    assert Refusals429(after_s=2).judge(evidence).ok


def test_a_few_calls_may_ask_whether_a_provider_is_open():
    probed = with_calls(storm(), refused(23), refused(26), refused(29))
    found = CallsWhileClosed().judge(probed)
    assert (found.value, found.judged) == (0, True)
    assert CallsWhileClosed().judge(HEALTHY).judged is False


def test_a_tenant_that_wants_less_than_its_share_is_not_compared():
    found = FairnessTenants().judge(pressed(fair=True, light=40))
    assert found.ok
    assert "heavy 50%" in found.says
    assert "light" not in found.says


def test_a_tenant_that_gets_nothing_at_all_is_treated_unfairly():
    muted = {MODEL: [c for n, c in enumerate(HEALTHY.calls[MODEL]) if int(c.run_id[4:]) % 3 != 1], RELAY: []}
    found = FairnessTenants().judge(replace(HEALTHY, calls=muted))
    assert not found.ok
    assert "globex 0%" in found.says


def test_cohorts_that_are_too_small_say_nothing():
    assert FairnessAgents(least=1000).judge(HEALTHY).judged is False


def test_agents_that_wait_for_people_can_be_left_out():
    slow = replace(ended(HEALTHY, lambda a: 500.0 if a.run_id.endswith("0") else 0.0), alone_s={"petitioner": 3.0})
    slow = replace(
        slow, arrivals=[replace(a, agent="petitioner") if a.run_id.endswith("0") else a for a in slow.arrivals]
    )
    for oracle in (Waits, Drain, Starved):
        assert not oracle().judge(slow).ok
        assert oracle(without=frozenset({"petitioner"})).judge(slow).ok


def test_what_a_run_takes_alone_is_what_was_rehearsed():
    late = ended(Made(times=[n / 2 for n in range(40)]).evidence(), lambda _: 30.0)
    assert Waits().judge(late).ok
    assert not Waits().judge(replace(late, alone_s={"mailer": 2.0})).ok


def test_a_fault_may_stop_what_the_quota_implies():
    evidence = lost_redis(25)
    evidence = replace(evidence, marks=[replace(evidence.marks[0], at=BEGAN + 5, until=BEGAN + 25)])
    evidence = replace(evidence, ended=steady(stopped=[(5, 25)]).ended)
    assert not Drain().judge(evidence).ok
    assert Drain(faults_stop=True).judge(evidence).ok


# ---- recovery


def kill(at_s: float) -> Mark:
    return Mark(kind="kill", what=f"kill at {at_s:g}", at=BEGAN + at_s, until=BEGAN + at_s)


def test_a_fault_that_nobody_noticed_was_recovered_from_at_once():
    found = Recovery().judge(replace(HEALTHY, marks=[kill(10), kill(30)]))
    assert found.value == 0


def test_a_fault_after_the_last_run_needs_no_recovery():
    found = Recovery().judge(replace(HEALTHY, finished=HEALTHY.finished + 60, marks=[kill(100)]))
    assert (found.value, found.judged) == (0, True)


def test_a_fault_before_the_first_call_is_held_against_the_whole_trial():
    mark = Mark(kind="redis_down", what="no redis", at=BEGAN, until=BEGAN + 3)
    evidence = steady(stopped=[(0, 15)], marks=[mark])
    assert Recovery().judge(evidence).value == pytest.approx(12, abs=2)


def test_a_fleet_that_never_works_again_has_not_recovered():
    evidence = steady(marks=[kill(20)])
    cut = {scope: [c for c in calls if c.at < BEGAN + 20] for scope, calls in evidence.calls.items()}
    ends = {run: end for run, end in evidence.ended.items() if end.at < BEGAN + 20}
    found = Recovery().judge(replace(evidence, calls=cut, ended=ends, finished=BEGAN + 80))
    assert found.value == pytest.approx(60, abs=1)
    assert "not recovered" in found.says


def test_faults_that_overlap_are_one_and_those_before_a_recovery_are_held_against_what_was_before():
    marks = [
        Mark(kind="redis_down", what="one", at=BEGAN + 20, until=BEGAN + 24),
        Mark(kind="kill", what="two", at=BEGAN + 22, until=BEGAN + 22),
        Mark(kind="kill", what="three", at=BEGAN + 27, until=BEGAN + 27),
    ]
    found = Recovery(within_s=10).judge(steady(stopped=[(20, 36)], marks=marks))
    # counted from the first that was not recovered from
    assert found.value == pytest.approx(12, abs=1)
    assert "three" in found.says


def test_many_faults_do_not_hide_that_nothing_ever_recovered():
    kills = [kill(at) for at in range(20, 80, 10)]
    evidence = steady(marks=kills)
    cut = {scope: [c for c in calls if c.at < BEGAN + 20] for scope, calls in evidence.calls.items()}
    ends = {run: end for run, end in evidence.ended.items() if end.at < BEGAN + 20}
    found = Recovery(within_s=70).judge(replace(evidence, calls=cut, ended=ends, finished=BEGAN + 80))
    assert found.value == pytest.approx(60, abs=1)
    assert not found.ok


def test_with_fewer_runs_left_fewer_calls_will_do():
    evidence = Made(times=Burst(count=60, width_s=1).times(random.Random(1))).evidence()
    late = max(end.at for end in evidence.ended.values()) - BEGAN - 1.0
    assert Recovery(within_s=1).judge(replace(evidence, marks=[kill(late)])).ok


# ---- memory


def test_a_peak_and_a_worker_that_restarted_are_no_leak():
    looks = []
    for n, look in enumerate(HEALTHY.looks):
        peak = 300.0 if n % 20 == 0 else 0.0
        name = "llm-1/42" if n < 60 else "llm-1/99"
        looks.append(replace(look, rss_mb={name: 150.0 + peak}))
    assert MemoryFlat(warm_up_s=5).judge(replace(HEALTHY, looks=looks)).value == 0
