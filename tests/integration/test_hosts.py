"""One of two hosts loses the way to Redis, to Temporal or to both, under a load that saturates the quota.

What the providers, the mailbox and the bank have counted judges, and what the switch between the machines has carried.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from load import oracles
from load.course import Course, Crew
from load.oracles.reading import between, demanded, ours
from load.oracles.supply import Supply
from load.scenario import Ground, Parameters, Scenario, Stage, Trial
from load.shapes import Constant
from load.trial import Evidence, Fault, Finding
from tests.integration import hosts, namespaces
from tests.integration.hosts import Seen
from workers.bootstrap import limiter

pytestmark = [pytest.mark.trial, pytest.mark.alone, pytest.mark.timeout(200)]

MIX = "load-caller=3,load-mailer=2,load-payer=1"
WITHIN_S = 10.0
"""So soon after a link is back its host does its part again."""
SPELL_S = 3.0
LEAST_USED, LEAST_REFUSED = 0.6, 0.4
"""Share of the quota that is used while one of two hosts is cut off; and where its share is too much for the provider,
whose refusals slow all down."""
ENDING_S = 3.0
"""Calls that were granted before a cut have left by then."""
HEALING_S = 1.0
"""A link is back a little before it is noted that it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The first host loses the way to some servers."""

    at_s: float
    """Seconds from the begin of the load."""
    for_s: float
    servers: Sequence[str]
    silent: bool = True
    """Packets vanish. False: they are answered that nobody is there."""

    def faults(self) -> list[Fault]:
        """In the harness's words."""
        kinds = {"redis": "redis_cut", "temporal": "temporal_cut"}
        return [
            Fault(at_s=self.at_s, for_s=self.for_s, kind=kinds[server], more={"silent": self.silent})  # type: ignore[arg-type]
            for server in self.servers
        ]

    def span(self, evidence: Evidence) -> tuple[float, float]:
        """From when to when it was so: wall-clock seconds."""
        due = evidence.began + self.at_s
        marks = [mark for mark in evidence.marks if abs(mark.at - due) < 1]
        assert len(marks) == len(self.servers)
        return max(mark.at for mark in marks), max(mark.until for mark in marks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What became of one cut."""

    what: str
    meanwhile: int
    """Packets that the host sent to models and the relay while it was cut off, without the first three seconds and the
    last."""
    first_s: float
    """From the link's return to the next such packet."""
    back_s: float
    """To a spell in which the host sends a quarter at least of what both send."""
    used: float
    """Share of the quota's binding limit that both hosts used while the link was cut."""


@dataclass(slots=True)
class Kept:
    """An oracle that judges nothing: it keeps the evidence."""

    name: str = "kept"
    says: str = "the evidence is kept"
    bound: float = 0.0
    evidence: Evidence | None = None

    def judge(self, evidence: Evidence) -> Finding:
        """Keep it."""
        self.evidence = evidence
        return Finding(name=self.name, value=0, bound=0, ok=True, judged=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crew(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Crew]:
    async with hosts.standing(tmp_path_factory.mktemp("hosts")) as found:
        yield found


async def tried(
    crew: Crew, cuts: Sequence[Cut], judges: Sequence[oracles.Oracle], *, runs: int, for_s: float
) -> tuple[list[str], Evidence, list[Told]]:
    """Offer more load than quota and cut; what does not hold, and what became of each cut."""
    fleet = hosts.of(crew)
    kept = Kept()

    def plan(asked: Parameters, ground: Ground) -> Trial:
        arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s))
        return Trial(
            arrivals=arrivals,
            load_s=asked.for_s,
            quotas=ground.sized(asked, arrivals),
            faults=[fault for cut in cuts for fault in cut.faults()],
            oracles=[oracles.NothingLost(), oracles.NothingTwice(), *judges, kept],
            settle_s=40,
        )

    scenario = Scenario(
        name="hosts", says="", parameters=Parameters, stage=lambda _: Stage(proxied=True), plan=plan, short={},
        path=Path(__file__),
    )  # fmt: skip
    asked = scenario.ask({"agents": runs, "for": for_s, "mix": MIX, "pressure": 1.1})
    redis = Redis.from_url(fleet.settings().redis())
    await redis.flushall()
    await redis.aclose()
    async with limiter(fleet.settings(), fleet.manifest) as shared:
        course = Course(replace(crew, shared=shared), scenario, asked)
        await course.prepare()
        report = await course.run(asyncio.Event())
    assert kept.evidence is not None
    broken = [f"{f.name} {f.value:g}, bound {f.bound:g}: {f.says}" for f in report.oracles if not f.ok]
    return broken, kept.evidence, [told(kept.evidence, fleet.seen, cut) for cut in cuts]


def told(evidence: Evidence, seen: Sequence[Seen], cut: Cut) -> Told:
    """Read the ledgers and the switch."""
    at, until = cut.span(evidence)
    after = [look for look in seen if look.at >= until]
    first = (look.at for look in after if look.sent["one"] > after[0].sent["one"])
    back = (look.at for look in after if works(seen, look.at))
    return Told(
        what=f"{' and '.join(cut.servers)} {'silent' if cut.silent else 'refused'} for {until - at:.1f} s",
        meanwhile=sent(seen, "one", at + ENDING_S, until - HEALING_S),
        first_s=round(next(first, math.inf) - until, 1),
        back_s=round(next(back, math.inf) - until, 1),
        used=round(used(evidence, at, until), 2),
    )


def sent(seen: Sequence[Seen], host: str, begin: float, end: float) -> int:
    """Packets of calls that need a quota, from a host."""
    inside = [look.sent[host] for look in seen if begin <= look.at <= end]
    return inside[-1] - inside[0] if inside else 0


def works(seen: Sequence[Seen], begin: float) -> bool:
    """Whether the first host does its part from then on."""
    one, two = (sent(seen, host, begin, begin + SPELL_S) for host in hosts.HOSTS)
    return one > 0 and one >= (one + two) / 4


def used(evidence: Evidence, begin: float, end: float) -> float:
    """Share of what returned meanwhile, in the scope and limit of which most was used."""
    shares = [0.0]
    for scope, limits in evidence.limits.items():
        calls = between(ours(evidence, scope), begin, end)
        for limit in limits:
            units = sum(call.charged.get(limit, 0.0) for call in calls if call.outcome == "ok")
            shares.append(units / Supply.of(evidence, scope, limit).between(begin, end))
    return max(shares)


@pytest.mark.asyncio(loop_scope="module")
async def test_paused_a_host_without_redis_or_temporal_calls_nobody_and_is_back_within_seconds(crew: Crew) -> None:
    # each link is back for as long as its host may take, before the next one is cut
    cuts = [
        Cut(at_s=3, for_s=7, servers=("redis",)),
        Cut(at_s=20, for_s=8, servers=("temporal",)),
        Cut(at_s=38, for_s=7, servers=("redis", "temporal"), silent=False),
    ]
    judges: list[oracles.Oracle] = [oracles.Overrun(), oracles.Refusals429(bound=0.0)]
    broken, _, found = await tried(crew, cuts, judges, runs=220, for_s=46)
    print(*found, sep="\n")  # noqa: T201 - the figures of docs/networks.md
    assert broken == []
    for one in found:
        assert one.meanwhile == 0, one
        assert one.back_s < WITHIN_S, one
        assert one.used > LEAST_USED, one


@pytest.mark.asyncio(loop_scope="module")
async def test_degraded_a_host_without_redis_keeps_to_its_share_and_is_back_within_seconds(crew: Crew) -> None:
    fleet = hosts.of(crew)
    await asyncio.gather(*(fleet.stop(host, ["llm"]) for host in hosts.HOSTS))
    fleet.use("degrade")
    await asyncio.gather(*(fleet.start(host, ["llm"]) for host in hosts.HOSTS))
    # processes count one another every ten seconds
    cut = Cut(at_s=9, for_s=8, servers=("redis",))
    # what the other host may use all of, and this one its share: of that a provider refuses some
    broken, evidence, (found,) = await tried(crew, [cut], [], runs=100, for_s=19)
    print(found)  # noqa: T201 - the figures of docs/networks.md
    at, until = cut.span(evidence)
    assert broken == []
    assert found.meanwhile > 0, found
    assert found.back_s < WITHIN_S, found
    assert found.used > LEAST_REFUSED, found
    for scope, limits in evidence.limits.items():
        for limit, rated in limits.items():
            asked = sum(demanded(call, limit) for call in between(ours(evidence, scope), at, until))
            share = fleet.manifest.limiter.safety / len(hosts.HOSTS)
            # a burst that was there, and of the share a second's worth at once
            most = rated.rate * (until - at) * (1 + share) + rated.burst + rated.rate * share
            assert asked <= most, f"{scope} {limit}: asked for {asked:.0f}, at most {most:.0f}"
    assert await fleet.degraded("one") > 0


def test_machines_are_gone_when_the_block_ends_however_it_ends() -> None:
    namespaces.needs_namespaces()
    with suppress(ZeroDivisionError), namespaces.links(("one", "redis"), lambda _: {}) as links:
        made = links.made
        assert namespaces.left(made) == made
        raise ZeroDivisionError
    assert namespaces.left(made) == []
