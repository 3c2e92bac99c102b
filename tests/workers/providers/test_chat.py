"""One contract for every model provider, on the simulated ones through the official SDKs."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from time import time

import httpx2
import pytest

from fleet.contracts.llm import ChatRequest, Message, Role, ToolCall, ToolSpec
from ratelimit.estimates import Learnt, Used
from ratelimit.headers import read
from workers.providers import errors
from workers.providers.anthropic import AnthropicChat
from workers.providers.openai import OpenAIChat

KINDS = {"openai": OpenAIChat, "anthropic": AnthropicChat}
SEARCH = ToolSpec(
    name="search",
    description="Search the documents.",
    parameters={"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
)
CALL = ToolCall(id="call_1", name="search", arguments={"query": "json.loads"})
HIT = '{"results": [{"id": "d1", "title": "json", "snippet": "json.loads parses JSON from a text."}]}'


def request(*more, most=300):
    begin = [
        Message(role=Role.SYSTEM, content="You research."),
        Message(role=Role.USER, content="What does json.loads do?"),
    ]
    return ChatRequest(model="any/m", messages=[*begin, *more], tools=[SEARCH], max_output_tokens=most, max_failures=3)


READ = request(
    Message(role=Role.ASSISTANT, tool_calls=[CALL]),
    Message(role=Role.TOOL, content=HIT, tool_call_id="call_1"),
)


@pytest.fixture(params=list(KINDS))
async def desk(request, simulators):
    """A provider's name, how to start its simulator, how to make its client."""
    made = []

    class Desk:
        kind = request.param
        where = None

        async def client(self, key="sk-sim-secret-7", **options):
            self.where = await simulators(**{self.kind: options})
            return self.over(self.where.http, key)

        def over(self, address, key="sk-sim-secret-7"):
            base = f"{address}/v1" if self.kind == "openai" else address
            made.append(KINDS[self.kind](name=self.kind, api_key=key, base_url=base, timeout_s=5))
            return made[-1]

        async def fault(self, **order):
            async with httpx2.AsyncClient(base_url=self.where.http) as http:
                await http.post("/_fault", json={"provider": self.kind, **order})

        async def ledger(self):
            async with httpx2.AsyncClient(base_url=self.where.http) as http:
                return (await http.get("/_ledger", params={"provider": self.kind})).json()

    yield Desk()
    for client in made:
        await client.aclose()


async def test_a_tool_is_called_and_its_result_answered_from(desk):
    client = await desk.client()
    first = await client.chat(request(), model="m", request_id="run/1/1")
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert (call.name, call.arguments) == ("search", {"query": "json.loads"})
    second = await client.chat(READ, model="m", request_id="run/2/1")
    assert "json.loads parses JSON from a text. [1]" in second.message.content
    assert second.finish_reason == "stop"
    assert second.model == "m"
    assert second.request_id
    assert second.usage.output_tokens > 0
    assert [row["client_request_id"] for row in await desk.ledger()] == ["run/1/1", "run/2/1"]


async def test_nothing_is_charged_that_was_not_booked(desk):
    client, learnt = await desk.client(), Learnt()
    for asked in (request(), request(most=20), READ, request(most=3)):
        most = float(asked.max_output_tokens)
        estimate = replace(learnt.estimate(client.characters(asked), asked.max_output_tokens), output_tokens=most)
        booked = client.profile.cost(estimate, asked.max_output_tokens)
        usage = (await client.chat(asked, model="m", request_id="r")).usage
        used = Used(
            input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cached_tokens=usage.cached_tokens
        )
        settled = client.profile.actual(booked, used)
        charged = (await desk.ledger())[-1]["charged"]
        assert charged
        for name, units in charged.items():
            assert units <= booked[name], (name, asked)
            assert units <= settled[name] <= booked[name], (name, asked)


async def test_what_is_left_is_heard_from_the_headers(desk):
    limit = "tokens" if desk.kind == "openai" else "input_tokens"
    client = await desk.client(models={"m": {"requests": {"limit": 60, "burst": 10}, limit: {"limit": 60000}}})
    heard = []
    await client.chat(request(), model="m", request_id="r", heard=heard.append)
    said = read(heard[0], client.profile.dialect, now=time()).limits
    left = {name: seen.remaining for name, seen in said.items()}
    assert left["requests"] == 9
    assert 50_000 < left[limit] < 60_000


async def test_a_cut_answer_says_so(desk):
    client = await desk.client()
    assert (await client.chat(request(most=2), model="m", request_id="r")).finish_reason == "length"


async def test_a_429_tells_how_long_to_wait(desk):
    client = await desk.client(models={"m": {"requests": {"limit": 6, "burst": 1}}})
    await client.chat(request(), model="m", request_id="r")
    with pytest.raises(errors.RateLimited) as raised:
        await client.chat(request(), model="m", request_id="r")
    assert 9 < raised.value.retry_after_s <= 11
    assert str(raised.value).startswith(f"{desk.kind}: ")


@pytest.mark.parametrize(
    ("order", "kind"),
    [
        ({"status": 500}, errors.Unavailable),
        ({"status": 503}, errors.Overloaded),
        ({"status": 529}, errors.Overloaded),
        ({"drop": True}, errors.Unavailable),
        ({"status": 403}, errors.Refused),
        ({"status": 413}, errors.BadRequest),
    ],
)
async def test_each_answer_has_one_meaning(desk, order, kind):
    client = await desk.client()
    await desk.fault(**order)
    with pytest.raises(kind):
        await client.chat(request(), model="m", request_id="r")
    assert len(await desk.ledger()) == 1  # the SDK has not tried again


async def test_an_overload_may_tell_how_long_to_wait(desk):
    client = await desk.client()
    await desk.fault(status=529, retry_after=7)
    with pytest.raises(errors.Overloaded) as raised:
        await client.chat(request(), model="m", request_id="r")
    assert raised.value.retry_after_s == 7


async def test_out_of_money_is_not_a_wait(desk):
    client = await desk.client()
    code = "insufficient_quota" if desk.kind == "openai" else "enforced_spend_limit_reached"
    await desk.fault(status=429, code=code)
    with pytest.raises(errors.Exhausted):
        await client.chat(request(), model="m", request_id="r")


async def test_a_wrong_key_is_refused_without_repeating_it(desk):
    client = await desk.client(keys=["sk-right"])
    for call in (client.check(), client.chat(request(), model="m", request_id="r")):
        with pytest.raises(errors.Refused, match="the API key was refused") as raised:
            await call
        assert "sk-sim-secret-7" not in str(raised.value)
        assert "et-7" not in str(raised.value)


@pytest.mark.parametrize("body", ["<html>log in</html>", "{}", "[]", '{"choices": []}'])
async def test_what_is_no_answer_of_the_api_is_an_outage(desk, body):
    async with saying(body) as address:
        client = desk.over(address)
        with pytest.raises(errors.Unavailable, match=r"is not what this API sends|no answer"):
            await client.chat(request(), model="m", request_id="r")


async def test_a_key_that_cannot_travel_is_never_quoted(desk):
    await desk.client()
    client = desk.over(desk.where.http, key="sk-verysecret\n")
    for call in (client.check(), client.chat(request(), model="m", request_id="r")):
        with pytest.raises(errors.ProviderError) as raised:
            await call
        assert "verysecret" not in str(raised.value)


@asynccontextmanager
async def saying(body):
    """A server that answers everything with 200 and this."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        writer.write(f"{head}connection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_check_proves_key_and_address(desk):
    client = await desk.client()
    await client.check()
    gone = desk.over("http://127.0.0.1:9")
    with pytest.raises(errors.Unavailable):
        await gone.check()
    with pytest.raises(errors.Unavailable):
        await gone.chat(request(), model="m", request_id="r")
