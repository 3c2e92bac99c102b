"""Does a worker's memory grow?"""

from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from load.oracles.reading import finding, nothing
from load.trial import Evidence, Finding

POINTS = 100
"""To which a process's looks are thinned: the slope takes every pair of them."""
PER_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFlat:
    """The robust slope of each worker's resident memory, after a warm-up.

    The slope is the median over all pairs of looks (Theil 1950, Sen 1968): single peaks do not count.
    """

    name: ClassVar[str] = "memory_flat"
    says: ClassVar[str] = "growth of the worst worker's resident memory, in MB per ten minutes"

    bound: float = 10.0
    """Most MB per ten minutes."""
    warm_up_s: float = 30.0
    """The first seconds of load are not counted."""
    free_mb: float = 10.0
    """Growth over the whole trial that is never counted: caches fill."""
    least_s: float = 20.0
    """Processes that were seen for a shorter time are not judged."""

    def judge(self, evidence: Evidence) -> Finding:
        """The worst process."""
        seen: dict[str, list[tuple[float, float]]] = {}
        for look in evidence.looks:
            if look.at >= evidence.began + self.warm_up_s:
                for process, rss_mb in look.rss_mb.items():
                    seen.setdefault(process, []).append((look.at, rss_mb))
        worst: tuple[float, float, str] | None = None
        for process, looks in seen.items():
            length = looks[-1][0] - looks[0][0]
            if length < self.least_s:
                continue
            grown = _slope(_thinned(looks)) * length
            value = max(0.0, grown - self.free_mb) / length * PER_S
            if worst is None or (value, grown) > worst[:2]:
                worst = (value, grown, f"{process}: {grown:+.1f} MB in {length:.0f} s, from {looks[0][1]:.0f} MB")
        if worst is None:
            return nothing(self, f"no worker was seen for {self.least_s:g} s after the first {self.warm_up_s:g} s")
        return finding(self, worst[0], worst[2])


def _thinned(looks: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` of them, each the middle of some neighbours."""
    size = -(-len(looks) // POINTS)
    parts = [looks[n : n + size] for n in range(0, len(looks), size)]
    return [(median(at for at, _ in part), median(mb for _, mb in part)) for part in parts]


def _slope(points: list[tuple[float, float]]) -> float:
    slopes = [
        (later - mb) / (then - at)
        for number, (at, mb) in enumerate(points)
        for then, later in points[number + 1 :]
        if then > at
    ]
    return median(slopes) if slopes else 0.0
