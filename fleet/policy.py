"""Timeouts and retry policies, from an agent's policy. Pure.

Attempts are unlimited: a wait for quota is an attempt to Temporal, and no number of waits may fail a call. What bounds
a call is `schedule_to_close`; real failures are counted apart (`workers/failures.py`), which also sets every delay.
"""

from dataclasses import dataclass
from datetime import timedelta

from fleet.contracts.runs import CallPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The timeouts of one activity."""

    schedule_to_close: timedelta
    start_to_close: timedelta
    heartbeat: timedelta


def timeouts(policy: CallPolicy, remaining_s: float) -> Timeouts:
    """Timeouts of a call of a run that has `remaining_s` seconds left until its deadline."""
    return Timeouts(
        schedule_to_close=timedelta(seconds=max(1.0, min(policy.schedule_to_close_s, remaining_s))),
        start_to_close=timedelta(seconds=policy.start_to_close_s),
        heartbeat=timedelta(seconds=policy.heartbeat_s),
    )
