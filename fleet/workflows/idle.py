"""When a run waits for people: it is found by that, and its deadline does not count it."""

from collections import Counter
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import SearchAttributeKey

from fleet.contracts import names

_WAITING = SearchAttributeKey.for_keyword(names.WAITING_ATTRIBUTE)


class Idle:
    """Counts, once, the time in which a run waits for at least one person."""

    def __init__(self) -> None:
        self._for: Counter[str] = Counter()
        self._since: datetime | None = None
        self._before = timedelta(0)
        self._shown: str | None = None

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
        shown = next(iter(sorted(self._for)), None)
        if shown != self._shown:
            self._shown = shown
            update = _WAITING.value_unset() if shown is None else _WAITING.value_set(shown)
            workflow.upsert_search_attributes([update])
