"""The official SDK against the simulated Anthropic: it cannot tell."""

from datetime import UTC, datetime

import anthropic
import httpx2
import pytest

TOOL = {
    "name": "search",
    "description": "Search.",
    "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}
ASK = [{"role": "user", "content": "What does json.loads do?"}]


def client(where, key="sk-good"):
    return anthropic.AsyncAnthropic(api_key=key, base_url=where.http, max_retries=0)


async def ledger(where):
    async with httpx2.AsyncClient(base_url=where.http) as http:
        return (await http.get("/_ledger", params={"provider": "anthropic"})).json()


async def fault(where, **order):
    async with httpx2.AsyncClient(base_url=where.http) as http:
        await http.post("/_fault", json={"provider": "anthropic", **order})


async def test_it_uses_tools_and_answers_from_their_results(simulators):
    where = await simulators()
    async with client(where) as sdk:
        first = await sdk.messages.create(model="c", max_tokens=300, messages=ASK, tools=[TOOL])
        (use,) = first.content
        assert first.stop_reason == "tool_use"
        assert "json.loads" in use.input["query"]
        found = '{"results": [{"id": "d1", "title": "json", "snippet": "json.loads parses a JSON text into objects."}]}'
        said = [
            *ASK,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": found}]},
        ]
        second = await sdk.messages.create(model="c", max_tokens=300, messages=said, tools=[TOOL])
        async with sdk.messages.stream(model="c", max_tokens=300, messages=said, tools=[TOOL]) as stream:
            streamed = await stream.get_final_message()
    assert second.stop_reason == "end_turn"
    assert "json.loads parses a JSON text into objects. [1]" in second.content[0].text
    assert streamed.content[0].text == second.content[0].text
    assert streamed.usage.output_tokens == second.usage.output_tokens


async def test_a_streamed_tool_use_carries_its_input(simulators):
    where = await simulators()
    async with client(where) as sdk:
        async with sdk.messages.stream(model="c", max_tokens=300, messages=ASK, tools=[TOOL]) as stream:
            streamed = await stream.get_final_message()
        whole = await sdk.messages.create(model="c", max_tokens=300, messages=ASK, tools=[TOOL])
    assert streamed.content[0].input == whole.content[0].input
    assert streamed.stop_reason == "tool_use"


async def test_tokens_are_counted_and_models_listed(simulators):
    where = await simulators(anthropic={"models": {"c": {}}})
    async with client(where) as sdk:
        counted = await sdk.messages.count_tokens(model="c", messages=ASK, tools=[TOOL])
        answered = await sdk.messages.create(model="c", max_tokens=300, messages=ASK, tools=[TOOL])
        assert counted.input_tokens == answered.usage.input_tokens
        assert [model.id async for model in sdk.models.list()] == ["c"]
        with pytest.raises(anthropic.NotFoundError):
            await sdk.messages.create(model="d", max_tokens=10, messages=ASK)


async def test_input_counts_at_arrival_and_output_as_generated(simulators):
    limits = {"input_tokens": {"limit": 6000, "burst": 1000}, "output_tokens": {"limit": 600, "burst": 5}}
    where = await simulators(anthropic={"models": {"c": {"requests": {"limit": 60}, **limits}}})
    async with client(where) as sdk:
        raw = await sdk.messages.with_raw_response.create(model="c", max_tokens=5000, messages=ASK)
        # the output limit is in debt now, though `max_tokens` itself was never charged
        with pytest.raises(anthropic.RateLimitError) as caught:
            await sdk.messages.create(model="c", max_tokens=10, messages=ASK)
    headers = raw.headers
    assert headers["anthropic-ratelimit-requests-limit"] == "60"
    assert headers["anthropic-ratelimit-requests-remaining"] == "59"
    assert int(headers["anthropic-ratelimit-input-tokens-remaining"]) < 1000
    full = datetime.fromisoformat(headers["anthropic-ratelimit-input-tokens-reset"])
    assert full.tzinfo == UTC
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert caught.value.body["error"]["type"] == "rate_limit_error"
    assert "output tokens per minute" in caught.value.message
    done, refused = await ledger(where)
    assert done["charged"]["output_tokens"] == done["output_tokens"]
    assert (refused["outcome"], refused["charged"]) == ("429", {})


async def test_remaining_tokens_may_be_rounded(simulators):
    where = await simulators(anthropic={"models": {"c": {"input_tokens": {"limit": 9000}}}, "round_tokens_to": 1000})
    async with client(where) as sdk:
        raw = await sdk.messages.with_raw_response.create(model="c", max_tokens=10, messages=ASK)
    assert raw.headers["anthropic-ratelimit-input-tokens-remaining"] == "8000"
    assert raw.headers["anthropic-ratelimit-tokens-remaining"] == "8000"


async def test_overload_is_529_and_not_the_quota(simulators):
    where = await simulators()
    await fault(where, status=529)
    async with client(where) as sdk:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await sdk.messages.create(model="c", max_tokens=10, messages=ASK)
    assert caught.value.status_code == 529
    assert caught.value.body["error"] == {"type": "overloaded_error", "message": "Overloaded"}


async def test_wrong_keys_and_bodies_are_refused(simulators):
    where = await simulators()
    async with client(where, "sk-wrong") as sdk:
        with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
            await sdk.messages.create(model="c", max_tokens=10, messages=ASK)
    async with client(where) as sdk:
        with pytest.raises(anthropic.BadRequestError):
            await sdk.messages.create(model="c", max_tokens=0, messages=ASK)
        with pytest.raises(anthropic.BadRequestError):
            await sdk.messages.create(model="c", max_tokens=10, messages=[{"role": "robot", "content": "x"}])


async def test_a_truncated_stream_has_no_stop_reason(simulators):
    where = await simulators()
    await fault(where, drop=True)
    async with client(where) as sdk:
        stream = await sdk.messages.create(model="c", max_tokens=100, messages=ASK, stream=True)
        with pytest.raises(httpx2.RemoteProtocolError):
            assert [event async for event in stream]
