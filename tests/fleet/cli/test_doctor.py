"""`fleet doctor --target`: what a deployment looks like from within."""

import json
import os
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from fleet.cli import doctor_environment as around
from fleet.cli import doctor_servers as servers
from fleet.cli.diagnosis import Diagnosis, Place, Reach, passes, reach, way
from fleet.cli.doctor import needs
from fleet.cli.doctor_app import Target
from fleet.manifest import Manifest
from fleet.settings import Settings
from fleet.storage.places import Places
from ratelimit.inspection import Server
from tests.fleet.cli.conftest import ROOT
from workers.database.facts import Facts

SHIPPED = (ROOT / "deploy" / "fleet.toml").read_text(encoding="utf-8")
LOCAL, VM, COMPOSE, KUBERNETES, CLOUD = (Place.of([target]) for target in Target)


def severities(findings) -> dict[str, str]:
    """Component to severity; the worse of two."""
    order = ("ok", "warn", "fail")
    found: dict[str, str] = {}
    for one in findings:
        found[one.component] = max(found.get(one.component, "ok"), one.severity, key=order.index)
        assert one.severity == "ok" or one.fix, one
    return found


def server(**how) -> Server:
    """A store that is as it should be."""
    well = {
        "kind": "single",
        "encrypted": True,
        "hosts": ("valkey",),
        "product": "valkey",
        "version": (9, 1, 2),
        "policy": "noeviction",
        "memory_limit": 1 << 30,
        "persistent": True,
        "role": "master",
        "replicas": 1,
        "user": "fleet",
        "may_flush": False,
        "ahead_s": 0.01,
    }
    return Server(**(well | how))


def test_a_store_that_is_as_it_should_be_has_nothing_to_be_said_of():
    assert set(severities(servers.redis(server(), Reach.PRIVATE, KUBERNETES)).values()) == {"ok"}


@pytest.mark.parametrize(
    ("how", "component", "severity"),
    [
        ({"policy": "allkeys-lru"}, "redis.memory", "fail"),
        ({"policy": "volatile-lru"}, "redis.memory", "warn"),
        # what is not limited evicts nothing, yet
        ({"policy": "allkeys-lru", "memory_limit": 0}, "redis.memory", "warn"),
        ({"policy": None}, "redis.memory", "ok"),
        ({"persistent": False}, "redis.persistence", "warn"),
        ({"role": "slave"}, "redis.role", "fail"),
        ({"replicas": 0}, "redis.replicas", "warn"),
        ({"may_flush": True, "user": "default"}, "redis.user", "warn"),
        ({"version": (7, 0, 15), "product": "redis"}, "redis.version", "ok"),
        ({"version": (6, 2, 6), "product": "redis"}, "redis.version", "fail"),
        ({"kind": "cluster", "covered": False}, "redis.cluster", "fail"),
        (
            {"kind": "sentinel", "sentinels": {"a": "ok", "b": "NOQUORUM", "c": "TimeoutError"}},
            "redis.sentinel",
            "fail",
        ),
        ({"kind": "sentinel", "sentinels": {"a": "ok", "b": "ok", "c": "TimeoutError"}}, "redis.sentinel", "warn"),
        ({"kind": "sentinel", "sentinels": {"a": "ok", "b": "ok"}}, "redis.sentinel", "warn"),
        ({"kind": "sentinel", "sentinels": {"a": "ok", "b": "ok", "c": "ok"}}, "redis.sentinel", "ok"),
        ({"ahead_s": -5.0}, "redis.clock", "warn"),
        ({"ahead_s": 90.0}, "redis.clock", "fail"),
        # the question took so long
        ({"ahead_s": 5.0, "uncertain_s": 4.0}, "redis.clock", "ok"),
        ({"encrypted": False}, "redis.tls", "warn"),
    ],
)
def test_what_a_store_lacks_is_told(how, component, severity):
    assert severities(servers.redis(server(**how), Reach.PRIVATE, KUBERNETES))[component] == severity


def test_on_ones_own_machine_a_store_may_be_open():
    found = servers.redis(server(encrypted=False, persistent=False, replicas=0, may_flush=True), Reach.LOOPBACK, LOCAL)
    assert set(severities(found).values()) == {"ok"}


@pytest.mark.parametrize(
    ("where", "place", "severity"),
    [
        (Reach.LOOPBACK, VM, "ok"),
        (Reach.PRIVATE, COMPOSE, "ok"),
        (Reach.PRIVATE, VM, "warn"),
        (Reach.PRIVATE, KUBERNETES, "warn"),
        (Reach.UNKNOWN, KUBERNETES, "warn"),
        (Reach.PUBLIC, COMPOSE, "fail"),
        (Reach.PUBLIC, LOCAL, "fail"),
    ],
)
def test_what_may_be_overheard_depends_on_the_way(where, place, severity):
    plain = way("x", "what is said", where, encrypted=False, place=place, fix="encrypt it")
    assert plain.severity == severity
    assert way("x", "what is said", where, encrypted=True, place=place, fix="").severity == "ok"


def test_a_warning_is_no_failure():
    def found(*severities) -> list[Diagnosis]:
        return [Diagnosis(component="x", severity=one, detail="is so") for one in severities]

    assert passes(found("ok", "warn"))
    assert not passes(found("ok", "fail", "warn"))


async def test_where_a_host_is_is_what_its_addresses_say():
    assert await reach([]) is Reach.LOOPBACK
    assert await reach(["localhost", "127.0.0.1", "::1"]) is Reach.LOOPBACK
    assert await reach(["127.0.0.1", "10.1.2.3"]) is Reach.PRIVATE
    assert await reach(["10.1.2.3", "93.184.216.34"]) is Reach.PUBLIC
    assert await reach(["no.such.host.invalid"]) is Reach.UNKNOWN


def facts(**how) -> Facts:
    """A database that is as it should be."""
    well = {
        "sqlite": False,
        "host": "postgres",
        "version": 17,
        "encoding": "UTF8",
        "user": "fleet",
        "superuser": False,
        "encrypted": True,
        "standby": False,
        "durable": True,
        "connections": 100,
        "ahead_s": 0.0,
    }
    return Facts(**(well | how))


@pytest.mark.parametrize(
    ("how", "component", "severity"),
    [
        ({}, "database.version", "ok"),
        ({"encoding": "LATIN1"}, "database.encoding", "fail"),
        ({"standby": True}, "database.role", "fail"),
        ({"durable": False}, "database.durability", "fail"),
        ({"superuser": True}, "database.user", "warn"),
        ({"version": 12}, "database.version", "warn"),
        ({"encrypted": False}, "database.tls", "warn"),
        ({"ahead_s": 40.0}, "database.clock", "fail"),
    ],
)
def test_what_a_database_lacks_is_told(how, component, severity):
    found = severities(servers.database(facts(**how), Reach.PRIVATE, KUBERNETES, ()))
    assert found.pop(component) == severity
    assert set(found.values()) <= {"ok"}


@pytest.mark.parametrize(
    ("place", "machines", "severity"),
    [
        (LOCAL, (), "ok"),
        (VM, ("one",), "warn"),
        (VM, ("one", "two"), "fail"),
        (LOCAL, ("one", "two"), "fail"),
        (COMPOSE, (), "fail"),
        (KUBERNETES, (), "fail"),
    ],
)
def test_a_ledger_in_a_file_is_right_for_one_machine(place, machines, severity):
    found = severities(servers.database(Facts(sqlite=True), Reach.LOOPBACK, place, machines))
    assert found == {"database.kind": severity}


def test_temporal_is_new_enough_and_keeps_what_runs_did():
    assert servers.server("1.32.0").severity == "ok"
    assert servers.server("1.28.4").severity == "warn"
    assert servers.retention(timedelta(days=1), VM).severity == "warn"
    assert servers.retention(timedelta(days=1), LOCAL).severity == "ok"
    assert servers.retention(timedelta(days=30), VM).severity == "ok"


def test_temporal_cloud_is_asked_by_name_and_key():
    well = servers.cloud("acme.a1b2c.tmprl.cloud", "acme.a1b2c", encrypted=True, known=True)
    assert list(well) == []
    bad = servers.cloud("temporal", "default", encrypted=False, known=False)
    assert severities(bad) == {"cloud.address": "fail", "cloud.namespace": "fail", "cloud.identity": "fail"}


def settings(**how) -> Settings:
    return Settings(**how)


@pytest.mark.parametrize(
    ("how", "place", "severity"),
    [
        ({}, KUBERNETES, "fail"),
        ({"health_host": "0.0.0.0"}, KUBERNETES, "fail"),
        ({"health_host": "0.0.0.0", "health_port": 8303}, COMPOSE, "ok"),
        ({}, VM, None),
    ],
)
def test_probes_reach_a_container(how, place, severity):
    found = severities(around.health(settings(**how), place))
    assert found.get("process.health") == severity


def test_root_and_a_missing_version_are_told():
    assert around.user(0, VM).severity == "warn"
    assert around.user(0, LOCAL).severity == "ok"
    assert around.user(10001, KUBERNETES).severity == "ok"
    assert severities(around.build(settings(), KUBERNETES)) == {"process.build": "warn"}
    assert severities(around.build(settings(build_id="1.0"), KUBERNETES)) == {"process.build": "ok"}
    assert severities(around.build(settings(), LOCAL)) == {}
    # one file runs one release: nobody is told to name a version that would then wait to be promoted
    assert severities(around.build(settings(), COMPOSE)) == {"process.build": "ok"}


def manifest(text: str = SHIPPED) -> Manifest:
    return Manifest.model_validate(tomllib.loads(text))


def test_a_state_folder_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    there = settings(state_dir=tmp_path / "state")
    assert around.state(there, manifest(), VM).severity == "fail"
    # nothing is kept there
    elsewhere = manifest(SHIPPED.replace('kind = "corpus"', 'kind = "searxng"'))
    apart = settings(state_dir=tmp_path / "state", database_url="postgresql+asyncpg://h/n")
    assert around.state(apart, elsewhere, VM).severity == "ok"


def test_a_corpus_in_a_container_is_told(tmp_path):
    there = settings(state_dir=tmp_path, database_url="postgresql+asyncpg://h/n")
    assert around.state(there, manifest(), KUBERNETES).severity == "warn"
    assert around.state(there, manifest(), VM).severity == "ok"


@pytest.mark.parametrize(
    ("place", "machines", "severity"),
    [(LOCAL, (), None), (VM, ("one",), "warn"), (VM, ("one", "two"), "fail"), (KUBERNETES, (), "fail")],
)
def test_a_folder_of_payloads_is_one_machines(tmp_path, place, machines, severity):
    found = around.stored(Places(written="file", folders=(tmp_path,)), place, machines)
    assert severities(found).get("payloads.store") == severity


def test_secrets_that_others_may_read_are_told(tmp_path):
    path = tmp_path / "key"
    path.write_text("hush")
    path.chmod(0o644)
    held = around.secret_files(settings(), manifest(), {"OPENAI_API_KEY_FILE": str(path), "OTHER_FILE": "/nowhere"})
    assert held == {"OPENAI_API_KEY_FILE": path}
    assert severities(around.files(held, VM)) == {"secrets.files": "fail"}
    assert severities(around.files(held, COMPOSE)) == {"secrets.files": "warn"}
    assert severities(around.files(held, KUBERNETES)) == {}
    path.chmod(0o640)
    assert severities(around.files(held, VM)) == {"secrets.files": "ok"}
    assert severities(around.files({"X": tmp_path / "none"}, VM)) == {"secrets.files": "fail"}
    by_path = manifest(SHIPPED.replace("env:BANK_API_KEY", f"file:{path}"))
    assert around.secret_files(settings(), by_path, {}) == {f"file:{path}": path}


def test_addresses_of_outsiders_are_looked_at():
    found = {one.where: one for one in around.outsiders(manifest())}
    assert set(found) == {"providers.email.host", "providers.bank.base_url"}
    bank = found["providers.bank.base_url"]
    assert severities(around.outside(bank, Reach.LOOPBACK, KUBERNETES)) == {bank.where: "fail"}
    assert around.outside(bank, Reach.LOOPBACK, VM) == []
    assert severities(around.outside(bank, Reach.PUBLIC, VM)) == {bank.where: "fail"}
    assert severities(around.outside(bank, Reach.PRIVATE, VM)) == {bank.where: "warn"}


def test_links_that_lead_nowhere_are_told():
    def found(url: str) -> dict[str, str]:
        links = f'\n[approvals]\nurl = "{url}"\nlink_key = "env:LINKS"\n'
        return severities(around.links(manifest(SHIPPED.replace("\n[approvals]", links)), KUBERNETES))

    assert found("http://localhost:8300") == {"approvals.url": "fail"}
    assert found("http://fleet.example.com") == {"approvals.url": "warn"}
    assert found("https://fleet.example.com") == {}


def test_a_collector_on_a_containers_loopback_is_told():
    name = "OTEL_EXPORTER_OTLP_ENDPOINT"
    assert severities(around.collector({name: "http://127.0.0.1:4318"}, COMPOSE)) == {"traces.address": "warn"}
    assert severities(around.collector({name: "http://otel-collector:4318"}, COMPOSE)) == {}
    assert severities(around.collector({name: "http://127.0.0.1:4318"}, VM)) == {}


async def test_real_servers_are_looked_at_from_within(operator, valkey):
    operator.settings["FLEET_REDIS_URL"] = valkey
    told = await operator.aside("doctor", "--json", "--target", "kubernetes", "--target", "temporal-cloud")
    assert told.returncode == 2
    document = json.loads(told.stdout)
    assert document["targets"] == ["kubernetes", "temporal-cloud"]
    kinds = ("temporal.", "cloud.", "redis.", "database.", "process.", "payloads.")
    found = severities(Diagnosis(**one) for one in document["findings"] if one["component"].startswith(kinds))
    for component, severity in {
        "temporal.address": "fail",
        "temporal.retention": "warn",
        "temporal.version": "ok",
        "cloud.address": "fail",
        "cloud.identity": "fail",
        "redis.memory": "ok",
        "redis.user": "warn",
        "redis.persistence": "warn",
        "database.kind": "fail",
        "process.health": "fail",
        "payloads.keys": "warn",
    }.items():
        assert found[component] == severity, component


async def test_without_a_target_it_only_asks(operator, valkey):
    told = await operator.aside("doctor", "--json")
    findings = json.loads(told.stdout)["findings"]
    assert {tuple(one) for one in findings} == {("component", "ok", "detail")}
    assert {one["component"] for one in findings} >= {"temporal", "redis", "database", "payloads"}


@pytest.mark.parametrize(
    ("pool", "asked"),
    [
        ("llm", {"providers.openai"}),
        ("search", {"providers.search"}),
        ("payments", {"database", "providers.bank"}),
        ("approvals", {"database", "providers.email", "endpoints.hook"}),
        ("webhook", {"database", "endpoints.hook"}),
        ("memory", {"database"}),
        ("agents", set()),
    ],
)
def test_of_one_pool_only_what_it_needs_is_asked(fleet, pool, asked):
    away = {"TEMPORAL_ADDRESS": "127.0.0.1:1", "FLEET_REDIS_URL": "redis://127.0.0.1:1"}
    told = fleet("doctor", "--json", "--pool", pool, **away)
    found = {one["component"] for one in json.loads(told.stdout)["findings"]}
    assert found == {"temporal", "redis", "payloads", *asked}


def test_an_unknown_pool_is_refused(fleet):
    assert "--pool 'lm': the manifest has agents, llm" in fleet.refused("doctor", "--pool", "lm")


def test_what_does_not_answer_is_told_once(fleet, tmp_path: Path):
    told = fleet(
        "doctor", "--target", "compose", TEMPORAL_ADDRESS="127.0.0.1:1", FLEET_REDIS_URL="redis://u:hush@127.0.0.1:1"
    )
    assert told.returncode == 2
    lines = told.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.split()[1:2] == ["redis.address"]] == ["FAILS"]
    assert not [line for line in lines if line.split()[1:2] == ["redis.memory"]]
    assert "hush" not in told.stdout + told.stderr


def test_an_unknown_target_is_refused(fleet):
    assert "'nomad'" in fleet.refused("doctor", "--target", "nomad")


async def around_pool(monkeypatch, pool, text: str = SHIPPED) -> list[Diagnosis]:
    """What is seen from within a pod of that pool, which has no other pool's settings; nobody answers anywhere."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    there = settings(redis_url="redis://127.0.0.1:1", health_host="0.0.0.0", health_port=8303)
    used = needs(manifest(text), pool)
    seen = await servers.examine(there, manifest(text), KUBERNETES, used)
    return [*seen.findings, *await around.examine(there, manifest(text), KUBERNETES, (), used)]


@pytest.mark.parametrize("pool", ["agents", "llm", "search", "email", "payments", "approvals", "memory", "webhook"])
async def test_a_pod_is_told_nothing_of_what_its_pool_does_not_need(monkeypatch, tmp_path, pool):
    monkeypatch.setenv("FLEET_STATE_DIR", str(tmp_path / "state"))
    links = '\n[approvals]\nurl = "http://localhost:8300"\nlink_key = "env:LINKS"\n'
    found = await around_pool(monkeypatch, pool, SHIPPED.replace("\n[approvals]", links))
    used = needs(manifest(), pool)
    told = {one.component for one in found}
    general = {
        "temporal.address", "redis.address", "process.user", "process.state", "process.build", "process.health",
    }  # fmt: skip
    own = {
        "search": set(),
        "email": {"providers.email.host"},
        "payments": {"providers.bank.base_url"},
        "approvals": {"providers.email.host", "approvals.url"},
    }.get(pool, set())
    assert told - general <= own | ({"database.kind"} if "database" in used else set())
    assert ("database.kind" in told) is ("database" in used)
    assert ("approvals.url" in told) is (pool == "approvals")
    state = next(one.detail for one in found if one.component == "process.state")
    assert ("the SQLite ledger" in state) is ("database" in used and pool != "search")
    assert ("corpus" in state) is (pool == "search")


def test_a_pods_files_are_those_of_its_own_secrets(tmp_path):
    there = settings(payload_keys="file:/keys", codec_tokens="file:/tokens")
    variables = {f"{name}_FILE": f"/run/{name}" for name in ("OPENAI_API_KEY", "BANK_API_KEY", "FLEET_DATABASE_URL")}

    def held(pool: str) -> set[str]:
        return set(around.secret_files(there, manifest(), variables, needs(manifest(), pool)))

    assert held("llm") == {"file:/keys", "OPENAI_API_KEY_FILE"}
    assert held("payments") == {"file:/keys", "BANK_API_KEY_FILE", "FLEET_DATABASE_URL_FILE"}
    assert held("agents") == {"file:/keys"}
    everything = set(around.secret_files(there, manifest(), variables))
    assert everything == {"file:/keys", "file:/tokens", *variables}


def test_a_look_makes_no_folder(fleet, tmp_path):
    away = {"TEMPORAL_ADDRESS": "127.0.0.1:1", "FLEET_REDIS_URL": "redis://127.0.0.1:1"}
    told = fleet("doctor", "--target", "local", FLEET_STATE_DIR=str(tmp_path / "none"), **away)
    assert f"there is no {tmp_path / 'none' / 'ledger.db'} yet: run `fleet db upgrade`" in told.stdout
    assert not (tmp_path / "none").exists()


def test_keys_in_files_that_others_name_are_looked_at(tmp_path):
    (tmp_path / "temporal.toml").write_text('[profile.default]\napi_key = "hush"\n')
    held = around.secret_files(
        settings(
            tls_certificate=tmp_path / "both.pem",
            redis_url="rediss://h?ssl_keyfile=/r.key",
            database_url="postgresql+asyncpg://h/n?sslcert=/d.crt&sslkey=/d.key",
        ),
        manifest(),
        {"TEMPORAL_CONFIG_FILE": str(tmp_path / "temporal.toml")},
    )
    assert {name: path.name for name, path in held.items()} == {
        "FLEET_TLS_CERTIFICATE": "both.pem",
        "TEMPORAL_CONFIG_FILE": "temporal.toml",
        "ssl_keyfile of FLEET_REDIS_URL": "r.key",
        "sslkey of FLEET_DATABASE_URL": "d.key",
    }
    (tmp_path / "temporal.toml").write_text('[profile.default]\naddress = "h:7233"\n')
    apart = settings(tls_certificate=tmp_path / "tls.crt", tls_key=tmp_path / "tls.key")
    assert around.secret_files(apart, manifest(), {"TEMPORAL_CONFIG_FILE": str(tmp_path / "temporal.toml")}) == {}


def test_a_store_is_as_new_as_the_page_of_servers_says():
    # docs/servers.md: Valkey 8+ or Redis 7+
    found = servers.redis(server(version=(7, 2, 8)), Reach.PRIVATE, KUBERNETES)
    assert severities(found)["redis.version"] == "fail"


def test_without_a_replica_the_posture_says_what_happens():
    def told(posture: str) -> str:
        found = servers.redis(server(replicas=0), Reach.PRIVATE, KUBERNETES, posture)
        return next(one.detail for one in found if one.component == "redis.replicas")

    assert "no call starts (posture pause)" in told("pause")
    assert "each process paces itself (posture degrade)" in told("degrade")
