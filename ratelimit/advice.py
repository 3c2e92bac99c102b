"""What to change about a quota, from what the provider says and what the fleet has met."""

from dataclasses import dataclass
from datetime import timedelta

from ratelimit.places import Closed, Kind, Snapshot
from ratelimit.quota import MEAN_MONTH, Limit, Quota

SAME = 0.01
"""A limit that differs by less from the configured one is the same."""
MANY_REJECTIONS = 0.002
"""429s per grant."""
LONG_WAIT_S = 60.0
FOREIGN = 0.01
"""Share of what comes back that others may use unnoticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One thing to look at."""

    scope: str
    limit: str | None
    kind: str
    """`differs`, `missing`, `foreign`, `rejections`, `waits`, `shadow`, `closed`, `ends`."""
    text: str
    set: str | None = None
    """What would follow it: `requests=10000/m`."""


def advise(seen: Snapshot, quota: Quota) -> list[Advice]:
    """Look at one scope.

    Args:
        seen: the scope as it stands.
        quota: what is in force.
    """
    scope = seen.scope
    found = [*_said(seen, quota), *_foreign(seen)]
    counters = seen.counters
    if counters.grants and counters.rejections / counters.grants > MANY_REJECTIONS and counters.rejections > 1:
        share = counters.rejections / counters.grants
        lower = round(max(0.5, quota.headroom - 0.02), 2)
        text = f"{counters.rejections} rejections in {counters.grants} calls ({share:.1%}): plan with less at once"
        found.append(Advice(scope=scope, limit=None, kind="rejections", text=text, set=f"--headroom {lower:g}"))
    if counters.grants and counters.waited_s / counters.grants > LONG_WAIT_S:
        binding = min(seen.limits, key=lambda name: seen.limits[name].level / seen.limits[name].rate)
        mean = timedelta(seconds=round(counters.waited_s / counters.grants))
        text = (
            f"calls have waited {mean} on average, last for {binding}: ask the provider for more, or run fewer agents"
        )
        found.append(Advice(scope=scope, limit=binding, kind="waits", text=text))
    for name, limit in seen.limits.items():
        if limit.shadow and limit.shadowed:
            text = f"the shadow limit would have refused {limit.shadowed} of {counters.grants} calls"
            found.append(Advice(scope=scope, limit=name, kind="shadow", text=text))
    if seen.closed is not Closed.NO:
        why = "somebody has frozen it" if seen.closed is Closed.FROZEN else "the provider wants money"
        found.append(Advice(scope=scope, limit=None, kind="closed", text=f"closed until it is opened: {why}"))
    if seen.ends_in is not None:
        text = f"the quota before this one is back in {timedelta(seconds=round(seen.ends_in.total_seconds()))}"
        found.append(Advice(scope=scope, limit=None, kind="ends", text=text))
    return found


def _said(seen: Snapshot, quota: Quota) -> list[Advice]:
    found = []
    for name, heard in seen.heard.items():
        if heard.granted is None:
            continue
        limit = quota.limits.get(name)
        per = f" in {timedelta(seconds=heard.period)}" if heard.period else ""
        said = f"the provider grants {heard.granted:g}{per}"
        if limit is None:
            if heard.remaining is not None:
                text = f"{said}, and the quota does not limit it"
                found.append(Advice(scope=seen.scope, limit=name, kind="missing", text=text))
            continue
        # without a period the provider's count is taken to be of the configured one
        granted = heard.granted / (heard.period or _period(limit))
        configured = limit.capacity / _period(limit)
        if limit.kind is not Kind.IN_FLIGHT and abs(granted / configured - 1) > SAME:
            change = f"{name}={granted * 60:g}/m" if limit.kind is Kind.CONTINUOUS else None
            text = f"configured are {limit.capacity:g} in {limit.period}, {said}"
            found.append(Advice(scope=seen.scope, limit=name, kind="differs", text=text, set=change))
    return found


def _foreign(seen: Snapshot) -> list[Advice]:
    found = []
    for name, heard in seen.heard.items():
        limit = seen.limits.get(name)
        if limit is None or heard.taken <= 0:
            continue
        # the clock counts what has come back, less what was found missing
        share = heard.taken / max(heard.taken, heard.taken + limit.clock)
        if share > FOREIGN:
            text = (
                f"somebody outside the fleet uses the same key, or the provider counts more than the fleet does:"
                f" {heard.taken:g} units, {share:.0%} of what has come back"
            )
            found.append(Advice(scope=seen.scope, limit=name, kind="foreign", text=text))
    return found


def _period(limit: Limit) -> float:
    return (MEAN_MONTH if limit.kind is Kind.MONTHS else limit.period).total_seconds()
