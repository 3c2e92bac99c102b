"""Far more load than quota: every unit of it is used, tenants get it by their weights, nobody starves."""

from pydantic import Field

from load import oracles
from load.scenario import Ground, Stage, Trial
from load.scenario import Parameters as Usual
from load.shapes import Constant

SHORT = {"agents": 200, "for": 7}

TENANTS = {"acme": 3.0, "globex": 2.0, "initech": 1.0}
"""Their weights. Each wants as much as the others, and more than its share."""


class Parameters(Usual):
    """The squeeze's own."""

    pressure: float = Field(default=3.0, gt=0, le=100, description="Offered load over what the quota grants meanwhile.")


def stage(asked: Parameters) -> Stage:
    """Tenants with weights."""
    del asked
    return Stage(manifest={"tenants": {name: {"weight": weight} for name, weight in TENANTS.items()}})


def plan(asked: Parameters, ground: Ground) -> Trial:
    """Arrivals at a constant rate that the quota cannot keep up with."""
    arrivals = ground.offer(
        asked, Constant(count=asked.agents, for_s=asked.for_s, poisson=True), tenants=dict.fromkeys(TENANTS, 1.0)
    )
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Refusals429(),
            oracles.Utilisation(bound=0.97, scopes=(ground.model,), busy_from=ground.crowd(asked)),
            oracles.Waits(),
            oracles.Starved(),
            oracles.FairnessAgents(cohort_s=asked.for_s / 4),
            oracles.FairnessTenants(bound=0.9, busy_from=ground.crowd(asked)),
        ],
        settle_s=asked.settle_s,
    )
