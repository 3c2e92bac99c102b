"""Evidence of trials that never ran: agents, a fair limiter and a provider, simulated in no time.

Agents make some calls of a model one after the other, then send an e-mail. The limiter serves tenants by weighted fair
queueing and, of a tenant, the run that came first; at a little less than the provider's rate.
"""

import heapq
import random
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field

from load.trial import Arrival, Call, Ended, Evidence, Look, Mark, Rated

BEGAN = 1_000_000.0
MODEL, RELAY = "openai/sim", "email/relay"
LIMITS = {
    MODEL: {"requests": Rated(rate=40.0, burst=40.0), "tokens": Rated(rate=10_000.0, burst=10_000.0)},
    RELAY: {"messages": Rated(rate=20.0, burst=20.0)},
}
BURST_HEADROOM = 0.9
LATENCY_S = 0.4
WORKERS = ("agents-1/41", "llm-1/42", "llm-2/43")


@dataclass(kw_only=True)
class Made:
    """What is simulated. Seconds are from the begin of the load."""

    times: list[float]
    """Arrivals."""
    whose: list[str] | None = None
    """The tenant of each arrival. Default: they take turns."""
    tenants: dict[str, float] = field(default_factory=lambda: {"default": 1.0})
    """Weights."""
    calls: int = 4
    """Of the model, by each run."""
    tokens: float = 400.0
    """Of a call, on average."""
    stopped: list[tuple[float, float]] = field(default_factory=list)
    """Nothing is granted meanwhile."""
    marks: list[Mark] = field(default_factory=list)
    fair: bool = True
    """False: the tenant with the longest line goes first."""
    headroom: float = 0.98
    seed: int = 1

    def evidence(self) -> Evidence:
        """Everything the fleet did, and how it looked."""
        dice, names = random.Random(self.seed), list(self.tenants)
        whose = self.whose or [names[n % len(names)] for n in range(len(self.times))]
        arrivals = [
            Arrival(
                at_s=at, run_id=f"run-{n:05}", agent="mailer", goal="", tenant=whose[n], mails_to=f"{n:05}@example.com"
            )
            for n, at in enumerate(self.times)
        ]
        scopes = {name: _Scope(name, self) for name in LIMITS}
        ended = self._run(arrivals, scopes, dice)
        finished = max((end.at for end in ended.values()), default=BEGAN) + 0.5
        return Evidence(
            began=BEGAN,
            load_s=max(self.times, default=0.0),
            finished=finished,
            arrivals=arrivals,
            ended=ended,
            calls={name: sorted(scope.calls, key=lambda call: call.at) for name, scope in scopes.items()},
            limits=LIMITS,
            mails={a.mails_to: 1 for a in arrivals if a.mails_to},
            weights=self.tenants,
            looks=_looks(arrivals, ended, scopes, finished, dice),
            marks=self.marks,
        )

    def _run(self, arrivals, scopes, dice):
        ended = {}
        ready = [(BEGAN + a.at_s, number, 0) for number, a in enumerate(arrivals)]
        heapq.heapify(ready)
        while True:
            busy = [scope for scope in scopes.values() if scope.waiting]
            first = min(busy, key=lambda scope: scope.clock, default=None)
            if ready and (first is None or ready[0][0] <= first.clock):
                at, number, step = heapq.heappop(ready)
                scopes[MODEL if step < self.calls else RELAY].joins(at, number, step, arrivals[number])
            elif first is not None:
                number, step, until = first.grants(dice)
                if step < self.calls:
                    heapq.heappush(ready, (until, number, step + 1))
                else:
                    ended[arrivals[number].run_id] = Ended(outcome="completed", at=until)
            else:
                return ended


class _Scope:
    """One limiter: who stands in line, and what is left."""

    def __init__(self, name: str, made: Made) -> None:
        self.name, self.made = name, made
        self.clock = BEGAN
        self.calls: list[Call] = []
        self.joined: list[float] = []
        self.waiting: dict[str, list] = {}
        self._served: dict[str, float] = defaultdict(float)
        self._levels = {limit: rated.burst * BURST_HEADROOM for limit, rated in LIMITS[name].items()}
        self._updated = BEGAN

    def joins(self, at, number, step, arrival):
        if not self.waiting:
            self.clock = max(self.clock, at)
        if arrival.tenant not in self.waiting:
            # who was away has saved nothing
            there = min((self._served[tenant] for tenant in self.waiting), default=0.0)
            self._served[arrival.tenant] = max(self._served[arrival.tenant], there)
        heapq.heappush(self.waiting.setdefault(arrival.tenant, []), (number, step, arrival.run_id))
        self.joined.append(at)

    def grants(self, dice):
        pick = (lambda t: self._served[t]) if self.made.fair else (lambda t: -len(self.waiting[t]))
        tenant = min(self.waiting, key=pick)
        number, step, run = heapq.heappop(self.waiting[tenant])
        if not self.waiting[tenant]:
            del self.waiting[tenant]
        cost = {"messages": 1.0}
        if self.name == MODEL:
            cost = {"requests": 1.0, "tokens": self.made.tokens * dice.uniform(0.5, 1.5)}
        self._served[tenant] += cost.get("tokens", 1.0) / self.made.tenants[tenant]
        at = self._paid(cost)
        took = LATENCY_S * dice.uniform(0.8, 1.2)
        self.calls.append(Call(at=at, ended=at + took, outcome="ok", asked=cost, charged=cost, run_id=run))
        return number, step, at + took

    def _paid(self, cost):
        """When the cost is there: the limiter is busy until then."""
        rates = {limit: LIMITS[self.name][limit].rate * self.made.headroom for limit in cost}
        waits = (
            (units - self._levels[limit]) / rates[limit] - (self.clock - self._updated) for limit, units in cost.items()
        )
        at = self.clock + max(0.0, *waits)
        for begin, end in self.made.stopped:
            at = BEGAN + end if BEGAN + begin <= at < BEGAN + end else at
        for limit, units in cost.items():
            full = LIMITS[self.name][limit].burst * BURST_HEADROOM
            self._levels[limit] = min(full, self._levels[limit] + (at - self._updated) * rates[limit]) - units
        self.clock = self._updated = at
        return at


def _looks(arrivals, ended, scopes, finished, dice):
    came, went = sorted(BEGAN + a.at_s for a in arrivals), sorted(end.at for end in ended.values())
    began = {name: sorted(call.at for call in scope.calls) for name, scope in scopes.items()}
    joined = {name: sorted(scope.joined) for name, scope in scopes.items()}
    looks = []
    for n in range(int((finished - BEGAN) * 2)):
        at = BEGAN + n / 2
        line = {name: bisect_right(joined[name], at) - bisect_right(began[name], at) for name in scopes}
        looks.append(
            Look(
                at=at,
                active=bisect_right(came, at) - bisect_right(went, at),
                waiting={name: count * 0.05 for name, count in line.items()},
                rss_mb={name: 180.0 + 20.0 * min(1.0, n / 20) + dice.uniform(-2, 2) for name in WORKERS},
            )
        )
    return looks
