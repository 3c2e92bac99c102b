"""Workers are stopped with SIGSTOP for longer than their heartbeats allow, then go on as if nothing had happened."""

from pydantic import Field

from load import oracles
from load.scenario import Ground, Seconds, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant
from load.trial import Fault

SHORT = {"agents": 40, "for": 14, "frozen": 6, "pools": "agents=1,llm=2,search=1,email=2"}


class Parameters(Usual):
    """The freezes' own."""

    frozen_s: Seconds = Field(
        default=30.0,
        alias="frozen",
        gt=0,
        description="How long a process stands still. Heartbeats time out after 20 s.",
    )
    pools: str = Field(default="agents=2,llm=2,search=1,email=2", description="Processes of each pool.")
    victims: str = Field(default="llm,email", description="Pools of which one process is frozen, at the same time.")
    for_s: Seconds = Field(default=120.0, alias="for", ge=1, le=86_400, description="How long load is offered.")
    mix: str = Field(default="load-caller=1,load-mailer=1", description="Agents by weight.")


def plan(asked: Parameters, ground: Ground) -> Trial:
    """An even load; one process of each pool is frozen after a quarter of it."""
    arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s))
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        faults=[
            Fault(at_s=asked.for_s / 4, for_s=asked.frozen_s, kind="freeze", target=pool.strip())
            for pool in asked.victims.split(",")
        ],
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Refusals429(),
            oracles.Recovery(within_s=30.0),
        ],
        settle_s=asked.settle_s,
    )
