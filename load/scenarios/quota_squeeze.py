"""Far more load than quota: every unit of it is used, nothing is refused, nobody starves."""

from pydantic import Field

from load import oracles
from load.scenario import Ground, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant

SHORT = {"agents": 120, "for": 6}


class Parameters(Usual):
    """The squeeze's own."""

    pressure: float = Field(default=3.0, gt=0, le=100, description="Offered load over what the quota grants meanwhile.")


def plan(asked: Parameters, ground: Ground) -> Trial:
    """Arrivals at a constant rate that the quota cannot keep up with."""
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
            oracles.Utilisation(bound=0.97, scopes=(ground.model,), busy_from=ground.crowd(asked)),
            oracles.Waits(),
            oracles.FairnessAgents(),
        ],
        settle_s=asked.settle_s,
    )
