"""All workers are restarted, pool after pool, process after process, in the middle of a mixed day."""

from dataclasses import replace

from pydantic import Field

from load import oracles
from load.local import TOGETHER, parse_pools
from load.scenario import Ground, Seconds, Stage, Trial
from load.scenarios import mixed_day
from load.trial import Fault

# the quota needs three times as long as the load comes: work is queued all the time
SHORT = {
    "agents": 90, "for": 16, "pressure": 3.2, "waves": 1, "at": 4, "every": 1, "used": 0.9,
    "pools": "agents=2,llm=2,search=1,email=1",
}  # fmt: skip


class Parameters(mixed_day.Parameters):
    """The restarts' own."""

    pools: str = Field(default="agents=2,llm=2,search=2,email=2", description="Processes of each pool.")
    at_s: Seconds | None = Field(
        default=None,
        alias="at",
        ge=0,
        description="When the first pool is restarted. Empty: after a tenth of the load.",
    )
    every_s: Seconds | None = Field(
        default=None,
        alias="every",
        ge=0,
        description="From pool to pool, one after the other. Empty: so that all fit into the load.",
    )
    surge: bool = Field(
        default=True, description="A replacement is ready before its process ends; false: each ends first."
    )
    dip_s: Seconds = Field(
        default=5.0, alias="dip", gt=0, description="Most seconds on end in which too little of the quota is used."
    )
    pressure: float = Field(default=1.5, gt=0, le=100, description="Offered load over what the quota grants meanwhile.")
    used: float = Field(default=0.95, gt=0, le=1, description="Least share of the quota that must be used in line.")


def stage(asked: Parameters) -> Stage:
    """That of the mixed day."""
    return mixed_day.stage(asked)


def plan(asked: Parameters, ground: Ground) -> Trial:
    """A mixed day, and a restart of every pool in it."""
    groups = [[pool for pool in group.split(TOGETHER) if pool in ground.manifest.pools] for group in _groups(asked)]
    pools = [served[0] for served in groups if served]
    at_s = asked.for_s / 10 if asked.at_s is None else asked.at_s
    every_s = 0.8 * asked.for_s / len(pools) if asked.every_s is None else asked.every_s
    crowd = ground.crowd(asked)
    return replace(
        mixed_day.plan(asked, ground),
        faults=[
            Fault(at_s=at_s + n * every_s, kind="restart", target=pool, more={"surge": asked.surge})
            for n, pool in enumerate(pools)
        ],
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Dip(bound=asked.dip_s, scopes=(ground.model,), busy_from=crowd, targets=tuple(pools)),
            oracles.Overrun(),
            oracles.Refusals429(),
            # a restart is no excuse
            oracles.Utilisation(bound=asked.used, scopes=(ground.model,), busy_from=crowd),
        ],
    )


def _groups(asked: Parameters) -> list[str]:
    return list(parse_pools(asked.pools))
