"""Where the time of a call goes: the task queue, the line for quota, the provider."""

from time import monotonic

from temporalio import activity

from fleet.contracts import metrics
from workers.metrics import METRICS

_QUEUE, _QUOTA, _PROVIDER = "queue", "quota", "provider"
OK = "ok"
"""Outcome of a call that its provider has answered."""


class Timing:
    """Counts the time of one attempt by its causes."""

    def __init__(self, agent: str, scope: str | None) -> None:
        """Begin with the attempt.

        Args:
            agent: whose call it is; empty: nobody's.
            scope: what the provider counts by; None: it counts nothing.
        """
        info = activity.info()
        self._agent = agent
        self.scope = scope or ""
        """As it was asked for; empty: none."""
        self._queued_s = max(0.0, (info.started_time - info.current_attempt_scheduled_time).total_seconds())
        self._comes_back = info.attempt > 1
        self._began = monotonic()
        self._sent: float | None = None
        if not self._comes_back:
            self._count(_QUEUE, self._queued_s)

    def permitted(self, waited_s: float) -> None:
        """It may be made, after so many seconds in line, over all attempts."""
        if self._comes_back:
            self._count(_QUEUE, self._queued_s)
            if waited_s > monotonic() - self._began:
                # it stood in line since an earlier attempt: in the queue too, which must not count twice
                waited_s -= self._queued_s
        self._count(_QUOTA, max(0.0, waited_s))

    def sent(self) -> None:
        """The provider has it."""
        if self._sent is None:
            self._sent = monotonic()

    def ended(self, outcome: str) -> None:
        """The provider has answered, or will not: `ok` or the kind of failure. Nothing happens if it never had it."""
        if self._sent is None:
            return
        took_s = monotonic() - self._sent
        self._count(_PROVIDER, took_s)
        if self.scope:
            METRICS.of(metrics.PROVIDER_SECONDS).labels(self.scope, outcome).observe(took_s)

    def _count(self, cause: str, seconds: float) -> None:
        METRICS.of(metrics.CALL_WAIT).labels(self._agent, cause).inc(seconds)
