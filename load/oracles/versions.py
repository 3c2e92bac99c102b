"""Does every run stay on the version that it began on, and is the old one really free?"""

from dataclasses import dataclass
from typing import ClassVar

from load.oracles.reading import finding, nothing
from load.trial import Deploy, Evidence, Finding

_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionKept:
    """Counts runs that were not worked on by exactly one version, or not by the one that new runs began on then.

    A run begins with its first decision. One that was started within `slack_s` before the change of versions may have
    been on either.
    """

    name: ClassVar[str] = "version_kept"
    says: ClassVar[str] = "runs that were begun by another version than they had to be, or finished by another"

    bound: float = 0.0
    """Most of them."""
    slack_s: float = 3.0
    straddling: int = 3
    """Least number of runs that were under way on the old version when the new one took over: they tell most."""

    def judge(self, evidence: Evidence) -> Finding:
        """Of the runs that have ended."""
        if not evidence.deploys:
            return nothing(self, "no version was deployed", ok=evidence.interrupted)
        wrong, old, new = [], 0, 0
        for arrival in evidence.arrivals:
            run = arrival.run_id
            if run not in evidence.ended:
                continue
            had, allowed = evidence.builds.get(run, frozenset()), self._allowed(evidence, run)
            if len(had) != 1 or not had <= allowed:
                wrong.append(f"{run} was on {_named(had)} instead of {' or '.join(sorted(allowed))}")
            old += had == {evidence.deploys[0].before}
            new += had == {evidence.deploys[-1].after}
        if not wrong and not (old and new):
            return nothing(
                self,
                f"{old} runs on the old version, {new} on the new one: nothing to compare",
                ok=evidence.interrupted,
            )
        under_way = [self._straddling(evidence, deploy) for deploy in evidence.deploys]
        if not wrong and min(under_way) < self.straddling:
            told = f"{min(under_way)} runs were under way when the version changed, less than {self.straddling}"
            return nothing(self, told, ok=evidence.interrupted)
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        said = "; ".join(wrong[:_NAMED]) + more
        whole = f"{old} runs on the old version, {min(under_way)} of them under way at the change, {new} on the new one"
        return finding(self, len(wrong), said or whole)

    @staticmethod
    def _straddling(evidence: Evidence, deploy: Deploy) -> int:
        return sum(
            evidence.started.get(run, end.at) < deploy.promoting_at
            and end.at > deploy.promoted_at
            and evidence.builds.get(run, frozenset()) == {deploy.before}
            for run, end in evidence.ended.items()
        )

    def _allowed(self, evidence: Evidence, run: str) -> set[str]:
        at = evidence.started.get(run, evidence.ended[run].at)
        builds = {evidence.deploys[0].before}
        for deploy in evidence.deploys:
            if at >= deploy.promoted_at:
                builds = {deploy.after}
            elif at >= deploy.promoting_at - self.slack_s:
                builds = {deploy.before, deploy.after}
        return builds


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """Seconds from the end of the last run of an old version until Temporal says that nothing needs it."""

    name: ClassVar[str] = "drained"
    says: ClassVar[str] = "seconds until an old version was said to be free, from its last run's end; the worst"

    within_s: float = 20.0
    """Most seconds. Temporal looks every few minutes, on the embedded server every two seconds."""

    early_s: float = 1.0
    """It may be said to be free so long before its last run's end, by two clocks."""

    @property
    def bound(self) -> float:
        """Most seconds."""
        return self.within_s

    def judge(self, evidence: Evidence) -> Finding:
        """The slowest deployment."""
        if not evidence.deploys:
            return nothing(self, "no version was deployed", ok=evidence.interrupted)
        worst, said = 0.0, ""
        for deploy in evidence.deploys:
            last = _last_end(evidence, deploy)
            took = (deploy.drained_at if deploy.drained_at is not None else evidence.finished) - last
            if deploy.drained_at is None:
                return Finding(
                    name=self.name, value=round(max(0.0, took), 4), bound=self.bound, ok=False,
                    says=f"{deploy.before} was never free: {deploy.left or 'nobody has waited for it'}",
                )  # fmt: skip
            if deploy.drained_at < last - self.early_s:
                return Finding(
                    name=self.name, value=round(-took, 4), bound=self.bound, ok=False,
                    says=f"{deploy.before} was said to be free {-took:.1f} s before its last run ended",
                )  # fmt: skip
            if took >= worst:
                worst = took
                said = f"{deploy.before} was free {deploy.drained_at - deploy.promoted_at:.0f} s after the change"
        return finding(self, worst, said)


def _last_end(evidence: Evidence, deploy: Deploy) -> float:
    """When the last run of the old version ended; when new runs were led elsewhere, if that was later."""
    ends = [end.at for run, end in evidence.ended.items() if deploy.before in evidence.builds.get(run, ())]
    return max([deploy.promoted_at, *ends])


def _named(builds: frozenset[str]) -> str:
    return " and ".join(sorted(builds)) or "none that is known"
