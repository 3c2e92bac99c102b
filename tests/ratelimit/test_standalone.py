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

import anthropic
import httpx2
import openai
import pytest

from load.simulators.server import Where
from ratelimit.billing import codes, out_of_money
from ratelimit.blocking import BlockingLimiter
from ratelimit.errors import BadQuota, Denied
from ratelimit.keys import changes_key, done_key, held_key, learnt_key, leases_key, live_key, place_key, scope_key
from ratelimit.limiter import Closed, Limiter
from ratelimit.profiles import PROFILES
from ratelimit.quota import Limit, Quota
from ratelimit.store import RedisStore
from ratelimit.transport import LimitedTransport, limited

README = resources.files("ratelimit").joinpath("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SCOPE = "openai/m"
# tokens return so slowly that a slow machine sees none
TOKENS = Limit(capacity=60_000, period=timedelta(days=1))
QUOTA = Quota(scope=SCOPE, limits={"requests": Limit(capacity=600, burst=10), "tokens": TOKENS})


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


CLAUDE = "anthropic/claude"
CLAUDES = Quota(
    scope=CLAUDE,
    limits={
        "requests": Limit(capacity=600, burst=10),
        "input_tokens": TOKENS,
        "output_tokens": TOKENS,
    },
)


@pytest.fixture
async def claude(redis_store: RedisStore, simulators) -> AsyncIterator[tuple[Limiter, anthropic.AsyncAnthropic, Where]]:
    where = await simulators(anthropic={"models": {"claude": {}}})
    async with (
        Limiter(redis_store, {CLAUDE: CLAUDES}) as limiter,
        anthropic.AsyncAnthropic(base_url=where.http, api_key="sk-sim", max_retries=0) as plain,
        limited(plain, limiter, CLAUDE, profile=PROFILES["anthropic"], role="tests") as client,
    ):
        await limiter.configure(CLAUDES, full=True)
        yield limiter, client, where


async def write(client: anthropic.AsyncAnthropic) -> anthropic.types.Message:
    messages = [{"role": "user", "content": "What is a heap?"}]
    return await client.messages.create(model="claude", max_tokens=20_000, messages=messages)


async def test_anthropic_counts_what_was_read_and_written_and_the_fleet_learns(claude) -> None:
    limiter, client, _ = claude
    answer = await write(client)
    seen = await limiter.inspect(CLAUDE)
    spent = {name: 60_000 - seen.limits[name].level for name in ("input_tokens", "output_tokens")}
    assert spent["output_tokens"] == pytest.approx(answer.usage.output_tokens, abs=5)
    assert spent["input_tokens"] == pytest.approx(answer.usage.input_tokens, abs=5)
    for _ in range(20):
        await write(client)
    guess = await limiter.estimate(CLAUDE, "tests", characters=100, max_output_tokens=20_000)
    assert guess.output_tokens < 10 * answer.usage.output_tokens + 10


async def test_what_anthropic_turns_away_it_does_not_count(claude) -> None:
    limiter, client, where = claude
    async with httpx2.AsyncClient(base_url=where.http) as http:
        await http.post("/_fault", json={"provider": "anthropic", "status": 429, "retry_after": 30})
    with pytest.raises(anthropic.RateLimitError):
        await write(client)
    seen = await limiter.inspect(CLAUDE)
    assert seen.counters.rejections == 1
    # given back after the cooldown has taken what was thought to be left
    assert seen.limits["output_tokens"].level > 0


async def test_out_of_money_closes_the_scope_until_somebody_opens_it(desk: Desk) -> None:
    client = desk.client(max_wait=timedelta(seconds=1))
    async with httpx2.AsyncClient(base_url=desk.where.http) as http:
        await http.post("/_fault", json={"provider": "openai", "status": 429, "code": "insufficient_quota"})
    with pytest.raises(openai.RateLimitError) as raised:
        await ask(client)
    assert raised.value.code == "insufficient_quota"
    seen = await desk.limiter.inspect(SCOPE)
    assert seen.closed is Closed.BILLING
    # nothing is counted of what is not paid
    assert await desk.level("tokens") == 60_000
    with pytest.raises(Denied):
        await ask(client)
    await desk.limiter.open(SCOPE)
    await ask(client)


@pytest.mark.parametrize(
    ("dialect", "status", "body", "money"),
    [
        ("openai", 429, {"error": {"code": "insufficient_quota", "type": "insufficient_quota"}}, True),
        ("openai", 429, {"error": {"code": "rate_limit_exceeded", "type": "tokens"}}, False),
        ("anthropic", 402, {}, True),
        ("anthropic", 403, {"error": {"type": "billing_error", "message": "pay"}}, True),
        (
            "anthropic",
            429,
            {"error": {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}},
            True,
        ),
        (
            "anthropic",
            400,
            {
                "error": {
                    "type": "invalid_request_error",
                    "message": "Your credit balance is too low to access the API.",
                }
            },
            True,
        ),
        ("anthropic", 400, {"error": {"type": "invalid_request_error", "message": "max_tokens: required"}}, False),
        ("anthropic", 500, {"error": {"type": "billing_error"}}, False),
        ("anthropic", 429, None, False),
        ("generic", 429, {"error": "quota"}, False),
    ],
)
def test_what_means_money(dialect, status, body, money) -> None:
    assert out_of_money(dialect, status, codes(body)) is money
