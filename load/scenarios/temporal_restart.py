"""Temporal dies and comes back, or the network to it breaks: every run goes on where it was."""

from typing import Literal

from pydantic import Field

from load import oracles
from load.scenario import Ground, Seconds, Stage, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant
from load.trial import Fault, FaultKind

SHORT = {"agents": 40, "for": 14, "away": 3}
HOW: dict[str, FaultKind] = {"down": "temporal_down", "cut": "temporal_cut", "delay": "temporal_delay"}


class Parameters(Usual):
    """The restart's own."""

    away_s: Seconds = Field(default=10.0, alias="away", gt=0, description="How long Temporal is away.")
    how: Literal["down", "cut", "delay"] = Field(
        default="down", description="kill -9 and a restart; a network that is cut; a network that is slow."
    )
    delay_s: Seconds = Field(default=0.3, alias="delay", gt=0, description="With how=delay: in each direction.")
    for_s: Seconds = Field(default=90.0, alias="for", ge=1, le=86_400, description="How long load is offered.")
    mix: str = Field(default="load-caller=1,load-mailer=1", description="Agents by weight.")


def stage(asked: Parameters) -> Stage:
    """A network that can be cut, where one is."""
    return Stage(proxied=asked.how != "down")


def plan(asked: Parameters, ground: Ground) -> Trial:
    """An even load, and the restart after its first quarter."""
    arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s))
    more = {"delay_s": asked.delay_s} if asked.how == "delay" else {}
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        faults=[Fault(at_s=asked.for_s / 4, for_s=asked.away_s, kind=HOW[asked.how], more=more)],
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Refusals429(),
            oracles.Recovery(within_s=30.0),
        ],
        settle_s=asked.settle_s,
    )
