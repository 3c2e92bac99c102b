"""What the simulated providers grant, how slow they are, how often they fail. One JSON document, changed live."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from load.simulators.limits import LatencyOptions, QuotaOptions, Share, Table, set_limits
from load.simulators.limits import LimitOptions as LimitOptions


class OptionsError(Exception):
    """The options are not accepted; the message names the keys."""


def _secret(value: str) -> str:
    try:
        Webhook(value)
    except (ValueError, EmptyWebhookSecretError):
        raise ValueError("a Standard Webhooks secret is whsec_ and base64") from None
    return value


Secret = Annotated[str, AfterValidator(_secret)]


class ModelApiOptions(Table):
    """An OpenAI- or Anthropic-compatible API."""

    models: dict[str, QuotaOptions] = Field(default_factory=dict)
    """Any other model is unknown (404). Empty: every name is a model without limits."""
    keys: list[str] = Field(default_factory=list)
    """Accepted API keys. Empty: any key but those that start with `sk-wrong`."""
    headers: Literal["native", "x-ratelimit", "ietf", "none"] = "native"
    """How answers tell of limits. `native`: the provider's own headers. Compatible servers have others, for requests
    alone: `x-ratelimit` is `X-RateLimit-Limit`, `-Remaining`, `-Reset`; `ietf` the draft's `RateLimit` and
    `RateLimit-Policy`. `none`: nothing tells of limits, nor when to come back."""
    failed_calls_count: bool | None = None
    """Whether calls that were refused or that failed with an ordered or random status count. Default: as the provider
    has it."""
    caching: bool = True
    """Whether prompts that begin as an earlier one are read from a cache."""
    cached_tokens_count: bool | None = None
    """Whether input that was read from the cache counts. Default: as the provider has it."""
    spend_cap: float | None = Field(default=None, ge=0)
    """Money that each key may spend, at its models' prices. None: without end."""


class AnthropicOptions(ModelApiOptions):
    """What only Anthropic has."""

    round_tokens_to: int = Field(default=1, ge=1)
    """Remaining tokens are told rounded to a multiple of this; the real API may round to 1000."""


class SearchOptions(Table):
    """A SearXNG instance."""

    requests: LimitOptions | None = None
    documents_dir: Path | None = None
    """Folder of .txt, .md and .rst files. Default: a small built-in collection."""

    def limits(self) -> dict[str, LimitOptions]:
        """The limits that are set, by name."""
        return set_limits(self)


class SmtpFaultOptions(Table):
    """Shares of messages that fail at DATA."""

    rate_451: Share = 0.0
    rate_drop: Share = 0.0
    """The connection breaks and the message is not kept."""
    rate_lost: Share = 0.0
    """The message is kept, then the connection breaks before the reply."""


class SmtpOptions(Table):
    """A mail relay. Its quota is shared by all clients."""

    messages: LimitOptions | None = None
    recipients: LimitOptions | None = None
    latency_s: float = Field(default=0.0, ge=0)
    faults: SmtpFaultOptions = SmtpFaultOptions()

    def limits(self) -> dict[str, LimitOptions]:
        """The limits that are set, by name."""
        return set_limits(self)


class EffectFaultOptions(Table):
    """Shares of the calls that fail, of an API whose calls change something."""

    rate_500: Share = 0.0
    """Nothing was done."""
    rate_drop: Share = 0.0
    """The connection breaks and nothing was done."""
    rate_lost: Share = 0.0
    """It was done, then the connection breaks before the answer."""
    rate_hang: Share = 0.0
    """It was done, then the answer takes `hang_s` seconds."""
    hang_s: float = Field(default=30.0, ge=0)


class EffectApiOptions(Table):
    """An API whose calls change something. Its quota is shared by all clients."""

    requests: LimitOptions | None = None
    latency_s: float = Field(default=0.0, ge=0)
    """From understanding a request to carrying it out."""
    faults: EffectFaultOptions = EffectFaultOptions()

    def limits(self) -> dict[str, LimitOptions]:
        """The limits that are set, by name."""
        return set_limits(self)


class BankOptions(EffectApiOptions):
    """A bank."""

    keys: list[str] = Field(default_factory=list)
    """Accepted API keys. Empty: any, and none."""
    accounts: dict[str, Annotated[Decimal, Field(ge=0)]] | None = None
    """Opening balance by currency, as decimal strings. None: money without end in every currency."""
    honours_keys: bool = True
    """False: the Idempotency-Key is ignored, so a repeat books again."""
    lookup: bool = True
    """Whether transfers can be found by their key."""


class MailApiOptions(EffectApiOptions):
    """An e-mail API over HTTP."""

    keys: list[str] = Field(default_factory=list)
    """Accepted API keys. Empty: any, and none."""


class HooksOptions(EffectApiOptions):
    """A receiver of webhooks."""

    secrets: dict[str, Secret] = Field(default_factory=dict)
    """Signing secrets by name. A name without one is not verified."""


class FaultOptions(Table):
    """Shares of the calls of models and of the search that fail, after admission."""

    rate_500: Share = 0.0
    rate_503: Share = 0.0
    rate_529: Share = 0.0
    rate_drop: Share = 0.0
    """The work is done and charged, the connection breaks instead of an answer."""
    seed: int = 0


class OutsiderOptions(Table):
    """Somebody else who spends what a key is granted, in this process and without a connection."""

    provider: Literal["openai", "anthropic"]
    model: str
    key: str | None = None
    """Whose quota is spent. Default: the first of the provider's `keys`."""
    requests_per_s: float = Field(gt=0, le=10_000)
    tokens: int = Field(default=100, ge=0)
    """Of the prompt of each call; for OpenAI all that is charged."""
    output_tokens: int = Field(default=0, ge=0)
    arrivals: Literal["poisson", "regular"] = "poisson"
    from_s: float = Field(default=0.0, ge=0)
    """Seconds from when the outsiders were put into the options."""
    to_s: float | None = Field(default=None, gt=0)
    """None: without end."""
    seed: int = 0

    @model_validator(mode="after")
    def _ends_after_its_begin(self) -> Self:
        if self.to_s is not None and self.to_s <= self.from_s:
            raise ValueError(f"to_s is {self.to_s:g}: above from_s, {self.from_s:g}")
        return self


class Options(Table):
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
    outsiders: list[OutsiderOptions] = Field(default_factory=list)

    @model_validator(mode="after")
    def _outsiders_have_keys(self) -> Self:
        for number, one in enumerate(self.outsiders):
            api: ModelApiOptions = getattr(self, one.provider)
            if one.key is None and not api.keys:
                raise ValueError(f"outsiders.{number}.key: give one, as {one.provider}.keys has none")
            if one.key is not None and api.keys and one.key not in api.keys:
                raise ValueError(f"outsiders.{number}.key: must be one of {one.provider}.keys")
            if api.models and one.model not in api.models:
                raise ValueError(f"outsiders.{number}.model is {one.model!r}: must be one of {one.provider}.models")
        return self

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
            raise OptionsError(problems(error)) from None

    def patched(self, change: Any) -> Self:
        """These options with a JSON merge patch (RFC 7396) applied: null takes a key away."""
        return type(self).of(_merge(self.model_dump(mode="json", exclude_unset=True), change))


def problems(error: ValidationError) -> str:
    """What is not accepted, in one line that names the keys."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors())


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
