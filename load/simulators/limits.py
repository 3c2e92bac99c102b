"""What a provider grants a key: quotas, calls at once, growth, money. And how long it takes to answer."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
"""0 to 1: how many of all calls."""


class Table(BaseModel):
    """A table of options. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LimitOptions(Table):
    """One thing that is counted."""

    limit: float = Field(gt=0)
    """Units granted per period."""
    period_s: float = Field(default=60.0, gt=0)
    burst: float | None = Field(default=None, gt=0)
    """Most units at once, for a continuous window. Default: what `enforced_s` grants."""
    window: Literal["continuous", "fixed", "sliding"] = "continuous"
    """`continuous`: a token bucket. `fixed`: the count starts anew every window of wall-clock time. `sliding`: what
    was spent within the last window is what counts."""
    enforced_s: float | None = Field(default=None, gt=0)
    """Seconds over which the limit is enforced in proportion (OpenAI's and Anthropic's "Rate limits": 60 a minute may
    be 1 a second). Default: the period."""

    @model_validator(mode="after")
    def _grants_something(self) -> Self:
        if self.enforced_s is None:
            return self
        if self.enforced_s > self.period_s:
            raise ValueError(f"enforced_s is {self.enforced_s:g}: at most period_s, {self.period_s:g}")
        if self.burst is not None:
            raise ValueError("burst and enforced_s: give one, as enforced_s is a burst of its own")
        if self.granted < 1:
            least = self.period_s / self.limit
            raise ValueError(
                f"{self.limit:g} per {self.period_s:g} s enforced over {self.enforced_s:g} s grants no whole unit:"
                f" enforced_s must be at least {least:g}"
            )
        return self

    @property
    def window_s(self) -> float:
        """Seconds of a fixed or sliding window."""
        return self.enforced_s or self.period_s

    @property
    def granted(self) -> float:
        """Units of a window, in proportion to its length."""
        return self.limit * self.window_s / self.period_s

    @property
    def at_once(self) -> float:
        """Most units that are ever available."""
        return self.burst or self.granted if self.window == "continuous" else self.granted


class AccelerationOptions(Table):
    """How fast usage may grow, even under the quota.

    Within any period at most `factor` times what was used in the period before it, and `start` in any case. Anthropic's
    "Rate limits" tell only that sharp increases are refused with 429; OpenAI's "Error codes" know `slow_down`, and ask
    to grow by no more than half in 15 minutes: `{"factor": 1.5, "period_s": 900}`.
    """

    of: Literal["requests", "tokens", "input_tokens"] = "requests"
    start: float = Field(gt=0)
    """Units in a period that are granted whatever was used before."""
    factor: float = Field(default=2.0, gt=1)
    period_s: float = Field(default=60.0, gt=0)


class PriceOptions(Table):
    """Money for a million tokens."""

    input: float = Field(default=0.0, ge=0)
    output: float = Field(default=0.0, ge=0)
    cached: float | None = Field(default=None, ge=0)
    """Of input that was read from the provider's cache. Default: as other input."""


class LatencyOptions(Table):
    """How long answers of models and search take: (base + per token) x a random number x factor.

    Of a stream, the base passes before the first event, the rest between the events.
    """

    base_s: float = Field(default=0.05, ge=0)
    per_output_token_s: float = Field(default=0.0005, ge=0)
    distribution: Literal["uniform", "lognormal", "constant"] = "uniform"
    """`uniform`: the random number lies within 1 ± jitter. `lognormal`: its median is 1, its spread `sigma`."""
    jitter: Share = 0.1
    sigma: float = Field(default=0.5, ge=0, le=3)
    """Of a lognormal: 0.5 makes the 95th percentile 2.3 times the median, 1.0 makes it 5.2 times."""
    factor: float = Field(default=1.0, ge=0)
    """10 makes the provider ten times as slow."""
    seed: int = 0

    def but(self, other: "LatencyOptions | None") -> "LatencyOptions":
        """These, but for what `other` sets."""
        if other is None:
            return self
        return self.model_copy(update={name: getattr(other, name) for name in other.model_fields_set})


class QuotaOptions(Table):
    """What one model grants each key. None: not counted, and no header tells of it."""

    requests: LimitOptions | None = None
    tokens: LimitOptions | None = None
    input_tokens: LimitOptions | None = None
    output_tokens: LimitOptions | None = None
    in_flight: int | None = Field(default=None, ge=1)
    """Most calls at once."""
    acceleration: AccelerationOptions | None = None
    price: PriceOptions | None = None
    """None: free."""
    latency: LatencyOptions | None = None
    """What is set here goes before the common `latency`, but for its seed."""

    def limits(self) -> dict[str, LimitOptions]:
        """The limits that are set, by name."""
        return set_limits(self)


def set_limits(quota: BaseModel) -> dict[str, LimitOptions]:
    """The limits of a table that are set, by name."""
    return {name: value for name, value in quota if isinstance(value, LimitOptions)}
