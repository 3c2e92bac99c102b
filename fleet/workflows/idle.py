"""When a run waits for people: its deadline does not count it."""

from collections import Counter
from datetime import datetime, timedelta

from temporalio import workflow

from fleet.workflows.signs import Signs


class Idle:
    """Counts, once, the time in which a run waits for at least one person."""

    def __init__(self, signs: Signs, before_s: float = 0.0) -> None:
        """Args:
        signs: where it is shown.
        before_s: seconds counted by earlier executions of the run.
        """
        self._signs = signs
        self._for: Counter[str] = Counter()
        self._since: datetime | None = None
        self._before = timedelta(seconds=before_s)

    def begin(self, what: str) -> None:
        """Wait for somebody: `approval` or `resume`. May be nested; each needs its `end`."""
        self._for[what] += 1
        if self._since is None:
            self._since = workflow.now()
        self._show()

    def end(self, what: str) -> None:
        """That wait is over."""
        self._for[what] -= 1
        self._for += Counter()
        if not self._for and self._since is not None:
            self._before += workflow.now() - self._since
            self._since = None
        self._show()

    def total(self) -> timedelta:
        """All such time until now."""
        return self._before + (workflow.now() - self._since if self._since else timedelta(0))

    def _show(self) -> None:
        self._signs.waits_for(next(iter(sorted(self._for)), None))
