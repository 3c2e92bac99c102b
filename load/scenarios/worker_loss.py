"""Workers of every pool are killed with kill -9 in the middle of their work."""

import random

from pydantic import Field

from load import oracles
from load.scenario import Ground, Seconds, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant
from load.trial import Fault

SHORT = {"agents": 40, "for": 14, "every": 4, "pools": "agents=1,llm=2,search=1,email=2"}


class Parameters(Usual):
    """The kills' own."""

    every_s: Seconds = Field(default=10.0, alias="every", ge=0.5, description="Mean time between two kills.")
    pools: str = Field(default="agents=2,llm=2,search=1,email=2", description="Processes of each pool.")
    victims: str = Field(default="agents,llm,email", description="Pools of which processes are killed.")
    for_s: Seconds = Field(default=120.0, alias="for", ge=1, le=86_400, description="How long load is offered.")
    mix: str = Field(default="load-caller=1,load-mailer=1", description="Agents by weight.")


def plan(asked: Parameters, ground: Ground) -> Trial:
    """An even load, and kills at random instants, of random processes of one pool after the other."""
    dice = random.Random(f"{asked.seed}/kills")
    victims = [name.strip() for name in asked.victims.split(",")]
    count = max(1, round(asked.for_s / asked.every_s))
    times = sorted(dice.uniform(0.1, 0.9) * asked.for_s for _ in range(count))
    arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s))
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        faults=[Fault(at_s=at, kind="kill", target=victims[n % len(victims)]) for n, at in enumerate(times)],
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Recovery(within_s=30.0),
        ],
        settle_s=asked.settle_s,
    )
