"""The image, built and run by a container engine: no file to write, no privilege, against real servers."""

import asyncio
import inspect
import json
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from temporalio.api.enums.v1 import PendingActivityState

from fleet import manifest as manifests
from fleet.client import FleetClient
from fleet.contracts.runs import Outcome
from tests import containers
from tests.deploy.test_image import IGNORED, context
from tests.ratelimit.servers import on_socket, valkey_binary

pytestmark = [pytest.mark.trial, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
CONFINED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "10001:10001"]
SHIPPED = ["--volume", f"{ROOT / 'deploy' / 'fleet.toml'}:/etc/fleet/fleet.toml:ro"]
WITHIN_S = 60.0
MANIFEST = """
[providers.openai]
kind = "openai"
base_url = "{http}/v1"
api_key = "env:OPENAI_API_KEY"

[pools.agents]
task_queue = "agents-{suffix}"
drain = "10s"
[pools.llm]
task_queue = "llm-{suffix}"
drain = "10s"

[agents.speaker]
model = "openai/sim-large"
instructions = "You answer."
"""
EVERY_MODULE = """
import importlib, pkgutil
for room in ("fleet", "ratelimit", "workers", "load"):
    for found in pkgutil.walk_packages(importlib.import_module(room).__path__, room + "."):
        if not found.name.endswith(("__main__", "migrations.env")):
            try:
                importlib.import_module(found.name)
            except ImportError as error:
                print(found.name, error.name)
"""


def docker(*arguments: str, code: int = 0, **options: Any) -> str:
    """What it prints, if it ends with the code."""
    return _ran(arguments, code, options).stdout


def heard(*arguments: str, code: int = 0, **options: Any) -> list[str]:
    """The same with what containers say on stderr; its lines."""
    found = _ran(arguments, code, options)
    return [*found.stdout.splitlines(), *found.stderr.splitlines()]


def _ran(arguments: tuple[str, ...], code: int, options: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, **options)
    assert found.returncode == code, f"{found.stdout[-2000:]}\n{found.stderr[-4000:]}"
    return found


def files_of(image: str, *command: str) -> set[str]:
    """Every file of an image."""
    made = docker("create", image, *command).strip()
    try:
        exported = subprocess.run(["docker", "export", made], capture_output=True, check=True).stdout
    finally:
        docker("rm", made)
    with tarfile.open(fileobj=BytesIO(exported)) as tar:
        return {member.name for member in tar if member.isfile()}


@pytest.fixture(scope="module")
def engine() -> None:
    """Skips the test where no engine answers."""
    if shutil.which("docker") is None:
        pytest.skip("needs docker's command line")
    if why := containers.absent():
        pytest.skip(why)


@pytest.fixture(scope="module")
def image(engine: None) -> Iterator[str]:
    """The image, built from this checkout."""
    del engine
    tag = f"agent-fleet:test-{uuid4().hex[:8]}"
    named = ["--build-arg", "FLEET_BUILD_ID=of-the-tests", "--build-arg", "VERSION=0.0.1"]
    # by the host's network: an engine that makes none of its own builds too
    docker("build", "--network", "host", "-f", "deploy/Dockerfile", "-t", tag, *named, ".", cwd=ROOT)
    yield tag
    docker("image", "rm", "--force", tag)


def test_the_image_says_what_it_is(image):
    (found,) = json.loads(docker("image", "inspect", image))
    config = found["Config"]
    assert (config["User"], config["Entrypoint"], config["StopSignal"]) == ("10001:10001", ["fleet"], "SIGTERM")
    assert config["Labels"]["org.opencontainers.image.version"] == "0.0.1"
    assert "FLEET_BUILD_ID=of-the-tests" in config["Env"]
    assert docker("run", "--rm", "--network", "none", *CONFINED, image, "--version").startswith("fleet ")


def test_the_image_holds_no_installer_and_nothing_of_the_checkout_beside_the_package(image):
    names = files_of(image)
    assert [name for name in names if "site-packages/pip/" in name or "/ensurepip/" in name] == []
    assert [name for name in names if name.endswith(("/gcc", "/cc", "/pip", "/git", "/curl"))] == []
    assert [name for name in names if Path(name).name in ("Dockerfile", "fleet.toml", ".env")] == []
    assert "opt/fleet/lib/python3.12/site-packages/ratelimit/lua/reserve.lua" in names


def test_the_context_is_what_the_rules_of_the_engine_make_of_it(engine, tmp_path):
    del engine
    planted = [".env", "fleet/.env", "fleet/a.pem", "deploy/secrets/openai", "load/__pycache__/x.pyc", "id_rsa"]
    kept = ["fleet/__init__.py", "ratelimit/lua/reserve.lua", "deploy/build.lock", "README.md", "pyproject.toml"]
    for name in [*planted, *kept]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".dockerignore").write_text(IGNORED)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    tag = f"context:test-{uuid4().hex[:8]}"
    docker("build", "-f", str(tmp_path / "Dockerfile"), "-t", tag, str(tmp_path))
    try:
        sent = {name for name in files_of(tag, "none") if (tmp_path / name).exists()}
    finally:
        docker("image", "rm", tag)
    assert sent == context(IGNORED, [*planted, *kept]) == set(kept)


def test_every_module_is_there_but_those_of_extras_that_are_left_out(image):
    said = docker(
        "run", "--rm", "--interactive", "--network", "none", *CONFINED, "--entrypoint", "python", image, "-",
        input=EVERY_MODULE,
    )  # fmt: skip
    missing = dict(line.split() for line in said.splitlines())
    assert set(missing.values()) <= {"grafana_foundation_sdk"}, missing


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["check"], "fleet: /etc/fleet/fleet.toml: cannot be read"),
        (["worker", "llm"], "fleet: /etc/fleet/fleet.toml: cannot be read"),
        (["dev"], "fleet: the binary `"),
        (["demo"], "fleet: the binary `"),
    ],
)
def test_what_cannot_be_here_is_one_line(image, command, line):
    with_it = [*SHIPPED, "--tmpfs", "/var/lib/fleet:uid=10001,gid=10001"] if command[0] in ("dev", "demo") else []
    said = heard("run", "--rm", "--network", "none", *CONFINED, *with_it, image, *command, code=2)
    assert [part for part in said if part.startswith("fleet: ")][-1].startswith(line)
    assert not [part for part in said if "Traceback" in part]


def test_a_container_that_still_starts_ends_at_once(image):
    found = docker("run", "--detach", "--network", "none", *CONFINED, *SHIPPED, image, "worker", "llm").strip()
    try:
        deadline = time.monotonic() + 20
        while docker("inspect", "--format", "{{.State.Running}}", found) == "true\n":
            assert time.monotonic() < deadline, heard("logs", found)
            # nothing tells when it has come so far that it hears it
            subprocess.run(["docker", "kill", "--signal", "TERM", found], capture_output=True, check=False)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", found) == "143\n"
    finally:
        docker("rm", "--force", found)


@pytest.fixture
async def bench(tmp_path: Path, simulators: Any, temporal_address: str) -> AsyncIterator[dict[str, Any]]:
    """Real servers, a slow model, a manifest."""
    where = await simulators(latency={"base_s": 3, "per_output_token_s": 0})
    path = tmp_path / "fleet.toml"
    path.write_text(MANIFEST.format(http=where.http, suffix=uuid4().hex[:8]))
    path.chmod(0o644)
    port, probes = _free_port(), _free_port()
    # the image's user may not open a socket of this one
    with on_socket(valkey_binary(), "--port", str(port)):
        yield {
            "mounted": ["--volume", f"{path}:/etc/fleet/fleet.toml:ro", "--health-interval", "1s"],
            "http": where.http,
            "manifest": manifests.load(path),
            "live": f"http://127.0.0.1:{probes}",
            "environment": {
                "FLEET_HEALTH_PORT": str(probes),
                "FLEET_REDIS_URL": f"redis://127.0.0.1:{port}/0",
                "TEMPORAL_ADDRESS": temporal_address,
                "OPENAI_API_KEY": "sk-test-key",
                "FLEET_BUILD_ID": "",
            },
        }


async def test_a_worker_gets_healthy_drains_on_sigterm_and_another_goes_on(image, bench, temporal):
    def healthy(worker: str) -> bool:
        return docker("inspect", "--format", "{{.State.Health.Status}}", worker) == "healthy\n"

    client = FleetClient(temporal, bench["manifest"])
    with serving(image, bench) as worker:
        await _until(lambda: healthy(worker), worker)
        async with httpx2.AsyncClient() as http:
            assert (await http.get(f"{bench['live']}/ready")).status_code == 200
        run = await client.start("speaker", "Say something.")
        handle = temporal.get_workflow_handle(run)

        async def thinking() -> bool:
            pending = (await handle.describe()).raw_description.pending_activities
            return any(one.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED for one in pending)

        await _until(thinking, worker)
        began = time.monotonic()
        await asyncio.to_thread(docker, "stop", "--time", "30", worker)
        assert time.monotonic() - began < 25
        assert docker("inspect", "--format", "{{.State.ExitCode}}", worker) == "0\n"
        said = [json.loads(line)["event"] for line in heard("logs", worker) if line.startswith("{")]
        assert said.index("ready") < said.index("draining") < said.index("stopped")
    # what the model said while the worker drained is not asked again
    with serving(image, bench):
        outcome = await asyncio.wait_for(client.result(run), WITHIN_S)
    assert outcome.outcome is Outcome.COMPLETED
    async with httpx2.AsyncClient() as http:
        assert len((await http.get(f"{bench['http']}/_ledger")).json()) == 1


@contextmanager
def serving(image: str, bench: dict[str, Any]) -> Iterator[str]:
    """A worker of both pools; its id."""
    named = [part for name, value in bench["environment"].items() for part in ("--env", f"{name}={value}")]
    found = docker(
        "run", "--detach", "--network", "host", *CONFINED, *named, *bench["mounted"], image, "worker", "agents", "llm"
    ).strip()
    try:
        yield found
    finally:
        docker("rm", "--force", found)


async def _until(check: Any, worker: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while True:
        found = check()
        if await found if inspect.isawaitable(found) else found:
            return
        assert time.monotonic() < deadline, heard("logs", worker)
        assert docker("inspect", "--format", "{{.State.Running}}", worker) == "true\n", heard("logs", worker)
        await asyncio.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
