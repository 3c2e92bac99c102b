"""Did everybody get a fair share: tenants of the quota, agents of the time?"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from load.bench.report import jain
from load.oracles.reading import Span, arrived, between, finding, nothing, ours, quantile, queued, turnarounds
from load.oracles.supply import Supply, ideal, latencies
from load.oracles.waits import SLACK_S
from load.trial import Evidence, Finding

MOST_CELLS = 400
"""Of a spell of queueing: every pair of them is a window that may be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessTenants:
    """Jain's index over what tenants were charged, by weight, while all of them had work queued.

    The window is the one with most tenants over most time in which each of them has so many active runs throughout. Who
    wants less than its share is not compared.
    """

    name: ClassVar[str] = "fairness_tenants"
    says: ClassVar[str] = (
        "Jain's index over the tenants' use of the quota by weight, all having work queued; worst scope"
    )

    bound: float = 0.95
    """Least index."""
    active: int = 3
    """A tenant with fewer active runs may want less than its share."""
    least_s: float = 10.0
    """Shorter windows are not judged."""
    busy_from: int | None = None
    """So many active runs are queued work too, wherever they wait. None: only a line in the limiter is."""

    def judge(self, evidence: Evidence) -> Finding:
        """Without two tenants who want more than their share it does not hold."""
        worst: tuple[float, str] | None = None
        for scope in evidence.limits:
            window = self._window(evidence, scope)
            if window is None:
                continue
            (begin, end), tenants = window
            used = _used(evidence, scope, begin, end)
            index = jain([used.get(tenant, 0.0) / evidence.weights.get(tenant, 1.0) for tenant in tenants])
            if worst is None or index < worst[0]:
                total = sum(used.get(tenant, 0.0) for tenant in tenants) or 1.0
                parts = ", ".join(f"{tenant} {used.get(tenant, 0.0) / total:.0%}" for tenant in tenants[:5])
                since = f"{begin - evidence.began:.0f}-{end - evidence.began:.0f} s"
                worst = (index, f"{scope}, {since}: {parts}" + (", …" if len(tenants) > 5 else ""))
        if worst is None:
            says = f"no two tenants had {self.active} active runs and work queued for {self.least_s:g} s on end"
            return nothing(self, says, ok=False, least=True)
        return finding(self, worst[0], worst[1], least=True)

    def _window(self, evidence: Evidence, scope: str) -> tuple[Span, list[str]] | None:
        tenants = _callers(evidence, scope)
        best: tuple[float, Span, int] | None = None
        for begin, end in queued(evidence, scope, busy_from=self.busy_from, spared=[], least_s=self.least_s):
            width = max(1.0, (end - begin) / MOST_CELLS)
            edges = [begin + n * width for n in range(int((end - begin) / width) + 1)]
            masks = _present(evidence, tenants, edges, self.active)
            for first, mask in enumerate(masks):
                there = mask
                for last in range(first, len(masks)):
                    there &= masks[last]
                    count = there.bit_count()
                    if count < 2:
                        break
                    length = edges[last + 1] - edges[first]
                    if length >= self.least_s and (best is None or length * (count - 1) > best[0]):
                        best = (length * (count - 1), (edges[first], edges[last + 1]), there)
        if best is None:
            return None
        return best[1], [tenant for number, tenant in enumerate(tenants) if best[2] >> number & 1]


def _callers(evidence: Evidence, scope: str) -> list[str]:
    """Tenants who call the scope, and those who never got to call anything."""
    whose = {arrival.run_id: arrival.tenant for arrival in evidence.arrivals}
    called = {name: {whose[c.run_id] for c in calls if c.run_id in whose} for name, calls in evidence.calls.items()}
    elsewhere = set().union(*called.values()) - called.get(scope, set())
    return sorted(set(whose.values()) - elsewhere)


def _present(evidence: Evidence, tenants: Sequence[str], edges: Sequence[float], least: int) -> list[int]:
    """For each cell between two edges the tenants, as bits, who have so many active runs all the time."""
    events: list[tuple[float, int, int]] = []
    for arrival in evidence.arrivals:
        if arrival.tenant in tenants:
            number = tenants.index(arrival.tenant)
            events.append((arrived(evidence, arrival), 1, number))
            if end := evidence.ended.get(arrival.run_id):
                events.append((end.at, -1, number))
    events.sort(reverse=True)
    active = [0] * len(tenants)
    found = []
    while events and events[-1][0] <= edges[0]:
        _, step, number = events.pop()
        active[number] += step
    for edge in edges[1:]:
        fewest = list(active)
        while events and events[-1][0] <= edge:
            _, step, number = events.pop()
            active[number] += step
            fewest[number] = min(fewest[number], active[number])
        found.append(sum(1 << number for number, count in enumerate(fewest) if count >= least))
    return found


def _used(evidence: Evidence, scope: str, begin: float, end: float) -> Mapping[str, float]:
    """Units of the binding limit that each tenant was charged."""
    whose = {arrival.run_id: arrival.tenant for arrival in evidence.arrivals}
    calls = [call for call in between(ours(evidence, scope), begin, end) if call.outcome == "ok"]
    best: tuple[float, dict[str, float]] = (-1.0, {})
    for limit in evidence.limits[scope]:
        used: dict[str, float] = defaultdict(float)
        for call in calls:
            if call.run_id in whose:
                used[whose[call.run_id]] += call.charged.get(limit, 0.0)
        returned = Supply.of(evidence, scope, limit).between(begin, end)
        if returned and sum(used.values()) / returned > best[0]:
            best = (sum(used.values()) / returned, used)
    return best[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareKept:
    """Holds the turnaround of quiet tenants against what their own shares of the quota allow, whoever is noisy."""

    name: ClassVar[str] = "share_kept"
    says: ClassVar[str] = (
        "p95 turnaround of the quiet tenants over what each one's own share of the quota allows; worst"
    )

    noisy: tuple[str, ...]
    """Tenants who may suffer."""
    bound: float = 1.5
    """Most."""
    slack_s: float = SLACK_S + 1.0
    """Seconds that are added to what the share allows: those of the crowd that were in slots already go first, and of a
    handful of runs the p95 is the slowest."""

    def judge(self, evidence: Evidence) -> Finding:
        """A tenant's own share is its weight over all weights."""
        tenants = sorted({arrival.tenant for arrival in evidence.arrivals})
        total = sum(evidence.weights.get(tenant, 1.0) for tenant in tenants)
        took, alone = turnarounds(evidence), latencies(evidence)
        worst: tuple[float, str] | None = None
        for tenant in tenants:
            mine = [a for a in evidence.arrivals if a.tenant == tenant and a.run_id in took]
            if tenant in self.noisy or not mine:
                continue
            best = ideal(evidence, tenant=tenant, share=evidence.weights.get(tenant, 1.0) / total)
            allowed = quantile((best[a.run_id] - arrived(evidence, a) + alone[a.agent] for a in mine), 0.95)
            allowed += self.slack_s
            actual = quantile((took[a.run_id] for a in mine), 0.95)
            if worst is None or actual / allowed > worst[0]:
                worst = (actual / allowed, f"{tenant}: p95 {actual:.1f} s, its own share allows {allowed:.1f} s")
        if worst is None:
            return nothing(self, "no quiet tenant", ok=False)
        return finding(self, *worst)


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessAgents:
    """Jain's index over the turnarounds of runs that are alike and arrived at about the same time.

    Alike: agent, tenant and priority. Served strictly in order, a crowd that arrives at once has 0.75; all ending at
    once have 1; one that is forgotten while the others are quick pulls it down.
    """

    name: ClassVar[str] = "fairness_agents"
    says: ClassVar[str] = "Jain's index over the turnarounds of like runs that arrived together, mean of all cohorts"

    bound: float = 0.7
    """Least index."""
    cohort_s: float = 10.0
    """Runs that arrive within it are a cohort."""
    least: int = 5
    """Smaller cohorts say nothing."""

    def judge(self, evidence: Evidence) -> Finding:
        """The mean over the cohorts, by their sizes; the worst one is named."""
        took = turnarounds(evidence)
        cohorts: dict[tuple[int, str, str, int], list[float]] = defaultdict(list)
        for arrival in evidence.arrivals:
            if arrival.run_id in took:
                key = (int(arrival.at_s // self.cohort_s), arrival.agent, arrival.tenant, arrival.priority)
                cohorts[key].append(took[arrival.run_id])
        judged = {key: times for key, times in cohorts.items() if len(times) >= self.least}
        if not judged:
            return nothing(self, f"no {self.least} runs that are alike arrived together", value=1.0, least=True)
        indices = {key: jain(times) if any(times) else 1.0 for key, times in judged.items()}
        mean = sum(indices[key] * len(times) for key, times in judged.items()) / sum(map(len, judged.values()))
        key = min(indices, key=lambda one: indices[one])
        bin_, agent, tenant, priority = key
        says = (
            f"worst cohort {indices[key]:.2f}: {len(judged[key])} runs of {agent} of {tenant}, priority {priority},"
            f" from {bin_ * self.cohort_s:g} s on, {min(judged[key]):.1f}-{max(judged[key]):.1f} s"
        )
        return finding(self, mean, says, least=True)
