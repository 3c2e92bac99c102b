"""The room by itself: its README, the transport, the facade without an event loop."""

import ast
import re
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from importlib import resources
from inspect import CO_COROUTINE
from types import FunctionType

import httpx2
import openai
import pytest

from load.simulators.server import Where
from ratelimit.blocking import BlockingLimiter
from ratelimit.errors import BadQuota, Denied
from ratelimit.keys import changes_key, done_key, held_key, learnt_key, leases_key, live_key, place_key, scope_key
from ratelimit.limiter import Limiter
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore
from ratelimit.transport import LimitedTransport, limited

README = resources.files("ratelimit").joinpath("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SCOPE = "openai/m"
QUOTA = Quota(scope=SCOPE, limits={"requests": Limit(capacity=600, burst=10), "tokens": Limit(capacity=60_000)})


async def test_every_block_of_the_readme_runs(redis_store: RedisStore, valkey: str, simulators) -> None:
    where: Where = await simulators(openai={"models": {"gpt-large": {}}})
    names = {"REDIS_URL": valkey, "PROVIDER": f"{where.http}/v1"}
    assert len(BLOCKS) >= 7
    for block in BLOCKS:
        code = compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        found = FunctionType(code, names)()
        if code.co_flags & CO_COROUTINE:
            await found
    assert (await redis_store.inspect("openai/gpt-large")).counters.grants > 0


@pytest.mark.parametrize("key", [scope_key, changes_key, leases_key, held_key, live_key, learnt_key])
def test_the_readme_names_every_key(key) -> None:
    assert f":{key('openai/x').split(':')[2]}:" in README


def test_the_readme_names_the_keys_of_places() -> None:
    assert place_key("openai/x", "k").split(":")[2] in README
    assert done_key("openai/x", "k").split(":")[2] in README


class Desk:
    """A limiter, a simulated provider, and what lies between."""

    def __init__(self, limiter: Limiter, where: Where) -> None:
        self.limiter = limiter
        self.where = where
        self.made: list[openai.AsyncOpenAI] = []

    def client(self, **more) -> openai.AsyncOpenAI:
        plain = openai.AsyncOpenAI(base_url=f"{self.where.http}/v1", api_key="sk-sim", max_retries=0)
        found = limited(plain, self.limiter, SCOPE, **more)
        self.made += [plain, found]
        return found

    async def level(self, limit: str) -> float:
        return (await self.limiter.inspect(SCOPE)).limits[limit].level


@pytest.fixture
async def desk(redis_store: RedisStore, simulators) -> AsyncIterator[Desk]:
    where = await simulators(openai={"models": {"m": {"requests": {"limit": 6000, "burst": 5}}}})
    async with Limiter(redis_store, {SCOPE: QUOTA}) as limiter:
        await limiter.configure(QUOTA, full=True)
        found = Desk(limiter, where)
        yield found
        for client in found.made:
            await client.close()


async def ask(client: openai.AsyncOpenAI, **more):
    messages = [{"role": "user", "content": "What is a heap?"}]
    return await client.chat.completions.create(model="m", messages=messages, max_completion_tokens=200, **more)


async def test_requests_are_booked_and_settled(desk: Desk) -> None:
    answer = await ask(desk.client())
    assert answer.usage is not None
    seen = await desk.limiter.inspect(SCOPE)
    assert seen.counters.grants == 1
    # OpenAI charges the limit of output tokens
    assert 59_790 < await desk.level("tokens") < 59_830
    assert 4 <= seen.heard["requests"].remaining < 5


async def test_a_stream_keeps_its_estimate(desk: Desk) -> None:
    async for _ in await ask(desk.client(), stream=True):
        pass
    assert 59_790 < await desk.level("tokens") < 59_830


async def test_a_429_closes_the_scope_for_everybody(desk: Desk) -> None:
    client = desk.client(max_wait=timedelta(0))
    async with httpx2.AsyncClient(base_url=desk.where.http) as http:
        await http.post("/_fault", json={"provider": "openai", "status": 429})
    with pytest.raises(openai.RateLimitError):
        await ask(client)
    seen = await desk.limiter.inspect(SCOPE)
    assert seen.counters.rejections == 1
    assert seen.pace < 1
    with pytest.raises(Denied):
        await ask(client)


async def test_what_was_never_sent_is_given_back(desk: Desk) -> None:
    async with httpx2.AsyncClient(transport=LimitedTransport(desk.limiter, SCOPE)) as http:
        with pytest.raises(httpx2.ConnectError):
            await http.post("http://127.0.0.1:9/v1", json={"max_tokens": 500})
    assert await desk.level("tokens") == 60_000
    assert await desk.level("requests") == 10


async def test_what_broke_half_way_keeps_its_estimate(desk: Desk) -> None:
    async with httpx2.AsyncClient(base_url=desk.where.http) as http:
        await http.post("/_fault", json={"provider": "openai", "drop": True})
    with pytest.raises(openai.APIConnectionError):
        await ask(desk.client())
    assert await desk.level("tokens") < 59_900


async def test_a_client_that_retries_by_itself_is_refused(desk: Desk) -> None:
    async with openai.AsyncOpenAI(base_url=desk.where.http, api_key="sk-sim") as client:
        with pytest.raises(BadQuota, match="max_retries is 2: must be 0"):
            limited(client, desk.limiter, SCOPE)


async def test_a_block_that_sends_nothing_costs_nothing(desk: Desk) -> None:
    async with desk.limiter.using(SCOPE, {"tokens": 100}, max_wait=timedelta(0)):
        pass
    assert await desk.level("tokens") == 60_000
    with suppress(ZeroDivisionError):
        async with desk.limiter.using(SCOPE, {"tokens": 100}, max_wait=timedelta(0)) as use:
            use.sent()
            raise ZeroDivisionError
    assert 59_890 < await desk.level("tokens") < 59_910
    async with desk.limiter.using(SCOPE, {"tokens": 100}, max_wait=timedelta(0)) as use:
        use.sent()
        use.actual = {"tokens": 40}
    assert 59_850 < await desk.level("tokens") < 59_870


def test_threads_share_one_limiter(valkey: str) -> None:
    scope = "openai/threads"
    quota = Quota(scope=scope, limits={"requests": Limit(capacity=6000, burst=5)})
    with BlockingLimiter(valkey, {scope: quota}) as limiter:
        limiter.configure(quota, full=True)
        granted: list[str] = []

        def work() -> None:
            for _ in range(5):
                with limiter.using(scope, {"requests": 1}, max_wait=timedelta(seconds=5)) as use:
                    use.sent()
                    granted.append(use.permit.id)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(granted)) == 20
        assert limiter.inspect(scope).counters.grants == 20
        permit = limiter.acquire(scope, {"requests": 1}, max_wait=timedelta(seconds=5))
        limiter.settle(permit, {"requests": 1})
        limiter.cancel(permit)
        limiter.cool_down(scope, retry_after=timedelta(seconds=60))
        with pytest.raises(Denied):
            limiter.acquire(scope, {"requests": 1}, max_wait=timedelta(0))
    limiter.close()
