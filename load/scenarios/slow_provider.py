"""The provider answers many times more slowly: slots fill up, nothing times out, nothing is asked twice."""

from pydantic import Field

from load import oracles
from load.scenario import Ground, Seconds, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant
from load.trial import Fault

SHORT = {"agents": 40, "for": 14, "slow": 5, "latency": 3}


class Parameters(Usual):
    """The slowness's own."""

    slow_s: Seconds = Field(default=60.0, alias="slow", gt=0, description="How long it is slow.")
    latency_s: Seconds = Field(default=20.0, alias="latency", gt=0, description="Seconds that an answer takes then.")
    for_s: Seconds = Field(default=180.0, alias="for", ge=1, le=86_400, description="How long load is offered.")


def plan(asked: Parameters, ground: Ground) -> Trial:
    """An even load, and slow answers after its first quarter."""
    arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s))
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        faults=[
            Fault(
                at_s=asked.for_s / 4,
                for_s=asked.slow_s,
                kind="provider",
                more={"options": {"latency": {"base_s": asked.latency_s}}},
            )
        ],
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Refusals429(),
            oracles.Recovery(within_s=10.0 + asked.latency_s),
        ],
        settle_s=asked.settle_s,
    )
