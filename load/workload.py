"""What is offered to a simulated fleet: runs, each a sequence of calls, and when they arrive."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fleet.errors import BadInput

T = TypeVar("T")

MOST_RUNS = 100_000
"""More than these take longer than anybody waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a run."""

    latency_s: float
    """From its start to its end; it holds a slot of its pool meanwhile."""
    pool: str = ""
    """Whose slots it needs. A pool that the conditions do not know has any number."""
    scope: str = ""
    """What it is charged to. Empty, or without a quota: nothing."""
    estimate: Mapping[str, float] = field(default_factory=dict)
    """Units by limit, or by what several limits count, as booked before the call."""
    actual: Mapping[str, float] | None = None
    """As settled after it. None: the estimate stands."""
    gap_s: float = 0.0
    """From the end of the call before, or the run's entry, until it is asked for."""
    activities: float = 1.0
    """What it costs the engine: an effect is a workflow of its own."""
    money: float = 0.0
    """What the provider asks for it."""
    currency: str = ""


@dataclass(slots=True, kw_only=True)
class Run:
    """One run that is offered."""

    at_s: float
    """When it arrives, in seconds from the begin."""
    calls: Sequence[Call]
    """Runs may share them: nothing of them is changed."""
    agent: str = ""
    tenant: str = "default"
    priority: int = 3
    """1 (first) to 4."""
    run_id: str = ""
    begun: bool = False
    """It was in flight already: its first call comes before those of new runs, and it passes no door."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """When runs arrive."""

    kind: str = "once"
    """`once`: all together. `over`: evenly over `span_s`. `every`: together, each period. `rate`: each for itself."""
    span_s: float = 0.0
    """Of `over` the time, of `every` the period, of `rate` the mean time between two."""
    jitter_s: float = 0.0
    """Each comes later by a random time up to this."""
    rounds: int = 1
    """Of `every`: how many periods."""

    def arrivals(self, agents: int, seed: int) -> list[float]:
        """The instants, in seconds from the begin, in no order; of `every` one for each agent and round."""
        draw = random.Random(seed)
        match self.kind:
            case "over":
                found = [self.span_s * n / agents for n in range(agents)]
            case "every":
                found = [self.span_s * round_ for round_ in range(self.rounds) for _ in range(agents)]
            case "rate":
                found, at = [], 0.0
                for _ in range(agents):
                    at += draw.expovariate(1 / self.span_s)
                    found.append(at)
            case _:
                found = [0.0] * agents
        return [at + draw.random() * self.jitter_s for at in found] if self.jitter_s else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A log-normal quantity: of tokens, of seconds."""

    median: float
    sigma: float = 0.0
    """Of its logarithm. 0: always the median; 0.5: one in ten is about twice as much."""
    most: float = math.inf

    def draw(self, source: random.Random) -> float:
        """One of them."""
        value = self.median if self.sigma == 0 else self.median * math.exp(source.gauss(0.0, self.sigma))
        return min(self.most, value)

    def quantile_90(self) -> float:
        """Nine of ten are no larger."""
        return min(self.most, self.median * math.exp(1.2815515655 * self.sigma))


Script = Callable[[random.Random], tuple[Call, ...]]
"""Draws the calls of one run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Who arrives: shares of agents, tenants and priorities, by name."""

    agents: Mapping[str, float]
    tenants: Mapping[str, float] = field(default_factory=lambda: {"default": 1.0})
    priorities: Mapping[int, float] = field(default_factory=lambda: {3: 1.0})


BANK = 2048
"""So many runs of each agent are drawn; a larger fleet repeats them, so that two simulations compare like with like."""


def offered(mix: Mix, scripts: Mapping[str, Script], arrivals: Sequence[float], seed: int) -> list[Run]:
    """The runs, in the order of their arrival.

    Args:
        mix: who arrives.
        scripts: how to draw the calls of each agent of the mix.
        arrivals: when, in seconds.
        seed: the same seed gives the same runs.

    Raises:
        BadInput: nobody arrives, or too many.
    """
    if not 1 <= len(arrivals) <= MOST_RUNS:
        raise BadInput(f"{len(arrivals):,} runs: must be 1 to {MOST_RUNS:,}; simulate a part of them")
    banks: dict[str, list[tuple[Call, ...]]] = {}
    for agent, script in scripts.items():
        source = random.Random(f"{seed}/{agent}")
        banks[agent] = [script(source) for _ in range(min(BANK, len(arrivals)))]
    agents, tenants, priorities = (_dealt(shares) for shares in (mix.agents, mix.tenants, mix.priorities))
    counts = dict.fromkeys(banks, 0)
    found = []
    for at in sorted(arrivals):
        agent = next(agents)
        bank, number = banks[agent], counts[agent]
        counts[agent] += 1
        run = Run(at_s=at, calls=bank[number % len(bank)], agent=agent, tenant=next(tenants), priority=next(priorities))
        found.append(run)
    return found


def _dealt(shares: Mapping[T, float]) -> Iterator[T]:
    """Each in turn by its share, evenly."""
    total = sum(shares.values())
    credit = dict.fromkeys(shares, 0.0)
    while True:
        for name, share in shares.items():
            credit[name] += share / total
        chosen = max(credit, key=lambda name: credit[name])
        credit[chosen] -= 1
        yield chosen
