"""The official SDK against the simulated OpenAI: it cannot tell."""

import contextlib
import json

import httpx2
import openai
import pytest

SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
            "additionalProperties": False,
        },
    },
}
ASK = [{"role": "user", "content": "What does json.loads do?"}]
LIMITS = {"requests": {"limit": 60, "burst": 10}, "tokens": {"limit": 6000, "burst": 1000}}


def client(where, key="sk-good"):
    return openai.AsyncOpenAI(api_key=key, base_url=f"{where.http}/v1", max_retries=0)


async def ledger(where, **params):
    async with httpx2.AsyncClient(base_url=where.http) as http:
        return (await http.get("/_ledger", params=params)).json()


async def post(where, path, body):
    async with httpx2.AsyncClient(base_url=where.http) as http:
        return await http.post(path, json=body)


async def test_it_calls_the_tool_it_is_given_then_answers_from_what_it_found(simulators):
    where = await simulators()
    async with client(where) as sdk:
        first = await sdk.chat.completions.create(model="m", messages=ASK, tools=[SEARCH])
        call = first.choices[0].message.tool_calls[0]
        assert first.choices[0].finish_reason == "tool_calls"
        assert "json.loads" in json.loads(call.function.arguments)["query"]
        found = {"results": [{"id": "d1", "title": "json", "snippet": "json.loads parses JSON from a text."}]}
        said = [*ASK, first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": json.dumps(found)}]
        second = await sdk.chat.completions.create(model="m", messages=said, tools=[SEARCH])
    assert second.choices[0].finish_reason == "stop"
    assert "json.loads parses JSON from a text. [1]" in second.choices[0].message.content
    assert "[1] json (d1)" in second.choices[0].message.content
    assert second.usage.total_tokens == second.usage.prompt_tokens + second.usage.completion_tokens


async def test_the_same_question_gets_the_same_answer(simulators):
    where = await simulators()
    async with client(where) as sdk:
        answers = [await sdk.chat.completions.create(model="m", messages=ASK, tools=[SEARCH]) for _ in range(2)]
    assert answers[0].id == answers[1].id
    assert answers[0].choices == answers[1].choices


async def test_a_stream_says_what_the_answer_says(simulators):
    where = await simulators()
    async with client(where) as sdk:
        whole = await sdk.chat.completions.create(model="m", messages=ASK, tools=[SEARCH])
        async with sdk.chat.completions.stream(model="m", messages=ASK, tools=[SEARCH]) as stream:
            streamed = await stream.get_final_completion()
    expected, got = whole.choices[0], streamed.choices[0]
    assert got.finish_reason == expected.finish_reason
    assert got.message.tool_calls[0].function.arguments == expected.message.tool_calls[0].function.arguments


async def test_streams_tell_the_usage_when_asked(simulators):
    where = await simulators()
    async with client(where) as sdk:
        stream = await sdk.chat.completions.create(
            model="m", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage.completion_tokens > 0
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


async def test_responses_call_tools_answer_and_stream(simulators):
    where = await simulators()
    tool = {"type": "function", "name": "search", "parameters": SEARCH["function"]["parameters"]}
    async with client(where) as sdk:
        first = await sdk.responses.create(model="m", input="What does json.loads do?", tools=[tool])
        call = first.output[0]
        assert call.name == "search"
        found = json.dumps(
            {"results": [{"id": "d1", "title": "json", "snippet": "json.loads parses JSON, of course."}]}
        )
        said = [
            {"role": "user", "content": "What does json.loads do?"},
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
            {"type": "function_call_output", "call_id": call.call_id, "output": found},
        ]
        second = await sdk.responses.create(model="m", input=said, tools=[tool])
        assert "json.loads parses JSON, of course. [1]" in second.output_text
        async with sdk.responses.stream(model="m", input=said, tools=[tool]) as stream:
            kinds = [event.type async for event in stream]
            last = await stream.get_final_response()
    assert last.output_text == second.output_text
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


async def test_structured_answers_follow_their_schema(simulators):
    where = await simulators()
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}, "count": {"type": "integer", "minimum": 3}},
        "required": ["mood", "count"],
    }
    async with client(where) as sdk:
        answer = await sdk.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "Was it bad?"}],
            response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        )
    assert json.loads(answer.choices[0].message.content) == {"mood": "bad", "count": 3}


async def test_a_tool_that_must_be_called_is_called_as_its_schema_says(simulators):
    where = await simulators()
    pay = {
        "type": "function",
        "function": {
            "name": "pay",
            "parameters": {
                "type": "object",
                "properties": {
                    "amount": {"type": "number", "maximum": 100},
                    "currency": {"enum": ["EUR", "USD"]},
                    "to": {"type": "string", "maxLength": 10},
                },
                "required": ["amount", "currency", "to"],
            },
        },
    }
    ask = [{"role": "user", "content": "Give 250 USD to the shop"}]
    async with client(where) as sdk:
        answer = await sdk.chat.completions.create(
            model="m", messages=ask, tools=[pay], tool_choice={"type": "function", "function": {"name": "pay"}}
        )
        free = await sdk.chat.completions.create(model="m", messages=ask, tools=[pay], tool_choice="none")
    arguments = json.loads(answer.choices[0].message.tool_calls[0].function.arguments)
    assert arguments["amount"] == 100
    assert arguments["currency"] == "USD"
    assert 0 < len(arguments["to"]) <= 10
    assert free.choices[0].message.tool_calls is None


async def test_an_output_limit_cuts_the_answer(simulators):
    where = await simulators()
    async with client(where) as sdk:
        answer = await sdk.chat.completions.create(model="m", messages=ASK, max_completion_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 2


async def test_embeddings_bring_texts_that_share_words_together(simulators):
    where = await simulators()
    async with client(where) as sdk:
        found = await sdk.embeddings.create(model="e", input=["red apple pie", "apple pie", "quantum physics"])
    first, near, far = (item.embedding for item in found.data)
    assert sum(a * b for a, b in zip(first, first, strict=True)) == pytest.approx(1, abs=1e-5)
    closeness = [sum(a * b for a, b in zip(first, other, strict=True)) for other in (near, far)]
    assert closeness[0] > closeness[1]


async def test_models_are_those_of_the_options(simulators):
    where = await simulators(openai={"models": {"m": {}, "n": {}}})
    async with client(where) as sdk:
        assert [model.id async for model in sdk.models.list()] == ["m", "n"]
        assert (await sdk.models.retrieve("n")).id == "n"
        with pytest.raises(openai.NotFoundError):
            await sdk.models.retrieve("o")
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await sdk.chat.completions.create(model="o", messages=ASK)


async def test_wrong_keys_and_bodies_are_refused(simulators):
    where = await simulators(openai={"keys": ["sk-good"]})
    async with client(where, "sk-other-1234") as sdk:
        with pytest.raises(openai.AuthenticationError) as caught:
            await sdk.chat.completions.create(model="m", messages=ASK)
        assert caught.value.code == "invalid_api_key"
        assert "sk-other-1234" not in caught.value.message
    async with client(where) as sdk:
        with pytest.raises(openai.BadRequestError):
            await sdk.chat.completions.create(model="m", messages=[])
        with pytest.raises(openai.BadRequestError, match="max_completion_tokens"):
            await sdk.chat.completions.create(model="m", messages=ASK, max_completion_tokens=0)
    assert [row["outcome"] for row in await ledger(where)] == ["401", "400", "400"]


async def test_the_quota_is_charged_at_admission_and_told_in_headers(simulators):
    where = await simulators(openai={"models": {"m": LIMITS}})
    async with client(where) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="m", messages=ASK, max_completion_tokens=400)
    assert raw.headers["x-ratelimit-limit-requests"] == "60"
    assert raw.headers["x-ratelimit-limit-tokens"] == "6000"
    assert raw.headers["x-ratelimit-remaining-requests"] == "9"
    assert int(raw.headers["x-ratelimit-remaining-tokens"]) == 600
    assert raw.headers["x-ratelimit-reset-tokens"].endswith("s")
    (row,) = await ledger(where)
    assert row["charged"] == {"requests": 1.0, "tokens": 400.0}
    assert row["key"] == "…good"


async def test_over_quota_it_answers_429_as_the_real_one_does_and_charges_the_request(simulators):
    where = await simulators(openai={"models": {"m": LIMITS}})
    async with client(where) as sdk:
        for _ in range(2):
            await sdk.chat.completions.create(model="m", messages=ASK, max_completion_tokens=450)
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="m", messages=ASK, max_completion_tokens=450)
        with pytest.raises(openai.RateLimitError, match="must be reduced"):
            await sdk.chat.completions.create(model="m", messages=ASK, max_completion_tokens=2000)
    error = caught.value
    assert (error.code, error.type) == ("rate_limit_exceeded", "tokens")
    assert "Limit 6000" in error.message
    assert "try again in" in error.message
    wait_ms = int(error.response.headers["retry-after-ms"])
    assert 2500 <= wait_ms <= 3500
    assert int(error.response.headers["retry-after"]) == 4
    rows = await ledger(where)
    assert [row["outcome"] for row in rows] == ["ok", "ok", "429", "429"]
    assert rows[2]["charged"] == {"requests": 1.0}


async def test_each_key_has_its_own_quota(simulators):
    where = await simulators(openai={"models": {"m": {"requests": {"limit": 60, "burst": 1}}}})
    for key in ("sk-a", "sk-b"):
        async with client(where, key) as sdk:
            await sdk.chat.completions.create(model="m", messages=ASK)
    async with client(where, "sk-a") as sdk:
        with pytest.raises(openai.RateLimitError):
            await sdk.chat.completions.create(model="m", messages=ASK)


async def test_a_fixed_window_grants_its_limit_whatever_the_burst(simulators):
    where = await simulators(openai={"models": {"m": {"requests": {"limit": 3, "period_s": 86400, "window": "fixed"}}}})
    async with client(where) as sdk:
        for _ in range(3):
            await sdk.chat.completions.create(model="m", messages=ASK)
        with pytest.raises(openai.RateLimitError):
            await sdk.chat.completions.create(model="m", messages=ASK)


async def test_ordered_faults_befall_the_next_calls_only(simulators):
    where = await simulators()
    await post(where, "/_fault", {"provider": "openai", "status": 503, "count": 2, "retry_after": 3})
    async with client(where) as sdk:
        for _ in range(2):
            with pytest.raises(openai.InternalServerError) as caught:
                await sdk.chat.completions.create(model="m", messages=ASK)
            assert caught.value.response.headers["retry-after"] == "3"
        await sdk.chat.completions.create(model="m", messages=ASK)


async def test_billing_exhaustion_is_a_429_that_no_waiting_helps(simulators):
    where = await simulators()
    await post(where, "/_fault", {"provider": "openai", "status": 429, "code": "insufficient_quota"})
    async with client(where) as sdk:
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="m", messages=ASK)
    assert caught.value.code == "insufficient_quota"
    assert "retry-after" not in caught.value.response.headers


async def test_a_dropped_connection_is_charged_if_the_work_was_done(simulators):
    where = await simulators()
    await post(where, "/_fault", {"provider": "openai", "drop": True})
    await post(where, "/_fault", {"provider": "openai", "drop": True, "after": False})
    async with client(where) as sdk:
        for _ in range(2):
            with pytest.raises(openai.APIConnectionError):
                await sdk.chat.completions.create(model="m", messages=ASK)
    done, refused = await ledger(where)
    assert (done["outcome"], refused["outcome"]) == ("dropped", "dropped")
    assert done["charged"]["requests"] == 1.0
    assert refused["charged"] == {}


async def test_an_answer_can_come_too_late(simulators):
    where = await simulators()
    await post(where, "/_fault", {"provider": "openai", "hang_s": 0.5, "count": 2})
    async with client(where) as sdk:
        with pytest.raises(openai.APITimeoutError):
            await sdk.chat.completions.create(model="m", messages=ASK, timeout=0.2)
        assert (await sdk.chat.completions.create(model="m", messages=ASK)).choices


async def test_a_stream_breaks_in_the_middle(simulators):
    where = await simulators()
    await post(where, "/_fault", {"provider": "openai", "drop": True})
    async with client(where) as sdk:
        stream = await sdk.chat.completions.create(model="m", messages=ASK, stream=True)
        with pytest.raises(openai.APIConnectionError):
            assert [chunk async for chunk in stream]
    (row,) = await ledger(where)
    assert row["outcome"] == "dropped"
    assert row["output_tokens"] > 0


async def test_random_faults_come_at_their_rate_and_by_the_seed(simulators):
    where = await simulators(faults={"rate_500": 0.3, "seed": 7})

    async def outcomes():
        async with client(where) as sdk:
            for _ in range(40):
                with contextlib.suppress(openai.InternalServerError):
                    await sdk.chat.completions.create(model="m", messages=ASK)
        return [row["outcome"] for row in await ledger(where)]

    found = await outcomes()
    assert 4 <= found.count("500") <= 20
    where = await simulators(faults={"rate_500": 0.3, "seed": 7})
    assert await outcomes() == found


async def test_the_ledger_names_the_caller_and_sums_up(simulators):
    where = await simulators()
    async with client(where) as sdk:
        for n in range(3):
            await sdk.chat.completions.create(
                model="m", messages=ASK,
                extra_headers={"X-Client-Request-Id": f"run/{n}", "Idempotency-Key": "same"},
            )  # fmt: skip
    rows = await ledger(where, provider="openai", since=1)
    assert [row["client_request_id"] for row in rows] == ["run/1", "run/2"]
    assert {row["idempotency_key"] for row in rows} == {"same"}
    async with httpx2.AsyncClient(base_url=where.http) as http:
        summary = (await http.get("/_ledger/summary")).json()["providers"]["openai"]
        window = (await http.get("/_ledger/window", params={"from": rows[0]["wall"]})).json()
    assert summary["models"]["m"]["outcomes"] == {"ok": 3}
    assert summary["duplicate_bodies"] == 2
    assert window["requests"] == 2


async def test_options_change_while_it_runs_and_wrong_ones_are_refused(simulators):
    where = await simulators(openai={"models": {"m": {}}})
    changed = await post(where, "/_control", {"openai": {"models": {"m": {"requests": {"limit": 60, "burst": 1}}}}})
    assert changed.json()["openai"]["models"]["m"]["requests"]["limit"] == 60
    async with client(where) as sdk:
        await sdk.chat.completions.create(model="m", messages=ASK)
        with pytest.raises(openai.RateLimitError):
            await sdk.chat.completions.create(model="m", messages=ASK)
    refused = await post(where, "/_control", {"openai": {"modles": {}}})
    assert refused.status_code == 422
    assert "openai.modles" in refused.json()["error"]
    assert (await post(where, "/_fault", {"provider": "nobody"})).status_code == 422
