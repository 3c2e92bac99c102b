"""How a fleet waits for quotas in a trial: by our limiter, or by what one would have without it.

The workflows, tools and worker processes are the same in every mode. A process of a mode other than `global` is started
by `python -m load.worker`.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from fleet.errors import BadInput
from fleet.manifest import Manifest
from fleet.rates import Rate
from fleet.tables import AGENTS_POOL, APPROVALS_POOL, LLM_POOL, MEMORY_POOL, WEBHOOK_POOL
from ratelimit.arithmetic import unit_of
from ratelimit.places import Kind
from ratelimit.quota import Limit
from workers.bootstrap import quotas
from workers.serving import scope_of

UNLIMITED = (AGENTS_POOL, APPROVALS_POOL, MEMORY_POOL, WEBHOOK_POOL)
"""Pools whose calls are charged to no quota, or not all of them."""


class Mode(StrEnum):
    """Who waits for quotas, and how."""

    GLOBAL = "global"
    """Our limiter, shared by all processes."""
    BACKOFF = "backoff"
    """Nobody: calls are sent at once. The SDK retries what is refused, then Temporal, backing off exponentially."""
    TEMPORAL = "temporal"
    """Temporal hands out so many activities of a task queue a second. What is refused all the same: as `backoff`."""
    PROCESS = "process"
    """Our limiter, each process with a store of its own: nothing is shared, a 429 closes the scope in one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The mode of one worker process."""

    mode: Mode = Mode.GLOBAL
    share: float = 1.0
    """Of each quota that the process takes for its own (0-1], in the mode `process`."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Activities a second by pool, in the mode `temporal`. Pools that are missing are not held back."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise BadInput(f"--share {self.share:g}: must be above 0 and at most 1")
        for pool, rate in self.rates.items():
            if not rate > 0:
                raise BadInput(f"--rate {pool}={rate:g}: must be above 0")

    def argv(self, pools: Sequence[str]) -> list[str]:
        """The command of a worker process that serves the pools in this mode."""
        if self.mode is Mode.GLOBAL:
            return [sys.executable, "-m", "fleet.cli.main", "worker", *pools]
        found = [sys.executable, "-m", "load.worker", "--mode", self.mode.value]
        if self.mode is Mode.PROCESS:
            found += ["--share", repr(self.share)]
        for pool in pools:
            if self.mode is Mode.TEMPORAL and pool in self.rates:
                found += ["--rate", f"{pool}={self.rates[pool]!r}"]
        return [*found, *pools]


def task_rates(manifest: Manifest, cost: Mapping[str, float] | None = None) -> dict[str, float]:
    """Activities a second of each pool's task queue that keep within the pool's quotas, headroom included.

    A task queue has one rate and knows neither models nor tenants: the tightest quota of its calls decides.

    Args:
        manifest: what the fleet is.
        cost: mean cost of a call by what is counted, as `{"tokens": 1500}`. A request, a message and a recipient are 1;
            limits of what is not named, and of what is in flight, are left out.
    """
    means = {"requests": 1.0, "messages": 1.0, "recipients": 1.0, **(cost or {})}
    known = quotas(manifest)
    found: dict[str, float] = {}
    for pool in manifest.pools:
        for scope in _charged(manifest, pool):
            quota = known[scope]
            for name, limit in quota.limits.items():
                mean = means.get(unit_of(name), 0.0)
                if mean > 0 and limit.kind is not Kind.IN_FLIGHT and not limit.shadow:
                    found[pool] = min(found.get(pool, float("inf")), quota.rate(name) / mean)
    return found


def _charged(manifest: Manifest, pool: str) -> list[str]:
    """The scopes that the pool's calls are charged to, those around them included."""
    if pool in UNLIMITED:
        return []
    if pool == LLM_POOL:
        scopes = {agent.model for agent in manifest.agents.values()}
    else:
        scopes = {scope_of(manifest, manifest.pools[pool].provider or pool)}
    found: set[str] = set()
    while scopes := {scope for scope in scopes if scope in manifest.quotas} - found:
        found |= scopes
        scopes = {outer for scope in scopes if (outer := manifest.quotas[scope].within)}
    return sorted(found)


def seen(manifest: Manifest, setup: Setup) -> Manifest:
    """The manifest as a process of the mode takes it: with a share of the quotas, or none.

    The door for active runs counts over all processes: only `global` has one.
    """
    if setup.mode is Mode.GLOBAL:
        return manifest
    pools = {name: spec.model_copy(update={"max_active": None}) for name, spec in manifest.pools.items()}
    if setup.mode is not Mode.PROCESS:
        return manifest.model_copy(update={"pools": pools, "quotas": {}})
    known = quotas(manifest)
    shares = {
        scope: spec.model_copy(
            update={
                "rates": {
                    name: _part(rate, known[scope].limits[name], setup.share) for name, rate in spec.rates.items()
                }
            }
        )
        for scope, spec in manifest.quotas.items()
    }
    return manifest.model_copy(update={"pools": pools, "quotas": shares})


def _part(rate: Rate, limit: Limit, share: float) -> Rate:
    if share == 1:
        return rate
    if rate.returns != "continuously":
        # a window stays as long as it is; one call must fit
        return rate.model_copy(update={"units": max(1.0, rate.units * share)})
    burst = (limit.capacity if limit.burst is None else limit.burst) * share
    return rate.model_copy(update={"units": rate.units * share, "burst": burst})
