"""Was anybody kept waiting beyond what the quota implies?"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from load.oracles.reading import arrived, finding, nothing, quantile, struck, turnarounds
from load.oracles.supply import implied
from load.trial import Arrival, Evidence, Finding

SLACK_S = 2.0
"""A run may take so much longer than alone: the machine is shared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Holds the end of the last run against the instant at which the quota could have granted all the work."""

    name: ClassVar[str] = "drain"
    says: ClassVar[str] = "when the last run ended, over when the quota could have granted everything"

    bound: float = 1.1
    """Most, both counted from the begin of the load."""
    slack_s: float = SLACK_S
    """Seconds that are added to what the quota implies."""
    faults_stop: bool = False
    """Nothing could have been granted while a fault lasted."""
    without: frozenset[str] = frozenset()
    """Agents that are not judged: they wait for people."""

    def judge(self, evidence: Evidence) -> Finding:
        """What has not ended lasts until the trial is finished."""
        judged, took, allowed = _held(self, evidence)
        if not judged:
            return nothing(self, "no run has ended")
        could = max(arrived(evidence, a) + allowed[a.run_id] for a in judged) - evidence.began
        did = max(arrived(evidence, a) + took[a.run_id] for a in judged) - evidence.began
        return finding(self, did / could, f"ended after {did:.1f} s, the quota implies {could:.1f} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Holds the 99th percentile of turnarounds against what the quota implies, first come, first served."""

    name: ClassVar[str] = "waits"
    says: ClassVar[str] = "p99 turnaround over the p99 that the quota implies"

    bound: float = 1.5
    """Most."""
    slack_s: float = SLACK_S
    """Seconds that are added to what the quota implies."""
    faults_stop: bool = False
    """Nothing could have been granted while a fault lasted."""
    without: frozenset[str] = frozenset()
    """Agents that are not judged: they wait for people."""

    def judge(self, evidence: Evidence) -> Finding:
        """What has not ended lasts until the trial is finished."""
        judged, took, allowed = _held(self, evidence)
        if not judged:
            return nothing(self, "no run has ended")
        could = quantile((allowed[a.run_id] for a in judged), 0.99)
        did = quantile((took[a.run_id] for a in judged), 0.99)
        return finding(self, did / could, f"p99 {did:.1f} s, the quota implies {could:.1f} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Starved:
    """Holds the longest turnaround against the longest that the quota implies, first come, first served."""

    name: ClassVar[str] = "starved"
    says: ClassVar[str] = "the longest turnaround over the longest that the quota implies"

    bound: float = 2.0
    """Most."""
    slack_s: float = SLACK_S
    """Seconds that are added to what the quota implies."""
    faults_stop: bool = False
    """Nothing could have been granted while a fault lasted."""
    without: frozenset[str] = frozenset()
    """Agents that are not judged: they wait for people."""

    def judge(self, evidence: Evidence) -> Finding:
        """What has not ended lasts until the trial is finished."""
        judged, took, allowed = _held(self, evidence)
        if not judged:
            return nothing(self, "no run has ended")
        could = max(allowed[a.run_id] for a in judged)
        last = max(judged, key=lambda a: took[a.run_id])
        did = took[last.run_id]
        says = f"{last.run_id}, arrived at {last.at_s:.1f} s: {did:.1f} s; the quota implies {could:.1f} s at most"
        return finding(self, did / could, says)


class _Held(Protocol):
    @property
    def slack_s(self) -> float: ...
    @property
    def faults_stop(self) -> bool: ...
    @property
    def without(self) -> frozenset[str]: ...


def _held(oracle: _Held, evidence: Evidence) -> tuple[list[Arrival], dict[str, float], dict[str, float]]:
    """Who is judged, the turnarounds of all runs, and what the quota implies they could be."""
    took = turnarounds(evidence)
    closed = struck(evidence, 0.0) if oracle.faults_stop else []
    judged = [a for a in evidence.arrivals if a.run_id in took and a.agent not in oracle.without]
    return judged, took, implied(evidence, oracle.slack_s, closed=closed) if judged else {}
