"""No secret in a log or a history, and nothing else is touched."""

import base64
import io
import json
import logging
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote, quote_plus

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from temporalio import activity, workflow
from temporalio.client import WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, CancelledError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from workers.providers.errors import RateLimited
from workers.redacting import RedactingInterceptor
from workers.redaction import REDACTED, Redactor

SECRET = 'p&ss "wörd"/+31415926'
TOKEN = "re_3141592653589793"
REDACTOR = Redactor([SECRET, TOKEN, "short"])
NOTHING = Redactor()


def test_a_secret_is_replaced_wherever_it_stands():
    assert REDACTOR.clean(f"key {TOKEN}, again {TOKEN}.") == f"key {REDACTED}, again {REDACTED}."


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET),
        quote_plus(SECRET),
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
    ],
)
def test_a_secret_is_known_in_a_url_and_in_json(form):
    assert REDACTOR.clean(f"<{form}>") == f"<{REDACTED}>"


@pytest.mark.parametrize("around", ["{}", "u:{}", "us:{}", "use:{}", "use:{}!", "{}!!"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_secret_is_known_in_base64_wherever_it_begins(around, encode):
    text = encode(around.format(SECRET).encode()).decode()
    cleaned = REDACTOR.clean(f"Basic {text}")
    assert REDACTED in cleaned
    left = cleaned.removeprefix("Basic ").replace(REDACTED, "")
    # at its edges a character may stay that is made of the secret's first or last bits and their neighbours'
    assert len(left) <= len(text) - len(SECRET.encode()) * 8 // 6 + 3


def test_the_longer_of_two_secrets_goes_whole():
    assert Redactor(["abcdef", "abcdefgh"]).clean("abcdefgh abcdef") == f"{REDACTED} {REDACTED}"


def test_short_secrets_are_left_for_ordinary_words():
    assert Redactor(["short", ""]).clean("in short") == "in short"


def test_a_secret_can_be_learnt_later():
    redactor = Redactor()
    assert redactor.clean(TOKEN) == TOKEN
    redactor.learn(TOKEN)
    assert redactor.clean(TOKEN) == REDACTED


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("key sk-proj-Ab3dEf6hIj9lMn2pQr5t is", "key sk-[redacted] is"),
        ("sk-ant-api03-Ab3dEf6hIj9lMn2pQr5t_-x", "sk-[redacted]"),
        ('{"authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x-y_z"}', '{"authorization": "Bearer [redacted]"}'),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw=", "whsec_[redacted]"),
        ("POST https://hooks.slack.com/services/T0/B0/Xy12 ok", "POST https://hooks.slack.com/services/[redacted] ok"),
        ("redis://:hunter2@redis:6379/0", "redis://[redacted]@redis:6379/0"),
        ("postgresql+asyncpg://me:p%40ss@db/x and more", "postgresql+asyncpg://[redacted]@db/x and more"),
        ("https://key:@api.example.com/", "https://[redacted]@api.example.com/"),
        ("dsn host=db password=hunter2 user=me", "dsn host=db password=[redacted] user=me"),
        ("https://x.org/?user=me&password=hunter2&x=1", "https://x.org/?user=me&password=[redacted]&x=1"),
    ],
)
def test_what_looks_like_a_secret_is_replaced_though_nobody_knows_it(text, cleaned):
    assert NOTHING.clean(text) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "risk-averse task-force desk-bound sk-learn-like-names-of-many-words",
        "Bearer authentication, the bearer internationalization, a Bearer token",
        "https://example.org:8080/@user?x=a:b@c",
        "see http://a.example/x, mail me at: me@example.com",
        '{"url":"http://a.example","mail":"me@b.example","password":"x"}',
        "ssh://git@example.com/repo.git",
        "mailto:me:you@example.com",
        "a password= is missing; set password",
        "https://docs.slack.dev/messaging and hooks.slack.com",
        "whsec_short",
        "https://console/decide?token=eyJhIjoxfQ.Zx8-3141592653",
        "2026-01-02T03:04:05Z 10:20@30 a::b@c ://",
    ],
)
def test_ordinary_text_is_the_same_object(text):
    assert REDACTOR.clean(text) is text


WORDS = st.sampled_from(
    ["otter", "https://example.org/a?b=1#c", "me@example.com", "12:30", "task-force", "::", "“quoted”", "{}", "a=b",
     "http://localhost:8080", "\n", "naïve", "Bearer", "password", "sk-", "whsec_", "C:\\Users", "`code`"]
)  # fmt: skip


@given(st.lists(WORDS | st.text(st.characters(codec="utf-8", exclude_characters="@="), max_size=12), max_size=40))
def test_no_ordinary_text_is_ever_touched(words):
    text = " ".join(words)
    assert REDACTOR.clean(text) == text


@given(st.text(max_size=30), st.text(max_size=30), st.text(st.characters(codec="utf-8"), min_size=6, max_size=40))
def test_no_known_secret_ever_stays(before, after, secret):
    cleaned = Redactor([secret]).clean(f"{before}{secret}{after}")
    # what stands around it may be made of the same characters
    assert cleaned.count(secret) <= f"{before}{REDACTED}{after}".count(secret)


class Kind(StrEnum):
    A = "a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    text: str
    kind: Kind = Kind.A
    number: float = 1.0


@dataclass(frozen=True)
class Outer:
    inner: Inner
    more: dict = field(default_factory=dict)
    items: tuple = ()
    derived: int = field(default=0, init=False)


class Pair(NamedTuple):
    left: object
    right: object


def test_a_value_without_secrets_is_the_same_object():
    value = Outer(Inner(text="x"), {"a": ["b", {"c": Kind.A}], 1: None}, (Pair("l", 2), b"raw"))
    assert REDACTOR.clean_value(value) is value


def test_a_value_is_cleaned_wherever_the_secret_is():
    value = Outer(Inner(text=f"x {TOKEN}"), {"a": ["b", {TOKEN: TOKEN}], 1: None}, (Pair("l", TOKEN), TOKEN))
    cleaned = REDACTOR.clean_value(value)
    assert cleaned == Outer(
        Inner(text=f"x {REDACTED}"),
        {"a": ["b", {REDACTED: REDACTED}], 1: None},
        (Pair("l", REDACTED), REDACTED),
    )
    assert isinstance(cleaned.items[0], Pair)
    assert cleaned.inner.kind is Kind.A
    assert value.inner.text == f"x {TOKEN}"


def test_a_part_without_secrets_is_kept_as_it_is():
    inner = Inner(text="x")
    assert REDACTOR.clean_value(Outer(inner, {"a": TOKEN})).inner is inner


@pytest.mark.parametrize("renderer", [structlog.processors.JSONRenderer(), structlog.dev.ConsoleRenderer(colors=False)])
def test_a_log_line_has_no_secret_not_even_in_its_traceback(renderer):
    last = [structlog.processors.dict_tracebacks, renderer]
    last = last if isinstance(renderer, structlog.processors.JSONRenderer) else [renderer]
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last, REDACTOR.processor]
    )
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger(f"redaction-{uuid.uuid4()}")
    logger.addHandler(handler)
    try:
        raise ValueError(f"cannot log in with {SECRET}")
    except ValueError:
        logger.exception("key %s", TOKEN, extra={"more": TOKEN})
    line = stream.getvalue()
    assert "cannot log in with" in line
    assert REDACTED in line
    for secret in (TOKEN, SECRET, json.dumps(SECRET)[1:-1]):
        assert secret not in line


def test_the_processor_takes_a_dictionary_too():
    assert REDACTOR.processor(None, "info", {"event": TOKEN, "n": 1}) == {"event": REDACTED, "n": 1}


def test_an_error_keeps_all_that_temporal_reads():
    error = ApplicationError(
        f"no: {TOKEN}",
        {"key": TOKEN},
        type="RateLimited",
        non_retryable=True,
        next_retry_delay=timedelta(seconds=3),
        category=ApplicationErrorCategory.BENIGN,
    )
    cleaned = REDACTOR.error(error)
    assert isinstance(cleaned, ApplicationError)
    assert (cleaned.message, cleaned.details) == (f"no: {REDACTED}", ({"key": REDACTED},))
    assert (cleaned.type, cleaned.non_retryable, cleaned.next_retry_delay, cleaned.category) == (
        "RateLimited", True, timedelta(seconds=3), ApplicationErrorCategory.BENIGN
    )  # fmt: skip
    assert str(cleaned) == f"RateLimited: no: {REDACTED}"


def test_an_error_without_secrets_is_the_same_object():
    error = ApplicationError("no", {"a": 1}, type="X")
    error.__cause__ = ValueError("why")
    assert REDACTOR.error(error) is error


def test_another_error_keeps_its_name_and_a_cancellation_stays_one():
    cleaned = REDACTOR.error(RateLimited(f"429 for {TOKEN}"))
    assert isinstance(cleaned, ApplicationError)
    assert (cleaned.type, cleaned.message, cleaned.non_retryable) == ("RateLimited", f"429 for {REDACTED}", False)
    cancelled = REDACTOR.error(CancelledError(f"stop {TOKEN}", TOKEN))
    assert isinstance(cancelled, CancelledError)
    assert (cancelled.message, cancelled.details) == (f"stop {REDACTED}", (REDACTED,))


def test_the_causes_are_cleaned_to_the_last():
    try:
        try:
            raise KeyError(TOKEN)
        except KeyError as first:
            raise OSError("in between") from first
    except OSError as second:
        error = ApplicationError("outside")
        error.__cause__ = second
    cleaned = REDACTOR.error(error)
    assert cleaned.message == "outside"
    assert str(cleaned.__cause__) == "OSError: in between"
    assert str(cleaned.__cause__.__cause__) == f"KeyError: '{REDACTED}'"


# Temporal's own machinery, and what it writes


@activity.defn
async def result_with_a_secret() -> dict:
    return {"content": f"found {TOKEN}", "other": "kept"}


@activity.defn
async def heartbeat_with_a_secret() -> str:
    activity.heartbeat({"at": TOKEN})
    raise ApplicationError(f"died at {TOKEN}", {"at": TOKEN}, type="Died", non_retryable=True)


@activity.defn
async def plain_error_with_a_secret() -> str:
    try:
        raise ConnectionError(f"redis://:{TOKEN}@redis")
    except ConnectionError:
        raise ValueError(f"no {TOKEN}")  # noqa: B904 - the context is written too


@workflow.defn
class Calling:
    @workflow.run
    async def run(self, name: str) -> dict:
        return await workflow.execute_activity(
            name,
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(maximum_attempts=1),
            result_type=dict,
        )


@pytest.mark.parametrize(
    ("called", "kind"),
    [("result_with_a_secret", None), ("heartbeat_with_a_secret", "Died"), ("plain_error_with_a_secret", "ValueError")],
)
async def test_no_secret_reaches_a_history(temporal, called, kind):
    queue = f"redaction-{uuid.uuid4()}"
    worker = Worker(
        temporal,
        task_queue=queue,
        workflows=[Calling],
        activities=[result_with_a_secret, heartbeat_with_a_secret, plain_error_with_a_secret],
        workflow_runner=UnsandboxedWorkflowRunner(),
        interceptors=[RedactingInterceptor(REDACTOR)],
    )
    async with worker:
        handle = await temporal.start_workflow(Calling.run, called, id=queue, task_queue=queue)
        if kind is None:
            assert await handle.result() == {"content": f"found {REDACTED}", "other": "kept"}
        else:
            with pytest.raises(WorkflowFailureError) as raised:
                await handle.result()
            assert raised.value.cause.cause.type == kind
            assert REDACTED in raised.value.cause.cause.message
        history = (await handle.fetch_history()).to_json()
    assert TOKEN not in history
    assert base64.b64encode(TOKEN.encode()).decode().rstrip("=") not in history
    for part in _payloads(json.loads(history)):
        assert TOKEN not in part


def _payloads(found):
    """Every payload of a history, decoded."""
    if isinstance(found, dict):
        if isinstance(data := found.get("data"), str):
            yield base64.b64decode(data).decode()
        for item in found.values():
            yield from _payloads(item)
    if isinstance(found, list):
        for item in found:
            yield from _payloads(item)
