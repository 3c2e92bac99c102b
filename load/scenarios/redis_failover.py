"""The primary of Redis dies under Sentinel: a replica takes over, the line goes on, no quota is overrun."""

from pydantic import Field

from load import oracles
from load.scenario import Ground, Seconds, Stage, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant
from load.trial import Fault

SHORT = {"agents": 40, "for": 16}


class Parameters(Usual):
    """The failover's own."""

    for_s: Seconds = Field(default=60.0, alias="for", ge=1, le=86_400, description="How long load is offered.")


def stage(asked: Parameters) -> Stage:
    """A primary and a replica under Sentinel."""
    del asked
    return Stage(sentinel=True)


def plan(asked: Parameters, ground: Ground) -> Trial:
    """An even load; the primary is killed after a quarter of it."""
    arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s))
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        faults=[Fault(at_s=asked.for_s / 4, kind="redis_failover")],
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Refusals429(),
            oracles.Recovery(within_s=20.0),
        ],
        settle_s=asked.settle_s,
    )
