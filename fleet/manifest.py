"""What is the fleet? `fleet.toml`, typed: providers, quotas, pools, agents. Unknown keys are errors with their path."""

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from fleet.errors import BadInput
from fleet.rates import QuotaSpec, Table
from fleet.references import references
from fleet.tables import (
    AGENTS_POOL,
    AgentSpec,
    ApprovalsSpec,
    DailySpec,
    Endpoint,
    LimiterSpec,
    PoolSpec,
    PriceSpec,
    Provider,
    TenantSpec,
)
from fleet.tables_deploy import DeploySpec
from fleet.tables_schedules import ScheduleEntry


class Manifest(Table):
    """The whole file."""

    providers: dict[str, Provider]
    quotas: dict[str, QuotaSpec] = Field(default_factory=dict)
    pools: dict[str, PoolSpec]
    agents: dict[str, AgentSpec]
    limiter: LimiterSpec = LimiterSpec()
    tenants: dict[str, TenantSpec] = Field(default_factory=dict)
    """Those that are not named weigh 1. Who has no daily budget of its own has that of the tenant `*`."""
    endpoints: dict[str, Endpoint] = Field(default_factory=dict)
    """Who can be told something."""
    approvals: ApprovalsSpec = ApprovalsSpec()
    prices: dict[str, PriceSpec] = Field(default_factory=dict)
    """What models cost."""
    schedules: dict[str, ScheduleEntry] = Field(default_factory=dict)
    """Runs that Temporal starts by the clock."""
    deploy: DeploySpec = DeploySpec()
    """How it is deployed: read by `fleet deploy` only."""

    @property
    def max_active(self) -> int | None:
        """Most runs that are active at once; None: any number."""
        spec = self.pools.get(AGENTS_POOL)
        return spec.max_active if spec else None

    def weight(self, tenant: str) -> float:
        """A tenant's weight."""
        spec = self.tenants.get(tenant)
        return spec.weight if spec else 1.0

    def daily(self, tenant: str) -> DailySpec | None:
        """What the tenant may spend in a day, by its own table or by that of `*`; None: not counted."""
        specs = self.tenants.get(tenant), self.tenants.get("*")
        return next((spec.daily for spec in specs if spec is not None and spec.daily is not None), None)

    def scopes(self) -> list[str]:
        """The scopes that have a quota, but for templates of tenants' shares."""
        return [scope for scope in self.quotas if not scope.endswith("/*")]

    def task_queue(self, pool: str) -> str:
        """Task queue that the pool serves."""
        spec = self.pools.get(pool)
        return (spec.task_queue if spec else None) or pool


def load(path: Path) -> Manifest:
    """Read and check the manifest.

    Raises:
        BadInput: it cannot be read, or has problems: all of them, a line each.
    """
    manifest, problems = examine(path)
    if manifest is None:
        raise BadInput("\n".join(f"{path}: {p}" for p in problems))
    return manifest


def examine(path: Path) -> tuple[Manifest | None, list[str]]:
    """The manifest, or every problem in it."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return None, [f"cannot be read ({error.strerror}): name another with --manifest or FLEET_MANIFEST"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return None, [f"is not TOML: {error}"]
    problems: list[str] = []
    manifest = None
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        problems += [f"{_path(e['loc'])}: {_message(dict(e))}" for e in error.errors()]
    problems += references(raw)
    return (None if problems else manifest), problems


def _path(loc: tuple[int | str, ...]) -> str:
    # pydantic names the chosen member of a union as a step of the path; the file has no such step
    # nor one for the limits of a quota, nor for the key of a table beside its value
    steps = [
        s
        for i, s in enumerate(loc)
        if s != "[key]"
        and not (i == 2 and (loc[0] in ("providers", "endpoints") or (loc[0], s) == ("quotas", "rates")))
    ]
    return ".".join(f'"{s}"' if isinstance(s, str) and not re.fullmatch(r"[\w-]+", s) else str(s) for s in steps)


def _message(error: dict[str, Any]) -> str:
    match error["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "is required"
        case "value_error":
            return str(error["ctx"]["error"])
        case "union_tag_invalid" | "literal_error":
            return f"{_shown(error)} is not one of {error['ctx'].get('expected_tags') or error['ctx'].get('expected')}"
        case "string_pattern_mismatch" if "env:" in error["ctx"]["pattern"]:
            # what stands here may be the key itself: never shown
            return _WHERE
        case "string_type" if error["loc"][-1] in _SECRETS:
            return _WHERE
        case "string_pattern_mismatch":
            return f"{_shown(error)} is not of the form provider/model"
        case _:
            return f"{error['msg'][:1].lower()}{error['msg'][1:]}, got {_shown(error)}"


_WHERE = "must say where the secret is: 'env:NAME' or 'file:/path'"
_SECRETS = ("api_key", "secret", "password", "link_key")


def _shown(error: dict[str, Any]) -> str:
    value = error["ctx"].get("tag", error["input"]) if error["type"] == "union_tag_invalid" else error["input"]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
