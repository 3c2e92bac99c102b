"""What providers grant, as people write it: `500/m`, `10k/day`, `20` at once."""

import math
import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fleet.errors import BadInput

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_WINDOWS = {"minute": 60.0, "hour": 3600.0, "day": 86_400.0}
_SCALE = {"": 1.0, "k": 1e3, "M": 1e6}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kM]?)")
_RATE = re.compile(r"(\d+(?:\.\d+)?[kM]?)/(?:(\d+)?(s|m|h|d)|(minute|hour|day)|(month))")

UNITS = ("requests", "tokens", "input_tokens", "output_tokens", "messages", "recipients")
"""What calls cost."""
_PART = r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}"
NAME = re.compile(_PART)
"""What a tenant may be called: it may become part of a scope."""
SCOPE = re.compile(rf"{_PART}(/{_PART}){{1,4}}|{_PART}(/{_PART}){{1,3}}/\*")
"""What a quota may be named; the limiter's own rule, told here so that `fleet check` knows it."""


def duration(value: Any) -> Any:
    """Read `500ms`, `2s`, `30m`, `24h`; leave what is no text.

    Raises:
        ValueError: it is another text.
    """
    if isinstance(value, str):
        found = _DURATION.fullmatch(value)
        if not found:
            raise ValueError(f"{value!r} is not a duration such as '500ms', '2s', '30m', '24h'")
        return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
    return value


def _count(value: Any) -> Any:
    if isinstance(value, str):
        found = _COUNT.fullmatch(value)
        if not found:
            raise ValueError(f"{value!r} is not a count such as '500', '90k', '1.5M'")
        return float(found[1]) * _SCALE[found[2]]
    return value


Duration = Annotated[timedelta, BeforeValidator(duration), Field(gt=timedelta(0))]
Wait = Annotated[timedelta, BeforeValidator(duration), Field(ge=timedelta(0))]
Count = Annotated[float, BeforeValidator(_count), Field(gt=0, allow_inf_nan=False)]


class Table(BaseModel):
    """A table of the manifest: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(Table):
    """One limit of a quota: `"500/m"`, `"10k/day"`, or a table with more."""

    units: Count
    """Units per period; of what is in flight, at once."""
    per: Duration = timedelta(minutes=1)
    """Period. Of what is in flight: how long a call holds it if nobody says that it still runs."""
    burst: Count | None = None
    """Most units at once after idling. Default: `units`. Smaller where a provider enforces shorter windows."""
    returns: Literal["continuously", "with_window", "with_month", "with_call"] = "continuously"
    """When units come back: bit by bit, all with the next window or calendar month, or when the call ends."""
    offset: Wait = timedelta(0)
    """Of windows: when the first begins, from midnight UTC."""
    shadow: bool = False
    """Count what the limit would refuse, refuse nothing."""

    @model_validator(mode="after")
    def _burst_is_continuous(self) -> Self:
        if self.burst is not None and self.returns != "continuously":
            raise ValueError("burst: only what returns bit by bit has one")
        return self


def in_flight(limit: str) -> bool:
    """Whether a limit of that name counts what is in flight."""
    return limit == "in_flight" or limit.endswith("_in_flight")


def unit_of(limit: str) -> str:
    """What a limit counts: `tokens_per_day` and `tokens_in_flight` count tokens, `in_flight` counts requests."""
    if limit == "in_flight":
        return "requests"
    if in_flight(limit):
        return limit.removesuffix("_in_flight")
    unit, _, period = limit.rpartition("_per_")
    return unit if unit and period.isalnum() else limit


def _rate(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("rate"), str):
        rest = {k: v for k, v in value.items() if k != "rate"}
        return {**_rate(value["rate"]), **rest}
    if not isinstance(value, str):
        return value
    found = _RATE.fullmatch(value)
    if not found:
        raise ValueError(f"{value!r} is not a rate such as '500/m', '200k/m', '5/s', '10k/day', '2k/month'")
    units = _count(found[1])
    if not (units > 0 and math.isfinite(units)):
        raise ValueError(f"{value!r}: a rate must be greater than zero")
    if found[5]:
        return {"units": units, "returns": "with_month"}
    if found[4]:
        return {"units": units, "per": timedelta(seconds=_WINDOWS[found[4]]), "returns": "with_window"}
    return {"units": units, "per": timedelta(seconds=int(found[2] or 1) * _SECONDS[found[3]])}


def _flight(value: Any) -> Any:
    """`20`, or `{at_once = 20, lease = "2m"}`."""
    if isinstance(value, dict):
        words = {"at_once": "units", "lease": "per"}
        return {"returns": "with_call", **{words.get(key, key): one for key, one in value.items()}}
    return {"units": value, "returns": "with_call"}


RateSpec = Annotated[Rate, BeforeValidator(_rate)]


class QuotaSpec(Table):
    """What a provider grants for one scope, all limits together. Limits stand beside the other keys, by name."""

    rates: dict[str, RateSpec] = Field(default_factory=dict)
    within: str | None = None
    """The scope that calls are charged to as well: a model's organisation."""
    headroom: float = Field(default=0.98, gt=0, le=1)
    """Share of the provider's limit that the fleet plans to use."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        rest, rates = {}, {}
        for key, one in value.items():
            if unit_of(key) in UNITS:
                rates[key] = _flight(one) if in_flight(key) else one
            else:
                rest[key] = one
        return {**rest, "rates": rates}

    def limits(self) -> dict[str, Rate]:
        """The limits that are set, by name."""
        return self.rates


def read_rate(limit: str, text: str) -> Rate:
    """Read one limit by its name.

    Raises:
        BadInput: it makes no sense, in one line.
    """
    try:
        return Rate.model_validate(_flight(text) if in_flight(limit) else _rate(text))
    except ValidationError as error:
        first = error.errors()[0]
        said = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
        raise BadInput(f"{limit}={text}: {said}") from None
    except ValueError as error:
        raise BadInput(f"{limit}={text}: {error}") from None


def read_count(what: str, text: str) -> float:
    """Read `500`, `90k`, `1.5M`.

    Raises:
        BadInput: anything else, or 0.
    """
    try:
        count: float = _count(text)
    except ValueError as error:
        raise BadInput(f"{what}: {error}") from None
    if count <= 0:
        raise BadInput(f"{what}: {text!r}: must be greater than zero")
    return count


def read_duration(what: str, text: str) -> timedelta:
    """Read `30s`, `15m`, `2h`, `7d`.

    Raises:
        BadInput: anything else, or 0.
    """
    try:
        found: timedelta = duration(text)
    except ValueError as error:
        raise BadInput(f"{what}: {error}") from None
    if found <= timedelta(0):
        raise BadInput(f"{what}: {text!r}: must be greater than zero")
    return found
