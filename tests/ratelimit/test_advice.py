from dataclasses import replace
from datetime import timedelta

from ratelimit.advice import Advice, advise
from ratelimit.places import Closed, Counters, Heard, LimitSnapshot, Snapshot
from ratelimit.quota import Limit, Quota

SCOPE = "openai/sim"
QUOTA = Quota(scope=SCOPE, limits={"requests": Limit(capacity=600), "tokens": Limit(capacity=60_000)})


def seen(**more: object) -> Snapshot:
    limits = {
        name: LimitSnapshot(level=0.0, burst=QUOTA.burst(name), rate=QUOTA.rate(name), clock=1000.0, tail=0.0)
        for name in QUOTA.limits
    }
    return replace(Snapshot(scope=SCOPE, configured=True, limits=limits), **more)


def only(found: list[Advice]) -> Advice:
    (one,) = found
    return one


def test_what_fits_needs_no_advice() -> None:
    heard = {"requests": Heard(remaining=3, granted=600, period=60), "tokens": Heard(granted=60_000)}
    counters = Counters(grants=1000, rejections=1, waited_s=900.0)
    assert advise(seen(heard=heard, counters=counters), QUOTA) == []


def test_a_limit_that_differs_is_told_with_the_command_that_follows_it() -> None:
    found = only(advise(seen(heard={"requests": Heard(granted=10_000, period=60)}), QUOTA))
    assert (found.kind, found.limit, found.set) == ("differs", "requests", "requests=10000/m")
    assert "configured are 600 in 0:01:00, the provider grants 10000" in found.text


def test_a_days_limit_is_compared_by_what_it_gives_in_the_same_time() -> None:
    assert advise(seen(heard={"requests": Heard(granted=864_000, period=86_400)}), QUOTA) == []


def test_a_limit_that_the_quota_lacks_is_told() -> None:
    heard = {"output_tokens": Heard(granted=9000, remaining=5)}
    assert only(advise(seen(heard=heard), QUOTA)).kind == "missing"


def test_somebody_else_who_uses_the_key_is_told_with_his_share() -> None:
    found = only(advise(seen(heard={"requests": Heard(remaining=0, taken=250)}), QUOTA))
    assert found.kind == "foreign"
    assert "250 units, 20% of what has come back" in found.text


def test_rejections_and_long_waits_are_told() -> None:
    found = advise(seen(counters=Counters(grants=1000, rejections=5, waited_s=90_000)), QUOTA)
    assert [(one.kind, one.set) for one in found] == [("rejections", "--headroom 0.98"), ("waits", None)]
    assert "0:01:30 on average" in found[1].text


def test_what_is_closed_shadowed_or_ends_is_told() -> None:
    limits = {"tokens": replace(seen().limits["tokens"], shadow=True, shadowed=7)}
    state = seen(limits=limits, closed=Closed.BILLING, ends_in=timedelta(seconds=90))
    assert [one.kind for one in advise(state, QUOTA)] == ["shadow", "closed", "ends"]
