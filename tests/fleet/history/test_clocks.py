"""Where the time went: told of each call by what its history says, and no more."""

from datetime import UTC, datetime, timedelta

import pytest

from fleet.contracts.effects import EffectRequest, EffectResult, EffectState
from fleet.contracts.llm import QuotaUse
from fleet.contracts.tools import ToolResult
from fleet.history import Cause, Step, Story, clocks
from fleet.history.model import Span

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds):
    return NOW + timedelta(seconds=seconds)


def call(*, started, ended, took=None, waited=0.0, attempts=1, failure="", begins=0.0, what="search.query"):
    result = None
    if took is not None:
        result = ToolResult(content="{}", duration_s=took, quota=QuotaUse(scope="s", waited_s=waited))
    return Step(
        number=1,
        what=what,
        task_queue="q",
        request=None,
        scheduled_at=at(begins),
        started_at=None if started is None else at(started),
        ended_at=at(ended),
        attempts=attempts,
        failure_type=failure,
        outcome="completed" if result else "failed",
        result=result,
    )


def told(step):
    return [(span.cause, span.seconds) for span in clocks.of_step(step, None)]


def test_one_attempt_is_queue_then_quota_then_the_provider():
    assert told(call(started=2, ended=10, took=4, waited=3)) == [
        (Cause.QUEUE, 2), (Cause.QUOTA, 3), (Cause.ENGINE, 1), (Cause.PROVIDER, 4),
    ]  # fmt: skip


def test_a_call_that_no_worker_took_was_in_the_queue():
    assert told(call(started=None, ended=10)) == [(Cause.QUEUE, 10)]


def test_the_door_is_a_queue():
    assert told(call(started=8, ended=10, what="door.enter", took=2)) == [(Cause.QUEUE, 10)]


def test_an_attempt_that_failed_for_good_has_no_parts():
    assert told(call(started=2, ended=10)) == [(Cause.QUEUE, 2), (Cause.RETRIES, 8)]


def test_a_deferral_leaves_nothing_but_the_queue_before_its_line():
    deferred = call(started=8, ended=12, took=3, waited=7, attempts=2, failure="QuotaWait")
    assert told(deferred) == [(Cause.QUEUE, 2), (Cause.QUOTA, 7), (Cause.PROVIDER, 3)]


def test_one_429_is_a_wait_for_quota():
    refused = call(started=8, ended=12, took=3, waited=1, attempts=2, failure="RateLimited")
    assert told(refused) == [(Cause.QUOTA, 9), (Cause.PROVIDER, 3)]


@pytest.mark.parametrize(("attempts", "failure"), [(3, "QuotaWait"), (2, "ProviderFailed"), (2, "DatabaseLost")])
def test_what_several_attempts_were_is_not_made_up(attempts, failure):
    tried = call(started=8, ended=12, took=3, waited=1, attempts=attempts, failure=failure)
    assert told(tried) == [(Cause.RETRIES, 8), (Cause.QUOTA, 1), (Cause.PROVIDER, 3)]


def test_a_result_that_claims_more_than_there_was_is_cut():
    assert told(call(started=2, ended=4, took=9, waited=9)) == [(Cause.QUEUE, 2), (Cause.PROVIDER, 2)]
    assert told(call(started=2, ended=4, took=9, waited=9, attempts=5)) == [(Cause.PROVIDER, 4)]


def test_a_call_that_has_not_ended_is_untold():
    step = call(started=None, ended=1)
    step.ended_at = None
    assert [(s.cause, s.seconds) for s in clocks.of_step(step, at(5))] == [(Cause.UNTOLD, 5)]
    assert clocks.of_step(step, None) == []


def effect(*calls):
    request = EffectRequest(
        key="run/1.1", tool="t", activity="a", arguments={}, digest="d", run_id="run", agent="a", tenant="t"
    )
    return Step(
        number=1,
        what="email.send",
        task_queue="q",
        request=request,
        scheduled_at=at(0),
        started_at=at(1),
        ended_at=at(10),
        attempts=1,
        result=EffectResult(state=EffectState.DONE, duration_s=2, quota=QuotaUse(scope="s", waited_s=1)),
        child=("run/1.1", "x"),
        calls=list(calls),
    )


def test_an_effect_is_told_by_its_own_history():
    assert told(effect(call(begins=1, started=4, ended=9, took=2, waited=3))) == [
        (Cause.ENGINE, 1), (Cause.QUEUE, 3), (Cause.QUOTA, 3), (Cause.PROVIDER, 2), (Cause.ENGINE, 1),
    ]  # fmt: skip


def test_of_an_effect_whose_history_is_gone_only_its_result_is_told():
    assert told(effect()) == [(Cause.UNTOLD, 7), (Cause.QUOTA, 1), (Cause.PROVIDER, 2)]


def run(*spans, ends=10, pauses=()):
    step = call(started=0, ended=1)
    step.spans = list(spans)
    return Story(run_id="r", started_at=at(0), ended_at=at(ends), steps=[step], pauses=list(pauses))


def span(cause, begins, ends):
    return Span(cause=cause, begins=at(begins), ends=at(ends))


def test_an_instant_of_several_calls_is_the_providers_if_one_is_there():
    both = run(span(Cause.PROVIDER, 0, 4), span(Cause.QUOTA, 2, 8))
    assert clocks.of_run(both) == {Cause.PROVIDER: 4, Cause.QUOTA: 4, Cause.ENGINE: 2}


def test_a_pause_counts_only_while_nothing_is_under_way():
    paused = run(span(Cause.PROVIDER, 0, 4), pauses=[(at(2), at(9))])
    assert clocks.of_run(paused) == {Cause.PROVIDER: 4, Cause.HUMAN: 5, Cause.ENGINE: 1}


def test_a_pause_without_an_end_lasts_to_the_end():
    assert clocks.of_run(run(pauses=[(at(6), None)])) == {Cause.HUMAN: 4, Cause.ENGINE: 6}


def test_what_a_reset_has_thrown_away_is_told_apart():
    reset = run(span(Cause.PROVIDER, 0, 4))
    reset.resets = [(at(4), at(9))]
    assert clocks.of_run(reset) == {Cause.PROVIDER: 4, Cause.RESET: 5, Cause.ENGINE: 1}
