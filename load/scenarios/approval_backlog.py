"""Nobody approves anything for a while: waiting runs hold nothing, and once somebody looks, each pays once."""

from pydantic import Field

from load import oracles
from load.crowd import CALLER, PETITIONER
from load.scenario import Ground, Humans, Seconds, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant

SHORT = {"agents": 40, "for": 8}


class Parameters(Usual):
    """The backlog's own."""

    mix: str = Field(default=f"{PETITIONER}=1,{CALLER}=1", description="Agents by weight.")
    rejected: float = Field(default=0.1, ge=0, le=1, description="Share that is rejected.")
    looks_s: Seconds | None = Field(
        default=None, alias="looks", ge=0, description="When somebody looks. Empty: when the load has ended."
    )


def plan(asked: Parameters, ground: Ground) -> Trial:
    """An even load, half of which asks a human; one looks when it is over."""
    arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s))
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        humans=Humans(at_s=asked.for_s if asked.looks_s is None else asked.looks_s, rejected=asked.rejected),
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Refusals429(),
            oracles.MemoryFlat(),
        ],
        settle_s=asked.settle_s,
    )
