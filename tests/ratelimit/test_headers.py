"""Header sets as providers send them."""

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest

from ratelimit.headers import Said, duration, read, retry_after
from tests.ratelimit.recorded import RECORDED, Recorded

NOW = datetime(2025, 8, 21, 12, 40, 29, tzinfo=UTC).timestamp()


def left(said: Said) -> dict[str, float]:
    return {name: seen.remaining for name, seen in said.limits.items() if seen.remaining is not None}


OPENAI_OK = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "200000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "199984",
    "x-ratelimit-reset-requests": "8.64s",
    "x-ratelimit-reset-tokens": "4ms",
    "x-request-id": "req_0123",
}
ANTHROPIC_OK = {
    "anthropic-ratelimit-input-tokens-limit": "2000000",
    "anthropic-ratelimit-input-tokens-remaining": "1999000",
    "anthropic-ratelimit-input-tokens-reset": "2025-08-21T12:40:29Z",
    "anthropic-ratelimit-output-tokens-limit": "400000",
    "anthropic-ratelimit-output-tokens-remaining": "400000",
    "anthropic-ratelimit-output-tokens-reset": "2025-08-21T12:40:30Z",
    "anthropic-ratelimit-requests-limit": "1000",
    "anthropic-ratelimit-requests-remaining": "999",
    "anthropic-ratelimit-requests-reset": "2025-08-21T12:40:59Z",
    "anthropic-ratelimit-tokens-limit": "2400000",
    "anthropic-ratelimit-tokens-remaining": "2399000",
    "anthropic-ratelimit-tokens-reset": "2025-08-21T12:40:29Z",
    "anthropic-organization-id": "0",
    "request-id": "req_011",
}


def test_openai_tells_requests_and_tokens():
    said = read(OPENAI_OK, "openai", now=NOW)
    assert said.retry_after_s is None
    assert left(said) == {"requests": 9999, "tokens": 199_984}
    assert (said.limits["requests"].limit, said.limits["requests"].reset_s) == (10_000, 8.64)
    assert said.limits["tokens"].reset_s == 0.004


def test_anthropic_tells_four_limits_and_when_they_are_full():
    said = read(ANTHROPIC_OK, "anthropic", now=NOW)
    assert left(said) == {
        "requests": 999,
        "tokens": 2_399_000,
        "input_tokens": 1_999_000,
        "output_tokens": 400_000,
    }
    assert said.limits["requests"].reset_s == 30
    assert said.limits["input_tokens"].reset_s == 0


def test_a_429_of_openai_without_retry_after_waits_for_the_limit_that_is_empty():
    refused = OPENAI_OK | {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}
    assert read(refused, "openai", now=NOW).retry_after_s == 360
    assert read(refused | {"retry-after-ms": "1200", "retry-after": "2"}, "openai", now=NOW).retry_after_s == 1.2


def test_anthropics_reset_is_no_time_to_retry():
    refused = ANTHROPIC_OK | {"anthropic-ratelimit-requests-remaining": "0"}
    assert read(refused, "anthropic", now=NOW).retry_after_s is None
    assert read(refused | {"retry-after": "17"}, "anthropic", now=NOW).retry_after_s == 17


def _x_ratelimit(limit, remaining, reset):
    return {"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": reset}


@pytest.mark.parametrize(
    ("headers", "limit", "remaining", "reset_s", "period_s"),
    [
        ({"RateLimit": '"default";r=50;t=30', "RateLimit-Policy": '"default";q=100;w=60'}, 100, 50, 30, 60),
        ({"RateLimit-Policy": '"hour";q=9;w=3600, "day";q=5;w=86400', "RateLimit": '"hour";r=7;t=9'}, 9, 7, 9, 3600),
        ({"RateLimit-Limit": "100", "RateLimit-Remaining": "3", "RateLimit-Reset": "20"}, 100, 3, 20, None),
        (_x_ratelimit("60", "0", str(int(NOW) + 42)), 60, 0, 42, None),
        (_x_ratelimit("1, 15000", "1, 1000", "1, 1419704"), 1, 1, 1, None),
    ],
)  # fmt: skip
def test_others_speak_of_requests_in_their_ways(headers, limit, remaining, reset_s, period_s):
    seen = read(headers, "generic", now=NOW).limits["requests"]
    assert (seen.limit, seen.remaining, seen.reset_s, seen.period_s) == (limit, remaining, reset_s, period_s)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("120ms", 0.12),
        ("1h2m3.4s", 3723.4),
        ("0s", 0),
        ("2d", 172_800),
        ("soon", None),
        ("", None),
    ],
)
def test_durations_are_read_as_go_writes_them(value, seconds):
    assert duration(value) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-4"}, None),
        ({"retry-after": "Thu, 21 Aug 2025 12:40:49 GMT"}, 20),
        ({"retry-after": "Thu, 21 Aug 2025 12:00:00 GMT"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "later"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers, seconds):
    assert retry_after(headers, NOW) == seconds


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "generic"])
def test_nonsense_says_nothing(dialect):
    names = [*OPENAI_OK, *ANTHROPIC_OK, "ratelimit", "ratelimit-policy", "x-ratelimit-remaining", "retry-after"]
    for value in ("", "many", "nan", "inf", '"', "1e999", ";;="):
        said = read(dict.fromkeys(names, value), dialect, now=NOW)
        assert left(said) == {}
        assert said.retry_after_s is None


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "period_s"),
    [
        ("10000", "9999", "8.64s", 86400),
        ("200000", "199984", "4ms", 60),
        ("500", "250", "30s", 60),
        ("500", "500", "0s", None),
        ("500", "499", "17s", None),
    ],
)
def test_what_is_missing_and_when_it_is_back_tell_the_period(limit, remaining, reset, period_s) -> None:
    headers = {
        "x-ratelimit-limit-requests": limit,
        "x-ratelimit-remaining-requests": remaining,
        "x-ratelimit-reset-requests": reset,
    }
    assert read(headers, "openai", now=NOW).limits["requests"].period_s == period_s


def test_the_one_limit_that_is_exhausted_is_named() -> None:
    headers = {"x-ratelimit-remaining-requests": "3", "x-ratelimit-remaining-tokens": "0"}
    assert read(headers, "openai", now=NOW).exhausted() == "tokens"
    assert read({**headers, "x-ratelimit-remaining-requests": "0"}, "openai", now=NOW).exhausted() is None


@pytest.mark.parametrize(
    ("said", "wait"),
    [
        (str(int(NOW) + 42), 42),
        (str((int(NOW) + 42) * 1000), 42),
        (datetime.fromtimestamp(NOW + 42, UTC).strftime("%a %b %d %H:%M:%S %Y"), 42),
        ("1e15", None),
        ("999999999", 86400),
        ("9" * 40, 86400),
    ],
)
def test_a_wait_may_be_an_instant_and_is_a_day_at_most(said, wait):
    found = retry_after({"Retry-After": said}, NOW)
    assert found == (None if wait is None else pytest.approx(wait, abs=1))


def test_the_zone_of_this_machine_is_nobodys_concern(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        said = datetime.fromtimestamp(NOW + 42, UTC).strftime("%a %b %d %H:%M:%S %Y")
        assert retry_after({"Retry-After": said}, NOW) == pytest.approx(42, abs=1)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_policy_that_has_nothing_left_says_how_long_to_wait():
    headers = {
        "RateLimit": '"burst";r=5;t=1, "day";r=0;t=3000',
        "RateLimit-Policy": '"burst";q=9;w=1, "day";q=90;w=86400',
    }
    said = read(headers, "generic", now=NOW)
    assert said.retry_after_s == 3000
    assert said.exhausted() == "requests_per_day"
    assert said.limits["requests"].remaining == 5


def test_further_windows_of_one_header_are_limits_of_their_own():
    headers = {
        "X-RateLimit-Limit": "1, 15000", "X-RateLimit-Policy": "1;w=1, 15000;w=2592000",
        "X-RateLimit-Remaining": "1, 0", "X-RateLimit-Reset": "1, 1419704",
    }  # fmt: skip
    said = read(headers, "generic", now=NOW)
    assert said.limits["requests"].remaining == 1
    month = said.limits["requests_per_month"]
    assert (month.limit, month.remaining, month.reset_s, month.period_s) == (15000, 0, 1419704, 2592000)
    assert said.exhausted() == "requests_per_month"
    assert said.retry_after_s == 86400


def _heard(recorded: Recorded) -> Said:
    date = {name.lower(): value for name, value in recorded.headers.items()}.get("date")
    now = parsedate_to_datetime(date).timestamp() if date else NOW
    return read(recorded.headers, recorded.dialect, now=now)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda one: one.source)
def test_what_was_recorded_is_read_without_surprises(recorded):
    said = _heard(recorded)
    assert said.retry_after_s is None or 0 <= said.retry_after_s <= 86400
    for seen in said.limits.values():
        assert seen.limit is None or seen.limit > 0
        assert seen.remaining is None or seen.remaining >= 0
        assert seen.reset_s is None or seen.reset_s >= 0
        assert seen.limit is None or seen.remaining is None or seen.remaining <= seen.limit
    if recorded.status == 200:
        assert said.limits
        assert said.exhausted() is None


@pytest.mark.parametrize(
    ("source", "wait", "exhausted"),
    [
        ("OpenAI 429 with nothing exhausted", None, None),
        ("OpenAI responses 429 without any limit header", None, None),
        ("Azure 429, tokens exhausted", 1, "tokens"),
        ("Groq 429, partial", 9, None),
        ("Groq 429 (body said", 35, None),
        ("Anthropic 429 without retry-after", None, "requests"),
        ("Anthropic 429, input tokens exhausted", 16, "input_tokens"),
        ("Brave search 429, month spent", 86400, None),
        ("Hugging Face Hub 429", 55, "requests"),
    ],
)
def test_what_was_recorded_of_refusals(source, wait, exhausted):
    (recorded,) = [one for one in RECORDED if one.source.startswith(source)]
    said = _heard(recorded)
    assert (said.retry_after_s, said.exhausted()) == (wait, exhausted)


def test_what_was_recorded_of_periods_and_resets():
    seen = {one.source.partition(",")[0]: _heard(one).limits for one in RECORDED}
    assert seen["OpenAI"]["requests"].period_s == 86400
    assert seen["Azure OpenAI with renewal periods"]["tokens"].reset_s == 30
    assert seen["gitlab.com"]["requests"].reset_s == pytest.approx(27, abs=1)
    assert set(seen["Brave search"]) == {"requests"}
    assert seen["Hugging Face Hub"]["requests"].period_s == 300
    assert seen["Groq chat completions"]["requests"].reset_s == pytest.approx(0.172799999)
