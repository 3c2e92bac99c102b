"""What a trial may order while the simulators run: failures of the next calls, and scripts of failures and options."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from load.simulators.limits import Share, Table

Provider = Literal["openai", "anthropic", "search", "smtp", "bank", "mail_api", "hooks"]
MOST_STEPS = 1000


class Failing(Table):
    """How a call fails."""

    status: int | None = Field(default=None, ge=400, le=599)
    """HTTP status, or for `smtp` the reply code."""
    drop: bool = False
    """Break the connection."""
    after: bool = True
    """With `drop`: break it after the work was done and charged (in the middle of a stream, after the message was kept,
    after the transfer was booked). False: before anything is counted."""
    hang_s: float | None = Field(default=None, gt=0)
    """Do the work, then let the client wait that many seconds for the answer."""
    retry_after: float | None = Field(default=None, ge=0)
    """Seconds, for the retry-after headers. Default: no such header."""
    code: str | None = None
    """The provider's error code, such as `insufficient_quota`."""

    @property
    def nothing(self) -> bool:
        """Whether no failure is named."""
        return self.status is None and self.hang_s is None and not self.drop


class FaultOrder(Failing):
    """`POST /_fault`: make the next calls fail."""

    provider: Provider
    count: int = Field(default=1, ge=0)
    """How many calls. 0 forgets the orders of this provider."""
    model: str | None = None
    """Only calls of this model."""


class FaultSpell(Failing):
    """What befalls calls while a step of a script lasts."""

    rate: Share = 1.0

    @model_validator(mode="after")
    def _fails(self) -> Self:
        if self.nothing:
            raise ValueError("give status, drop or hang_s")
        return self


class Step(Table):
    """A failure of a provider, or other options, for a time."""

    at_s: float = Field(ge=0)
    """Seconds from when the script was posted."""
    for_s: float = Field(gt=0)
    """How long it lasts."""
    provider: Provider | None = None
    """Whose calls fail."""
    model: str | None = None
    """Only calls of this model."""
    fault: FaultSpell | None = None
    options: dict[str, Any] | None = None
    """A merge patch of the options (RFC 7396), in force while the step lasts."""

    @model_validator(mode="after")
    def _does_one_thing(self) -> Self:
        if (self.fault is None) == (self.options is None):
            raise ValueError("give fault or options, one of the two")
        if self.fault is not None and self.provider is None:
            raise ValueError("a fault needs a provider")
        if self.options is not None and (self.provider, self.model) != (None, None):
            raise ValueError("options have no provider and no model: the patch names them itself")
        return self
