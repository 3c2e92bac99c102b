"""The compose file is the plan's, by the Compose Specification and by what the house asks of every service."""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from fleet import manifest as manifests
from fleet.deploying import compose, making
from fleet.deploying.plan import Plan
from fleet.errors import BadInput
from tests.deploy.test_alerts import _refused

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SHIPPED = (DEPLOY / "compose.yaml").read_text()
UNASKED = {"temporal-ui", "otel-collector", "cli", "migrate", "init", "temporal-setup", "temporal-namespace"}
"""Services without a health check: their images have nothing to ask with, or they end."""
WRITES = {"temporal-ui"}
"""Its start script writes its configuration into its own folder, as its own user."""
DURATION = re.compile(r"(\d+)s")
STORES = {
    "console": {"database_url"},
    "exporter": {"redis_url", "database_url"},
    "codec-server": set(),
    "cli": {"redis_url", "database_url"},
    "migrate": {"database_owner_url"},
    "init": set(),
}
"""Which of the fleet's stores its processes that are no pools use."""
PASSWORD = re.compile(r"PASSW|PWD|SECRET|TOKEN|(^|_)KEY|REDIS_URL|DATABASE_URL")


@cache
def planned() -> Plan:
    """The plan of the shipped manifest."""
    path = DEPLOY / "fleet.toml"
    return making.make(manifests.load(path), path.read_text())


def interpolated(text: str) -> str:
    """With the defaults of its variables, as compose reads it where nobody has set any."""
    text = re.sub(r"(?<!\$)\$\{\w+:-([^}]*)\}", r"\1", text)
    return text.replace("$$", "$")


def problems(text: str, plan: Plan) -> Iterator[str]:
    """What is wrong with a compose file."""
    text = interpolated(text)
    document = yaml.safe_load(text)
    try:
        # its reader of YAML does not merge; JSON is YAML too
        PyCompose.from_yaml(json.dumps(document))
    except ValueError as error:
        yield f"not by the specification: {error}"
        return
    services: dict[str, dict[str, Any]] = document["services"]
    for name, service in services.items():
        for found in _of_service(name, service, document):
            yield f"{name}: {found}"
    yield from _of_pools(services, plan)
    yield from _of_others(services, plan)
    yield from _of_the_manifest(services, plan)
    if document["networks"].get("backend") != {"internal": True}:
        yield "the network backend leads outside"
    for name in ("postgres", "valkey", "temporal", "prometheus"):
        if services[name]["networks"] != ["backend"]:
            yield f"{name} is to be reached by the fleet only"
    if re.search(r"://[^/\s:@]+:[^/\s@]+@", text):
        yield "a password is in a URL"
    used = {one for service in services.values() for one in service.get("secrets", [])}
    yield from (f"secret {name}: nobody uses it" for name in document["secrets"].keys() - used)
    yield from (
        f"secret {name} is no file of ./secrets"
        for name, at in document["secrets"].items()
        if at != {"file": f"./secrets/{name}"}
    )


def _of_service(name: str, service: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    _, _, tag = service["image"].rpartition(":")
    if not re.search(r"\d+\.\d+", tag) or "latest" in tag:
        yield f"the image {service['image']} is not pinned"
    yield from _files(service, document)
    yield from _secrets(service, document)
    yield from _order(service, document["services"])
    yield from _ways_in(service, document)
    yield from _rights(name, service)
    yield from _bounds(name, service)
    if _is_ours(service) and service["command"] != ["--help"]:
        why = _refused(shlex.join(["fleet", *service["command"]]))
        if why:
            yield why


def _files(service: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    for volume in service.get("volumes", []):
        source, _, rest = volume.partition(":")
        if not source.startswith("."):
            if source not in document["volumes"]:
                yield f"volume {source} is not declared"
            continue
        if not (DEPLOY / source).exists():
            yield f"{source} does not exist"
        if not rest.endswith(":ro"):
            yield f"{source} can be written to"


def _secrets(service: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    mounted = service.get("secrets", [])
    yield from (f"secret {one} is not declared" for one in mounted if one not in document["secrets"])
    for variable, value in service.get("environment", {}).items():
        file = re.fullmatch(r"(?:file:)?/run/secrets/(\w+)", str(value))
        if file and file[1] not in mounted:
            yield f"{variable}: the secret {file[1]} is not mounted"
        if PASSWORD.search(variable) and not file and not str(value).startswith("env:"):
            yield f"{variable} is a literal"


def _order(service: dict[str, Any], services: dict[str, dict[str, Any]]) -> Iterator[str]:
    for other, how in service.get("depends_on", {}).items():
        if other not in services:
            yield f"depends on {other}, which is no service"
        elif how["condition"] == "service_healthy" and not _is_asked(services[other]):
            yield f"waits for the health of {other}, which is never asked"
        elif how["condition"] == "service_completed_successfully" and services[other]["restart"] != "on-failure":
            yield f"waits for the end of {other}, which never ends"
        elif services[other].get("profiles") and not service.get("profiles"):
            yield f"depends on {other}, which is not always there"


def _ways_in(service: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    for port in service.get("ports", []):
        if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", str(port)):
            yield f"port {port} is published to the world"
        if "front" not in service["networks"]:
            yield "has a port and no network with a way in"
    yield from (f"network {one} is not declared" for one in service["networks"] if one not in document["networks"])


def _rights(name: str, service: dict[str, Any]) -> Iterator[str]:
    if service.get("cap_drop") != ["ALL"] or service.get("security_opt") != ["no-new-privileges:true"]:
        yield "has privileges"
    if name in WRITES:
        return
    if service.get("read_only") is not True:
        yield "may write to its image"
    user = str(service.get("user", "")).partition(":")[0]
    if not user.isdigit() or user == "0":
        yield "runs as root"


def _bounds(name: str, service: dict[str, Any]) -> Iterator[str]:
    if "mem_limit" not in service:
        yield "takes what memory there is"
    if service.get("logging", {}).get("options", {}).keys() != {"max-size", "max-file"}:
        yield "its logs fill the disk"
    if not _is_asked(service) and name not in UNASKED:
        yield "nobody asks whether it is well"
    if "container_name" in service:
        yield "there can be only one of it"


def _is_asked(service: dict[str, Any]) -> bool:
    check = service.get("healthcheck", {})
    return "test" in check and not check.get("disable")


def _is_ours(service: dict[str, Any]) -> bool:
    return "agent-fleet" in service["image"] and "entrypoint" not in service


def _of_pools(services: dict[str, dict[str, Any]], plan: Plan) -> Iterator[str]:
    workers = {
        name: service for name, service in services.items() if _is_ours(service) and service["command"][0] == "worker"
    }
    if workers.keys() != {pool.name for pool in plan.pools}:
        yield f"pools are {sorted(workers)}"
    for pool in plan.pools:
        service = workers.get(pool.name)
        if service is None:
            continue
        grace = DURATION.fullmatch(str(service.get("stop_grace_period", "10s")))
        if grace is None or int(grace[1]) <= pool.drain_s:
            yield f"{pool.name} is killed while it drains"
        if service["command"] != ["worker", pool.name]:
            yield f"{pool.name} serves another pool"
        if "ports" in service:
            yield f"{pool.name} has a port, so that there can be only one of it"
        keys = {secret for secret in service["secrets"] if secret.isupper()}
        if keys != set(pool.secrets):
            yield f"{pool.name} has the secrets {sorted(keys)}"
        if ("database_url" in service["secrets"]) != pool.database:
            yield f"{pool.name} has a database that it does not need, or needs one"
        if "database_owner_url" in service["secrets"]:
            yield f"{pool.name} owns the tables"
        if ("egress" in service["networks"]) != making.calls_outside(plan.manifest, pool.name):
            yield f"{pool.name} reaches the world and need not, or needs to"


def _of_others(services: dict[str, dict[str, Any]], plan: Plan) -> Iterator[str]:
    """What is given to those of our processes that are no pools."""
    keys = {
        "console": plan.console_secrets,
        "exporter": plan.codec_secrets,
        "codec-server": plan.codec_secrets,
        "cli": plan.secrets,
        "init": plan.codec_secrets,
    }
    for name, stores in STORES.items():
        mounted = set(services[name].get("secrets", [])) - {"codec_tokens"}
        if mounted != {*stores, *keys.get(name, ())}:
            yield f"{name} is given {sorted(mounted)}"
        told = {variable for variable in services[name]["environment"] if variable.endswith("_FILE")}
        if len(told) != len(mounted):
            yield f"{name} is told of {sorted(told)}"


def _of_the_manifest(services: dict[str, dict[str, Any]], plan: Plan) -> Iterator[str]:
    """Compose starts anew what is defined otherwise, and a file that is mounted is no part of that."""
    digest = hashlib.sha256(plan.text.encode()).hexdigest()
    for name, service in services.items():
        reads = any(volume.endswith(":/etc/fleet/fleet.toml:ro") for volume in service.get("volumes", []))
        if reads and service.get("labels") != {"fleet.manifest": digest}:
            yield f"{name} goes on with the manifest before"


def test_it_is_what_the_shipped_manifest_s_plan_renders() -> None:
    assert compose.render(planned()) == {"compose.yaml": SHIPPED}, "fleet deploy render compose --out deploy"


def test_there_is_nothing_wrong_with_it() -> None:
    assert list(problems(SHIPPED, planned())) == []


COLLECTOR = "./otel/collector.yaml:/etc/otelcol/config.yaml"
GRAFANA_PORT = '"127.0.0.1:${GRAFANA_PORT:-3000}:3000"'
MUTATIONS = [
    ("postgres:17.10-bookworm", "postgres:latest", "is not pinned"),
    ("temporalio/ui:2.54.1", "temporalio/ui", "is not pinned"),
    ("./valkey:/etc/valkey", "./redis:/etc/valkey", "does not exist"),
    (f"{COLLECTOR}:ro", COLLECTOR, "can be written to"),
    ("secrets: [grafana_admin]", "secrets: [grafana]", "is not declared"),
    ('tmpfs: ["/tmp"]\n    networks: [backend]', 'tmpfs: ["/tmp"]\n    networks: [front]', "reached by the fleet only"),
    ("  init: { condition", "  initial: { condition", "which is no service"),
    ("temporal-setup: { condition: service_completed", "valkey: { condition: service_completed", "which never ends"),
    (
        "temporal: { condition: service_healthy }\n    mem",
        "cli: { condition: service_healthy }\n    mem",
        "never asked",
    ),
    (
        "temporal: { condition: service_healthy }\n    mem",
        "cli: { condition: service_started }\n    mem",
        "not always there",
    ),
    (GRAFANA_PORT, '"${GRAFANA_PORT:-3000}:3000"', "published to the world"),
    (GRAFANA_PORT, '"0.0.0.0:${GRAFANA_PORT:-3000}:3000"', "published to the world"),
    ("stop_grace_period: 35s", "stop_grace_period: 20s", "is killed while it drains"),
    ("command: [worker, llm]", "command: [worker, search]", "serves another pool"),
    ("command: [worker, llm]", "command: [work, llm]", "has no command"),
    ("command: [exporter, --host,", "command: [exporter, --address,", "--address"),
    ("PASSWORD__FILE: /run/secrets/grafana_admin", "PASSWORD: admin", "is a literal"),
    ("TEMPORAL_ADDRESS: temporal:7233", "FLEET_REDIS_URL: redis://fleet:pw@valkey", "password is in a URL"),
    ("backend: { internal: true }", "backend: {}", "leads outside"),
    ("  cap_drop: [ALL]\n", "", "has privileges"),
    ("  read_only: true\n", "", "may write to its image"),
    ('user: "10001:10001"', 'user: "0:0"', "runs as root"),
    ("    mem_limit: 896m\n", "", "takes what memory there is"),
    ('    options: { max-size: 10m, max-file: "5" }\n', "", "fill the disk"),
    ("    healthcheck: *alive\n", "", "nobody asks whether it is well"),
    ("    command: [worker, llm]\n", "    command: [worker, llm]\n    container_name: llm\n", "only one of it"),
    ("[redis_url, OPENAI_API_KEY]", "[redis_url, OPENAI_API_KEY, BANK_API_KEY]", "has the secrets"),
    ("[redis_url, OPENAI_API_KEY]", "[redis_url]", "is not mounted"),
    ("      - prometheus:/prometheus\n", "      - metrics:/prometheus\n", "volume metrics is not declared"),
    ('  labels: { fleet.manifest: "', '  labels: { fleet.manifest: "0', "goes on with the manifest before"),
    ("    secrets: [database_url]\n", "    secrets: [redis_url, database_url]\n", "console is given"),
    ("    secrets: [codec_tokens]\n", "    secrets: [redis_url, codec_tokens]\n", "codec-server is given"),
    ("secrets: [database_owner_url]", "secrets: [redis_url, database_owner_url]", "migrate is given"),
    (
        "      - corpus:/var/lib/fleet\n    networks: [backend]",
        "      - corpus:/var/lib/fleet\n    networks: [backend, egress]",
        "search reaches the world",
    ),
    (
        "networks: [backend, egress]\n    depends_on: *after",
        "networks: [backend]\n    depends_on: *after",
        "or needs to",
    ),
    ("    mem_limit: 1g\n", "    memory_limit: 1g\n", "not by the specification"),
]


@pytest.mark.parametrize(("text", "instead", "found"), MUTATIONS)
def test_what_is_wrong_is_found_out(text: str, instead: str, found: str) -> None:
    assert text in SHIPPED
    assert any(found in problem for problem in problems(SHIPPED.replace(text, instead), planned())), found


def test_prometheus_asks_the_services_by_their_names() -> None:
    services = yaml.safe_load(interpolated(SHIPPED))["services"]
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    (workers,) = jobs["fleet-worker"]["dns_sd_configs"]
    assert set(workers["names"]) == {pool.name for pool in planned().pools} <= services.keys()
    assert str(workers["port"]) == services["llm"]["environment"]["FLEET_HEALTH_PORT"]
    alerting = config["alerting"]["alertmanagers"]
    targets = [
        one for job in [*jobs.values(), *alerting] for at in job.get("static_configs", []) for one in at["targets"]
    ]
    assert {one.partition(":")[0] for one in targets} <= services.keys()
    for name in ("exporter", "console", "codec-server"):
        port = services[name]["environment"]["FLEET_HEALTH_PORT"]
        assert services[name]["command"][-1] == port
        assert services[name]["healthcheck"]["test"][-1] in (DEPLOY / "Dockerfile").read_text()
    assert f"exporter:{services['exporter']['environment']['FLEET_HEALTH_PORT']}" in targets


def test_grafana_asks_prometheus_and_finds_its_dashboards() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    folder = yaml.safe_load((provisioning / "dashboards" / "fleet.yaml").read_text())["providers"][0]["options"]["path"]
    assert any(one.split(":")[1] == folder for one in yaml.safe_load(SHIPPED)["services"]["grafana"]["volumes"])


def test_every_variable_is_explained_with_its_default() -> None:
    example = dict(re.findall(r"^# ?(\w+)=(.*)$", (DEPLOY / ".env.example").read_text(), flags=re.MULTILINE))
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", SHIPPED))
    assert example.keys() - {"COMPOSE_PROFILES"} == used.keys()
    # those whose default is not to be there
    assert {name: example[name] for name, default in used.items() if default} == {n: d for n, d in used.items() if d}


# ---- other manifests


def _with(extra: str, folder: Path) -> Plan:
    path = folder / "fleet.toml"
    path.write_text((DEPLOY / "fleet.toml").read_text() + extra)
    return making.make(manifests.load(path), path.read_text())


def test_what_a_manifest_says_of_its_pools_is_in_the_file(tmp_path: Path) -> None:
    extra = '\n[deploy]\nbuild_id = "r7"\npayload_keys = "env:FLEET_PAYLOAD_KEYS"\n'
    extra += '[deploy.pools.llm]\nreplicas = 2\nmemory = "2Gi"\ncpu = "2"\n'
    plan = _with(extra, tmp_path)
    text = compose.render(plan)["compose.yaml"]
    assert list(problems(text, plan)) == []
    services = yaml.safe_load(interpolated(text))["services"]
    llm = services["llm"]
    assert (llm["deploy"]["replicas"], llm["mem_limit"], llm["cpu_shares"]) == (2, "2g", 2048)
    for name in ("llm", "agents", "exporter", "codec-server", "cli", "init"):
        environment = services[name]["environment"]
        assert (environment["FLEET_BUILD_ID"], environment["FLEET_PAYLOAD_KEYS"]) == ("r7", "env:FLEET_PAYLOAD_KEYS")
        assert environment["FLEET_PAYLOAD_KEYS_FILE"] == "/run/secrets/FLEET_PAYLOAD_KEYS"


def test_the_console_is_there_where_there_are_links_to_it(tmp_path: Path) -> None:
    assert yaml.safe_load(SHIPPED)["services"]["console"]["profiles"] == ["console"]
    given = (DEPLOY / "fleet.toml").read_text()
    path = tmp_path / "fleet.toml"
    path.write_text(
        given.replace(
            'expires = "7d"\n# url',
            'expires = "7d"\nlink_key = "env:FLEET_LINK_KEY"\nurl = "https://f.example.com"\n# url',
            1,
        )
    )
    plan = making.make(manifests.load(path), path.read_text())
    text = compose.render(plan)["compose.yaml"]
    assert list(problems(text, plan)) == []
    console = yaml.safe_load(text)["services"]["console"]
    assert "profiles" not in console
    assert console["environment"]["FLEET_LINK_KEY_FILE"] == "/run/secrets/FLEET_LINK_KEY"


def test_another_manifest_is_another_definition_of_each_service_that_reads_it(tmp_path: Path) -> None:
    before, after = (yaml.safe_load(compose.render(plan)["compose.yaml"])["services"] for plan in _same_pools(tmp_path))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name, service in before.items() if _is_ours(service)}


def _same_pools(folder: Path) -> tuple[Plan, Plan]:
    """Two manifests that differ in nothing that a service is made of."""
    return planned(), _with("# a prompt, say\n", folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "postgres"}, "another service of the compose file has this name"),
        ({"memory": "512M"}, "takes whole numbers of Ki, Mi or Gi"),
        ({"cpu": "a lot"}, "must be a number of CPUs"),
    ],
)
def test_what_a_compose_file_cannot_say_is_told_with_its_remedy(change: dict[str, Any], said: str) -> None:
    plan = planned()
    pools = (replace(plan.pools[0], **change), *plan.pools[1:])
    with pytest.raises(BadInput, match=said):
        compose.render(replace(plan, pools=pools))
