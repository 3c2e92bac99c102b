"""One tenant floods the fleet; the others keep their share and hardly notice."""

from pydantic import Field

from load import oracles
from load.scenario import Ground, Trial
from load.scenario import Parameters as Usual
from load.shapes import Burst, Constant

SHORT = {"agents": 80, "for": 14}
NOISY = "noisy"


class Parameters(Usual):
    """The flood's own."""

    agents: int = Field(default=100, ge=2, le=20_000, description="Runs that are offered.")
    mix: str = Field(default="load-caller", description="Agents by weight.")
    pressure: float = Field(default=2.0, gt=0, le=100, description="Offered load over what the quota grants meanwhile.")
    quiet: int = Field(default=3, ge=1, le=50, description="Tenants that behave.")
    share: float = Field(default=0.8, gt=0, lt=1, description="Share of the runs that are the noisy tenant's.")


def plan(asked: Parameters, ground: Ground) -> Trial:
    """The flood comes at the begin, the others evenly and well within their shares."""
    flood = min(asked.agents - 1, max(1, round(asked.agents * asked.share)))
    rest = asked.agents - flood
    tenants = [f"quiet-{number + 1}" for number in range(asked.quiet)]
    quiet = ground.offer(
        asked, Constant(count=rest, for_s=asked.for_s), tenants=dict.fromkeys(tenants, 1.0), part="quiet"
    )
    noisy = ground.offer(asked, Burst(count=flood, at_s=0.0, width_s=1.0), tenants={NOISY: 1.0}, part="noisy")
    arrivals = sorted([*quiet, *noisy], key=lambda arrival: arrival.at_s)
    return Trial(
        arrivals=arrivals,
        load_s=asked.for_s,
        quotas=ground.sized(asked, arrivals),
        oracles=[
            oracles.NothingLost(),
            oracles.NothingTwice(),
            oracles.Overrun(),
            oracles.Refusals429(),
            oracles.ShareKept(noisy=(NOISY,)),
        ],
        settle_s=asked.settle_s,
    )
