"""Logs and metrics of a worker process."""

import logging
import sys
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fleet.settings import Settings
from ratelimit import events
from ratelimit.places import Closed
from workers.redaction import REDACTOR


class Metrics:
    """Everything a worker counts, in one registry. Label values are bounded: scopes, pools, activities."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tasks = Counter(
            "fleet_activity_tasks",
            "Attempts that ended, by outcome.",
            ["pool", "activity", "outcome"],
            registry=self.registry,
        )
        self.running = Gauge("fleet_activity_running", "Attempts under way.", ["pool"], registry=self.registry)
        self.deferrals = Counter(
            "fleet_quota_deferrals",
            "Calls that gave their slot back to wait for quota.",
            ["scope"],
            registry=self.registry,
        )
        self.waits = Histogram(
            "fleet_quota_wait_seconds",
            "Time from the first booking to the permit.",
            ["scope"],
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600),
            registry=self.registry,
        )
        self.provider_rejections = Counter(
            "fleet_provider_rejections", "429s and overloads.", ["scope", "kind"], registry=self.registry
        )
        self.cooldowns = Counter(
            "fleet_quota_cooldowns",
            "Times this process closed a scope for the whole fleet.",
            ["scope"],
            registry=self.registry,
        )
        self.closings = Counter(
            "fleet_quota_closings",
            "Times this process closed a scope until somebody opens it.",
            ["scope", "cause"],
            registry=self.registry,
        )
        self.shadowed = Counter(
            "fleet_quota_shadowed",
            "Calls that a shadow limit would have refused.",
            ["scope", "limit"],
            registry=self.registry,
        )
        self.estimates = Histogram(
            "fleet_quota_estimate_ratio",
            "Estimated by used tokens: above 1 quota lay idle, below 1 the call left a debt.",
            ["scope", "what"],
            buckets=(0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.5, 2, 4, 10),
            registry=self.registry,
        )
        self.effects = Counter(
            "fleet_effects",
            "Effects whose end an attempt has told: done, failed, unknown.",
            ["tool", "state"],
            registry=self.registry,
        )
        self.effects_fenced = Counter(
            "fleet_effects_fenced",
            "Attempts that were refused at the fence, a later one being at it.",
            ["tool"],
            registry=self.registry,
        )
        self.notices = Counter(
            "fleet_approval_notices",
            "Attempts to tell humans of an approval, by endpoint.",
            ["endpoint", "outcome"],
            registry=self.registry,
        )
        self.degraded = Counter(
            "fleet_quota_degraded",
            "Calls granted by the local share, Redis being away.",
            ["scope"],
            registry=self.registry,
        )
        self.provider_failures = Counter(
            "fleet_provider_failures", "500s, time-outs, broken connections.", ["scope"], registry=self.registry
        )
        self.settles_lost = Counter(
            "fleet_quota_settles_lost",
            "Calls whose estimate stands, Redis being away.",
            ["scope"],
            registry=self.registry,
        )

    def observe(self, event: events.Event) -> None:
        """Take one event of the limiter."""
        if isinstance(event, events.Granted):
            self.waits.labels(event.scope).observe(event.waited_s)
        elif isinstance(event, events.Cooled):
            self.cooldowns.labels(event.scope).inc()
        elif isinstance(event, events.Shut) and event.cause is not Closed.NO:
            self.closings.labels(event.scope, event.cause.name.lower()).inc()
        elif isinstance(event, events.Estimated):
            self.estimates.labels(event.scope, event.what).observe(event.ratio)
        elif isinstance(event, events.Degraded):
            self.degraded.labels(event.scope).inc()
        elif isinstance(event, events.Shadowed):
            self.shadowed.labels(event.scope, event.limit).inc()


METRICS: Final = Metrics()


_CHATTY = (
    "httpx2", "httpcore2", "httpx", "httpcore", "openai", "anthropic", "uvicorn", "aiosqlite", "asyncpg", "alembic",
)  # fmt: skip


def configure_logging(settings: Settings) -> None:
    """Structured logs on stderr: a console's on a terminal, JSON elsewhere."""
    level = getattr(logging, settings.log_level.upper())
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer()]
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last, REDACTOR.processor],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # clients log every request at INFO, and some of them headers at DEBUG
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
