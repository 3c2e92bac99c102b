"""Temporal's and the collector's files: scripts run, what they name exists, keys are those that the tests run on."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.serving import DEPLOY
from workers import embedded

TEMPORAL = DEPLOY / "temporal"
SCRIPTS = sorted(DEPLOY.rglob("*.sh"))
DYNAMIC = yaml.safe_load((TEMPORAL / "dynamicconfig.yaml").read_text())
OF_TESTS_ALONE = {
    "frontend.WorkflowTimeSkippingEnabled",
    "matching.wv.VersionDrainageStatusVisibilityGracePeriod",
    "matching.wv.VersionDrainageStatusRefreshInterval",
}
"""What a server that lives for seconds has otherwise than one that lives for years."""


def scripted(script: str, folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a script of `deploy/temporal`, with the programs of `folder` first."""
    told = {"PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
    command = ["sh", str(TEMPORAL / script), *arguments]
    return subprocess.run(command, env=told, capture_output=True, text=True, check=False, timeout=60)


def test_keys_are_those_of_the_stack_that_the_tests_run_on() -> None:
    assert DYNAMIC.keys() == embedded._DYNAMIC_CONFIG.keys()
    for key, text in embedded._DYNAMIC_CONFIG.items():
        (found,) = DYNAMIC[key]
        assert found.keys() == {"value"}
        same = type(found["value"]) is type(yaml.safe_load(text))
        assert same, key
        if key not in OF_TESTS_ALONE:
            assert found["value"] == yaml.safe_load(text)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_scripts_are_sh_and_may_be_executed(script: Path) -> None:
    assert script.read_text().startswith("#!/bin/sh\n")
    assert os.access(script, os.X_OK)
    assert "set -eu\n" in script.read_text()
    subprocess.run(["sh", "-n", script], check=True)


def test_tables_are_made_and_brought_up_to_date_without_a_password_on_a_command_line(tmp_path: Path) -> None:
    tool, said = tmp_path / "temporal-sql-tool", tmp_path / "said"
    tool.write_text(f'#!/bin/sh\necho "$SQL_PASSWORD $*" >>{said}\n')
    tool.chmod(0o755)
    (tmp_path / "password").write_text("pa$$word\n")
    done = scripted("setup.sh", tmp_path, POSTGRES_PWD_FILE=str(tmp_path / "password"))
    assert done.returncode == 0, done.stderr
    called = said.read_text().splitlines()
    assert all(line.startswith("pa$$word ") and "pa$$word" not in line[9:] for line in called)
    where = [(re.search(r"--db (\S+)", line)[1], re.search(r"(setup|update)-schema", line)[1]) for line in called]  # type: ignore[index]
    both = ("setup", "update")
    assert where == [*(("temporal", one) for one in both), *(("temporal_visibility", one) for one in both)]


@pytest.mark.parametrize("script", ["setup.sh", "start.sh"])
def test_a_password_that_is_missing_is_told_in_one_line(script: str, tmp_path: Path) -> None:
    done = scripted(script, tmp_path, POSTGRES_PWD_FILE=str(tmp_path / "none"))
    assert (done.returncode, done.stderr) == (2, f"{script}: {tmp_path}/none is missing or empty\n")


def test_the_server_finds_its_password_in_its_environment_only(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    done = scripted("start.sh", tmp_path, "/usr/bin/env", POSTGRES_PWD_FILE=str(tmp_path / "password"))
    assert "POSTGRES_PWD=secret" in done.stdout.splitlines()


def test_a_namespace_is_made_once(temporal_address: str, tmp_path: Path) -> None:
    told = {"TEMPORAL_ADDRESS": temporal_address, "TEMPORAL_NAMESPACE": "made-by-compose", "HOME": str(tmp_path)}
    first = scripted("namespace.sh", tmp_path, **told)
    assert first.returncode == 0, first.stderr
    again = scripted("namespace.sh", tmp_path, **told)
    assert (again.returncode, again.stdout) == (0, "namespace made-by-compose is there\n")


def test_a_server_that_asks_for_certificates_shows_its_own_to_itself() -> None:
    text = (TEMPORAL / "server.env.example").read_text()
    told = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    asked = {name.removeprefix("TEMPORAL_TLS_") for name in told if name.startswith("TEMPORAL_TLS_")}
    assert asked == {
        "REQUIRE_CLIENT_AUTH", "FRONTEND_CERT", "FRONTEND_KEY", "CLIENT1_CA_CERT", "CLIENT2_CA_CERT",
        # the client half: without the authority the server's own worker speaks no TLS, without the others it is refused
        "SERVER_CA_CERT", "SERVER_CERT", "SERVER_KEY", "INTERNODE_SERVER_NAME", "FRONTEND_SERVER_NAME",
    }  # fmt: skip
    authorities = {told[f"TEMPORAL_TLS_CLIENT{number}_CA_CERT"] for number in (1, 2)}
    assert told["TEMPORAL_TLS_SERVER_CA_CERT"] in authorities
    assert "serverAuth and clientAuth" in text


def test_the_example_names_files_where_the_folder_is_mounted() -> None:
    text = (TEMPORAL / "server.env.example").read_text()
    compose = (DEPLOY / "compose.yaml").read_text()
    (path,) = re.findall(r"(?m)^DYNAMIC_CONFIG_FILE_PATH=(.*)$", text)
    assert f"DYNAMIC_CONFIG_FILE_PATH: {path}" in compose
    assert (TEMPORAL / Path(path).name).is_file()
    assert f"./temporal:{Path(path).parent}:ro" in compose


# ---- the collector

COLLECTOR = yaml.safe_load((DEPLOY / "otel" / "collector.yaml").read_text())


def problems(config: dict[str, Any]) -> list[str]:
    """What the collector would not start with. Its own program is not here to say so."""
    found = []
    for name, pipeline in config["service"]["pipelines"].items():
        for kind in ("receivers", "processors", "exporters"):
            used = pipeline.get(kind, [])
            if not used and kind != "processors":
                found.append(f"{name} has no {kind}")
            found += [f"{name}: {kind} has no {one}" for one in used if one not in config.get(kind, {})]
        if pipeline.get("processors", [""])[0] != "memory_limiter":
            found.append(f"{name}: memory_limiter is not the first")
    declared = {kind: set(config.get(kind, {})) for kind in ("receivers", "processors", "exporters")}
    for kind, names in declared.items():
        used = {one for pipeline in config["service"]["pipelines"].values() for one in pipeline.get(kind, [])}
        found += [f"{kind}: nobody uses {one}" for one in names - used]
    extensions = config.get("extensions", {})
    found += [f"no extension {one}" for one in config["service"]["extensions"] if one not in extensions]
    return found


def test_every_part_of_the_collector_exists_and_is_used() -> None:
    assert problems(COLLECTOR) == []


def test_what_says_how_many_spans_there_were_is_not_silenced() -> None:
    level = COLLECTOR["service"]["telemetry"]["logs"]["level"]
    # https://github.com/open-telemetry/opentelemetry-collector/tree/main/exporter/debugexporter
    assert level in ("debug", "info") or COLLECTOR["exporters"]["debug"]["use_internal_logger"] is False


def test_the_collector_listens_where_workers_send() -> None:
    example = (DEPLOY / ".env.example").read_text()
    (port,) = re.findall(r"OTEL_EXPORTER_OTLP_ENDPOINT=http://otel-collector:(\d+)", example)
    assert COLLECTOR["receivers"]["otlp"]["protocols"]["http"]["endpoint"] == f"0.0.0.0:{port}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("service", "pipelines", "traces", "receivers"), ["jaeger"]),
        (("service", "pipelines", "traces", "exporters"), []),
        (("service", "pipelines", "traces", "processors"), ["batch", "memory_limiter"]),
        (("service", "extensions"), ["zpages"]),
        (("exporters",), {"debug": {}, "otlphttp": {}}),
    ],
)
def test_a_collector_s_file_that_is_wrong_is_found_out(path: tuple[str, ...], value: Any) -> None:
    config = yaml.safe_load((DEPLOY / "otel" / "collector.yaml").read_text())
    at = config
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    assert problems(config)
