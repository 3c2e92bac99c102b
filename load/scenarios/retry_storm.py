"""The provider answers 429 or 529 to everybody for a while: the fleet falls silent together and comes back together."""

from typing import Literal

from pydantic import Field

from load import oracles
from load.scenario import Ground, Seconds, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant
from load.trial import Fault

SHORT = {"agents": 40, "for": 12, "storm": 4, "retry_after": 2}


class Parameters(Usual):
    """The storm's own."""

    status: Literal[429, 503, 529] = Field(default=429, description="What the provider answers.")
    storm_s: Seconds = Field(default=60.0, alias="storm", gt=0, description="For how long.")
    retry_after: float = Field(default=5.0, ge=0, description="Seconds that the provider asks for. 0: it does not say.")
    for_s: Seconds = Field(default=180.0, alias="for", ge=1, le=86_400, description="How long load is offered.")


def plan(asked: Parameters, ground: Ground) -> Trial:
    """An even load, and the storm after its first quarter."""
    arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s))
    provider = ground.model_provider()
    fault = {"status": asked.status, "rate": 1.0, **({"retry_after": asked.retry_after} if asked.retry_after else {})}
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        faults=[
            Fault(at_s=asked.for_s / 4, for_s=asked.storm_s, kind="provider", target=provider, more={"fault": fault})
        ],
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.CallsWhileClosed(),
            oracles.Recovery(within_s=15.0),
            oracles.MemoryFlat(),
        ],
        settle_s=asked.settle_s,
    )
