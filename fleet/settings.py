"""Where am I? The environment, read once into one frozen object. Nothing else reads `os.environ`."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from fleet.errors import BadInput

DEV_FILE = "dev.json"
Compression = Literal["none", "zlib", "zstd"]

_SAMPLERS = (
    "always_on", "always_off", "traceidratio",
    "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
)  # fmt: skip
_LIMITS = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
)  # fmt: skip
_LONGEST_TIMEOUT_S = 300.0
"""Whoever asks for more means milliseconds, as other SDKs do."""

BUILD_ID = r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$"
"""What a version may be called: also a label of Kubernetes, whose controllers tell versions apart by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What the standard `OTEL_*` variables ask of traces. Where they go, and who they are of, the SDK reads itself."""

    exporter: Literal["otlp", "console"]
    content: bool
    """What models and tools say and hear is told too."""
    timeout_s: float | None
    """How long the collector may take; None: it is not said."""
    queue: int
    """Most spans that wait to be sent; what comes then is dropped."""
    batch: int
    """Most spans that are sent together."""
    delay_s: float
    """How long a span waits for others."""


class Settings(BaseSettings):
    """`FLEET_*` variables; an empty one says nothing. The Temporal connection has its own: `TEMPORAL_*` and
    `temporal.toml`."""

    model_config = SettingsConfigDict(env_prefix="FLEET_", env_ignore_empty=True, frozen=True, extra="ignore")

    manifest: Path = Path("deploy/fleet.toml")
    """The manifest: what the fleet is."""

    state_dir: Path = Path(".fleet")
    """Folder of the embedded stack, the corpus and the effect ledger."""

    redis_url: str | None = None
    """The limiter's store: one server, Sentinel or a Cluster (`ratelimit/routes.py`). Default: the embedded one, else
    localhost:6379."""

    redis_url_file: Path | None = None
    """File that holds `redis_url`, instead of it."""

    database_url: str | None = None
    """SQLAlchemy URL of the effect ledger. Default: an SQLite file in `state_dir`."""

    database_url_file: Path | None = None
    """File that holds `database_url`, instead of it."""

    health_host: str = "127.0.0.1"
    """Address that `/live`, `/ready` and `/metrics` listen on. In a container: 0.0.0.0."""

    health_port: int = Field(default=0, ge=0, le=65535)
    """Port of the probes. 0: any free one, told in the log."""

    tls_certificate: Path | None = None
    """PEM file of the certificate, and what it was issued by, that this process's own servers show. Default: they speak
    plain HTTP."""

    tls_key: Path | None = None
    """PEM file of its private key. Default: it is in the certificate's file."""

    tls_client_ca: Path | None = None
    """PEM file of who issues certificates to those who may read metrics and ask the codec server. Default: nobody is
    asked for one."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""

    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto`: console on a terminal, JSON elsewhere."""

    metrics: Literal["on", "off"] = "on"
    """`off`: nothing is counted and `/metrics` is empty."""

    metrics_tenants: int = Field(default=100, ge=0, le=100_000)
    """Tenants with time series of their own, first come; the others are counted as `other`."""

    event_loop: Literal["asyncio", "uvloop"] = "asyncio"
    """The event loop of workers. `uvloop` is an extra of the package."""

    build_id: str = Field(default="", pattern=BUILD_ID)
    """Version of the workers' code (`docs/rollouts.md`). `git`: commit of the checkout that they run from. Empty:
    workers are not versioned."""

    payload_compression: Compression = "zstd"
    """How payloads of 2 KiB and more are compressed, where that makes them smaller."""

    payload_keys: str | None = None
    """Where the keys are that payloads are encrypted with: `env:NAME` or `file:/path`. Default: none are encrypted."""

    payload_store: str | None = None
    """Where large payloads lie: `file:/folder`, `s3://bucket`, `none`, or several, of which the first is written to.
    Default: `payloads` in `state_dir` for the embedded stack, else `none`."""

    payload_threshold: int = Field(default=128 * 1024, ge=1024, le=1024 * 1024)
    """Bytes from which a payload is large. Temporal takes none of more than 2 MiB."""

    codec_tokens: str | None = None
    """Where the tokens are that the codec server takes: `env:NAME` or `file:/path`."""

    codec_issuer: str | None = None
    """Issuer of the JSON Web Tokens that the codec server takes."""

    codec_audience: str | None = None
    """Their audience."""

    codec_jwks_url: str | None = None
    """Where their issuer's public keys are: a JWK Set."""

    codec_origins: str = ""
    """Origins of Temporal's Web UI, which browsers may call the codec server from; several with commas."""

    def secret(self, reference: str) -> str | None:
        """Resolve `env:NAME` or `file:/path`. `env:NAME` also reads the file named by `NAME_FILE`.

        Returns None when nothing is set; never logs what it finds.
        """
        kind, _, name = reference.partition(":")
        try:
            if kind == "file":
                return Path(name).read_text(encoding="utf-8").strip() or None
            if path := os.environ.get(f"{name}_FILE"):
                return Path(path).read_text(encoding="utf-8").strip() or None
        except OSError as error:
            raise BadInput(f"secret {reference}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise BadInput(f"secret {reference}: is no text (UTF-8)") from None
        return os.environ.get(name, "").strip() or None

    def dev(self) -> dict[str, str]:
        """Endpoints of the embedded stack that runs in `state_dir`; empty when none does."""
        try:
            found = json.loads((self.state_dir / DEV_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {k: v for k, v in found.items() if isinstance(v, str)}

    def redis(self) -> str:
        """URL of the limiter's store.

        Raises:
            BadInput: the file that holds it cannot be read, or holds none.
        """
        if self.redis_url is None and self.redis_url_file is not None:
            return _held("FLEET_REDIS_URL_FILE", self.redis_url_file)
        return self.redis_url or self.dev().get("redis") or "redis://127.0.0.1:6379/0"

    def database(self) -> str:
        """URL of the effect ledger.

        Raises:
            BadInput: the file that holds it cannot be read, or holds none.
        """
        if self.database_url is None and self.database_url_file is not None:
            return _held("FLEET_DATABASE_URL_FILE", self.database_url_file)
        return self.database_url or f"sqlite+aiosqlite:///{(self.state_dir / 'ledger.db').absolute()}"

    def temporal_key(self) -> str | None:
        """Temporal's API key, where `TEMPORAL_API_KEY_FILE` says that a file holds it; the SDK reads no such file.

        Raises:
            BadInput: the file cannot be read or holds none, or `TEMPORAL_API_KEY` is set too.
        """
        path = os.environ.get("TEMPORAL_API_KEY_FILE")
        if not path:
            return None
        if os.environ.get("TEMPORAL_API_KEY"):
            raise BadInput("TEMPORAL_API_KEY and TEMPORAL_API_KEY_FILE are set: leave one of the two")
        return _held("TEMPORAL_API_KEY_FILE", Path(path))

    def cache(self) -> Path | None:
        """Folder for what can be made anew at any time, shared by all fleets of a user; None for a user without a home.

        `agent-fleet` in `$XDG_CACHE_HOME`, by default `~/.cache`:
        https://specifications.freedesktop.org/basedir-spec/latest/
        """
        try:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        except RuntimeError:
            return None
        return folder / "agent-fleet" if folder.is_absolute() else None

    def environment(self) -> dict[str, str]:
        """The whole environment, for a child process."""
        return dict(os.environ)


def libpq() -> dict[str, str]:
    """Files of certificates that `PGSSL*` name, by what a URL calls them."""
    named = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
    return {name: path for name in named if (path := os.environ.get(f"PG{name.upper()}"))}


def _held(name: str, path: Path) -> str:
    """The one line that a file holds. Neither its text nor its errors are shown, as it is a secret."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BadInput(f"{name}: {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BadInput(f"{name}: {path} is no text (UTF-8)") from None
    if not text or len(text.splitlines()) > 1:
        raise BadInput(f"{name}: {path} holds {'more than one line' if text else 'nothing'}: write one line into it")
    return text


def traces() -> Traces | None:
    """What the environment asks of traces; None: there are none, as nobody has named a collector.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/

    Raises:
        BadInput: a variable has a value that is not served.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    named = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return None
    if not exporter and not any(os.environ.get(name, "").strip() for name in named):
        return None
    if exporter not in ("", "otlp", "console"):
        raise BadInput(f"OTEL_TRACES_EXPORTER: must be otlp, console or none, got {exporter!r}")
    if exporter != "console":
        _check_way()
    _check_sampler()
    for name in _LIMITS:
        if (text := os.environ.get(name, "").strip()) and not (text.isascii() and text.isdigit()):
            raise BadInput(f"{name}: must be an integer of at least 0, got {text!r}")
    content = os.environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "").strip().lower()
    timeout, said = _first("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
    queue = int(_number("OTEL_BSP_MAX_QUEUE_SIZE", 2048, least=1))
    return Traces(
        exporter="console" if exporter == "console" else "otlp",
        content=content in ("true", "span_only", "span_and_event"),
        timeout_s=_number(timeout, 0, least=0.001, most=_LONGEST_TIMEOUT_S, unit=" of seconds") if said else None,
        queue=queue,
        batch=min(queue, int(_number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, least=1))),
        delay_s=_number("OTEL_BSP_SCHEDULE_DELAY", 5000, least=1) / 1000,
    )


def _check_way() -> None:
    """Protocol, endpoint and compression: what is said of traces counts more than what is said of all signals."""
    name, protocol = _first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in ("", "http/protobuf"):
        raise BadInput(f"{name}: must be http/protobuf, got {protocol!r}: collectors listen for it on port 4318")
    name, endpoint = _first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if endpoint:
        try:
            url = urlsplit(endpoint)
            served = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            served = False
        if not served:
            # without what it says: it may have a password
            raise BadInput(f"{name}: must be a URL of http or https with a host, as in http://127.0.0.1:4318")
    name, packed = _first("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION")
    if packed.lower() not in ("", "none", "gzip", "deflate"):
        raise BadInput(f"{name}: must be gzip, deflate or none, got {packed!r}")


def _check_sampler() -> None:
    """The SDK takes another sampler for one that it does not know, and tells all traces for a ratio that is none."""
    sampler = os.environ.get("OTEL_TRACES_SAMPLER", "").lower()
    if sampler and sampler not in _SAMPLERS:
        raise BadInput(f"OTEL_TRACES_SAMPLER: must be one of {', '.join(_SAMPLERS)}, got {sampler!r}")
    if sampler.endswith("traceidratio"):
        _number("OTEL_TRACES_SAMPLER_ARG", 1.0, least=0, most=1)


def _first(*names: str) -> tuple[str, str]:
    """The first variable that says something, and what; the last one, if none does."""
    for name in names:
        if text := os.environ.get(name, "").strip():
            return name, text
    return names[-1], ""


def _number(name: str, default: float, *, least: float, most: float = math.inf, unit: str = "") -> float:
    text = os.environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    # written so that it is also true of what is no number
    if not least <= value <= most or not math.isfinite(value):
        bounds = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise BadInput(f"{name}: must be a number{unit} {bounds}, got {text!r}")
    return value


def load() -> Settings:
    """Read the environment.

    Raises:
        BadInput: a variable has a bad value; the text names all of them.
    """
    try:
        found = Settings()
    except ValidationError as error:
        problems = [
            f"FLEET_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}, got {e['input']!r}" for e in error.errors()
        ]
        raise BadInput("; ".join(problems)) from None
    if os.environ.get("FLEET_PAYLOAD_KEYS") == "":
        # to go on would write what is to be secret for all to read
        raise BadInput("FLEET_PAYLOAD_KEYS: is empty: say where the keys are, env:NAME or file:/path, or leave it out")
    for name, file in (("redis_url", found.redis_url_file), ("database_url", found.database_url_file)):
        if file is not None and getattr(found, name) is not None:
            raise BadInput(f"FLEET_{name.upper()} and FLEET_{name.upper()}_FILE are set: leave one of the two")
    return found
