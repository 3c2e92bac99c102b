"""What the official SDKs meet beside a plain quota: calls at once, growth, money, caches, other headers."""

import asyncio
import time

import anthropic
import httpx2
import openai
import pytest

from ratelimit.billing import codes, out_of_money
from ratelimit.headers import read

ASK = [{"role": "user", "content": "What does json.loads do?"}]
LONG = "A document about json that says much of it. " * 200


def openai_client(where, key="sk-good"):
    return openai.AsyncOpenAI(api_key=key, base_url=f"{where.http}/v1", max_retries=0)


def anthropic_client(where, key="sk-good"):
    return anthropic.AsyncAnthropic(api_key=key, base_url=where.http, max_retries=0)


async def get(where, path, **params):
    async with httpx2.AsyncClient(base_url=where.http) as http:
        return (await http.get(path, params=params)).json()


async def post(where, path, body):
    async with httpx2.AsyncClient(base_url=where.http) as http:
        return await http.post(path, json=body)


async def until(found, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not (value := await found()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return value


async def in_flight(where):
    return (await get(where, "/_ledger/summary"))["in_flight"]


async def test_openai_refuses_one_call_too_many_at_once_and_admits_the_next_when_one_has_ended(simulators):
    where = await simulators(openai={"models": {"m": {"in_flight": 1}}})
    await post(where, "/_fault", {"provider": "openai", "hang_s": 0.5})
    async with openai_client(where) as sdk:
        first = asyncio.create_task(sdk.chat.completions.create(model="m", messages=ASK))
        await until(lambda: in_flight(where))
        with pytest.raises(openai.RateLimitError, match="concurrent requests: Limit 1, Used 1") as caught:
            await sdk.chat.completions.create(model="m", messages=ASK)
        assert "retry-after" not in caught.value.response.headers
        await first
        await sdk.chat.completions.create(model="m", messages=ASK)


async def test_anthropic_refuses_one_connection_too_many_in_its_own_words(simulators):
    where = await simulators(anthropic={"models": {"c": {"in_flight": 1}}})
    await post(where, "/_fault", {"provider": "anthropic", "hang_s": 0.5})
    async with anthropic_client(where) as sdk:
        first = asyncio.create_task(sdk.messages.create(model="c", max_tokens=10, messages=ASK))
        await until(lambda: in_flight(where))
        with pytest.raises(anthropic.RateLimitError, match="concurrent connections"):
            await sdk.messages.create(model="c", max_tokens=10, messages=ASK)
        await first


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_gives_its_place_back_at_once(simulators, stream):
    where = await simulators(openai={"models": {"m": {"in_flight": 1}}})
    await post(where, "/_fault", {"provider": "openai", "hang_s": 60})
    async with openai_client(where) as sdk:
        with pytest.raises(openai.APITimeoutError):
            await sdk.chat.completions.create(model="m", messages=ASK, timeout=0.2, stream=stream)
        rows = await until(lambda: get(where, "/_ledger"))
        await sdk.chat.completions.create(model="m", messages=ASK)
    assert rows[0]["outcome"] == "dropped"
    assert rows[0]["latency_s"] < 10


async def test_a_stream_that_breaks_gives_its_place_back(simulators):
    where = await simulators(openai={"models": {"m": {"in_flight": 1}}})
    await post(where, "/_fault", {"provider": "openai", "drop": True})
    async with openai_client(where) as sdk:
        stream = await sdk.chat.completions.create(model="m", messages=ASK, stream=True)
        with pytest.raises(openai.APIConnectionError):
            assert [chunk async for chunk in stream]
        await sdk.chat.completions.create(model="m", messages=ASK)


async def test_a_stream_takes_its_base_before_the_first_token_and_the_rest_between_them(simulators):
    latency = {"distribution": "constant", "base_s": 0.3, "per_output_token_s": 0.03}
    where = await simulators(latency=latency)
    async with openai_client(where) as sdk:
        began = time.monotonic()
        stream = await sdk.chat.completions.create(model="m", messages=ASK, stream=True)
        times = [time.monotonic() - began async for _ in stream]
    assert times[0] >= 0.29
    # eleven tokens; counted from the call, for the first may be heard late
    assert times[-1] >= 0.29 + 0.2


async def test_openai_tells_who_grows_too_fast_to_slow_down(simulators):
    where = await simulators(openai={"models": {"m": {"acceleration": {"start": 2}}}})
    async with openai_client(where) as sdk:
        for _ in range(2):
            await sdk.chat.completions.create(model="m", messages=ASK)
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="m", messages=ASK)
    assert caught.value.code == "slow_down"
    assert 50 <= int(caught.value.response.headers["retry-after"]) <= 60


async def test_anthropic_refuses_sharp_rises_as_the_sdk_knows_them(simulators):
    where = await simulators(
        anthropic={"models": {"c": {"acceleration": {"of": "input_tokens", "start": 20, "period_s": 10}}}}
    )
    async with anthropic_client(where) as sdk:
        for _ in range(3):
            await sdk.messages.create(model="c", max_tokens=10, messages=ASK)
        with pytest.raises(anthropic.RateLimitError) as caught:
            await sdk.messages.create(model="c", max_tokens=10, messages=ASK)
    assert caught.value.error_code == "ramp_limit_exceeded"
    assert "input tokens" in caught.value.message
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 10


async def test_openai_is_out_of_quota_once_the_cap_is_spent_and_not_after_it_was_raised(simulators):
    where = await simulators(openai={"models": {"m": {"price": {"input": 1000, "output": 1000}}}, "spend_cap": 0.01})
    async with openai_client(where) as sdk:
        await sdk.chat.completions.create(model="m", messages=ASK)
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="m", messages=ASK)
        assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
        assert "retry-after" not in caught.value.response.headers
        await post(where, "/_control", {"openai": {"spend_cap": 1}})
        await sdk.chat.completions.create(model="m", messages=ASK)
    rows = await get(where, "/_ledger")
    assert [row["outcome"] for row in rows] == ["ok", "429", "ok"]
    tokens = rows[0]["prompt_tokens"] + rows[0]["output_tokens"]
    assert rows[0]["charged"]["money"] == pytest.approx(tokens / 1000)


async def test_anthropic_enforces_a_spend_limit_that_no_waiting_helps(simulators):
    where = await simulators(anthropic={"models": {"c": {"price": {"output": 1000}}}, "spend_cap": 0.001})
    async with anthropic_client(where) as sdk:
        await sdk.messages.create(model="c", max_tokens=10, messages=ASK)
        with pytest.raises(anthropic.RateLimitError) as caught:
            await sdk.messages.create(model="c", max_tokens=10, messages=ASK)
    assert caught.value.error_code == "enforced_spend_limit_reached"
    assert "retry-after" not in caught.value.response.headers
    assert out_of_money("anthropic", 429, codes(caught.value.body))


async def test_openai_reads_long_prompts_from_its_cache_and_counts_them_all_the_same(simulators):
    where = await simulators(openai={"models": {"m": {"tokens": {"limit": 100_000}}}})
    async with openai_client(where) as sdk:
        first, second, other = [
            (await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": LONG + end}])).usage
            for end in ("What is it?", "Who wrote it?", "What is it?")
        ]
    assert first.prompt_tokens_details.cached_tokens == 0
    assert 1024 <= second.prompt_tokens_details.cached_tokens <= second.prompt_tokens
    assert second.prompt_tokens_details.cached_tokens % 128 == 0
    assert other.prompt_tokens_details.cached_tokens >= second.prompt_tokens_details.cached_tokens
    rows = await get(where, "/_ledger")
    assert rows[1]["cached_tokens"] == second.prompt_tokens_details.cached_tokens
    assert rows[1]["charged"]["tokens"] == second.prompt_tokens


async def test_a_compatible_server_may_leave_cached_tokens_out_or_have_no_cache(simulators):
    quota = {"models": {"m": {"tokens": {"limit": 100_000}}}}
    free, none = (
        await simulators(openai={**quota, "cached_tokens_count": False}),
        await simulators(openai={**quota, "caching": False}),
    )
    for where in (free, none):
        async with openai_client(where) as sdk:
            for _ in range(2):
                await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": LONG}])
    rows = await get(free, "/_ledger")
    assert rows[1]["charged"]["tokens"] == rows[1]["prompt_tokens"] - rows[1]["cached_tokens"]
    assert [row["cached_tokens"] for row in await get(none, "/_ledger")] == [0, 0]


def marked(*said):
    blocks = [{"type": "text", "text": one} for one in said]
    blocks[-1]["cache_control"] = {"type": "ephemeral"}
    return blocks


async def test_anthropic_caches_what_is_marked_and_does_not_count_what_it_reads(simulators):
    where = await simulators(anthropic={"models": {"c": {"input_tokens": {"limit": 100_000}}}})
    grown = [*ASK, {"role": "assistant", "content": "It parses."}, {"role": "user", "content": marked("And dumps?")}]
    async with anthropic_client(where) as sdk:
        first = await sdk.messages.create(model="c", max_tokens=10, system=marked(LONG), messages=ASK)
        second = await sdk.messages.create(model="c", max_tokens=10, system=marked(LONG), messages=grown)
        third = await sdk.messages.create(model="c", max_tokens=10, system=marked(LONG), messages=grown)
        plain = await sdk.messages.create(model="c", max_tokens=10, system=LONG, messages=ASK)
    assert first.usage.cache_creation_input_tokens == len(LONG) // 4
    assert (second.usage.cache_read_input_tokens, first.usage.cache_read_input_tokens) == (len(LONG) // 4, 0)
    assert second.usage.cache_creation_input_tokens > 0
    assert third.usage.cache_creation_input_tokens == 0
    assert plain.usage.cache_read_input_tokens == 0
    assert plain.usage.input_tokens == first.usage.input_tokens + first.usage.cache_creation_input_tokens
    rows = await get(where, "/_ledger")
    assert rows[1]["charged"]["input_tokens"] == (second.usage.input_tokens + second.usage.cache_creation_input_tokens)
    assert rows[1]["prompt_tokens"] == rows[1]["charged"]["input_tokens"] + rows[1]["cached_tokens"]


async def test_a_stream_tells_what_was_cached(simulators):
    where = await simulators()
    async with anthropic_client(where) as sdk:
        for _ in range(2):
            async with sdk.messages.stream(model="c", max_tokens=10, system=marked(LONG), messages=ASK) as stream:
                last = await stream.get_final_message()
    assert last.usage.cache_read_input_tokens == len(LONG) // 4


async def test_short_prompts_are_not_cached(simulators):
    where = await simulators()
    async with anthropic_client(where) as sdk:
        for _ in range(2):
            answer = await sdk.messages.create(model="c", max_tokens=10, system=marked("Be brief."), messages=ASK)
    assert (answer.usage.cache_read_input_tokens, answer.usage.cache_creation_input_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("provider", "counts", "charged"),
    [("openai", None, 1.0), ("openai", False, 0.0), ("anthropic", None, 0.0), ("anthropic", True, 1.0)],
)
async def test_failed_calls_count_as_the_provider_has_it_or_as_the_options_say(simulators, provider, counts, charged):
    where = await simulators(**{provider: {"models": {"m": {"requests": {"limit": 60}}}, "failed_calls_count": counts}})
    await post(where, "/_fault", {"provider": provider, "status": 503})
    ask = {"model": "m", "messages": ASK, "max_tokens": 10}
    async with httpx2.AsyncClient(base_url=where.http, headers={"authorization": "Bearer sk-a"}) as http:
        answer = await http.post("/v1/chat/completions" if provider == "openai" else "/v1/messages", json=ask)
    assert answer.status_code == 503
    (row,) = await get(where, "/_ledger")
    assert row["charged"].get("requests", 0.0) == charged
    assert row["asked"]["requests"] == 1.0


@pytest.mark.parametrize(
    ("headers", "dialect"), [("native", "openai"), ("x-ratelimit", "generic"), ("ietf", "generic")]
)
async def test_compatible_servers_tell_their_limits_in_the_ways_the_fleet_understands(simulators, headers, dialect):
    where = await simulators(openai={"headers": headers, "models": {"m": {"requests": {"limit": 5}}}})
    async with openai_client(where) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="m", messages=ASK)
        said = read(raw.headers, dialect, now=time.time()).limits["requests"]
        assert (said.limit, said.remaining) == (5, 4)
        assert 0 < said.reset_s <= 60
        for _ in range(4):
            await sdk.chat.completions.create(model="m", messages=ASK)
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="m", messages=ASK)
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 12
    assert ("x-ratelimit-limit-requests" in raw.headers) == (headers == "native")


async def test_some_servers_tell_nothing_of_limits(simulators):
    where = await simulators(openai={"headers": "none", "models": {"m": {"requests": {"limit": 1}}}})
    async with openai_client(where) as sdk:
        await sdk.chat.completions.create(model="m", messages=ASK)
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="m", messages=ASK)
    assert [name for name in caught.value.response.headers if "rate" in name or "retry" in name] == []


async def test_a_sliding_window_is_told_and_enforced(simulators):
    where = await simulators(
        openai={"models": {"m": {"requests": {"limit": 120, "window": "sliding", "enforced_s": 1}}}}
    )
    async with openai_client(where) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="m", messages=ASK)
        assert raw.headers["x-ratelimit-limit-requests"] == "120"
        assert raw.headers["x-ratelimit-remaining-requests"] == "1"
        await sdk.chat.completions.create(model="m", messages=ASK)
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="m", messages=ASK)
        assert 0 < int(caught.value.response.headers["retry-after-ms"]) <= 1000


async def test_a_body_that_makes_no_sense_is_refused_and_leaves_nothing_in_flight(simulators):
    where = await simulators()
    async with httpx2.AsyncClient(base_url=where.http, headers={"authorization": "Bearer sk-a"}) as http:
        for body in ({"model": "m", "messages": ASK, "tools": [{"type": "function"}]}, {"model": "m", "messages": 7}):
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 400
        assert (await http.post("/v1/chat/completions", content=b"[")).status_code == 400
    assert await in_flight(where) == 0


async def test_no_answer_waits_for_an_acknowledgement(simulators):
    # 40 ms: Nagle's algorithm at one end, delayed acknowledgements at the other
    where, times = await simulators(), []
    async with httpx2.AsyncClient(base_url=where.http) as http:
        for _ in range(20):
            began = time.monotonic()
            await http.get("/_health")
            times.append(time.monotonic() - began)
    # a fresh connection may be spared at first; a busy machine may be slow now and then
    assert sorted(times)[5] < 0.035
