"""Admission: waits are states, failures are counted, a 429 closes the scope for all."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Self
from uuid import uuid4

import pytest
from temporalio import activity, workflow
from temporalio.client import WorkflowFailureError
from temporalio.common import Priority
from temporalio.exceptions import ActivityError, ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from fleet.contracts.names import FailureType
from ratelimit.limiter import Closed, Limiter
from ratelimit.memory import MemoryStore
from ratelimit.places import Kind
from ratelimit.quota import Limit, Quota
from workers.admission import CLOSED_LOOK, Admission
from workers.providers import errors

SCOPE = "openai/m"


class Desk:
    """One limiter with one scope of 100 requests a second, ten at once, and an activity that goes through it."""

    def __init__(self, *, inline_s: float = 0.5) -> None:
        self.quota = Quota(scope=SCOPE, limits={"requests": Limit(capacity=6000, burst=10)})
        self.limiter = Limiter(MemoryStore(), {SCOPE: self.quota})
        self.admission = Admission(self.limiter, timedelta(seconds=inline_s))
        self.calls = 0

    async def __aenter__(self) -> Self:
        await self.limiter.configure(self.quota, full=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.limiter.aclose()

    def call(
        self, units: float = 1, *, answer: Exception | None = None, max_failures: int = 3
    ) -> Callable[[], Awaitable[float]]:
        """The body of an activity: one call of a provider that answers as told."""

        async def body() -> float:
            cost = {"requests": units, "tokens": 99.0}
            async with self.admission.admitted(SCOPE, cost, max_failures=max_failures) as admitted:
                admitted.sent()
                self.calls += 1
                if answer is not None:
                    raise answer
                admitted.actual = {"requests": units, "tokens": 50.0}
            use = admitted.use()
            assert use is not None
            return use.waited_s

        return body

    async def attempt(self, body: Callable[[], Awaitable[float]], *, activity_id: str = "1", attempt: int = 1) -> float:
        """Run the body as one attempt of an activity."""
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, activity_id=activity_id, attempt=attempt)
        return await environment.run(body)


async def test_a_free_scope_admits_at_once():
    async with Desk() as desk:
        assert await desk.attempt(desk.call()) < 0.2
        assert desk.calls == 1


async def test_a_scope_without_a_quota_is_not_limited():
    async with Desk() as desk:

        async def body() -> None:
            async with desk.admission.admitted("search/other", {"requests": 1e9}, max_failures=1) as admitted:
                assert admitted.use() is None

        await ActivityEnvironment().run(body)


async def test_a_short_wait_is_slept_in_the_slot():
    async with Desk() as desk:
        await desk.attempt(desk.call(10), activity_id="1")
        assert 0.1 < await desk.attempt(desk.call(20), activity_id="2") < 0.5


async def test_a_long_wait_gives_the_slot_back_and_names_the_time_of_its_place():
    async with Desk() as desk:
        await desk.attempt(desk.call(10), activity_id="1")
        with pytest.raises(ApplicationError) as raised:
            await desk.attempt(desk.call(200), activity_id="2")
        error = raised.value
        assert (error.type, error.category) == (FailureType.QUOTA_WAIT, ApplicationErrorCategory.BENIGN)
        assert not error.non_retryable
        assert "waits for openai/m requests: its place comes in" in error.message
        assert error.next_retry_delay is not None
        # booked at two seconds; back half an inline wait early
        assert timedelta(seconds=1.5) < error.next_retry_delay < timedelta(seconds=2)
        assert desk.calls == 1


async def test_who_comes_back_finds_its_own_place_and_pays_once():
    async with Desk() as desk:
        await desk.attempt(desk.call(10), activity_id="1")
        with pytest.raises(ApplicationError):
            await desk.attempt(desk.call(100), activity_id="2")
        with pytest.raises(ApplicationError):
            await desk.attempt(desk.call(100), activity_id="2", attempt=2)
        seen = await desk.limiter.inspect(SCOPE)
        assert -101 < seen.limits["requests"].level < -90


async def test_an_estimate_is_settled_by_what_the_call_really_cost():
    async with Desk() as desk:

        async def body() -> None:
            async with desk.admission.admitted(SCOPE, {"requests": 10.0}, max_failures=1) as admitted:
                admitted.actual = {"requests": 1.0}

        await ActivityEnvironment().run(body)
        assert (await desk.limiter.inspect(SCOPE)).limits["requests"].level >= 9


async def test_what_was_never_sent_is_given_back():
    async with Desk() as desk:

        async def unsent() -> None:
            async with desk.admission.admitted(SCOPE, {"requests": 5.0}, max_failures=1):
                raise errors.Unavailable("the ledger does not answer")

        async def stopped() -> None:
            async with desk.admission.admitted(SCOPE, {"requests": 5.0}, max_failures=1):
                raise asyncio.CancelledError

        async def done_before() -> None:
            async with desk.admission.admitted(SCOPE, {"requests": 5.0}, max_failures=1):
                return

        for body, raised in ((unsent, ApplicationError), (stopped, asyncio.CancelledError), (done_before, None)):
            with pytest.raises(raised) if raised else nullcontext():
                await desk.attempt(body, activity_id=body.__name__)  # type: ignore[arg-type]
        with pytest.raises(ApplicationError):
            await desk.attempt(desk.call(5, answer=errors.NotSent("no connection")), activity_id="4")
        assert (await desk.limiter.inspect(SCOPE)).limits["requests"].level == 10
        # what was sent and has failed may have been counted
        with pytest.raises(ApplicationError):
            await desk.attempt(desk.call(5, answer=errors.Unavailable("500")), activity_id="5")
        assert (await desk.limiter.inspect(SCOPE)).limits["requests"].level < 7


@pytest.mark.parametrize("counts", [True, False])
async def test_a_call_that_was_turned_away_is_charged_where_the_provider_counts_it(counts):
    async with Desk() as desk:

        async def body() -> None:
            async with desk.admission.admitted(SCOPE, {"requests": 5.0}, max_failures=1) as admitted:
                admitted.refused_counts = counts
                admitted.sent()
                raise errors.RateLimited("429", retry_after_s=60)

        before = (await desk.limiter.inspect(SCOPE)).counters
        with pytest.raises(ApplicationError):
            await desk.attempt(body)  # type: ignore[arg-type]
        seen = await desk.limiter.inspect(SCOPE)
        assert seen.counters.rejections == before.rejections + 1
        # a 429 takes what was thought to be left; what is given back comes on top
        assert (seen.limits["requests"].level > 4) is not counts


@pytest.mark.parametrize("answer", [None, errors.Unavailable("500"), errors.RateLimited("429", retry_after_s=0.001)])
async def test_what_is_in_flight_ends_with_the_call_however_it_ends(answer):
    async with Desk() as desk:
        flights = Limit(capacity=1, period=timedelta(minutes=1), kind=Kind.IN_FLIGHT)
        await desk.limiter.configure(Quota(scope=SCOPE, limits={"in_flight": flights}), full=True)

        async def body() -> None:
            async with desk.admission.admitted(SCOPE, {"requests": 1.0}, max_failures=1) as admitted:
                admitted.sent()
                assert (await desk.limiter.inspect(SCOPE)).limits["in_flight"].level == 0
                if answer is not None:
                    raise answer

        with pytest.raises(ApplicationError) if answer else nullcontext():
            await desk.attempt(body)  # type: ignore[arg-type]
        assert (await desk.limiter.inspect(SCOPE)).limits["in_flight"].level == 1


async def test_a_429_closes_the_scope_for_everybody():
    async with Desk() as desk:
        with pytest.raises(ApplicationError) as raised:
            await desk.attempt(desk.call(answer=errors.RateLimited("429", retry_after_s=30)))
        assert raised.value.type == FailureType.RATE_LIMITED
        seen = await desk.limiter.inspect(SCOPE)
        assert timedelta(seconds=29) < seen.closed_for <= timedelta(seconds=30)
        with pytest.raises(ApplicationError) as waiting:
            await desk.attempt(desk.call(), activity_id="2")
        assert waiting.value.type == FailureType.QUOTA_WAIT
        assert desk.calls == 1


async def test_without_a_hint_cooldowns_grow():
    async with Desk() as desk:
        closed = []
        for number in range(3):
            with pytest.raises(ApplicationError):
                await desk.attempt(desk.call(answer=errors.Overloaded("529")), activity_id=str(number))
            closed.append((await desk.limiter.inspect(SCOPE)).closed_for.total_seconds())
            # the next burst comes after the pause
            await desk.limiter.open(SCOPE)
            desk.limiter._store.model.scopes[SCOPE].cooldown_until = 0.0
        assert closed[0] < closed[1] < closed[2]


async def test_out_of_money_closes_the_scope_and_loses_no_run():
    async with Desk() as desk:
        with pytest.raises(ApplicationError) as raised:
            await desk.attempt(desk.call(answer=errors.Exhausted("openai: insufficient_quota")))
        assert (raised.value.type, raised.value.category) == (
            FailureType.QUOTA_EXHAUSTED,
            ApplicationErrorCategory.BENIGN,
        )
        assert (await desk.limiter.inspect(SCOPE)).closed is Closed.BILLING
        with pytest.raises(ApplicationError) as waiting:
            await desk.attempt(desk.call(), activity_id="2")
        assert "closed (billing) until somebody opens it: fleet quota thaw" in waiting.value.message
        assert waiting.value.next_retry_delay == CLOSED_LOOK
        assert desk.calls == 1
        change = (await desk.limiter.changes(SCOPE))[0]
        assert (change.action, change.reason) == ("billing", "openai: insufficient_quota")
        await desk.limiter.open(SCOPE)
        await desk.attempt(desk.call(), activity_id="2", attempt=2)


async def test_a_rejection_that_names_a_limit_closes_only_that():
    async with Desk() as desk:
        with pytest.raises(ApplicationError):
            await desk.attempt(desk.call(answer=errors.RateLimited("429", retry_after_s=30, limit="requests")))
        seen = await desk.limiter.inspect(SCOPE)
        assert seen.closed_for == timedelta(0)
        assert seen.limits["requests"].closed_for > timedelta(seconds=29)


async def test_a_tenants_share_is_charged_by_the_fairness_key():
    async with Desk() as desk:
        share = Quota(scope=f"{SCOPE}/*", limits={"requests": Limit(capacity=60, burst=1)})
        limiter = Limiter(desk.limiter._store, {SCOPE: desk.quota, share.scope: share})
        desk.admission = Admission(limiter, timedelta(0))
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, priority=Priority(fairness_key="acme"))
        await environment.run(desk.call())
        assert (await limiter.inspect(f"{SCOPE}/acme")).limits["requests"].level < 1
        environment.info = replace(environment.info, activity_id="other")
        with pytest.raises(ApplicationError, match="waits for openai/m/acme requests"):
            await environment.run(desk.call())
        await desk.attempt(desk.call(), activity_id="3")
        await limiter.aclose()


async def test_a_draining_worker_gives_back_what_stands_in_line():
    async with Desk(inline_s=60) as desk:
        await desk.attempt(desk.call(10))
        environment = ActivityEnvironment()
        environment.worker_shutdown()
        with pytest.raises(ApplicationError) as raised:
            await environment.run(desk.call(1000))
        assert (raised.value.type, raised.value.category) == (
            FailureType.SHUTTING_DOWN,
            ApplicationErrorCategory.BENIGN,
        )


@workflow.defn
class OneCall:
    """Schedules the activity under test."""

    @workflow.run
    async def run(self) -> int:
        found: int = await workflow.execute_activity(
            "call",
            result_type=int,
            start_to_close_timeout=timedelta(seconds=30),
            heartbeat_timeout=timedelta(seconds=10),
        )
        return found


async def _through_temporal(temporal, desk: Desk, answers: list[Exception | None], max_failures: int) -> int:
    """Let a real server retry the activity; answers the number of its attempts."""

    @activity.defn(name="call")
    async def call() -> int:
        attempt = activity.info().attempt
        await desk.call(answer=answers[min(attempt, len(answers)) - 1], max_failures=max_failures)()
        return attempt

    queue = f"q-{uuid4().hex}"
    async with Worker(
        temporal,
        task_queue=queue,
        workflows=[OneCall],
        activities=[call],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        found: int = await temporal.execute_workflow(OneCall.run, id=queue, task_queue=queue)
        return found


async def test_rejections_never_fail_an_activity_however_many_there_are(temporal):
    async with Desk() as desk:
        rejected = errors.RateLimited("429", retry_after_s=0.0)
        assert await _through_temporal(temporal, desk, [*[rejected] * 8, None], max_failures=2) == 9


async def test_real_failures_are_counted_apart_from_waits(temporal, monkeypatch):
    monkeypatch.setattr("workers.failures.FIRST_DELAY_S", 0.01)
    async with Desk() as desk:
        rejected, failed = errors.RateLimited("429", retry_after_s=0.0), errors.Unavailable("500")
        answers = [failed, rejected, rejected, failed, rejected, None]
        assert await _through_temporal(temporal, desk, answers, max_failures=3) == 6


async def test_a_provider_that_really_fails_is_given_up_after_its_policy(temporal, monkeypatch):
    monkeypatch.setattr("workers.failures.FIRST_DELAY_S", 0.01)
    async with Desk() as desk:
        rejected, failed = errors.RateLimited("429", retry_after_s=0.0), errors.Unavailable("500")
        with pytest.raises(WorkflowFailureError) as raised:
            await _through_temporal(temporal, desk, [failed, rejected, failed, rejected, failed, None], max_failures=3)
        assert isinstance(raised.value.cause, ActivityError)
        cause = raised.value.cause.cause
        assert isinstance(cause, ApplicationError)
        assert (cause.type, cause.message) == (FailureType.PROVIDER_FAILED, "500 (failed 3 times)")
        assert desk.calls == 5


async def test_headers_of_an_answer_lower_what_the_fleet_thinks_is_left():
    async with Desk() as desk:

        async def body() -> None:
            async with desk.admission.admitted(SCOPE, {"requests": 1.0}, max_failures=1) as admitted:
                admitted.actual = {"requests": 1.0}
                admitted.hear("openai", {"x-ratelimit-remaining-requests": "2", "x-ratelimit-remaining-tokens": "0"})

        await desk.attempt(body)  # type: ignore[arg-type]
        assert (await desk.limiter.inspect(SCOPE)).limits["requests"].level < 4


@pytest.mark.parametrize(("units", "least", "most"), [(2_500, 24, 25), (4_000, 29.9, 30), (12_000, 59, 60)])
async def test_a_long_wait_is_looked_at_again_half_way(units, least, most):
    async with Desk() as desk:
        await desk.attempt(desk.call(10), activity_id="1")
        with pytest.raises(ApplicationError) as raised:
            await desk.attempt(desk.call(units), activity_id="2")
        delay = raised.value.next_retry_delay
        assert delay is not None
        assert least <= delay.total_seconds() <= most
