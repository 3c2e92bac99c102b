"""Units for one virtual machine: a template for each pool, whose instances are named by their health ports.

systemd.exec(5), systemd.service(5) and systemd.unit(5) tell what the settings mean:
https://www.freedesktop.org/software/systemd/man/latest/
"""

import json
import math
from collections.abc import Iterable, Sequence

from fleet.deploying.plan import Files, Plan, PoolPlan
from fleet.errors import BadInput

PROGRAM = "/opt/agent-fleet/bin/fleet"
"""The command in its virtual environment, where workers have no version."""
CONFIGURATION = "/etc/fleet"
SECRETS = f"{CONFIGURATION}/secrets"
"""A file for each secret, named as its variable, that root alone may read: systemd hands each unit its own."""
FIRST_PORT = 8400
"""Health port of the first process of the first pool."""
PORTS_A_POOL = 100
CONSOLE_PORT, CODEC_PORT, EXPORTER_PORT = 8300, 8301, 8302
GRACE_S = 15
"""What a stop may take beyond `drain`: what did not finish is cancelled, connections are closed."""

REDIS, DATABASE, OWNER = "FLEET_REDIS_URL", "FLEET_DATABASE_URL", "FLEET_DATABASE_OWNER_URL"

HEADER = "# Written by `fleet deploy render systemd` from the manifest: change that, and write this again.\n"

_HARDENING = """\
# nothing of it needs root, a device, another user's files, or to become anybody else
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
LimitCORE=0
LimitNOFILE=65536
"""

_RESTART = """\
# a component that is away when the machine starts is exit code 2, as bad input is: both are tried again, for ever
Restart=on-failure
RestartSec=2s
# from systemd 254 on, ever more slowly; older ones pass over these two
RestartSteps=5
RestartMaxDelaySec=30s
"""


def render(plan: Plan) -> Files:
    """The units, with what they need beside them.

    Args:
        plan: what is deployed.

    Raises:
        BadInput: a pool has more processes than health ports.
    """
    for pool in plan.pools:
        if pool.replicas > PORTS_A_POOL:
            told = f"deploy.pools.{pool.name}.replicas: {pool.replicas} processes, and a machine has ports for"
            raise BadInput(f"{told} {PORTS_A_POOL}: give each machine a share of them, or take compose or helm")
    found = {f"fleet-worker-{pool.name}@.service": _worker(plan, pool) for pool in plan.pools}
    found["fleet-migrate.service"] = _migrate(plan)
    found["fleet-console.service"] = _server(
        plan,
        "the page on which approvers decide",
        f"console --host 127.0.0.1 --port {CONSOLE_PORT}",
        plan.console_secrets,
        redis=False,
    )
    found["fleet-exporter.service"] = _server(
        plan,
        "runs, queues and quotas as metrics",
        f"exporter --host 127.0.0.1 --port {EXPORTER_PORT}",
        plan.codec_secrets,
    )
    found["fleet-codec-server.service"] = _server(
        plan,
        "decrypted payloads for Temporal's Web UI",
        f"codec-server --host 127.0.0.1 --port {CODEC_PORT}",
        plan.codec_secrets,
        redis=False,
        database=False,
    )
    found["fleet-doctor.service"] = _doctor(plan)
    found["fleet.target"] = _target(plan)
    found["fleet.env.example"] = _ENVIRONMENT
    found["fleet-.service.d/temporal-cloud.conf.example"] = _CLOUD
    found["sysusers.d/fleet.conf"] = f'{HEADER}u fleet - "agent fleet" /var/lib/fleet\n'
    found["tmpfiles.d/fleet.conf"] = _folders(plan)
    found["targets/fleet-workers.json"] = _targets(plan)
    return found


def program(plan: Plan) -> str:
    """The command. Versions lie side by side, as runs stay on the one that they began with."""
    return PROGRAM.replace("/bin/", f"/{plan.build_id}/bin/") if plan.build_id else PROGRAM


def instances(pool: PoolPlan, number: int) -> list[int]:
    """Health ports of the pool's first processes, which are the names of its instances.

    Args:
        pool: of the plan.
        number: the place of the pool in the manifest, from 0.
    """
    first = FIRST_PORT + PORTS_A_POOL * number
    return [first + place for place in range(pool.replicas)]


def _worker(plan: Plan, pool: PoolPlan) -> str:
    number = plan.pools.index(pool)
    first = FIRST_PORT + PORTS_A_POOL * number
    return "".join(
        [
            HEADER,
            f"# An instance is a process, named by its health port: {first} to {first + PORTS_A_POOL - 1}.\n",
            _bound(pool),
            _unit(f"Agent fleet: a worker of the pool {pool.name} (health on port %i)", part_of=True),
            "\n[Service]\nType=exec\n",
            f"ExecStart={program(plan)} worker {pool.name}\n",
            _context(plan, pool.secrets, database=pool.database),
            "Environment=FLEET_HEALTH_HOST=127.0.0.1 FLEET_HEALTH_PORT=%i\n",
            f"{_set('FLEET_BUILD_ID', plan.build_id)}\n" if plan.build_id else "",
            _stopping(pool.drain_s),
            _RESTART,
            f"MemoryMax={_bytes(pool.memory)}\nMemorySwapMax=0\nCPUWeight={_weight(pool.cpu)}\nTasksMax=512\n",
            _HARDENING,
            "\n[Install]\nWantedBy=fleet.target\n",
        ]
    )


def _bound(pool: PoolPlan) -> str:
    if pool.allowed_replicas is None:
        return ""
    busy = f"the quota keeps {pool.useful_slots} busy"
    return f"# More than {pool.allowed_replicas} of {pool.slots} slots would only wait: {busy}.\n"


def _server(
    plan: Plan, what: str, command: str, secrets: Sequence[str], *, redis: bool = True, database: bool = True
) -> str:
    return "".join(
        [
            HEADER,
            _unit(f"Agent fleet: {what}", part_of=True),
            f"\n[Service]\nType=exec\nExecStart={program(plan)} {command}\n",
            _context(plan, secrets, database=database, redis=redis),
            _stopping(5),
            _RESTART,
            "MemoryMax=512M\nMemorySwapMax=0\nTasksMax=512\n",
            _HARDENING,
            "\n[Install]\nWantedBy=fleet.target\n",
        ]
    )


def _migrate(plan: Plan) -> str:
    """It is wanted, not required: a worker whose schema is another says so and tries again, and one that had required
    it would not be started again after a database that was late."""
    return "".join(
        [
            HEADER,
            "[Unit]\nDescription=Agent fleet: tables and search attributes of this release\n",
            "Wants=network-online.target\nAfter=network-online.target postgresql.service\nStartLimitIntervalSec=0\n",
            "\n[Service]\nType=oneshot\nRemainAfterExit=yes\n",
            f"ExecStart={program(plan)} db upgrade\nExecStart={program(plan)} init\n",
            _context(plan, plan.codec_secrets, database=True, redis=False, owner=True),
            "TimeoutStartSec=10min\n",
            _RESTART,
            "MemoryMax=512M\n",
            _HARDENING,
        ]
    )


def _doctor(plan: Plan) -> str:
    """With every secret that any pool has: else it would miss those of others."""
    return "".join(
        [
            HEADER,
            "# systemctl start fleet-doctor; journalctl --unit fleet-doctor --output cat --lines 60\n",
            "[Unit]\nDescription=Agent fleet: is all set up as it should be?\nAfter=network-online.target\n",
            f"\n[Service]\nType=oneshot\nExecStart={program(plan)} doctor --target vm\n",
            _context(plan, plan.secrets, database=True),
            "TimeoutStartSec=5min\nMemoryMax=1G\n",
            _HARDENING,
        ]
    )


def _unit(description: str, *, part_of: bool) -> str:
    lines = [
        "[Unit]",
        f"Description={description}",
        "Wants=network-online.target fleet-migrate.service",
        "After=network-online.target fleet-migrate.service",
        *(["PartOf=fleet.target"] if part_of else []),
        "StartLimitIntervalSec=0",
    ]
    return "\n".join(lines) + "\n"


def _context(plan: Plan, secrets: Iterable[str], *, database: bool, redis: bool = True, owner: bool = False) -> str:
    """Who it is, where its files are, and the secrets that it is handed: `NAME_FILE` says where each lies."""
    held = {name: name for name in secrets}
    if redis:
        held[REDIS] = REDIS
    if database:
        held[DATABASE] = OWNER if owner else DATABASE
    lines = [
        "User=fleet",
        "Group=fleet",
        "StateDirectory=fleet",
        "StateDirectoryMode=0700",
        "WorkingDirectory=%S/fleet",
        f"EnvironmentFile=-{CONFIGURATION}/fleet.env",
        f"Environment=FLEET_MANIFEST={CONFIGURATION}/fleet.toml FLEET_STATE_DIR=%S/fleet FLEET_LOG_FORMAT=json",
        *(_set(name, value) for name, value in plan.environment),
        *(f"LoadCredential={name}:{SECRETS}/{file}" for name, file in held.items()),
        *(f"Environment={name}_FILE=%d/{name}" for name in held),
    ]
    return "\n".join(lines) + "\n"


def _stopping(drain_s: float) -> str:
    return (
        "KillSignal=SIGTERM\nKillMode=mixed\n"
        f"# longer than the {drain_s:g} s in which it finishes what is under way\n"
        f"TimeoutStopSec={math.ceil(drain_s) + GRACE_S}s\n"
    )


def _target(plan: Plan) -> str:
    wanted = [
        f"fleet-worker-{pool.name}@{port}.service"
        for number, pool in enumerate(plan.pools)
        for port in instances(pool, number)
    ]
    wanted.append("fleet-exporter.service")
    if plan.manifest.approvals.url:
        wanted.append("fleet-console.service")
    lines = [
        "[Unit]",
        "Description=Agent fleet",
        "Wants=fleet-migrate.service",
        *(f"Wants={name}" for name in wanted),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return HEADER + "\n".join(lines) + "\n"


_ENVIRONMENT = f"""{HEADER}# Where the components are: {CONFIGURATION}/fleet.env. It wins over what the units say.
# No secrets: those are files in {SECRETS}, each named as its variable: {REDIS},
# {DATABASE}, {OWNER} (of `fleet db upgrade`) and those of the manifest.
TEMPORAL_ADDRESS=temporal.example.com:7233
TEMPORAL_NAMESPACE=default
# TEMPORAL_TLS_SERVER_CA_CERT_PATH={CONFIGURATION}/temporal-ca.pem
FLEET_PAYLOAD_STORE=none
# OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318
# of fleet-codec-server: a file with lines of name, digest and namespaces
# FLEET_CODEC_TOKENS=file:{CONFIGURATION}/codec-tokens
"""


_CLOUD = f"""{HEADER}# Temporal Cloud: as fleet-.service.d/temporal-cloud.conf it counts for all units of the fleet.
[Service]
LoadCredential=TEMPORAL_API_KEY:{SECRETS}/TEMPORAL_API_KEY
Environment=TEMPORAL_API_KEY_FILE=%d/TEMPORAL_API_KEY
"""


def _targets(plan: Plan) -> str:
    """Where Prometheus finds the workers, as `file_sd_configs` reads it.

    JSON has no comments, and labels that begin with two underscores are dropped in the end: so the header is one.

    https://prometheus.io/docs/prometheus/latest/configuration/configuration/#relabel_config
    """
    found = [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": {"__header": HEADER.strip("# \n"), "process": f"{pool.name}-{port}"},
        }
        for number, pool in enumerate(plan.pools)
        for port in instances(pool, number)
    ]
    return json.dumps(found, indent=2) + "\n"


def _folders(plan: Plan) -> str:
    """A unit is not even started where a credential's file is missing, and nobody says what to do: of an empty one the
    process itself says that it holds nothing."""
    names = dict.fromkeys([REDIS, DATABASE, OWNER, *plan.secrets, *plan.console_secrets, *plan.codec_secrets])
    return "".join(
        [
            f"{HEADER}d {CONFIGURATION} 0750 root fleet\nd {SECRETS} 0700 root root\n",
            "# empty until you write the secret into it: what is there stays as it is\n",
            *(f"f {SECRETS}/{name} 0600 root root\n" for name in names),
            f"z {SECRETS}/* 0600 root root\n",
        ]
    )


def _set(name: str, value: str) -> str:
    """A variable of the environment: a value may have spaces, quotes and what systemd would take for a specifier."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'Environment="{name}={quoted}"'


def _bytes(memory: str) -> str:
    """`512Mi` as systemd writes it, whose M is a power of two too."""
    return memory.removesuffix("i")


def _weight(cpu: str) -> int:
    """A whole processor weighs 100, as much as what has no weight of its own."""
    share = int(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    return min(10_000, max(1, round(100 * share)))
