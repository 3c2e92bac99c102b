"""A drill: in the middle of a busy time the provider answers 429 to everybody, and later a worker is killed."""

from pydantic import Field

from load import oracles
from load.crowd import PETITIONER
from load.scenario import Ground, Humans, Seconds, Stage, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant
from load.trial import Fault

SHORT = {"agents": 60, "for": 24, "storm": 4, "retry_after": 2}
TENANTS = {"acme": 3.0, "globex": 2.0, "initech": 1.0}
"""Their weights."""


class Parameters(Usual):
    """The drill's own."""

    agents: int = Field(default=100, ge=1, le=20_000, description="Runs that are offered.")
    for_s: Seconds = Field(default=120.0, alias="for", ge=6, le=86_400, description="How long load is offered.")
    pools: str = Field(default="agents=1,llm=2,search=1,email=1", description="Processes of each pool.")
    mix: str = Field(
        default=f"researcher=1,load-caller=3,load-mailer=2,{PETITIONER}=1", description="Agents by weight."
    )
    storm_s: Seconds = Field(default=15.0, alias="storm", gt=0, description="How long the provider answers 429.")
    retry_after: float = Field(default=5.0, ge=0, description="Seconds that the provider asks for. 0: it does not say.")
    victim: str = Field(default="llm", description="Pool of which one process is killed.")


def stage(asked: Parameters) -> Stage:
    """Tenants with weights."""
    del asked
    return Stage(manifest={"tenants": {name: {"weight": weight} for name, weight in TENANTS.items()}})


def plan(asked: Parameters, ground: Ground) -> Trial:
    """An even load; the storm after its third, the kill after two thirds. Humans answer within seconds."""
    arrivals = ground.offer(asked, Constant(count=asked.agents, for_s=asked.for_s), tenants=TENANTS)
    fault = {"status": 429, "rate": 1.0, **({"retry_after": asked.retry_after} if asked.retry_after else {})}
    storm = Fault(
        at_s=asked.for_s / 3, for_s=asked.storm_s, kind="provider", target=ground.model_provider(),
        more={"fault": fault},
    )  # fmt: skip
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        faults=[storm, Fault(at_s=asked.for_s * 2 / 3, kind="kill", target=asked.victim)],
        humans=Humans(after_s=2.0, rejected=0.1),
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.CallsWhileClosed(),
            oracles.Recovery(within_s=30.0),
        ],
        settle_s=asked.settle_s,
    )
