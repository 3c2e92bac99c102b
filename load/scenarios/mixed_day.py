"""A day in minutes: all tools, priorities and tenants, in waves, above what the quota grants."""

from typing import Any

from pydantic import Field

from load import oracles
from load.crowd import PETITIONER
from load.scenario import Ground, Humans, Seconds, Stage, Trial
from load.scenario import Parameters as Usual
from load.shapes import Wave

# a quarter of a minute of quota is some forty calls: one more or less decides
SHORT = {"agents": 80, "for": 14, "pressure": 2, "waves": 1, "used": 0.93}
ASKING = frozenset({PETITIONER})
"""Agents that wait for humans, too."""
TENANTS = {"acme": 3.0, "globex": 2.0, "initech": 1.0}
"""Their weights."""


class Parameters(Usual):
    """The day's own."""

    agents: int = Field(default=500, ge=1, le=20_000, description="Runs that are offered.")
    for_s: Seconds = Field(default=180.0, alias="for", ge=1, le=86_400, description="How long load is offered.")
    pools: str = Field(default="agents=1,llm=2,search=1,email=1", description="Processes of each pool.")
    mix: str = Field(
        default="researcher=1,load-caller=4,load-mailer=3,load-payer=1,load-petitioner=1",
        description="Agents by weight.",
    )
    pressure: float = Field(default=1.2, gt=0, le=100, description="Offered load over what the quota grants meanwhile.")
    used: float = Field(default=0.97, gt=0, le=1, description="Least share of the quota that must be used in line.")
    waves: float = Field(default=3.0, gt=0, le=100, description="How often load rises and falls.")


def stage(asked: Parameters) -> Stage:
    """Tenants with weights."""
    del asked
    tenants: dict[str, Any] = {name: {"weight": weight} for name, weight in TENANTS.items()}
    return Stage(manifest={"tenants": tenants})


def plan(asked: Parameters, ground: Ground) -> Trial:
    """Waves of runs, by the tenants' weights; humans answer within seconds."""
    mean = asked.agents / asked.for_s
    shape = Wave(
        mean=mean,
        amplitude=0.6 * mean,
        period_s=asked.for_s / asked.waves,
        for_s=asked.for_s,
        poisson=False,
        jitter_s=1.0,
    )
    arrivals = ground.offer(asked, shape, tenants=TENANTS, priorities=(2, 3, 4))
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        humans=Humans(after_s=1.0, rejected=0.1),
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Refusals429(),
            oracles.Utilisation(bound=asked.used, scopes=(ground.model,), busy_from=ground.crowd(asked)),
            oracles.Drain(bound=1.25, without=ASKING),
            oracles.MemoryFlat(),
        ],
        settle_s=asked.settle_s,
    )
