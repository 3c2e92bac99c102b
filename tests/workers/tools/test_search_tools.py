"""Searching is charged to the provider's quota, reading a page is not."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx2
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from fleet.contracts.names import FailureType
from fleet.contracts.tools import ToolRequest
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from ratelimit.quota import Limit, Quota
from workers.admission import Admission
from workers.providers.search import SearxngSearch
from workers.tools.search import SearchTools

SCOPE = "search/sim"
QUOTA = Quota(scope=SCOPE, limits={"requests": Limit(capacity=5, period=timedelta(hours=1))})


def asked(**arguments: str) -> ToolRequest:
    return ToolRequest(tool="search", call_id="c", arguments=arguments, step="1.1", max_failures=1)


@pytest.fixture
async def limiter() -> AsyncIterator[Limiter]:
    async with Limiter(MemoryStore(), {SCOPE: QUOTA}) as found:
        await found.configure(QUOTA, full=True)
        yield found


@pytest.fixture
async def tools(limiter: Limiter, simulators) -> AsyncIterator[SearchTools]:
    where = await simulators()
    async with httpx2.AsyncClient() as http:
        provider = SearxngSearch(where.http, http, allow_private=True)
        yield SearchTools(Admission(limiter, timedelta(0)), provider, SCOPE)


async def level(limiter: Limiter) -> float:
    return (await limiter.inspect(SCOPE)).limits["requests"].level


async def test_a_search_is_charged_and_a_page_is_not(tools: SearchTools, limiter: Limiter) -> None:
    environment = ActivityEnvironment()
    found = await environment.run(tools.query, asked(query="idempotency key"))
    assert found.quota is not None
    assert 4 <= await level(limiter) < 4.1
    results = json.loads(found.content)["results"]
    page = await environment.run(tools.fetch, asked(id=results[0]["id"]))
    assert page.quota is None
    assert 4 <= await level(limiter) < 4.1


async def test_a_search_that_was_never_sent_costs_nothing(limiter: Limiter) -> None:
    async with httpx2.AsyncClient() as http:
        tools = SearchTools(Admission(limiter, timedelta(0)), SearxngSearch("http://127.0.0.1:9", http), SCOPE)
        with pytest.raises(ApplicationError) as raised:
            await ActivityEnvironment().run(tools.query, asked(query="heap"))
    assert raised.value.type == FailureType.PROVIDER_FAILED
    assert await level(limiter) == 5
