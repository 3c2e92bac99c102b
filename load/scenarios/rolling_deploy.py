"""A new version of all workers is rolled out under load: old runs end on the old one, new runs begin on the new one."""

from pydantic import Field

from load import oracles
from load.crowd import PETITIONER
from load.scenario import Ground, Humans, Seconds, Stage, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant
from load.trial import Fault

# the new workers need some seconds to start
SHORT = {"agents": 100, "for": 45, "at": 0, "used": 0.8}


class Parameters(Usual):
    """The deployment's own."""

    mix: str = Field(default=f"load-caller=3,load-mailer=1,{PETITIONER}=1", description="Agents by weight.")
    for_s: Seconds = Field(default=90.0, alias="for", ge=1, le=86_400, description="How long load is offered.")
    pressure: float = Field(default=1.2, gt=0, le=100, description="Offered load over what the quota grants meanwhile.")
    at_s: Seconds | None = Field(
        default=None, alias="at", ge=0, description="When the new workers start. Empty: after a third of the load."
    )
    used: float = Field(default=0.9, gt=0, le=1, description="Least share of the quota that must be used in line.")


def stage(asked: Parameters) -> Stage:
    """Workers with a version."""
    del asked
    return Stage(versioned=True)


def plan(asked: Parameters, ground: Ground) -> Trial:
    """An even load with runs that wait for humans; another version takes over in the middle of it."""
    arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s))
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        faults=[Fault(at_s=asked.for_s / 3 if asked.at_s is None else asked.at_s, kind="deploy")],
        humans=Humans(after_s=2.0),
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.VersionKept(),
            oracles.Drained(),
            oracles.Overrun(),
            # a deployment is no excuse
            oracles.Utilisation(bound=asked.used, scopes=(ground.model,), busy_from=ground.crowd(asked), spared_s=None),
        ],
        settle_s=asked.settle_s,
    )
