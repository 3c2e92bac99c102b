"""All agents at once: the quota is used to the full until the last one is done."""

from pydantic import Field

from load import oracles
from load.scenario import Ground, Seconds, Trial
from load.scenario import Parameters as Usual
from load.shapes import Burst

SHORT = {"agents": 120, "for": 13}


class Parameters(Usual):
    """The burst's own."""

    for_s: Seconds = Field(
        default=60.0, alias="for", ge=1, le=86_400, description="In what time the quota grants all, at a pressure of 1."
    )
    pressure: float = Field(
        default=1.0, gt=0, le=100, description="How often the quota must be spent until all are done."
    )
    width_s: Seconds = Field(default=1.0, alias="width", ge=0, description="Time within which all arrive.")


def plan(asked: Parameters, ground: Ground) -> Trial:
    """One burst."""
    arrivals = ground.offer(asked, Burst(count=asked.agents, at_s=0.0, width_s=asked.width_s))
    return Trial(
        arrivals=arrivals,
        load_s=max(1.0, asked.width_s),
        quotas=ground.sized(asked, arrivals),
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Refusals429(),
            oracles.Utilisation(bound=0.97, scopes=(ground.model,), busy_from=ground.crowd(asked)),
            oracles.Waits(),
            oracles.MemoryFlat(),
        ],
        settle_s=asked.settle_s,
    )
