"""The units: what systemd itself says of them, and what it would not notice."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from fleet import manifest as manifests
from fleet.cli import main
from fleet.deploying import making, systemd
from fleet.deploying.plan import Files, PoolPlan
from fleet.errors import BadInput

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "deploy" / "fleet.toml"
PLAN = making.make(manifests.load(MANIFEST), MANIFEST.read_text())
UNITS = systemd.render(PLAN)
SERVICES = [name for name in UNITS if name.endswith(".service")]
EXPOSED = 20
"""Tenths, of 100: what `systemd-analyze security` may say at most. Without any hardening it says 96."""
OTHERS = {
    "fleet-console.service": {"FLEET_DATABASE_URL", *PLAN.console_secrets},
    "fleet-exporter.service": {"FLEET_REDIS_URL", "FLEET_DATABASE_URL", *PLAN.codec_secrets},
    "fleet-codec-server.service": {*PLAN.codec_secrets},
    "fleet-migrate.service": {"FLEET_DATABASE_URL", *PLAN.codec_secrets},
    "fleet-doctor.service": {"FLEET_REDIS_URL", "FLEET_DATABASE_URL", *PLAN.secrets},
}
"""Secrets of those that are no workers."""
NEWER = ("RestartSteps", "RestartMaxDelaySec")
"""Of systemd 254: older ones pass over them, as the unit says."""


def values(unit: str, key: str) -> list[str]:
    """What a unit sets a key to, each time."""
    return re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)


def variables(unit: str) -> dict[str, str]:
    """Its environment."""
    found = (word.partition("=") for line in values(unit, "Environment") for word in shlex.split(line))
    return {name: value for name, _, value in found}


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)(s|min)", text)
    assert found, text
    return int(found[1]) * {"s": 1, "min": 60}[found[2]]


def problems(units: Files) -> list[str]:
    """What is wrong with them that systemd does not know."""
    return sorted(set(_each(units)) | set(_target(units)))


def _each(units: Files) -> Iterator[str]:
    pools = {f"fleet-worker-{pool.name}@.service": pool for pool in PLAN.pools}
    for name in SERVICES:
        unit = units[name]
        yield from (f"{name}: {problem}" for problem in (*_service(unit), *_secrets(unit)))
        if name in pools:
            yield from (f"{name}: {problem}" for problem in _worker(unit, pools[name]))
        elif {line.partition(":")[0] for line in values(unit, "LoadCredential")} != OTHERS[name]:
            yield f"{name}: has other secrets than it needs"
        # systemd starts nothing where a credential's file is missing
        for line in values(unit, "LoadCredential"):
            if f"f {line.partition(':')[2]} 0600 root root\n" not in units["tmpfiles.d/fleet.conf"]:
                yield f"{name}: is not started without {line}"


def _service(unit: str) -> Iterator[str]:
    if values(unit, "KillSignal") not in ([], ["SIGTERM"]) or values(unit, "KillMode") not in ([], ["mixed"]):
        yield "is not asked to drain"
    if values(unit, "User") != ["fleet"]:
        yield "runs as somebody else"
    given_up = values(unit, "Restart") != ["on-failure"] or values(unit, "StartLimitIntervalSec") != ["0"]
    if values(unit, "Type") == ["exec"] and given_up:
        yield "is given up when a component is away for long"
    if values(unit, "Requires"):
        yield "is not started again if what it requires was late"
    for command in values(unit, "ExecStart"):
        program, *arguments = shlex.split(command)
        if program != systemd.PROGRAM or not _parses(tuple(arguments)):
            yield f"there is no command {command}"


def _secrets(unit: str) -> Iterator[str]:
    held = {line.partition(":")[0] for line in values(unit, "LoadCredential")}
    told = {key.removesuffix("_FILE"): value for key, value in variables(unit).items() if key.endswith("_FILE")}
    if told != {key: f"%d/{key}" for key in held}:
        yield "secrets that it has are not those that it is told of"
    if any(key in variables(unit) for key in (*PLAN.secrets, "FLEET_REDIS_URL", "FLEET_DATABASE_URL")):
        yield "a secret stands in the unit"


def _worker(unit: str, pool: PoolPlan) -> Iterator[str]:
    held = {line.partition(":")[0] for line in values(unit, "LoadCredential")}
    if held != {*pool.secrets, "FLEET_REDIS_URL", *(["FLEET_DATABASE_URL"] if pool.database else [])}:
        yield "has other secrets than the pool needs"
    if seconds(values(unit, "TimeoutStopSec")[0]) <= pool.drain_s:
        yield "is killed before it has drained"
    if variables(unit).get("FLEET_HEALTH_PORT") != "%i":
        yield "nobody knows its health port"


@cache
def _parses(arguments: tuple[str, ...]) -> bool:
    """Whether `fleet` takes these arguments. Nothing is run."""
    command, words = typer.main.get_command(main.app), list(arguments)
    while words and hasattr(command, "commands"):
        found = command.commands.get(words.pop(0))
        if found is None:
            return False
        command = found
    try:
        command.make_context("fleet", words)
    except Exception:  # noqa: BLE001 - click's own errors are typer's, under another name
        return False
    return True


def _target(units: Files) -> Iterator[str]:
    target = units.get("fleet.target", "")
    wanted = values(target, "Wants")
    for name in wanted:
        if re.sub(r"@\d+\.", "@.", name) not in units:
            yield f"fleet.target: wants {name}, which there is not"
    for pool in PLAN.pools:
        ports = [int(port) for name in wanted for port in re.findall(rf"fleet-worker-{pool.name}@(\d+)\.service", name)]
        if len(ports) != pool.replicas:
            yield f"fleet.target: wants {len(ports)} processes of {pool.name}, not {pool.replicas}"
    found = {one["targets"][0].rpartition(":")[2] for one in json.loads(units["targets/fleet-workers.json"])}
    if found != {port for name in wanted for port in re.findall(r"@(\d+)\.service", name)}:
        yield "targets: Prometheus asks other ports"


def test_the_units_are_well():
    assert problems(UNITS) == []


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("fleet-worker-llm@.service", "TimeoutStopSec=35s", "TimeoutStopSec=15s", "killed before it has drained"),
        ("fleet-worker-llm@.service", "KillSignal=SIGTERM", "KillSignal=SIGKILL", "not asked to drain"),
        ("fleet-worker-llm@.service", "KillMode=mixed", "KillMode=process", "not asked to drain"),
        ("fleet-worker-llm@.service", "User=fleet\n", "", "somebody else"),
        ("fleet-worker-llm@.service", "worker llm", "worker", "no command"),
        ("fleet-console.service", "console --host", "consoles --host", "no command"),
        ("fleet-console.service", "Restart=on-failure", "Restart=no", "given up"),
        ("fleet-exporter.service", "StartLimitIntervalSec=0\n", "", "given up"),
        ("fleet-worker-email@.service", "FLEET_HEALTH_PORT=%i", "FLEET_HEALTH_PORT=0", "health port"),
        ("fleet-worker-search@.service", "RestartSec", "LoadCredential=OPENAI_API_KEY:/k\nRestartSec", "other secrets"),
        (
            "fleet-console.service",
            "LoadCredential=",
            "LoadCredential=FLEET_REDIS_URL:/etc/fleet/secrets/FLEET_REDIS_URL\nLoadCredential=",
            "than it needs",
        ),
        ("tmpfiles.d/fleet.conf", "f /etc/fleet/secrets/BANK_API_KEY 0600 root root\n", "", "is not started without"),
        ("fleet-worker-llm@.service", "%d/OPENAI_API_KEY", "%d/OPENAI", "not those that it is told of"),
        (
            "fleet-worker-llm@.service",
            "RestartSec",
            "Environment=OPENAI_API_KEY=hush\nRestartSec",
            "stands in the unit",
        ),
        ("fleet-worker-agents@.service", "Wants=", "Requires=fleet-migrate.service\nWants=", "was late"),
        ("fleet.target", "Wants=fleet-worker-llm@8500.service\n", "", "0 processes of llm, not 1"),
        ("fleet.target", "fleet-exporter", "fleet-exporters", "which there is not"),
        ("targets/fleet-workers.json", ":8500", ":8501", "other ports"),
    ],
)
def test_what_is_broken_is_found(name, before, after, said):
    assert before in UNITS[name]
    found = problems(UNITS | {name: UNITS[name].replace(before, after)})
    assert [problem for problem in found if said in problem], found


def test_what_is_shipped_is_what_the_shipped_manifest_says():
    shipped = ROOT / "deploy" / "systemd"
    found = {str(path.relative_to(shipped)): path.read_text() for path in shipped.rglob("*") if path.is_file()}
    assert found == UNITS


def test_what_is_commented_out_can_be_uncommented():
    """A file of the environment has comments on lines of their own only."""
    lines = [line.removeprefix("# ") for line in UNITS["fleet.env.example"].splitlines()]
    found = dict(line.partition("=")[::2] for line in lines if re.match(r"[A-Z_]+=", line))
    assert found.keys() >= {"TEMPORAL_ADDRESS", "OTEL_EXPORTER_OTLP_ENDPOINT", "FLEET_CODEC_TOKENS"}
    assert {name: value for name, value in found.items() if "#" in value or value != value.strip()} == {}


def test_more_processes_than_ports_are_refused():
    many = manifests.load(MANIFEST)
    deployed = many.deploy.model_validate({"pools": {"memory": {"replicas": 101}}})
    made = making.make(many.model_copy(update={"deploy": deployed}), "")
    with pytest.raises(BadInput, match=r"deploy\.pools\.memory\.replicas: 101 processes"):
        systemd.render(made)


def test_versions_lie_side_by_side():
    made = making.make(manifests.load(MANIFEST), "", build_id="1.0")
    unit = systemd.render(made)["fleet-worker-llm@.service"]
    assert values(unit, "ExecStart") == ["/opt/agent-fleet/1.0/bin/fleet worker llm"]
    assert variables(unit)["FLEET_BUILD_ID"] == "1.0"
    assert "FLEET_BUILD_ID" not in variables(UNITS["fleet-worker-llm@.service"])


def test_values_are_quoted_for_systemd():
    assert systemd._set("A", 'file:/a b%"c\\') == 'Environment="A=file:/a b%%\\"c\\\\"'


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units where systemd can look at them: with a program that there is, and an instance of each template."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian: apt install systemd)")
    folder = tmp_path_factory.mktemp("units")
    program = str(Path(sys.executable).parent / "fleet")
    for name in [*SERVICES, "fleet.target"]:
        text = UNITS[name].replace(systemd.PROGRAM, program)
        (folder / name).write_text(text)
        if "@" in name:
            (folder / name.replace("@", "@8400")).write_text(text)
    return folder


def verified(folder: Path, *units: str) -> list[str]:
    """What systemd complains of in these units."""
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(folder / unit) for unit in units)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    lines = [line for line in found.stderr.splitlines() if str(folder) in line or "fleet" in line]
    told = [line for line in lines if not any(f"'{key}'" in line for key in NEWER)]
    assert told or found.returncode == 0, found.stderr
    return told


def test_systemd_takes_every_unit(installed):
    units = [path.name for path in installed.iterdir() if "@." not in path.name]
    assert verified(installed, *units) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("KillMode=mixed", "KillMode=gentle"),
        ("TimeoutStopSec=35s", "TimeoutStopSec=soon"),
        ("LockPersonality=yes", "LockPersonalty=yes"),
        ("ExecStart=", "ExecStart=/nowhere"),
        ("[Service]", "[Servce]"),
        ("SystemCallFilter=@system-service", "SystemCallFilter=@system-servce"),
        ("MemoryMax=512M", "MemoryMax=512Mi"),
    ],
)
def test_systemd_would_have_said_so(installed, tmp_path, before, after):
    text = (installed / "fleet-worker-llm@8400.service").read_text()
    assert before in text
    (tmp_path / "fleet-worker-llm@8400.service").write_text(text.replace(before, after))
    assert verified(tmp_path, "fleet-worker-llm@8400.service") != []


def exposure(unit: Path) -> subprocess.CompletedProcess[str]:
    """Its verdict on what a unit could do if it were taken over."""
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSED}", "--no-pager", str(unit)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_that_is_taken_over_can_do_little(installed, name):
    found = exposure(installed / name.replace("@", "@8400"))
    assert found.returncode == 0, found.stdout


def test_a_unit_without_its_hardening_is_found_exposed(installed, tmp_path):
    text = (installed / "fleet-worker-llm@8400.service").read_text()
    (tmp_path / "bare@8400.service").write_text(re.sub(r"(?m)^(System|Restrict|Protect|Private|Capab).*\n", "", text))
    assert exposure(tmp_path / "bare@8400.service").returncode != 0
