"""Agents on the hour: as many Temporal Schedules fire at one instant, with or without jitter."""

from pydantic import Field

from fleet.errors import BadInput
from load import oracles
from load.scenario import Ground, Schedules, Seconds, Trial
from load.scenario import Parameters as Usual
from load.shapes import Burst

SHORT = {"agents": 40, "for": 12, "jitter": 2}


class Parameters(Usual):
    """The schedules' own."""

    agents: int = Field(default=500, ge=1, le=5_000, description="Temporal Schedules, one run each.")
    for_s: Seconds = Field(
        default=60.0, alias="for", ge=1, le=86_400, description="In what time the quota grants all, at a pressure of 1."
    )
    pressure: float = Field(
        default=1.0, gt=0, le=100, description="How often the quota must be spent until all are done."
    )
    jitter_s: Seconds = Field(
        default=0.0, alias="jitter", ge=0, le=3600, description="Within how long after the hour Temporal starts them."
    )


def plan(asked: Parameters, ground: Ground) -> Trial:
    """Every schedule fires once, at the begin of the load."""
    if asked.shape:
        raise BadInput(f"shape={asked.shape}: all schedules fire at one instant; spread them with -o jitter=5m")
    arrivals = ground.offer(asked, Burst(count=asked.agents, at_s=0.0, width_s=0.0))
    return Trial(
        arrivals=arrivals,
        load_s=max(1.0, asked.jitter_s),
        quotas=ground.sized(asked, arrivals),
        scheduled=Schedules(at_s=0.0, jitter_s=asked.jitter_s),
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Refusals429(),
            oracles.Waits(),
        ],
        settle_s=asked.settle_s,
    )
