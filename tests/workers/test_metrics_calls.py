"""Where the time of a call goes, and what it has cost: counted by the activities themselves."""

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from temporalio.common import Priority
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from fleet.budget import cost
from fleet.compaction import SUFFIX
from fleet.contracts import metrics
from fleet.contracts.llm import ChatRequest, Message, Role
from fleet.contracts.names import FailureType
from fleet.contracts.runs import Price
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from tests.workers.test_admission import SCOPE, Desk
from workers import failures, pool
from workers.admission import Admission
from workers.door import Door
from workers.metrics import Metrics
from workers.providers import errors
from workers.providers.openai import OpenAIChat
from workers.tools.llm import LlmTools

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PRICE = Price(input="3", output="15", cached="0.3")


@pytest.fixture
def counted(monkeypatch):
    """What is counted from here on."""
    found = Metrics()
    for module in ("admission", "pool", "timing", "tools.llm"):
        monkeypatch.setattr(f"workers.{module}.METRICS", found)
    return lambda name, **labels: found.registry.get_sample_value(name, labels)


async def attempted(desk, *, queued_s=0.0, attempt=1, key="1", scope=SCOPE, units=1.0, error=None, sends=True):
    """One attempt of a call of the agent `payer`, scheduled so many seconds before it starts."""

    async def body():
        async with desk.admission.admitted(scope, {"requests": units}, max_failures=3, agent="payer") as admitted:
            if sends:
                admitted.sent()
            if error is not None:
                raise error

    environment = ActivityEnvironment()
    environment.info = replace(
        environment.info, activity_id=key, attempt=attempt,
        current_attempt_scheduled_time=NOON, started_time=NOON + timedelta(seconds=queued_s),
    )  # fmt: skip
    await environment.run(body)


async def test_a_call_is_told_by_queue_quota_and_provider(counted):
    async with Desk() as desk:
        await attempted(desk, queued_s=4)
    waits = {cause: counted("fleet_call_wait_seconds_total", agent="payer", cause=cause) for cause in
             ("queue", "quota", "provider")}  # fmt: skip
    assert waits["queue"] == 4
    assert waits["quota"] < 0.2
    assert 0 < waits["provider"] < 0.2
    assert counted("fleet_provider_call_seconds_count", scope=SCOPE, outcome="ok") == 1


async def test_time_in_the_queue_of_one_who_comes_back_for_its_place_does_not_count_twice(counted):
    async with Desk(inline_s=0.05) as desk:
        await desk.limiter.acquire(SCOPE, {"requests": 10}, max_wait=timedelta(0))
        await desk.limiter.acquire(SCOPE, {"requests": 10}, max_wait=timedelta(seconds=1), key="other")
        with pytest.raises(ApplicationError):
            await attempted(desk, units=10, queued_s=2)
        assert counted("fleet_quota_deferrals_total", scope=SCOPE) == 1
        async with desk.limiter.using(SCOPE, {"requests": 1}, max_wait=timedelta(seconds=2)):
            pass  # by then the place is due
        await attempted(desk, units=10, queued_s=0.01, attempt=2)
    assert counted("fleet_call_wait_seconds_total", agent="payer", cause="queue") == pytest.approx(2.01)
    assert 0.05 < counted("fleet_call_wait_seconds_total", agent="payer", cause="quota") < 2


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (errors.RateLimited("429", retry_after_s=0.1), "RateLimited"),
        (errors.Unavailable("500"), "Unavailable"),
        (RuntimeError("a defect"), "RuntimeError"),
    ],
)
async def test_a_call_that_fails_is_timed_by_its_failure(counted, error, outcome):
    async with Desk() as desk:
        with pytest.raises((ApplicationError, RuntimeError)):
            await attempted(desk, error=error)
    assert counted("fleet_provider_call_seconds_count", scope=SCOPE, outcome=outcome) == 1
    assert counted("fleet_call_wait_seconds_total", agent="payer", cause="provider") > 0
    rejections = counted("fleet_provider_rejections_total", scope=SCOPE, kind="RateLimited")
    failures = counted("fleet_provider_failures_total", scope=SCOPE)
    assert (rejections, failures) == (1 if outcome == "RateLimited" else None, 1 if outcome == "Unavailable" else None)


async def test_a_provider_without_a_quota_is_timed_under_its_name(counted):
    async with Desk() as desk:
        await attempted(desk, scope="unlimited")
        await attempted(desk, scope=None)
    assert counted("fleet_provider_call_seconds_count", scope="unlimited", outcome="ok") == 1
    assert counted("fleet_provider_call_seconds_count", scope="", outcome="ok") is None


async def test_a_call_that_was_never_sent_took_none_of_the_providers_time(counted):
    async with Desk() as desk:
        await attempted(desk, sends=False)
    assert counted("fleet_call_wait_seconds_total", agent="payer", cause="provider") is None


@pytest.mark.parametrize("role", ["payer", f"payer{SUFFIX}"])
async def test_tokens_and_money_are_told_by_model_agent_and_tenant(counted, simulators, role):
    where = await simulators()
    provider = OpenAIChat(name="openai", api_key="sk-sim", base_url=f"{where.http}/v1", timeout_s=5)
    asked = ChatRequest(model="openai/m", messages=[Message(role=Role.USER, content="Say hello")], role=role)
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, priority=Priority(fairness_key="acme"))
    async with Limiter(MemoryStore(), {}) as limiter:
        admission = Admission(limiter, timedelta(seconds=1))
        tools = LlmTools(admission, {"openai": provider}, Door(limiter), None, {"openai/m": PRICE})
        result = await environment.run(tools.chat, asked)
    await provider.aclose()
    used = result.usage
    tokens = {
        kind: counted("fleet_model_tokens_total", model="openai/m", agent="payer", type=kind)
        for kind in ("input", "cached", "output")
    }
    assert sum(tokens.values()) == used.total_tokens
    assert (tokens["cached"], tokens["output"]) == (used.cached_tokens, used.output_tokens)
    money = counted("fleet_model_cost_total", model="openai/m", agent="payer")
    assert money == pytest.approx(float(cost(PRICE, used)))
    assert Decimal(money) > 0
    assert counted("fleet_tenant_tokens_total", tenant="acme") == used.total_tokens
    assert counted("fleet_tenant_cost_total", tenant="acme") == money
    assert counted("fleet_tenant_calls_total", tenant="acme") == 1


class _Ends(ActivityInboundInterceptor):
    """An activity that ends in one way."""

    def __init__(self, how):
        self._how = how

    async def execute_activity(self, input):  # noqa: A002
        if self._how is not None:
            raise self._how


@pytest.mark.parametrize(
    ("how", "outcome"),
    [
        (None, "completed"),
        (failures.wait(FailureType.QUOTA_WAIT, "later", timedelta(seconds=1)), "waited"),
        (failures.final(FailureType.BAD_REQUEST, "no"), "failed"),
        (RuntimeError("a defect"), "failed"),
        (asyncio.CancelledError(), "cancelled"),
        (CancelledError("given back"), "cancelled"),
    ],
    ids=repr,
)
async def test_an_attempt_is_counted_by_how_it_ends(counted, how, outcome):
    around = pool._Counting("llm").intercept_activity(_Ends(how))
    asked = ExecuteActivityInput(fn=_Ends.execute_activity, args=(), executor=None, headers={})
    with nullcontext() if how is None else pytest.raises(type(how)):
        await around.execute_activity(asked)
    told = {one: counted("fleet_activity_tasks_total", pool="llm", activity="execute_activity", outcome=one) for one in
            metrics.TASKS.values["outcome"]}  # fmt: skip
    assert {one: count for one, count in told.items() if count} == {outcome: 1}
    assert counted("fleet_activity_running", pool="llm") == 0
