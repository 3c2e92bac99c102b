"""Every metric of the fleet, once: name, kind, unit, labels, meaning. Dashboards, alerts and papers are held to it.

Names follow Prometheus' practice: base units, `_total` on counters, added where they are served. The value of a label
comes from a bounded set: the manifest (pools, scopes, agents, tools, models), an enumeration, a version. What has no
bound (tenants) is folded into `other` beyond a number that is set (`FLEET_METRICS_TENANTS`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from fleet.contracts.runs import Outcome

OTHER: Final = "other"
"""Stands for the values of a label beyond its bound."""


class Kind(StrEnum):
    """What Prometheus calls its types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Source(StrEnum):
    """Who serves it."""

    WORKER = "worker"
    """Each worker process, of itself."""
    WORKFLOW = "workflow"
    """The processes of the pool `agents`, told by workflows, once and not again when they are replayed."""
    EXPORTER = "exporter"
    """`fleet exporter`, of the whole fleet: one is enough."""
    LOAD = "load"
    """`fleet load run`, of a trial."""
    TEMPORAL = "temporal"
    """Each worker process: the Temporal SDK's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A family of time series."""

    name: str
    """As it is declared: of a counter without `_total`."""
    kind: Kind
    source: Source
    unit: str
    """Of a value: `seconds`, `units`, `tokens`, `ratio`; empty: a number of things."""
    says: str
    """What it means, and when it deserves a look. One sentence or two."""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram."""
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """By label, all values that it can have, where that is known here."""

    @property
    def exposed(self) -> str:
        """The name that queries use; of a histogram without `_bucket`, `_sum` and `_count`."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name


REGISTRY: dict[str, Metric] = {}
"""By name as it is declared."""


def _registered(
    source: Source,
    kind: Kind,
    name: str,
    labels: str,
    says: str,
    unit: str = "",
    buckets: Sequence[float] = (),
    /,
    **values: tuple[str, ...],
) -> Metric:
    metric = Metric(
        name=name,
        kind=kind,
        source=source,
        unit=unit,
        says=says,
        labels=tuple(labels.split()),
        buckets=tuple(buckets),
        values=values,
    )
    assert name not in REGISTRY, name
    REGISTRY[name] = metric
    return metric


_CALLS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
_RUNS_S = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 86_400, 7 * 86_400, 30 * 86_400)
_HUMANS_S = (1, 10, 60, 300, 900, 3600, 4 * 3600, 86_400, 3 * 86_400, 7 * 86_400, 30 * 86_400)
_STORE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.5, 2, 4, 10)

_W, _F, _E, _L, _T = Source.WORKER, Source.WORKFLOW, Source.EXPORTER, Source.LOAD, Source.TEMPORAL
_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

# ---- runs

RUNS_STARTED: Final = _registered(_F, _C, "fleet_runs_started", "agent", "Runs that have begun.")
RUNS_ENDED: Final = _registered(
    _F, _C, "fleet_runs_ended", "agent outcome", "Runs that have ended, by outcome.",
    outcome=tuple(outcome.value for outcome in Outcome),
)  # fmt: skip
RUN_SECONDS: Final = _registered(
    _F, _H, "fleet_run_seconds", "agent", "From a run's first begin to its end, humans included.", "seconds", _RUNS_S
)
RUNS_CONTINUED: Final = _registered(
    _F, _C, "fleet_runs_continued", "agent", "Times that a run has continued as new, its history being long."
)
APPROVALS_OPENED: Final = _registered(_F, _C, "fleet_approvals_opened", "agent tool", "Approvals that were asked for.")
APPROVAL_SECONDS: Final = _registered(
    _F, _H, "fleet_approval_seconds", "agent tool state",
    "From asking to the end of an approval: `approved`, `rejected`, `amended`, `skipped`, `expired`, `withdrawn`.",
    "seconds", _HUMANS_S,
    state=("approved", "rejected", "amended", "skipped", "expired", "withdrawn"),
)  # fmt: skip
RUNS: Final = _registered(
    _E, _G, "fleet_runs", "agent state", "Runs that are under way: `working`, `approval`, `paused`."
)
CALL_WAIT: Final = _registered(
    _W, _C, "fleet_call_wait_seconds", "agent cause",
    "Time that finished calls of agents have taken, by cause: `queue` (no free slot, or a gate that is closed),"
    " `quota` (in line), `provider` (the call itself).",
    "seconds",
    cause=("queue", "quota", "provider"),
)  # fmt: skip

# ---- quotas

QUOTA_WAIT: Final = _registered(
    _W, _H, "fleet_quota_wait_seconds", "scope", "First booking to permit, over all attempts.", "seconds", _CALLS_S
)
QUOTA_SPENT: Final = _registered(
    _W, _C, "fleet_quota_spent_units", "scope limit",
    "What finished calls have cost, as the provider told it, else as it was estimated.", "units",
)  # fmt: skip
QUOTA_DEFERRALS: Final = _registered(
    _W, _C, "fleet_quota_deferrals", "scope", "Calls that gave their slot back to wait."
)
QUOTA_COOLDOWNS: Final = _registered(
    _W, _C, "fleet_quota_cooldowns", "scope", "Times this process closed a scope for a while, for the whole fleet."
)
QUOTA_CLOSINGS: Final = _registered(
    _W, _C, "fleet_quota_closings", "scope cause",
    "Times this process closed a scope until somebody opens it: `billing`, `frozen`.",
    cause=("billing", "frozen"),
)  # fmt: skip
QUOTA_SHADOWED: Final = _registered(
    _W, _C, "fleet_quota_shadowed", "scope limit", "Calls that a shadow limit would have refused."
)
QUOTA_ESTIMATE: Final = _registered(
    _W, _H, "fleet_quota_estimate_ratio", "scope what",
    "Estimated by used tokens: above 1 quota lay idle, below 1 the call left a debt.", "ratio", _RATIOS,
    what=("input_tokens", "output_tokens"),
)  # fmt: skip
QUOTA_DEGRADED: Final = _registered(
    _W, _C, "fleet_quota_degraded", "scope", "Calls granted by the local share while Redis was away."
)
QUOTA_SETTLES_LOST: Final = _registered(
    _W, _C, "fleet_quota_settles_lost", "scope", "Calls whose estimate stands because Redis was away."
)
QUOTA_RATE: Final = _registered(
    _E, _G, "fleet_quota_rate_units", "scope limit", "Units that a limit grants in a second at full pace.", "units"
)
QUOTA_BURST: Final = _registered(
    _E, _G, "fleet_quota_burst_units", "scope limit", "Most units of a limit that are available at once.", "units"
)
QUOTA_LEVEL: Final = _registered(
    _E, _G, "fleet_quota_level_units", "scope limit",
    "Units available now; below zero, units owed to those in line.", "units",
)  # fmt: skip
QUOTA_LINE: Final = _registered(
    _E, _G, "fleet_quota_line_seconds", "scope limit",
    "How long the last in line will wait at the pace in force; the limit with the longest line is the bottleneck. Not"
    " told of calls in flight: when they end nobody knows.",
    "seconds",
)  # fmt: skip
QUOTA_PACE: Final = _registered(
    _E, _G, "fleet_quota_pace_ratio", "scope", "Share of the rate in force: cut on 429s, recovering after.", "ratio"
)
QUOTA_COOLDOWN: Final = _registered(
    _E, _G, "fleet_quota_cooldown_seconds", "scope", "What is left of a cooldown; 0: none.", "seconds"
)
QUOTA_CLOSED: Final = _registered(
    _E, _G, "fleet_quota_closed", "scope cause",
    "1 while a scope is closed until somebody opens it: `billing`, `frozen`.",
)  # fmt: skip
QUOTA_GRANTS: Final = _registered(_E, _C, "fleet_quota_grants", "scope", "Places taken in the line of a scope.")
QUOTA_DENIALS: Final = _registered(
    _E, _C, "fleet_quota_denials", "scope", "Calls that were sent away, to come back later."
)
QUOTA_REJECTIONS: Final = _registered(
    _E, _C, "fleet_quota_rejections", "scope", "Cooldowns that were reported for a scope, mostly 429s."
)
QUOTA_DRIFT: Final = _registered(
    _E, _G, "fleet_quota_granted_ratio", "scope limit",
    "What the provider has said within an hour that it grants, by what is configured: far from 1, one of the two is"
    " wrong.", "ratio",
)  # fmt: skip

# ---- the limiter's store

STORE_SECONDS: Final = _registered(
    _W, _H, "fleet_store_call_seconds", "verb", "A call of the limiter's store, there and back.", "seconds", _STORE_S
)
STORE_LOST: Final = _registered(
    _W, _C, "fleet_store_lost", "", "Calls of the limiter's store without an answer, or refused."
)
STORE_UP: Final = _registered(
    _W, _G, "fleet_store_up", "posture",
    "1 if the store has answered the last call of this process, 0 if it was away or has refused: then it is asked again"
    " every 5 s; `posture`: what the process does without it: `pause`, `degrade`.",
    posture=("pause", "degrade"),
)  # fmt: skip

# ---- providers, models, tenants

PROVIDER_SECONDS: Final = _registered(
    _W, _H, "fleet_provider_call_seconds", "scope outcome",
    "A call of a provider, from sending to its answer: `ok` or the kind of failure.", "seconds", _CALLS_S,
)  # fmt: skip
PROVIDER_REJECTIONS: Final = _registered(
    _W, _C, "fleet_provider_rejections", "scope kind", "429s and overloads: `RateLimited`, `Overloaded`.",
    kind=("RateLimited", "Overloaded"),
)  # fmt: skip
PROVIDER_FAILURES: Final = _registered(
    _W, _C, "fleet_provider_failures", "scope", "500s, time-outs, broken connections."
)
MODEL_TOKENS: Final = _registered(
    _W, _C, "fleet_model_tokens", "model agent type",
    "Tokens used, by `type`: `input` without what the provider had in its cache, `cached`, `output`.", "tokens",
    type=("input", "cached", "output"),
)  # fmt: skip
MODEL_COST: Final = _registered(
    _W, _C, "fleet_model_cost", "model agent", "Money spent, in the currency of the manifest's prices."
)
TENANT_TOKENS: Final = _registered(_W, _C, "fleet_tenant_tokens", "tenant", "Tokens used by a tenant's runs.", "tokens")
TENANT_COST: Final = _registered(
    _W, _C, "fleet_tenant_cost", "tenant", "Money spent by a tenant's runs, in the currency of the manifest's prices."
)
TENANT_CALLS: Final = _registered(_W, _C, "fleet_tenant_calls", "tenant", "Calls of models by a tenant's runs.")

# ---- effects and approvals

EFFECTS: Final = _registered(
    _W, _C, "fleet_effects", "tool state", "Effects whose end an attempt has told: `done`, `failed`, `unknown`.",
    state=("done", "failed", "unknown"),
)  # fmt: skip
EFFECTS_FENCED: Final = _registered(
    _W, _C, "fleet_effects_fenced", "tool", "Attempts refused at the fence, a later one being at it."
)
EFFECTS_UNKNOWN: Final = _registered(
    _E, _G, "fleet_effects_unknown", "tool", "Effects of which nobody can say whether they were had: a human must."
)
EFFECTS_RECENT: Final = _registered(
    _E, _G, "fleet_effects_unknown_recent", "tool",
    "Unknown effects that became it within a day; one that somebody leaves as it is stays unknown for ever.",
)  # fmt: skip
APPROVAL_NOTICES: Final = _registered(
    _W, _C, "fleet_approval_notices", "endpoint outcome", "Attempts to tell humans of an approval: `told`, `failed`;"
    " not those that wait.",
    outcome=("told", "failed"),
)  # fmt: skip
APPROVALS_OPEN: Final = _registered(_E, _G, "fleet_approvals_open", "tool", "Approvals that wait for a human.")
APPROVALS_OLDEST: Final = _registered(
    _E, _G, "fleet_approvals_oldest_seconds", "tool",
    "Age of the open approval that waits longest; without those that should have expired a quarter of an hour ago:"
    " their runs are gone.",
    "seconds",
)  # fmt: skip
APPROVALS_EXPIRING: Final = _registered(
    _E, _G, "fleet_approvals_expiring", "tool",
    "Open approvals that expire within the hour and are in the last quarter of their time, or should have expired"
    " within the last quarter of an hour.",
)  # fmt: skip

# ---- pools and queues

TASKS: Final = _registered(
    _W, _C, "fleet_activity_tasks", "pool activity outcome",
    "Attempts that ended: `completed`, `waited` (for quota), `failed`, `cancelled` (stopped, drained, timed out).",
    outcome=("completed", "waited", "failed", "cancelled"),
)  # fmt: skip
RUNNING: Final = _registered(_W, _G, "fleet_activity_running", "pool", "Attempts under way.")
BUILD: Final = _registered(_W, _G, "fleet_build_info", "version build pool", "1: who this process is.")
GATE_CLOSED: Final = _registered(
    _W, _C, "fleet_gate_closed_seconds", "pool",
    "Time that free slots have waited for the pool's gate: its quota would not grant soon. What is in the queue"
    " meanwhile waits for quota, not for workers.",
    "seconds",
)  # fmt: skip
BACKLOG: Final = _registered(
    _E, _G, "fleet_queue_backlog", "pool type", "Tasks that wait in a task queue: `activity`, `workflow`. Approximate."
)
BACKLOG_AGE: Final = _registered(
    _E, _G, "fleet_queue_oldest_seconds", "pool type", "Age of the oldest task that waits.", "seconds"
)
WORKERS: Final = _registered(
    _E, _G, "fleet_pool_workers", "pool build state", "Workers: `running`, `stopping`, `silent`."
)
POOL_SERVED: Final = _registered(
    _E, _G, "fleet_pool_served", "pool",
    "1 if a live worker takes the pool's new work: one of the version that it goes to.",
)  # fmt: skip
SLOTS: Final = _registered(
    _E, _G, "fleet_pool_slots", "pool state", "Slots for activities of live workers: `used`, `free`."
)
VERSION_RUNS: Final = _registered(
    _E, _G, "fleet_version_runs", "pool build status",
    "Runs on a version of the workers: `current`, `ramping`, `draining`, `drained`, `inactive`.",
)  # fmt: skip
VERSION_DRAINING: Final = _registered(
    _E, _G, "fleet_version_draining_seconds", "pool build", "How long a version has been draining.", "seconds"
)

# ---- the instruments themselves

EXPORTER_UP: Final = _registered(
    _E, _G, "fleet_exporter_up", "source", "1 if the last look at a source succeeded: `temporal`, `redis`, `database`."
)
EXPORTER_AT: Final = _registered(
    _E, _G, "fleet_exporter_success_timestamp_seconds", "source", "When a source was last read.", "seconds"
)
EXPORTER_SECONDS: Final = _registered(
    _E, _G, "fleet_exporter_look_seconds", "source", "How long the last look at a source took.", "seconds"
)
SPANS: Final = _registered(
    _W, _C, "fleet_spans", "outcome", "Spans of traces: `exported`, `dropped` (the collector is slow or away).",
    outcome=("exported", "dropped"),
)  # fmt: skip
FOLDED: Final = _registered(
    _W, _C, "fleet_metrics_folded", "label", "Observations whose label was beyond its bound and became `other`."
)

# ---- trials

LOAD_ARRIVED: Final = _registered(_L, _C, "fleet_load_arrivals", "agent", "Runs that a trial has started.")
LOAD_PLANNED: Final = _registered(_L, _G, "fleet_load_planned", "", "Runs that the trial will have started by its end.")
LOAD_ACTIVE: Final = _registered(_L, _G, "fleet_load_active", "", "Runs of a trial that are under way.")
LOAD_ENDED: Final = _registered(_L, _C, "fleet_load_ended", "outcome", "Runs of a trial that have ended.")
LOAD_FAULT: Final = _registered(_L, _G, "fleet_load_fault", "kind target", "1 while a fault is injected.")
LOAD_CALLS: Final = _registered(
    _L, _C, "fleet_load_provider_calls", "scope status", "Calls that the simulated providers have seen, by HTTP status."
)
LOAD_ORACLE: Final = _registered(
    _L, _G, "fleet_load_oracle", "oracle", "Verdict of an oracle at the end of a trial: 1 passed, 0 failed."
)

# ---- the Temporal SDK's own, those that dashboards and alerts use
# https://docs.temporal.io/references/sdk-metrics

SCHEDULE_TO_START: Final = _registered(
    _T, _H, "temporal_activity_schedule_to_start_latency_seconds", "task_queue",
    "From an attempt's scheduling to its start.", "seconds",
)  # fmt: skip
WORKFLOW_SCHEDULE_TO_START: Final = _registered(
    _T, _H, "temporal_workflow_task_schedule_to_start_latency_seconds", "task_queue",
    "From a workflow task's scheduling to its start: high, the pool `agents` is too small.", "seconds",
)  # fmt: skip
ACTIVITY_SECONDS: Final = _registered(
    _T, _H, "temporal_activity_execution_latency_seconds", "task_queue activity_type", "An attempt.", "seconds"
)
WORKFLOW_TASK_SECONDS: Final = _registered(
    _T, _H, "temporal_workflow_task_execution_latency_seconds", "task_queue workflow_type",
    "A workflow task: near 2 s the SDK takes it for a deadlock.", "seconds",
)  # fmt: skip
WORKFLOW_TASK_FAILED: Final = _registered(
    _T, _C, "temporal_workflow_task_execution_failed", "task_queue workflow_type failure_reason",
    "Workflow tasks that failed: a replay that diverges says `NonDeterminismError`.",
)  # fmt: skip
POLLERS: Final = _registered(_T, _G, "temporal_num_pollers", "task_queue poller_type", "Polls under way.")
STICKY_SIZE: Final = _registered(_T, _G, "temporal_sticky_cache_size", "", "Workflows that are kept in memory.")
STICKY_EVICTED: Final = _registered(
    _T, _C, "temporal_sticky_cache_total_forced_eviction", "", "Workflows that had to leave memory before their end."
)
REQUEST_SECONDS: Final = _registered(
    _T, _H, "temporal_request_latency_seconds", "operation", "A call of the Temporal server.", "seconds"
)
REQUEST_FAILURES: Final = _registered(
    _T, _C, "temporal_request_failure", "operation status_code", "Calls of the Temporal server that failed."
)

BORN: Final = (
    RUNS_STARTED, RUNS_ENDED, RUNS_CONTINUED, CALL_WAIT, QUOTA_DEFERRALS, QUOTA_COOLDOWNS, QUOTA_CLOSINGS,
    QUOTA_DEGRADED, QUOTA_SETTLES_LOST, PROVIDER_REJECTIONS, PROVIDER_FAILURES, EFFECTS, EFFECTS_FENCED,
    APPROVAL_NOTICES, SPANS,
)  # fmt: skip
"""Counters that are served from the start, at 0: Prometheus does not see the first increment of a series that begins
with it, and these are few, rare and watched by alerts."""
