"""An even load below the quota: everything should be quick, and nothing refused."""

from load import oracles
from load.scenario import Ground, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant

SHORT = {"agents": 40, "for": 8}


class Parameters(Usual):
    """As every scenario's."""


def plan(asked: Parameters, ground: Ground) -> Trial:
    """Arrivals at a constant rate, drawn as a Poisson process."""
    arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s, poisson=True))
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Refusals429(),
            oracles.Waits(),
            oracles.FairnessAgents(),
            oracles.MemoryFlat(),
        ],
        settle_s=asked.settle_s,
    )
