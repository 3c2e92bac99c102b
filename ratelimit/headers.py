"""A provider's rate-limit headers and Retry-After as plain values. Dialects are data.

Sources: OpenAI's guide "Rate limits" (headers `x-ratelimit-*`); Anthropic's "Rate limits" (`anthropic-ratelimit-*`);
RFC 9110 §10.2.3 (`Retry-After`); the IETF draft "RateLimit header fields for HTTP" (`RateLimit`, `RateLimit-Policy`)
and its older form `RateLimit-Limit`, `-Remaining`, `-Reset`; the `X-RateLimit-*` that many others send.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

EPOCH_FROM = 1e9
"""A number this large is an instant in seconds since 1970, a smaller one a number of seconds."""
EPOCH_MS_FROM = 1e11
"""This large, it is one in milliseconds."""
LONGEST_WAIT_S = 86400.0
"""Nobody is sent away for longer: a number that was misread would close a scope for years, and one more refusal a day
does no harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What an answer says of one limit. What it does not say is None."""

    limit: float | None = None
    """Units per period, as the provider grants them."""
    remaining: float | None = None
    """Units left."""
    reset_s: float | None = None
    """Seconds until the limit is full again."""
    period_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What an answer says about rate limits."""

    limits: Mapping[str, Observed] = field(default_factory=dict)
    """By limit name."""
    retry_after_s: float | None = None
    """Seconds to wait before the next call."""

    def exhausted(self) -> str | None:
        """The one limit of which nothing is left; None if that is said of none, or of several."""
        empty = [name for name, seen in self.limits.items() if seen.remaining == 0]
        return empty[0] if len(empty) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Header names of one provider. `{}` stands for the provider's word for a limit."""

    words: Mapping[str, str]
    """Our name of a limit to the provider's."""
    limit: str
    remaining: str
    reset: str
    reset_as: Callable[[str, float], float | None]
    """Reads a reset at an instant (seconds since 1970); answers seconds."""
    retry_from_reset: bool = False
    """A refusal without Retry-After may be retried when the limit that has nothing left is full again."""
    windows: str = ""
    """The header that names several windows, where limits, rests and resets are lists in its order."""
    reset_is_full: bool = False
    """The reset is when the limit is full again: with what is missing it tells the period."""


_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def duration(value: str, now: float = 0.0) -> float | None:
    """Go's way to write a time span: `6m0s`, `1.2s`, `120ms`, `1h2m3.4s`, or Azure's, a number of seconds.

    Seconds; None if it is none.
    """
    del now
    number = _number(value)
    if number is not None:
        return max(0.0, number)
    match = _DURATION.fullmatch(value.strip())
    if match is None or not any(match.groups()):
        return None
    days, hours, minutes, seconds, ms = (float(part or 0) for part in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds + ms / 1000


def instant(value: str, now: float) -> float | None:
    """Seconds until an RFC 3339 instant; 0 for one that is past."""
    try:
        at = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)


def delta_or_epoch(value: str, now: float) -> float | None:
    """Seconds, or seconds since 1970, whichever it is; the first of several windows."""
    number = _number(value.split(",")[0])
    return duration(value) or instant(value, now) if number is None else _from_now(number, now)


def _from_now(number: float, now: float) -> float:
    if number >= EPOCH_MS_FROM:
        number = number / 1000 - now
    elif number >= EPOCH_FROM:
        number -= now
    return max(0.0, number)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by `retry-after-ms` or `Retry-After`: a number of seconds, an instant or an HTTP date.

    A day at most. None where it says neither, or a number below 0.
    """
    wait = _asked_for(headers, now)
    return None if wait is None else min(wait, LONGEST_WAIT_S)


def _asked_for(headers: Mapping[str, str], now: float) -> float | None:
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    ms = _number(lower.get("retry-after-ms", ""))
    value = lower.get("retry-after", "")
    # Azure sends 0 beside the wait that it means
    if ms is not None and ms >= 0 and (ms > 0 or not value):
        return ms / 1000
    seconds = _number(value)
    if seconds is not None:
        return _from_now(seconds, now) if seconds >= 0 else None
    try:
        at = parsedate_to_datetime(value)
        # the form of asctime names no zone: it is UTC (RFC 9110 §5.6.7)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return None


OPENAI = Dialect(
    words={"requests": "requests", "tokens": "tokens"},
    limit="x-ratelimit-limit-{}",
    remaining="x-ratelimit-remaining-{}",
    reset="x-ratelimit-reset-{}",
    reset_as=duration,
    retry_from_reset=True,
    reset_is_full=True,
)
ANTHROPIC = Dialect(
    words={
        "requests": "requests",
        "tokens": "tokens",
        "input_tokens": "input-tokens",
        "output_tokens": "output-tokens",
    },
    limit="anthropic-ratelimit-{}-limit",
    remaining="anthropic-ratelimit-{}-remaining",
    reset="anthropic-ratelimit-{}-reset",
    reset_as=instant,
    reset_is_full=True,
)
X_RATELIMIT = Dialect(
    words={"requests": ""},
    limit="x-ratelimit-limit",
    remaining="x-ratelimit-remaining",
    reset="x-ratelimit-reset",
    windows="x-ratelimit-policy",
    reset_as=delta_or_epoch,
    retry_from_reset=True,
)
RATELIMIT = Dialect(
    words={"requests": ""},
    limit="ratelimit-limit",
    remaining="ratelimit-remaining",
    reset="ratelimit-reset",
    reset_as=delta_or_epoch,
    retry_from_reset=True,
)
DIALECTS: Mapping[str, tuple[Dialect, ...]] = {
    "openai": (OPENAI,),
    "anthropic": (ANTHROPIC,),
    "generic": (RATELIMIT, X_RATELIMIT),
}


def read(headers: Mapping[str, str], dialect: str, *, now: float) -> Said:
    """What the headers say.

    Args:
        headers: of any answer; names in any case.
        dialect: a key of `DIALECTS`. The IETF draft's `RateLimit` is read in all of them.
        now: seconds since 1970, for instants.
    """
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    limits: dict[str, Observed] = {}
    wait = retry_after(lower, now)
    for one in DIALECTS[dialect]:
        found = _limits(lower, one, now)
        limits = {**found, **limits}
        if wait is None and one.retry_from_reset:
            wait = _until_reset(found)
    if not limits:
        limits = _ietf(lower)
        if wait is None:
            wait = _until_reset(limits)
    return Said(limits=limits, retry_after_s=wait)


def _until_reset(limits: Mapping[str, Observed]) -> float | None:
    """Seconds until whatever has nothing left is full again, a day at most; None if nothing is told to be empty."""
    empty = [seen.reset_s for seen in limits.values() if seen.remaining == 0 and seen.reset_s is not None]
    return min(max(empty), LONGEST_WAIT_S) if empty else None


def _limits(lower: Mapping[str, str], dialect: Dialect, now: float) -> dict[str, Observed]:
    found = {}
    for name, word in dialect.words.items():
        limit = _number(lower.get(dialect.limit.format(word), "").split(",")[0])
        remaining = _number(lower.get(dialect.remaining.format(word), "").split(",")[0])
        reset = lower.get(dialect.reset.format(word))
        reset_s = None if reset is None else dialect.reset_as(reset, now)
        if remaining is not None and remaining < 0:
            remaining = None
        if (limit is None and remaining is None) or (limit is not None and limit <= 0):
            continue  # a limit of 0 or less is how some say that they do not count it
        period_s = _period(limit, remaining, reset_s) if dialect.reset_is_full else None
        found[name] = Observed(limit=limit, remaining=remaining, reset_s=reset_s, period_s=period_s)
    if dialect.windows and len(found) == 1:
        found |= _further_windows(lower, dialect, now)
    return found


def _further_windows(lower: Mapping[str, str], dialect: Dialect, now: float) -> dict[str, Observed]:
    """`X-RateLimit-Policy: 1;w=1, 15000;w=2592000`, with limits, rests and resets in the same order."""
    (name,) = dialect.words
    columns = [
        [part.strip() for part in lower.get(header.format(""), "").split(",")]
        for header in (dialect.windows, dialect.limit, dialect.remaining, dialect.reset)
    ]
    found = {}
    for policy, limit, remaining, reset in list(zip(*columns, strict=False))[1:]:
        window = _number(dict(_PARAMETER.findall(policy)).get("w", ""))
        if (_number(limit) or 0) <= 0:
            continue
        found[_over(name, window)] = Observed(
            limit=_number(limit), remaining=_number(remaining), reset_s=dialect.reset_as(reset, now), period_s=window
        )
    return found


def _period(limit: float | None, remaining: float | None, reset_s: float | None) -> float | None:
    """How long the whole limit takes to return, where the reset says when what is missing is back: a usual period."""
    if not limit or remaining is None or not reset_s or remaining >= limit:
        return None
    period = limit * reset_s / (limit - remaining)
    usual = min((60.0, 3600.0, 86400.0), key=lambda one: abs(math.log(one / period)))
    # the reset of a limit that is hardly used is rounded, and some are full long before all of it is there: what fits
    # no usual period says nothing
    return usual if 0.8 < period / usual < 1.25 else None


_ITEM = re.compile(r'"(?P<name>[^"]*)"(?P<parameters>(?:\s*;\s*[a-z]+=[^;,]+)*)')
_PARAMETER = re.compile(r"([a-z]+)=([^;,\s]+)")


def _ietf(lower: Mapping[str, str]) -> dict[str, Observed]:
    """`RateLimit: "name";r=50;t=30` and `RateLimit-Policy: "name";q=100;w=60`: each policy counts requests."""
    standing, policy = _items(lower.get("ratelimit", "")), _items(lower.get("ratelimit-policy", ""))
    found: dict[str, Observed] = {}
    for name, seen in standing.items():
        rule = policy.get(name, {})
        window = _number(rule.get("w", ""))
        found.setdefault(
            _over("requests", window) if found else "requests",
            Observed(
                limit=_number(rule.get("q", "")),
                remaining=_number(seen.get("r", "")),
                reset_s=_number(seen.get("t", "")),
                period_s=window,
            ),
        )
    return found


def _over(name: str, window_s: float | None) -> str:
    """What a further limit is called: by its window."""
    spans = (("month", 28 * 86400.0), ("day", 86400.0), ("hour", 3600.0), ("minute", 60.0))
    span = next((span for span, seconds in spans if window_s is not None and window_s >= seconds), "second")
    return f"{name}_per_{span}"


def _items(value: str) -> dict[str, dict[str, str]]:
    return {match["name"]: dict(_PARAMETER.findall(match["parameters"])) for match in _ITEM.finditer(value)}


def _number(value: str) -> float | None:
    match = _NUMBER.fullmatch(value.strip())
    number = float(match.group()) if match else math.nan
    return number if math.isfinite(number) else None
