"""How fast a provider lets usage grow. Pure: every call is told the time."""

import math
from collections import deque

from load.simulators.limits import AccelerationOptions

_SLICES = 20
"""Parts of a period in which usage is counted."""
_EPSILON = 1e-9


class Ramp:
    """Within a period at most `factor` times what was used in the period before, and `start` in any case.

    Counted in twentieths of the period, so that it remembers little however much is used.
    """

    def __init__(self, options: AccelerationOptions) -> None:
        self.options = options
        self._slice_s = options.period_s / _SLICES
        self._counts: deque[tuple[int, float]] = deque()
        """Slice and units, oldest first: those of the last two periods."""

    def wait(self, units: float, now: float) -> float:
        """Seconds until `units` are no sharp rise; infinite if no waiting alone helps."""
        at = int(now // self._slice_s)
        if self._fits(units, at):
            return 0.0
        later = (n for n in range(at + 1, at + 2 * _SLICES + 1) if self._fits(units, n))
        found = next(later, None)
        return math.inf if found is None else found * self._slice_s - now

    def used(self, now: float) -> float:
        """Units within the last period."""
        return self._sums(int(now // self._slice_s))[0]

    def granted(self, now: float) -> float:
        """Units that this period may have."""
        return max(self.options.start, self.options.factor * self._sums(int(now // self._slice_s))[1])

    def spend(self, units: float, now: float) -> None:
        """Count what was admitted."""
        at = int(now // self._slice_s)
        counts = self._counts
        if counts and counts[-1][0] == at:
            counts[-1] = (at, counts[-1][1] + units)
        else:
            counts.append((at, units))
            while counts[0][0] <= at - 2 * _SLICES:
                counts.popleft()

    def _fits(self, units: float, at: int) -> bool:
        used, before = self._sums(at)
        return used + units <= max(self.options.start, self.options.factor * before) + _EPSILON

    def _sums(self, at: int) -> tuple[float, float]:
        """Units of the period that ends with slice `at`, and of the one before."""
        used = before = 0.0
        for number, units in self._counts:
            if number > at - _SLICES:
                used += units
            elif number > at - 2 * _SLICES:
                before += units
        return used, before
