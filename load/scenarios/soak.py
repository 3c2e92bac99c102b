"""An even load for long: what grows will be seen."""

from pydantic import Field

from load import oracles
from load.scenario import Ground, Seconds, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant

SHORT = {"agents": 50, "for": 15}


class Parameters(Usual):
    """The soak's own."""

    agents: int = Field(default=5_000, ge=1, le=20_000, description="Runs that are offered.")
    for_s: Seconds = Field(default=1800.0, alias="for", ge=1, le=86_400, description="How long load is offered.")


def plan(asked: Parameters, ground: Ground) -> Trial:
    """Arrivals at a constant rate."""
    arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s))
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Refusals429(),
            oracles.MemoryFlat(),
            oracles.Waits(),
        ],
        settle_s=asked.settle_s,
    )
