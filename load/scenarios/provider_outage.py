"""The model's provider is away for minutes: every run waits it out, none fails, none is begun twice."""

from typing import Literal

from pydantic import Field

from load import oracles
from load.scenario import Ground, Seconds, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant
from load.trial import Fault

SHORT = {"agents": 30, "for": 10, "outage": 4}


class Parameters(Usual):
    """The outage's own."""

    outage_s: Seconds = Field(default=120.0, alias="outage", gt=0, description="How long the provider is away.")
    how: Literal["drop", "503", "500"] = Field(
        default="503", description="What callers see: broken connections, or an answer."
    )
    for_s: Seconds = Field(default=240.0, alias="for", ge=1, le=86_400, description="How long load is offered.")


def plan(asked: Parameters, ground: Ground) -> Trial:
    """An even load, and the outage after its first quarter."""
    arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s))
    fault = {"drop": True, "after": False} if asked.how == "drop" else {"status": int(asked.how)}
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        faults=[
            Fault(
                at_s=asked.for_s / 4,
                for_s=asked.outage_s,
                kind="provider",
                target=ground.model_provider(),
                more={"fault": {**fault, "rate": 1.0}},
            )
        ],
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Recovery(within_s=15.0),
            oracles.MemoryFlat(),
        ],
        settle_s=asked.settle_s,
    )
