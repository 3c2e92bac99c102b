"""What the simulated providers grant, how slow they are, how often they fail. One JSON document, changed live."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

Share = float
"""0 to 1: how many of all calls."""


class OptionsError(Exception):
    """The options are not accepted; the message names the keys."""


def _secret(value: str) -> str:
    try:
        Webhook(value)
    except (ValueError, EmptyWebhookSecretError):
        raise ValueError("a Standard Webhooks secret is whsec_ and base64") from None
    return value


Secret = Annotated[str, AfterValidator(_secret)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitOptions(_Table):
    """One thing that is counted."""

    limit: float = Field(gt=0)
    """Units granted per period."""
    period_s: float = Field(default=60.0, gt=0)
    burst: float | None = Field(default=None, gt=0)
    """Most units at once, for a continuous window. Default: `limit`."""
    window: Literal["continuous", "fixed"] = "continuous"
    """`continuous`: a token bucket. `fixed`: the count starts anew every `period_s` of wall-clock time."""


class QuotaOptions(_Table):
    """The limits of one model, for each key. None: not counted, and no header tells of it."""

    requests: LimitOptions | None = None
    tokens: LimitOptions | None = None
    input_tokens: LimitOptions | None = None
    output_tokens: LimitOptions | None = None

    def limits(self) -> dict[str, LimitOptions]:
        """The limits that are set, by name."""
        return _set_limits(self)


class ModelApiOptions(_Table):
    """An OpenAI- or Anthropic-compatible API."""

    models: dict[str, QuotaOptions] = {}
    """Any other model is unknown (404). Empty: every name is a model without limits."""
    keys: list[str] = []
    """Accepted API keys. Empty: any key but those that start with `sk-wrong`."""


class AnthropicOptions(ModelApiOptions):
    """What only Anthropic has."""

    round_tokens_to: int = Field(default=1, ge=1)
    """Remaining tokens are told rounded to a multiple of this; the real API may round to 1000."""


class SearchOptions(_Table):
    """A SearXNG instance."""

    requests: LimitOptions | None = None
    documents_dir: Path | None = None
    """Folder of .txt, .md and .rst files. Default: a small built-in collection."""

    def limits(self) -> dict[str, LimitOptions]:
        """The limits that are set, by name."""
        return _set_limits(self)


class SmtpFaultOptions(_Table):
    """Shares of messages that fail at DATA."""

    rate_451: Share = Field(default=0.0, ge=0, le=1)
    rate_drop: Share = Field(default=0.0, ge=0, le=1)
    """The connection breaks and the message is not kept."""
    rate_lost: Share = Field(default=0.0, ge=0, le=1)
    """The message is kept, then the connection breaks before the reply."""


class SmtpOptions(_Table):
    """A mail relay. Its quota is shared by all clients."""

    messages: LimitOptions | None = None
    recipients: LimitOptions | None = None
    latency_s: float = Field(default=0.0, ge=0)
    faults: SmtpFaultOptions = SmtpFaultOptions()

    def limits(self) -> dict[str, LimitOptions]:
        """The limits that are set, by name."""
        return _set_limits(self)


class EffectFaultOptions(_Table):
    """Shares of the calls that fail, of an API whose calls change something."""

    rate_500: Share = Field(default=0.0, ge=0, le=1)
    """Nothing was done."""
    rate_drop: Share = Field(default=0.0, ge=0, le=1)
    """The connection breaks and nothing was done."""
    rate_lost: Share = Field(default=0.0, ge=0, le=1)
    """It was done, then the connection breaks before the answer."""
    rate_hang: Share = Field(default=0.0, ge=0, le=1)
    """It was done, then the answer takes `hang_s` seconds."""
    hang_s: float = Field(default=30.0, ge=0)


class EffectApiOptions(_Table):
    """An API whose calls change something. Its quota is shared by all clients."""

    requests: LimitOptions | None = None
    latency_s: float = Field(default=0.0, ge=0)
    """From understanding a request to carrying it out."""
    faults: EffectFaultOptions = EffectFaultOptions()

    def limits(self) -> dict[str, LimitOptions]:
        """The limits that are set, by name."""
        return _set_limits(self)


class BankOptions(EffectApiOptions):
    """A bank."""

    keys: list[str] = []
    """Accepted API keys. Empty: any, and none."""
    accounts: dict[str, Annotated[Decimal, Field(ge=0)]] | None = None
    """Opening balance by currency, as decimal strings. None: money without end in every currency."""
    honours_keys: bool = True
    """False: the Idempotency-Key is ignored, so a repeat books again."""
    lookup: bool = True
    """Whether transfers can be found by their key."""


class MailApiOptions(EffectApiOptions):
    """An e-mail API over HTTP."""

    keys: list[str] = []
    """Accepted API keys. Empty: any, and none."""


class HooksOptions(EffectApiOptions):
    """A receiver of webhooks."""

    secrets: dict[str, Secret] = {}
    """Signing secrets by name. A name without one is not verified."""


class LatencyOptions(_Table):
    """How long answers of models and search take: (base + per token) x (1 ± jitter)."""

    base_s: float = Field(default=0.05, ge=0)
    per_output_token_s: float = Field(default=0.0005, ge=0)
    jitter: Share = Field(default=0.1, ge=0, le=1)
    seed: int = 0


class FaultOptions(_Table):
    """Shares of the calls of models and of the search that fail, after admission."""

    rate_500: Share = Field(default=0.0, ge=0, le=1)
    rate_503: Share = Field(default=0.0, ge=0, le=1)
    rate_529: Share = Field(default=0.0, ge=0, le=1)
    rate_drop: Share = Field(default=0.0, ge=0, le=1)
    """The work is done and charged, the connection breaks instead of an answer."""
    seed: int = 0


class Options(_Table):
    """Everything. Unknown keys are errors."""

    openai: ModelApiOptions = ModelApiOptions()
    anthropic: AnthropicOptions = AnthropicOptions()
    search: SearchOptions = SearchOptions()
    smtp: SmtpOptions = SmtpOptions()
    bank: BankOptions = BankOptions()
    mail_api: MailApiOptions = MailApiOptions()
    hooks: HooksOptions = HooksOptions()
    latency: LatencyOptions = LatencyOptions()
    faults: FaultOptions = FaultOptions()

    @classmethod
    def read(cls, path: Path | None) -> Self:
        """The options of a JSON file; without one, the defaults."""
        if path is None:
            return cls()
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise OptionsError(f"{path}: {error}") from None

    @classmethod
    def of(cls, document: Any) -> Self:
        """The options of a JSON document."""
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise OptionsError("; ".join(problems)) from None

    def patched(self, change: Any) -> Self:
        """These options with a JSON merge patch (RFC 7396) applied: null takes a key away."""
        return type(self).of(_merge(self.model_dump(mode="json"), change))


class FaultOrder(_Table):
    """`POST /_fault`: make the next calls fail."""

    provider: Literal["openai", "anthropic", "search", "smtp", "bank", "mail_api", "hooks"]
    status: int | None = Field(default=None, ge=400, le=599)
    """HTTP status, or for `smtp` the reply code."""
    drop: bool = False
    """Break the connection."""
    after: bool = True
    """With `drop`: break it after the work was done and charged (in the middle of a stream, after the message was kept,
    after the transfer was booked). False: before anything is counted."""
    hang_s: float | None = Field(default=None, gt=0)
    """Do the work, then let the client wait that many seconds for the answer."""
    count: int = Field(default=1, ge=0)
    """How many calls. 0 forgets the orders of this provider."""
    retry_after: float | None = Field(default=None, ge=0)
    """Seconds, for the retry-after headers. Default: no such header."""
    code: str | None = None
    """OpenAI's `error.code`, such as `insufficient_quota`."""
    model: str | None = None
    """Only calls of this model."""


def _set_limits(quota: BaseModel) -> dict[str, LimitOptions]:
    return {name: value for name, value in quota if isinstance(value, LimitOptions)}


def _merge(target: Any, change: Any) -> Any:
    if not isinstance(change, dict):
        return change
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged
