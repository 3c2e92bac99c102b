"""Where the time went. Pure: from what a history says of a call to stretches of time with a cause.

A history says when a call was scheduled, when its last attempt began, when it ended, and how often it was tried; its
result says how long the provider took and how long the call stood in line, on the limiter's clock. All else is derived:

- `queue`: from scheduling to the start of the only attempt. Of a call with several attempts it is not known.
- `provider`: what the result says, at the end of the last attempt.
- `quota`: what the result says, right before it; with one failed attempt that was a wait and no number, the wait.
- `retries`: what then remains of a call with several attempts, and the last attempt of a call that failed.
- `human`: from the opening of a question to its end.
- `engine`: the rest.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from fleet.contracts.names import FailureType
from fleet.contracts.tools import DOOR_ENTER
from fleet.history.model import Cause, Question, Span, Step, Story

_IN_LINE = frozenset(
    {FailureType.QUOTA_WAIT, FailureType.RATE_LIMITED, FailureType.OVERLOADED, FailureType.QUOTA_EXHAUSTED}
)
"""Failures that are waits for a provider's quota."""

_FIRST = (
    Cause.RESET, Cause.PROVIDER, Cause.QUOTA, Cause.RETRIES, Cause.QUEUE, Cause.UNTOLD, Cause.ENGINE, Cause.HUMAN,
)  # fmt: skip
"""An instant in which several things were under way is charged to the first of these: a run waits for humans only while
nothing else is under way, and it is held up by a quota only while no call of its is at a provider."""


def of_step(step: Step, until: datetime | None) -> list[Span]:
    """Where the time of one step went, without a gap from its scheduling to its end.

    Args:
        step: with its own calls, if it is an effect.
        until: when a step that has not ended was read. None: nothing is told of it.
    """
    end = step.ended_at or until
    if end is None or end <= step.scheduled_at:
        return []
    if step.ended_at is None:
        return [Span(cause=Cause.UNTOLD, begins=step.scheduled_at, ends=end)]
    if step.child is not None:
        return _of_effect(step, end)
    return _of_call(step, end)


def _of_call(step: Step, end: datetime) -> list[Span]:
    begin, started = step.scheduled_at, step.started_at
    if started is None or step.what == DOOR_ENTER:
        return [Span(cause=Cause.QUEUE, begins=begin, ends=end)]
    if step.result is None:
        first = Cause.QUEUE if step.attempts <= 1 else Cause.RETRIES
        return _joined([(first, started), (Cause.RETRIES, end)], begin)
    took = timedelta(seconds=max(0.0, step.result.duration_s))
    waited = timedelta(seconds=step.quota_wait_s)
    if step.attempts <= 1:
        work = max(started, end - took)
        return _joined(
            [(Cause.QUEUE, started), (Cause.QUOTA, min(work, started + waited)), (Cause.ENGINE, work),
             (Cause.PROVIDER, end)], begin,
        )  # fmt: skip
    work = max(begin, end - took)
    in_line = max(begin, work - waited)
    return _joined([(_earlier(step, waited), in_line), (Cause.QUOTA, work), (Cause.PROVIDER, end)], begin)


def _earlier(step: Step, waited: timedelta) -> Cause:
    """What came before the line of a call with several attempts."""
    if step.attempts == 2 and step.failure_type == FailureType.QUOTA_WAIT and waited:
        # its one other attempt is in the line: nothing but the queue can have been before
        return Cause.QUEUE
    if step.attempts == 2 and step.failure_type in _IN_LINE:
        return Cause.QUOTA
    return Cause.RETRIES


def _of_effect(step: Step, end: datetime) -> list[Span]:
    begin = step.scheduled_at
    if not step.calls:
        took = timedelta(seconds=step.result.duration_s if step.result else 0.0)
        work = max(begin, end - took)
        in_line = max(begin, work - timedelta(seconds=step.quota_wait_s))
        return _joined([(Cause.UNTOLD, in_line), (Cause.QUOTA, work), (Cause.PROVIDER, end)], begin)
    found: list[tuple[Cause, datetime]] = []
    for call in step.calls:
        found.append((Cause.ENGINE, call.scheduled_at))
        found += [(span.cause, span.ends) for span in of_step(call, end)]
    return _joined([*((cause, min(at, end)) for cause, at in found), (Cause.ENGINE, end)], begin)


def _joined(edges: Iterable[tuple[Cause, datetime]], begin: datetime) -> list[Span]:
    """Spans that end at these instants; what would end before it begins is left out."""
    found: list[Span] = []
    for cause, ends in edges:
        if ends > begin:
            if found and found[-1].cause is cause:
                begin = found.pop().begins
            found.append(Span(cause=cause, begins=begin, ends=ends))
            begin = ends
    return found


def of_question(question: Question, until: datetime | None) -> list[Span]:
    """The time in which a question was open."""
    begin, end = question.approval.opened_at, question.ended_at or until
    return [Span(cause=Cause.HUMAN, begins=begin, ends=end)] if end is not None and end > begin else []


def by_cause(spans: Iterable[Span]) -> dict[Cause, float]:
    """Seconds by cause, without those of which there are none."""
    found = dict.fromkeys(Cause, 0.0)
    for span in spans:
        found[span.cause] += span.seconds
    return {cause: found[cause] for cause in Cause if found[cause]}


def of_run(told: Story) -> dict[Cause, float]:
    """Seconds of the whole run by cause: they add up to the wall clock, whatever was done at once."""
    return by_cause(sweep(told))


def sweep(told: Story) -> list[Span]:
    """The run from its start to its end as spans that follow each other, one cause at a time."""
    begin, end = told.started_at, told.ended_at or told.read_at
    if begin is None or end is None or end <= begin:
        return []
    found = [span for step in told.steps for span in step.spans]
    found += [span for question in told.questions for span in of_question(question, end)]
    found += [Span(cause=Cause.HUMAN, begins=since, ends=until or end) for since, until in told.pauses]
    found += [Span(cause=Cause.RESET, begins=since, ends=until) for since, until in told.resets]
    if told.untold is not None:
        found.append(Span(cause=Cause.UNTOLD, begins=told.untold[0], ends=told.untold[1]))
    return _charged(found, begin, end)


def _charged(spans: Sequence[Span], begin: datetime, end: datetime) -> list[Span]:
    edges: list[tuple[datetime, int, Cause]] = []
    for span in spans:
        since, until = max(begin, span.begins), min(end, span.ends)
        if until > since:
            edges += [(since, 1, span.cause), (until, -1, span.cause)]
    under_way: Counter[Cause] = Counter()
    charged: list[tuple[Cause, datetime]] = []
    for at, change, cause in sorted(edges, key=lambda edge: edge[0]):
        charged.append((next((c for c in _FIRST if under_way[c]), Cause.ENGINE), at))
        under_way[cause] += change
    return _joined([*charged, (Cause.ENGINE, end)], begin)
