"""What a tenant may spend in a day: the call that goes beyond it is made, the next one is not."""

from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from temporalio.common import Priority
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment

from fleet.contracts.llm import ChatRequest, ChatResult, Message, Role, Usage
from fleet.contracts.names import FailureType
from fleet.contracts.runs import Price
from fleet.tables import DailySpec
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from tests.workers.attempting import Flaky
from workers.admission import Admission
from workers.door import Door
from workers.effects.budgets import Budgets
from workers.effects.spend import Spend
from workers.providers.openai import OpenAIChat
from workers.tools.llm import LlmTools

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

PRICE = Price(input="1000000", output="2000000", cached="500000", currency="EUR")
USED = ChatResult(
    message=Message(role=Role.ASSISTANT, content="x"),
    usage=Usage(input_tokens=6, cached_tokens=2, output_tokens=4),
    finish_reason="stop",
    duration_s=2.5,
)


def budgets(database, **daily):
    spec = DailySpec(**daily)
    return Budgets(Spend(database), lambda tenant: spec if tenant == "acme" else None, {"openai/m": PRICE})


async def used(database, tenant="acme"):
    return await Spend(database).total(tenant, datetime.now(UTC).date())


@pytest.mark.parametrize(
    ("daily", "calls", "told"),
    [
        ({"steps": 2}, 2, "tenant acme has used 2 of 2 steps today; the day ends at midnight UTC"),
        ({"tokens": 15}, 2, "tenant acme has used 20 of 15 tokens today; the day ends at midnight UTC"),
        ({"money": "13.5"}, 2, "tenant acme has used 26 of 13.5 of money today; the day ends at midnight UTC"),
        ({"time": "5s"}, 2, "tenant acme has used 5 of 5 seconds of model time today; the day ends at midnight UTC"),
        ({"money": "0"}, 0, "tenant acme has used 0 of 0 of money today; the day ends at midnight UTC"),
    ],
)
async def test_a_budget_that_is_used_up_refuses_the_next_call(database, daily, calls, told):
    found = budgets(database, **daily)
    for number in range(calls):
        await found.check("acme")
        await found.book("acme", f"run/{number}", "openai/m", USED)
    with pytest.raises(ApplicationError) as raised:
        await found.check("acme")
    assert (raised.value.type, raised.value.non_retryable) == (FailureType.BUDGET_EXHAUSTED, True)
    assert raised.value.message == told


async def test_a_call_is_counted_once_however_often_it_is_reported(database):
    found = budgets(database, steps=9)
    for _ in range(3):
        await found.book("acme", "run/1", "openai/m", USED)
    spent = await used(database)
    assert (spent.steps, spent.tokens, spent.money, spent.seconds) == (1, 10, Decimal(13), 2.5)


async def test_a_model_without_a_price_costs_nothing(database):
    await budgets(database, money="1").book("acme", "run/1", "openai/other", USED)
    assert (await used(database)).money == 0


async def test_who_has_no_budget_is_not_counted(database):
    found = budgets(database, steps=1)
    await found.book("umbrella", "run/1", "openai/m", USED)
    await found.check("umbrella")
    assert (await used(database, "umbrella")).steps == 0


async def test_what_was_spent_yesterday_is_not_spent_today(database):
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    await Spend(database).add(
        tenant="acme", day=yesterday, call="run/1", steps=9, tokens=9, money=Decimal(9), seconds=9.0
    )
    await budgets(database, steps=1, tokens=1, money="1", time="1s").check("acme")


async def test_without_a_database_nobody_is_refused_or_let_through_and_a_count_is_lost(database):
    found = budgets(Flaky(database), steps=1)
    found._spend._database.away = 1
    await found.book("acme", "run/1", "openai/m", USED)
    assert (await used(database)).steps == 0

    class Away(Flaky):
        @asynccontextmanager
        async def begin(self):
            raise AssertionError("nothing is written")
            yield

    flaky = Away(database)
    flaky.reading = lambda: Flaky.begin(flaky)
    flaky.away = 1
    with pytest.raises(ApplicationError) as raised:
        await budgets(flaky, steps=1).check("acme")
    assert (raised.value.type, raised.value.category) == (FailureType.DATABASE_LOST, ApplicationErrorCategory.BENIGN)


ASKED = ChatRequest(model="openai/m", messages=[Message(role=Role.USER, content="Say hello")])


@pytest.fixture
async def ask(simulators, database):
    """Call the model as an activity of one run and tenant does."""
    where = await simulators()
    provider = OpenAIChat(name="openai", api_key="sk-sim", base_url=f"{where.http}/v1", timeout_s=5)
    async with Limiter(MemoryStore(), {}) as limiter:
        admission = Admission(limiter, timedelta(seconds=1))
        tools = LlmTools(admission, {"openai": provider}, Door(limiter), budgets(database, steps=2))

        async def one(*, tenant="acme", call="1", run="run-a"):
            environment = ActivityEnvironment()
            environment.info = replace(
                environment.info, workflow_id="run", workflow_run_id=run, activity_id=call,
                priority=Priority(fairness_key=tenant),
            )  # fmt: skip
            return await environment.run(tools.chat, ASKED)

        yield one
    await provider.aclose()


async def test_the_models_tool_counts_each_call_and_stops_at_the_budget(ask, database):
    result = await ask(call="1")
    spent = await used(database)
    assert (spent.steps, spent.tokens) == (1, result.usage.total_tokens)
    # the same call reported by a later attempt
    await ask(call="1")
    assert (await used(database)).steps == 1
    await ask(call="2")
    with pytest.raises(ApplicationError) as raised:
        await ask(call="3")
    assert raised.value.type == FailureType.BUDGET_EXHAUSTED
    assert (await ask(tenant="umbrella")).finish_reason == "stop"


async def test_a_run_that_was_reset_counts_its_calls_too(ask, database):
    await ask(call="1", run="run-a")
    await ask(call="1", run="run-b")
    assert (await used(database)).steps == 2
