"""What is told of an attempt: its wait for quota, its call of a provider, how it ended."""

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from fleet import tracing as traces
from fleet.contracts import names
from fleet.contracts.llm import ChatRequest, ChatResult, Message, Role, ToolCall, Usage
from fleet.contracts.tools import ToolRequest, ToolResult
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from ratelimit.profiles import PROFILES
from ratelimit.quota import Limit, Quota
from tests.workers.providers.servers import page, web
from tests.workers.spans import attempt, parent, recording
from workers import failures, tracing
from workers.admission import Admission
from workers.door import Door
from workers.providers import errors
from workers.providers.anthropic import AnthropicChat
from workers.providers.openai import OpenAIChat
from workers.redaction import REDACTOR
from workers.tools.llm import LlmTools

SCOPE = "openai/m"
RUN = SpanContext(7 << 64, 9, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


@pytest.fixture
def spans():
    with recording() as found:
        yield found


class Model:
    """Answers as told."""

    profile = PROFILES["openai"]

    def __init__(self, *answers):
        self._answers = list(answers)

    def characters(self, request):
        return sum(len(message.content) for message in request.messages)

    async def chat(self, request, *, model, request_id, heard):
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


ASKED = ChatRequest(
    model=SCOPE,
    messages=[Message(role=Role.SYSTEM, content="be brief"), Message(role=Role.USER, content="who is it?")],
    max_output_tokens=64,
    role="agent",
)
SAID = ChatResult(
    message=Message(
        role=Role.ASSISTANT, content="nobody", tool_calls=[ToolCall(id="c1", name="search", arguments={"query": "q"})]
    ),
    usage=Usage(input_tokens=10, output_tokens=5, cached_tokens=4),
    finish_reason="tool_calls",
    model="m-2026",
    request_id="r-1",
)


@asynccontextmanager
async def limited(**limit):
    limit = {"capacity": 6000, "burst": 10, **limit}
    quota = Quota(scope=SCOPE, limits={"requests": Limit(**limit)})
    async with Limiter(MemoryStore(), {SCOPE: quota}) as limiter:
        await limiter.configure(quota, full=True)
        yield limiter


async def chatted(*answers, inline_s=5.0, limiter, request=ASKED, **info):
    tools = LlmTools(Admission(limiter, timedelta(seconds=inline_s)), {"openai": Model(*answers)}, Door(limiter), None)
    info = {"workflow_id": "run-1", "activity_type": "llm.chat", "activity_id": "1", **info}
    return await attempt(tools.chat, request, headers=traces.header(RUN), **info)


async def test_a_call_of_a_model_has_the_attributes_of_the_conventions_and_no_content(spans):
    async with limited() as limiter:
        await chatted(SAID, limiter=limiter, attempt=3)
    around, call = spans.one("llm.chat"), spans.one("chat m")
    assert (around.context.trace_id, parent(around)) == (RUN.trace_id, RUN.span_id)
    assert around.attributes["fleet.attempt"] == 3
    assert around.attributes["gen_ai.conversation.id"] == "run-1"
    assert parent(call) == around.context.span_id
    assert call.kind is SpanKind.CLIENT
    assert dict(call.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.agent.name": "agent",
        "gen_ai.conversation.id": "run-1",
        "gen_ai.response.model": "m-2026",
        "gen_ai.response.finish_reasons": ("tool_calls",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "fleet.provider.request_id": "r-1",
    }
    assert spans.named("quota wait") == []


async def test_content_is_told_where_it_is_asked_for():
    with recording(content=True) as spans:
        async with limited() as limiter:
            await chatted(SAID, limiter=limiter)

        async def body(request):
            return ToolResult(content='{"found": 1}')

        await attempt(body, ToolRequest(tool="search", call_id="c1", arguments={"query": "q"}, step="1.1"))
    call, tool = spans.one("chat m"), spans.one("execute_tool search")
    assert json.loads(call.attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "who is it?"}]}
    ]
    assert json.loads(call.attributes["gen_ai.system_instructions"]) == [{"type": "text", "content": "be brief"}]
    assert json.loads(call.attributes["gen_ai.output.messages"]) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "text", "content": "nobody"},
                {"type": "tool_call", "id": "c1", "name": "search", "arguments": {"query": "q"}},
            ],
            "finish_reason": "tool_calls",
        }
    ]
    assert json.loads(tool.attributes["gen_ai.tool.call.arguments"]) == {"query": "q"}
    assert tool.attributes["gen_ai.tool.call.result"] == '{"found": 1}'


async def test_a_wait_in_the_slot_is_a_span_below_the_attempt(spans):
    async with limited(capacity=600, burst=1) as limiter:
        await chatted(SAID, limiter=limiter, activity_id="1")
        spans.forget()
        await chatted(SAID, limiter=limiter, activity_id="2")
    wait, around = spans.one("quota wait openai/m"), spans.one("llm.chat")
    assert parent(wait) == around.context.span_id
    assert wait.attributes["fleet.quota.scope"] == SCOPE
    assert wait.attributes["fleet.quota.limit"] == "requests"
    assert (wait.end_time - wait.start_time) / 1e9 == pytest.approx(wait.attributes["fleet.quota.waited_s"], abs=0.01)
    assert 0.02 < wait.attributes["fleet.quota.waited_s"] < 2.0
    assert wait.end_time <= spans.one("chat m").start_time


async def test_a_wait_over_attempts_lies_beside_them_and_each_says_when_it_comes_back(spans):
    async with limited(capacity=300, burst=1) as limiter:
        await chatted(SAID, limiter=limiter, activity_id="1")
        spans.forget()
        with pytest.raises(ApplicationError):
            await chatted(SAID, limiter=limiter, activity_id="2", inline_s=0.01)
        await asyncio.sleep(0.05)
        await chatted(SAID, limiter=limiter, activity_id="2", attempt=2)
    first, second = spans.named("llm.chat")
    assert first.status.status_code is StatusCode.UNSET
    deferred, wait = first.events
    assert (deferred.name, deferred.attributes["fleet.quota.limit"]) == ("fleet.quota.deferred", "requests")
    assert (wait.name, wait.attributes["fleet.failure"]) == ("wait", "QuotaWait")
    assert wait.attributes["fleet.retry_after_s"] > 0
    waited = spans.one("quota wait")
    assert parent(waited) == RUN.span_id
    assert [link.context.span_id for link in waited.links] == [second.context.span_id]
    assert waited.start_time < second.start_time


async def test_a_429_is_an_error_of_the_call_an_event_of_the_attempt_and_no_failure_of_it(spans):
    async with limited() as limiter:
        with pytest.raises(ApplicationError):
            await chatted(errors.RateLimited("openai: slow down", retry_after_s=3.0, limit="requests"), limiter=limiter)
    call, around = spans.one("chat m"), spans.one("llm.chat")
    assert call.status.status_code is StatusCode.ERROR
    assert call.attributes["error.type"] == "RateLimited"
    rejected, exception = call.events
    assert rejected.name == "fleet.provider.rejected"
    assert (rejected.attributes["fleet.retry_after_s"], rejected.attributes["fleet.quota.limit"]) == (3.0, "requests")
    assert dict(exception.attributes) == {"exception.type": "RateLimited"}
    assert around.status.status_code is StatusCode.UNSET
    assert [event.name for event in around.events] == ["fleet.provider.rejected", "wait"]


async def test_an_attempt_that_fails_says_that_it_is_repeated_and_one_that_is_final_does_not(spans):
    async with limited() as limiter:
        for answer in (errors.Unavailable("openai: 500"), errors.BadRequest("openai: no such model")):
            with pytest.raises(ApplicationError):
                await chatted(answer, limiter=limiter)
    again, final = spans.named("llm.chat")
    assert [event.name for event in again.events] == ["exception", "retry"]
    assert again.attributes["error.type"] == "ProviderFailed"
    assert [event.name for event in final.events] == ["exception"]
    assert final.status.status_code is StatusCode.ERROR


async def test_an_attempt_that_is_cancelled_is_no_error(spans):
    environment, begun = ActivityEnvironment(), asyncio.Event()

    async def body():
        begun.set()
        await asyncio.sleep(60)

    trying = asyncio.create_task(attempt(body, environment=environment))
    await begun.wait()
    environment.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    span = spans.one("")
    assert (span.status.status_code, [event.name for event in span.events]) == (StatusCode.UNSET, ["cancelled"])


async def test_a_log_line_of_an_attempt_names_its_run_its_activity_and_its_trace(spans):
    async def body():
        return tracing.where(None, "", {"event": "x"})

    said = await attempt(
        body, headers=traces.header(RUN), workflow_id="run-1/3.1", activity_type="email.send", attempt=2
    )
    assert (said["run_id"], said["activity"], said["attempt"]) == ("run-1", "email.send", 2)
    assert said["trace_id"] == f"{RUN.trace_id:032x}"
    assert said["span_id"] == f"{spans.one('email.send').context.span_id:016x}"


@pytest.mark.parametrize("kind", [OpenAIChat, AnthropicChat])
async def test_an_sdk_makes_no_span_of_its_own_and_tells_the_provider_no_trace(spans, kind):
    async with web(page(500, {})) as server:
        client = kind(name="x", api_key="sk-x", base_url=server.url, timeout_s=5.0)
        with pytest.raises(errors.Unavailable), tracing.calling("chat m", {}):
            await client.chat(ASKED, model="m", request_id="r", heard=lambda headers: None)
        await client.aclose()
    assert spans.names() == ["chat m"]
    (asked,) = server.asked
    assert not [name for name in asked.headers if name.lower() in ("traceparent", "tracestate", "baggage")]


@pytest.mark.parametrize("error", ["wait", "failure", "other"])
async def test_what_an_error_quotes_is_told_only_where_content_is_asked_for(error):
    quoted = "no 4711 EUR for ann@example.com"
    raised = {
        "wait": failures.wait(names.FailureType.QUOTA_WAIT, quoted, timedelta(seconds=2)),
        "failure": ApplicationError(quoted, type="ToolFailed"),
        "other": ValueError(quoted),
    }[error]

    async def body(request):
        with suppress(errors.BadRequest), tracing.calling("have transfer", {}):
            raise errors.BadRequest(quoted)
        raise raised

    request = ToolRequest(tool="transfer", call_id="c1", arguments={"amount": 4711}, step="1.1")
    for content in (False, True):
        with recording(content=content) as spans:
            with pytest.raises(type(raised)):
                await attempt(body, request)
            told = "".join(span.to_json() for span in spans.all())
            assert len(spans.all()) == 2
        assert ("4711" in told, "ann@example.com" in told) == (content, content)


async def test_content_has_a_bound_that_counts_everything_and_secrets_are_found_before_it_cuts():
    REDACTOR.learn(secret := "hunter2-" + "x" * 40)
    long, most = "\x01é" * 40_000, traces.MOST_CONTENT
    arguments = {"deep": [{"text": long}], "number": 7, "secret": "y" * (most // 2 - 60) + secret}
    said = Message(role=Role.ASSISTANT, content=long, tool_calls=[ToolCall(id="c", name="n", arguments=arguments)])
    messages = [Message(role=role, content=long) for role in (Role.SYSTEM, Role.USER, Role.TOOL)]
    with recording(content=True) as spans:
        async with limited() as limiter:
            await chatted(replace(SAID, message=said), limiter=limiter, request=replace(ASKED, messages=messages))
            await chatted(SAID, limiter=limiter, request=replace(ASKED, messages=[*messages, said]), activity_id="2")

        async def body(request):
            return ToolResult(content="z" * (most - 20) + secret)

        await attempt(body, ToolRequest(tool="search", call_id="c1", arguments=arguments, step="1.1"))
    texts = [text for span in spans.all() for text in span.attributes.values() if isinstance(text, str)]
    assert max(map(len, texts)) <= most
    assert sum(len(text) > most // 8 for text in texts) >= 6
    assert "hunter2" not in "".join(texts)
    for span in spans.all():
        for name in ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.call.arguments"):
            json.loads(span.attributes.get(name, "[]"))


async def test_content_is_not_written_for_a_trace_that_is_not_told(monkeypatch):
    monkeypatch.setattr("fleet.tracing.fitted", None)
    monkeypatch.setattr("fleet.tracing.cut", None)
    with recording(content=True, sampler=ALWAYS_OFF) as spans:
        async with limited() as limiter:
            assert (await chatted(SAID, limiter=limiter)).message == SAID.message
    assert spans.all() == []


async def test_arguments_that_are_nested_too_deep_keep_no_call_from_being_made():
    nested = []
    for _ in range(5000):
        nested = [nested]
    with recording(content=True) as spans:

        async def body(request):
            return ToolResult(content="x")

        await attempt(body, ToolRequest(tool="search", call_id="c1", arguments={"q": nested}, step="1.1"))
    assert json.loads(spans.one("execute_tool").attributes["gen_ai.tool.call.arguments"]) == {"truncated": True}


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF, ParentBased(ALWAYS_ON), TraceIdRatioBased(0.5)])
async def test_attempts_of_an_execution_that_nobody_traced_are_one_trace(sampler):
    async def body():
        return 1

    for number in range(8):
        with recording(sampler=sampler) as spans:
            for attempted in (1, 2, 3):
                await attempt(body, attempt=attempted, workflow_run_id=f"r-{number}", workflow_id="run-1")
        assert len(spans.all()) in (0, 3)
        trace_id, span_id = traces.beginning(f"r-{number}")
        assert {(span.context.trace_id, parent(span)) for span in spans.all()} <= {(trace_id, span_id)}
        assert bool(spans.all()) == (
            sampler.should_sample(Context(), trace_id, "").decision is Decision.RECORD_AND_SAMPLE
        )


@pytest.mark.parametrize(
    ("profile", "named"),
    [
        ("openai", "openai"), ("azure", "azure.ai.openai"), ("anthropic", "anthropic"), ("groq", "groq"),
        ("cerebras", "cerebras"),
    ],
)  # fmt: skip
async def test_a_provider_is_called_as_the_conventions_call_it(spans, monkeypatch, profile, named):
    monkeypatch.setattr(Model, "profile", PROFILES[profile])
    async with limited() as limiter:
        await chatted(SAID, limiter=limiter)
    assert spans.one("chat m").attributes["gen_ai.provider.name"] == named


OPENAI = {
    "id": "chatcmpl-7", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}],
}  # fmt: skip
ANTHROPIC = {
    "id": "msg_7", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "x"}], "usage": {"input_tokens": 1, "output_tokens": 1},
}  # fmt: skip


@pytest.mark.parametrize(("kind", "body"), [(OpenAIChat, OPENAI), (AnthropicChat, ANTHROPIC)])
async def test_an_answer_is_told_by_the_id_in_its_body_if_it_has_one(spans, kind, body):
    for said in (body, {name: value for name, value in body.items() if name != "id"}):
        async with web(page(200, said)) as server:
            client = kind(name="x", api_key="sk-x", base_url=server.url, timeout_s=5.0)
            with tracing.chatting("x", "m", ASKED, "agent") as chatting:
                chatting.answered(await client.chat(ASKED, model="m", request_id="r", heard=lambda headers: None))
            await client.aclose()
    with_one, without = spans.named("chat m")
    assert with_one.attributes["gen_ai.response.id"] == body["id"]
    assert "gen_ai.response.id" not in without.attributes


async def test_off_everything_does_nothing():
    assert traces.installed() is None
    async with limited() as limiter:
        answer = await chatted(SAID, limiter=limiter)
    assert answer.message == SAID.message
    assert answer.quota is not None
    with tracing.calling("x", {}) as span:
        assert not span.is_recording()
        tracing.waited(SCOPE, SCOPE, 5.0, "")
        tracing.note({"a": 1})
    assert (traces.interceptors(), tracing.traced(), tracing.exemplar()) == ([], [], None)
    assert tracing.where(None, "", {"event": "x"}) == {"event": "x"}


def test_a_header_that_cannot_be_read_is_no_header():
    from temporalio.api.common.v1 import Payload

    assert traces.above({}) == (None, None)
    for written in (b"no", b"[" * 100_000, b"7", b'{"traceparent": {}, "link": []}', b"\xff"):
        assert traces.above({traces.HEADER: Payload(data=written)}) == (None, None)
    assert traces.above(traces.header(RUN)) == (RUN, None)
    assert traces.above(traces.apart(RUN))[0] is None
    assert traces.above(traces.apart(RUN))[1].span_id == RUN.span_id
