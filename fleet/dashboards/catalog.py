"""All dashboards."""

from fleet.dashboards.agents import agents
from fleet.dashboards.effects import effects
from fleet.dashboards.model import Dashboard
from fleet.dashboards.overview import overview
from fleet.dashboards.pools import pools
from fleet.dashboards.quotas import quotas
from fleet.dashboards.trial import trial


def dashboards() -> list[Dashboard]:
    """Every dashboard, the first page first."""
    return [overview(), quotas(), pools(), agents(), effects(), trial()]
