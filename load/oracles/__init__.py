"""What must hold in a trial: pure functions over its evidence, each with a bound that the scenario gives."""

from collections.abc import Sequence
from typing import Protocol

from load.oracles.accounting import NothingLost, NothingTwice
from load.oracles.dips import Dip
from load.oracles.fairness import FairnessAgents, FairnessTenants, ShareKept
from load.oracles.memory import MemoryFlat
from load.oracles.quota import CallsWhileClosed, Overrun, Refusals429, Utilisation
from load.oracles.recovery import Recovery
from load.oracles.versions import Drained, VersionKept
from load.oracles.waits import Drain, Starved, Waits
from load.trial import Evidence, Finding

__all__ = [
    "ORACLES", "CallsWhileClosed", "Dip", "Drain", "Drained", "FairnessAgents", "FairnessTenants", "MemoryFlat",
    "NothingLost", "NothingTwice", "Oracle", "Overrun", "Recovery", "Refusals429", "ShareKept", "Starved",
    "Utilisation", "VersionKept", "Waits", "judged",
]  # fmt: skip


class Oracle(Protocol):
    """One thing that must hold."""

    @property
    def name(self) -> str:
        """As in the report: `nothing_lost`."""

    @property
    def says(self) -> str:
        """What its value is, for people."""

    @property
    def bound(self) -> float:
        """The most, or the least, that will do."""

    def judge(self, evidence: Evidence) -> Finding:
        """Hold the evidence against the bound: the worst scope, run or fault, named in `says`."""


_CLASSES: tuple[type[Oracle], ...] = (
    NothingLost, NothingTwice, Overrun, Refusals429, CallsWhileClosed, Utilisation, FairnessTenants, ShareKept,
    FairnessAgents, Starved, Drain, Waits, Recovery, MemoryFlat, VersionKept, Drained, Dip,
)  # fmt: skip

ORACLES: dict[str, type[Oracle]] = {str(oracle.name): oracle for oracle in _CLASSES}
"""Every oracle by its name."""


def judged(oracles: Sequence[Oracle], evidence: Evidence) -> list[Finding]:
    """What each oracle finds, in their order."""
    return [oracle.judge(evidence) for oracle in oracles]
