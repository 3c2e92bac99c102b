"""Timeouts and retry policies, from an agent's policy. Pure.

Attempts are unlimited: a wait for quota is an attempt to Temporal, and no number of waits may fail a call. What bounds
a call is `schedule_to_close`; real failures are counted apart (`workers/failures.py`), which also sets every delay.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from fleet.contracts.effects import EffectRequest, Mode
from fleet.contracts.runs import CallPolicy, RunInput, RunResult


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


TELL_WITHIN = timedelta(days=30)
"""How long it is tried at most to tell somebody that a run has ended; the endpoint's own deadline is shorter."""


def ending(run: RunInput, result: RunResult) -> dict[str, Any]:
    """What those are told who want to know how a run has ended. No answer longer than 64 KB."""
    return {
        "agent": run.agent.name,
        "tenant": run.tenant,
        "goal": run.goal[:1000],
        "outcome": result.outcome.value,
        "reason": result.reason,
        "answer": result.answer[:65_536],
        "steps": result.steps,
        "tokens": result.tokens,
        "cost": result.cost,
        "currency": result.currency,
        "effects": result.effects,
    }


ACCOUNT_WITHIN = timedelta(days=1)
"""How long the ledger is asked what became of an effect."""


def accounting(request: EffectRequest, why: str) -> EffectRequest:
    """The same effect, to be accounted for instead of had."""
    return replace(request, mode=Mode.ACCOUNT, why=why)
