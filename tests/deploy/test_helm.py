"""The Helm chart: what it becomes is what Kubernetes takes, and keeps what a fleet promises."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet import manifest as manifests
from fleet.contracts.metrics import REGISTRY
from fleet.deploying import helm as rendering
from fleet.deploying import making
from fleet.versions import deployment_of
from tests.deploy import helm, kubernetes


def _kinds(found: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


def _environment(one: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {v["name"]: v for v in one["spec"]["template"]["spec"]["containers"][0]["env"]}


# ---- with each set


@pytest.mark.parametrize("name", helm.SETS)
def test_every_object_is_what_its_kinds_schema_says(name, objects):
    found = objects(name)
    assert found
    assert [why for one in found if not kubernetes.modelled(one) for why in kubernetes.misshapen(one)] == []


@pytest.mark.parametrize("name", helm.SETS)
def test_every_set_keeps_what_a_fleet_promises(name, objects):
    assert kubernetes.broken(objects(name), helm.plan(name).manifest) == []


@pytest.mark.parametrize("name", helm.SETS)
def test_every_pool_of_the_manifest_is_served_by_its_own_processes_with_its_own_secrets(name, objects):
    found, plan = objects(name), helm.plan(name)
    made = [one for one in found if one["kind"] in ("Deployment", "WorkerDeployment")]
    for pool in plan.pools:
        mine = [one for one in made if one["metadata"]["labels"].get("agent-fleet/pool") == pool.name]
        assert mine, pool.name
        for one in mine:
            told = {name for name, v in _environment(one).items() if "secretKeyRef" in v.get("valueFrom", {})}
            assert told - {"FLEET_REDIS_URL", "FLEET_DATABASE_URL", "TEMPORAL_API_KEY"} == set(pool.secrets)
            assert ("FLEET_DATABASE_URL" in told) == pool.database


@pytest.mark.parametrize("name", helm.SETS)
def test_the_manifest_reaches_the_pods_as_it_is(name, objects):
    maps = _kinds(objects(name), "ConfigMap")
    text = helm.plan(name).text
    assert text in [one["data"].get("fleet.toml") for one in maps.values()]
    for one in objects(name):
        if one["kind"] == "Deployment" and one["metadata"]["labels"].get("agent-fleet/build") is None:
            (volume,) = (v for v in one["spec"]["template"]["spec"]["volumes"] if v["name"] == "manifest")
            reads = volume["configMap"]["name"]
            assert reads in kubernetes.RETAINED or maps[reads]["data"]["fleet.toml"]


@pytest.mark.parametrize("name", ["defaults", "on"])
def test_lint_is_content(name, rendered):
    told = helm.run(
        "lint", "--strict", str(helm.CHART), f"--values={rendered(name)}", f"--values={helm.VALUES / name}.yaml"
    )
    assert told.returncode == 0, told
    assert "0 chart(s) failed" in told.stdout


# ---- what single sets are there for


def test_keda_asks_for_the_queue_of_each_pool_and_never_starts_more_than_the_quota_keeps_busy(objects):
    scaled = _kinds(objects("keda"), "ScaledObject")
    plan = helm.plan("keda")
    assert len(scaled) == len(plan.pools) - 1  # memory's own mode is none
    for pool in plan.pools:
        if pool.name == "memory":
            continue
        spec = scaled[f"fleet-{pool.name}"]["spec"]
        (trigger,) = spec["triggers"]
        assert trigger["metadata"]["taskQueue"] == pool.task_queue
        assert trigger["metadata"]["namespace"] == "fleet"
        assert trigger["metadata"]["targetQueueSize"] == ("20" if pool.name == "email" else str(pool.slots))
        assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (pool.replicas, pool.max_replicas)
        assert pool.allowed_replicas is None or spec["maxReplicaCount"] <= pool.allowed_replicas
    queues = {name: one["spec"]["triggers"][0]["metadata"]["queueTypes"] for name, one in scaled.items()}
    assert queues["fleet-agents"] == "workflow"
    assert queues["fleet-llm"] == "activity"
    assert queues["fleet-payments"] == "workflow,activity"


def test_an_hpa_reads_the_exporters_backlog(objects):
    (llm, payments) = (_kinds(objects("hpa"), "HorizontalPodAutoscaler")[f"fleet-{p}"] for p in ("llm", "payments"))
    (metric,) = llm["spec"]["metrics"]
    backlog = metric["external"]["metric"]
    assert set(backlog["selector"]["matchLabels"]) == set(REGISTRY[backlog["name"]].labels)
    assert [m["external"]["metric"]["selector"]["matchLabels"]["type"] for m in payments["spec"]["metrics"]] == [
        "workflow", "activity",
    ]  # fmt: skip
    assert payments["spec"]["metrics"][0]["external"]["target"]["averageValue"] == "4"


def test_builds_lie_beside_each_other_each_with_its_own_image_and_manifest(objects):
    found = objects("builds")
    deployments = _kinds(found, "Deployment")
    new, old = (
        deployments["fleet-agents-v2"],
        next(one for name, one in deployments.items() if name.startswith("fleet-agents-v1-0-rc-")),
    )
    assert _environment(new)["FLEET_BUILD_ID"]["value"] == "v2"
    assert _environment(old)["FLEET_BUILD_ID"]["value"] == "V1.0_rc"
    images = [one["spec"]["template"]["spec"]["containers"][0]["image"] for one in (new, old)]
    assert images == ["registry.example.com:5000/agent-fleet:0.2.0", "registry.example.com:5000/agent-fleet:0.1.0"]
    assert old["spec"]["replicas"] == 2
    selectors = [one["spec"]["selector"]["matchLabels"] for one in (new, old)]
    assert not kubernetes._fits({"matchLabels": selectors[0]}, kubernetes._labels(old))
    (volume,) = (v for v in old["spec"]["template"]["spec"]["volumes"] if v["name"] == "manifest")
    manifest = _kinds(found, "ConfigMap")[volume["configMap"]["name"]]
    assert manifest["data"]["fleet.toml"] == "  # as it was\n"
    assert manifest["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    trigger = _kinds(found, "ScaledObject")["fleet-agents-v2"]["spec"]["triggers"][0]["metadata"]
    assert (trigger["workerDeploymentName"], trigger["workerDeploymentBuildId"]) == ("agents", "v2")


def test_a_kept_build_is_left_alone_by_the_upgrade_to_the_next_one(rendered):
    def templates(changed: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        sets = [f"{key}={json.dumps(value)}" for key, value in changed.items()]
        found = helm.template(rendered("builds"), helm.VALUES / "builds.yaml", sets=sets)
        return _kinds(found, "Deployment")["fleet-agents-v1"]["spec"]["template"], found

    # blanks at its beginning are no indentation
    other = "  # of the next build\n"
    before, found = templates({"versioning.buildId": "v1", "versioning.keep": [], "image.tag": "0.1.0"})
    (reads,) = (v["configMap"]["name"] for v in before["spec"]["volumes"] if v["name"] == "manifest")
    assert _kinds(found, "ConfigMap")[reads]["data"]["fleet.toml"] == helm.plan("builds").text
    kept = {"buildId": "v1", "tag": "0.1.0", "manifestConfigMap": reads, "pools": {"agents": 1}}
    after, found = templates({"versioning.keep": [kept], "manifest": other, "image.tag": "0.2.0"})
    assert after == before
    assert [one["data"]["fleet.toml"] for one in _kinds(found, "ConfigMap").values()] == [other, other]


def test_the_worker_controller_names_deployments_as_our_workers_do(objects):
    found = objects("controller")
    for name, one in _kinds(found, "WorkerDeployment").items():
        pool = one["metadata"]["labels"]["agent-fleet/pool"]
        # its name of a deployment is <namespace>/<name>; ours is made of the task queue
        assert deployment_of(helm.plan("controller").manifest.task_queue(pool)) == f"{helm.NAMESPACE}/{name}"
        environment = _environment(one)
        assert not environment.keys() & {"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "TEMPORAL_API_KEY", "TEMPORAL_TLS"}
        assert (
            environment["FLEET_BUILD_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
            == "metadata.labels['temporal.io/build-id']"
        )
        assert one["spec"]["workerOptions"]["unsafeCustomBuildID"] == "v3"
    template = _kinds(found, "WorkerResourceTemplate")["fleet-llm"]["spec"]["template"]
    trigger = template["spec"]["triggers"][0]["metadata"]
    assert trigger["workerDeploymentName"] == f"{helm.NAMESPACE}/fleet-llm"
    assert trigger["workerDeploymentBuildId"] == "{{temporal_worker_build_id}}"
    assert _kinds(found, "Connection")["fleet"]["spec"] == {"hostPort": "temporal-frontend.temporal:7233"}


def test_temporal_cloud_is_reached_by_an_api_key_from_an_existing_secret(objects):
    found = objects("cloud")
    assert _kinds(found, "Connection")["fleet"]["spec"]["apiKeySecretRef"] == {
        "name": "temporal-cloud",
        "key": "api-key",
    }
    exporter = _environment(_kinds(found, "Deployment")["fleet-exporter"])
    assert exporter["TEMPORAL_TLS"]["value"] == "true"
    assert exporter["TEMPORAL_API_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "temporal-cloud", "key": "api-key"}
    keda = _kinds(found, "TriggerAuthentication")["fleet-temporal"]["spec"]["secretTargetRef"]
    assert keda == [{"parameter": "apiKey", "name": "temporal-cloud", "key": "api-key"}]
    (job,) = _kinds(found, "Job").values()
    assert "initContainers" not in job["spec"]["template"]["spec"]


def test_certificates_are_files_where_the_settings_say(objects):
    found = objects("sentinel")
    pod = _kinds(found, "Deployment")["fleet-email"]["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert {"/etc/fleet/tls/redis", "/etc/fleet/tls/database"} <= set(mounts)
    for name in ("TEMPORAL_TLS_CLIENT_CERT_PATH", "TEMPORAL_TLS_CLIENT_KEY_PATH", "TEMPORAL_TLS_SERVER_CA_CERT_PATH"):
        path = next(v["value"] for v in pod["containers"][0]["env"] if v["name"] == name)
        volume = next(v for v in pod["volumes"] if v["name"] == mounts[str(Path(path).parent)])
        items = volume["secret"].get("items", [{"path": "tls.crt"}, {"path": "tls.key"}])
        assert Path(path).name in [item["path"] for item in items]


def test_who_serves_https_is_probed_so(objects):
    for name in ("defaults", "sentinel"):
        for one in _kinds(objects(name), "Deployment").values():
            container = one["spec"]["template"]["spec"]["containers"][0]
            certified = "FLEET_TLS_CERTIFICATE" in [v["name"] for v in container["env"]]
            probes = [container[f"{kind}Probe"]["httpGet"]["scheme"] for kind in ("startup", "liveness", "readiness")]
            assert probes == ["HTTPS" if certified else "HTTP"] * 3
            assert certified == (name == "sentinel")


def test_a_release_is_migrated_before_anything_of_it_starts(objects):
    job = _kinds(objects("on"), "Job")["fleet-migrate"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    assert [c["args"] for c in pod["initContainers"] + pod["containers"]] == [["db", "upgrade"], ["init"]]
    url = next(v for v in pod["containers"][0]["env"] if v["name"] == "FLEET_DATABASE_URL")
    assert url["valueFrom"]["secretKeyRef"]["name"] == "fleet-database-owner"
    (volume,) = (v for v in pod["volumes"] if "configMap" in v)
    manifest = _kinds(objects("on"), "ConfigMap")[volume["configMap"]["name"]]
    assert int(manifest["metadata"]["annotations"]["helm.sh/hook-weight"]) < int(
        job["metadata"]["annotations"]["helm.sh/hook-weight"]
    )
    assert "serviceAccountName" not in pod  # it does not exist yet


def test_rules_and_dashboards_are_those_of_prometheus_and_grafana(objects):
    found = objects("on")
    rules = [one["spec"] for one in _kinds(found, "PrometheusRule").values()]
    shipped = [yaml.safe_load(p.read_text()) for p in (helm.ROOT / "deploy" / "prometheus" / "rules").glob("*.yml")]
    assert sorted(rules, key=json.dumps) == sorted(shipped, key=json.dumps)
    boards = sorted((helm.ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
    maps = [one for one in _kinds(found, "ConfigMap").values() if "grafana_dashboard" in one["metadata"]["labels"]]
    told = {name: json.loads(text) for one in maps for name, text in one["data"].items()}
    assert told == {path.name: json.loads(path.read_text()) for path in boards}


def test_scraped_processes_have_the_labels_that_rules_and_dashboards_know(objects):
    monitors = _kinds(objects("on"), "PodMonitor")
    for component in ("worker", "exporter"):
        (endpoint,) = monitors[f"fleet-{component}"]["spec"]["podMetricsEndpoints"]
        made = {one["targetLabel"]: one.get("replacement") for one in endpoint["relabelings"]}
        assert made["job"] == f"fleet-{component}"
        assert "process" in made
        assert endpoint["honorLabels"] is True  # the SDK's `namespace` is Temporal's


def test_the_chart_is_packed_with_rules_and_dashboards(tmp_path):
    assert helm.run("package", str(helm.CHART), f"--destination={tmp_path}").returncode == 0
    (packed,) = tmp_path.glob("agent-fleet-*.tgz")
    with tarfile.open(packed) as content:
        names = content.getnames()
    assert "agent-fleet/files/rules/alerts.yml" in names
    assert "agent-fleet/files/dashboards/fleet-overview.json" in names


def test_idle_processes_that_were_asked_for_are_seen_by_everybody(objects):
    one = _kinds(objects("on"), "Deployment")["fleet-llm"]
    assert "two zones" in one["metadata"]["annotations"]["agent-fleet/idle-slots-allowed"]


# ---- values


@pytest.mark.parametrize(
    "text",
    ["a = 1\n", "  a = 1\n\n\n", "a = 1", "# \x85\n", "a = 'tab\there'\r\n", "#\n\n  \n# é \u2028\n", "#: - {}\n# |\n"],
)
def test_any_manifest_is_written_so_that_it_is_read_as_it_is(text):
    assert yaml.safe_load("manifest: " + rendering._block(text)) == {"manifest": text}


def test_an_image_is_taken_apart_and_put_together_again(objects):
    assert rendering._image("a.b:5000/x/y:1@sha256:ab") == {
        "repository": "a.b:5000/x/y",
        "tag": "1",
        "digest": "sha256:ab",
    }
    assert rendering._image("agent-fleet") == {"repository": "agent-fleet", "tag": "", "digest": ""}
    one = _kinds(objects("on"), "Deployment")["fleet-llm"]["spec"]["template"]["spec"]["containers"][0]
    assert one["image"].startswith("registry.example.com:5000/house/agent-fleet@sha256:0123")


def test_the_shipped_values_are_those_of_the_shipped_manifest():
    """Where it differs: `fleet deploy render helm`."""
    text = helm.MANIFEST.read_text()
    shipped = (helm.CHART.parent / "values.yaml").read_text()
    assert shipped == rendering.render(making.make(manifests.load(helm.MANIFEST), text))["values.yaml"]


def test_values_hold_no_secret_and_name_every_one(rendered):
    values = yaml.safe_load(rendered("on").read_text())
    assert set(values["secrets"]) == set(helm.plan("on").secrets)
    assert {"FLEET_KEYS", "FLEET_LINK_KEY"} <= set(values["console"]["secrets"])
    assert values["environment"] == {"FLEET_PAYLOAD_KEYS": "env:FLEET_KEYS"}
    assert values["console"]["enabled"] is True


def test_pools_reach_where_a_relay_tells_what_it_has_accepted():
    text = helm.text("")
    relay = '[providers.email]\nkind = "smtp"\n'
    assert relay in text
    changed = text.replace(relay, f'{relay}lookup_url = "http://mail.example.com:8125/sent"\n', 1)
    ports = rendering._ports(manifests.load(helm.MANIFEST))
    assert rendering._ports(helm.planned(changed).manifest) == ports | {8125}


def test_idle_slots_that_were_allowed_are_told_in_the_values():
    plan = helm.planned(helm.text("") + "\n[deploy.pools.llm]\nmax_replicas = 9\n")
    values = yaml.safe_load(rendering.render(plan)["values.yaml"])
    assert values["quota"]["enforceCap"] is False
    assert "llm: 9 processes" in values["quota"]["reason"]
