"""What is deployed: the manifest's pools with replicas, secrets and bounds. Every target is written from one plan."""

from dataclasses import dataclass

from fleet.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """The worker processes of one pool."""

    name: str
    task_queue: str
    slots: int
    """Calls at once per process."""
    drain_s: float
    """How long SIGTERM waits for work under way; whoever stops it must wait longer than that."""
    replicas: int
    """Processes to begin with."""
    max_replicas: int
    """Most processes that an autoscaler may start."""
    call_s: float
    """How long one call takes, by the manifest's `[deploy.pools.…] call` or a default for its kind."""
    scopes: tuple[str, ...]
    """Quotas that its calls are charged to."""
    useful_slots: int | None
    """Calls at once that the quota can keep busy: beyond them further slots only wait. None: no quota bounds it."""
    arithmetic: tuple[str, ...]
    """How that number came about, a line each."""
    cpu: str
    """CPU that a process asks for, as Kubernetes writes it: `250m`."""
    memory: str
    """Memory that it asks for and may use: `512Mi`."""
    secrets: tuple[str, ...]
    """Names of the environment variables with secrets that this pool's processes need, and no others."""
    database: bool = True
    """Whether its processes need `FLEET_DATABASE_URL`."""
    allowed_replicas: int | None = None
    """Most processes of which each has something to do: `useful_slots / slots` rounded up, one at least. None: as many
    as one likes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole deployment."""

    manifest: Manifest
    text: str
    """The manifest's file as it is."""
    image: str
    """The image with its tag, as `registry.example.com/agent-fleet:0.1.0`."""
    version: str
    """Version of the package."""
    build_id: str
    """Version of the workers' code (`FLEET_BUILD_ID`); empty: workers are not versioned."""
    pools: tuple[PoolPlan, ...]
    secrets: tuple[str, ...]
    """Environment variables with secrets that anything in the fleet needs: pools, console, codec server, exporter."""
    environment: tuple[tuple[str, str], ...] = ()
    """Settings that every process must have alike, none of them secret: `FLEET_PAYLOAD_KEYS`."""
    console_secrets: tuple[str, ...] = ()
    """Those of the console."""
    codec_secrets: tuple[str, ...] = ()
    """Those of the codec server and of whoever reads payloads only."""
    idle_allowed: bool = False
    """Whether `--allow-idle-slots` was said: pools may have more processes than `allowed_replicas`."""


Files = dict[str, str]
"""What a target consists of: path below the output folder, with `/`, to text."""
