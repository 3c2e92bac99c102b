"""The Helm chart: bad values are refused with their name, and what is broken in the chart itself is found."""

import shutil
from pathlib import Path

import pytest

from fleet.deploying.capacity import allowed
from tests.deploy import helm, kubernetes

# ---- values that are refused


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("defaults", 'temporal.address=""', "temporal.address is empty"),
        ("defaults", 'temporal.address="http://temporal:7233"', "temporal"),
        ("defaults", "redis.url={}", None),
        ("defaults", 'redis.url.name=""', "redis"),
        ("defaults", 'database.url={"name": "db"}', None),
        ("defaults", 'manifest=""', "manifest is empty"),
        ("defaults", "pools.llm.replica=3", "replica"),
        ("defaults", "pools.llm.slots=0", "slots"),
        ("defaults", "pools.llm.replicas=-1", "replicas"),
        ("defaults", 'image.tag="a b"', "tag"),
        ("defaults", 'image.digest="sha256:short"', "digest"),
        ("defaults", 'autoscaling.mode="vpa"', "mode"),
        ("defaults", 'versioning.mode="fleet"', "versioning.buildId is empty"),
        (
            "defaults",
            'versioning.mode="controller"',
            'set task_queue = "agents/fleet-agents" in [pools.agents]',
        ),
        ("defaults", 'versioning.keep=[{"buildId": "v1", "pools": {"llm": 1}}]', "builds are kept in mode fleet only"),
        (
            "builds",
            'versioning.keep=[{"buildId": "v2", "pools": {"llm": 1}}]',
            "v2 is the build that is being deployed",
        ),
        ("builds", 'versioning.keep=[{"buildId": "v1", "pools": {"lm": 1}}]', "there is no pool lm"),
        ("controller", 'autoscaling.mode="hpa"', "use keda"),
        ("controller", "versioning.rollout.steps=[]", "Progressive needs steps"),
        ("cloud", "temporal.tls.enabled=false", "a key would be sent in the clear"),
        ("cloud", 'temporal.mtls.secret="client"', "one of the two"),
        ("on", 'quota.reason=""', "quota.reason empty"),
        ("on", 'console.ingress.tlsSecret=""', "console.ingress: needs host and tlsSecret"),
        ("defaults", "codecServer.enabled=true", "codecServer: needs tokens or issuer"),
        ("defaults", 'pools.llm.secrets=["OTHER_KEY"]', "pools.llm needs OTHER_KEY"),
        ("defaults", "networkPolicy.providers.ports=[0]", "ports"),
        ("defaults", 'console.service.type="ExternalName"', "service"),
    ],
)
def test_bad_values_are_refused_with_their_name(name, changed, said, rendered):
    key = changed.partition("=")[0].split("=")[0]
    with pytest.raises(helm.Refused) as refused:
        helm.template(rendered(name), helm.VALUES / f"{name}.yaml", sets=[changed])
    assert (said or key.split(".")[0]) in str(refused.value)


def test_more_processes_than_the_quota_keeps_busy_are_refused_with_the_arithmetic(rendered):
    with pytest.raises(helm.Refused) as refused:
        helm.template(rendered("defaults"), helm.VALUES / "defaults.yaml", sets=["pools.llm.maxReplicas=3"])
    told = str(refused.value)
    llm = next(pool for pool in helm.plan("defaults").pools if pool.name == "llm")
    assert (
        f"pools.llm.maxReplicas: 3 x {llm.slots} slots = {3 * llm.slots}, but the quota keeps {llm.useful_slots} busy"
        in told
    )
    assert all(line in told for line in llm.arithmetic)
    assert f"to at most {llm.allowed_replicas}, or" in told


def test_the_chart_counts_processes_as_the_plan_does(rendered):
    counts = {"agents": (128, 64, 2), "llm": (129, 64, 3), "search": (1, 64, 1), "email": (64, 64, 1)}
    given = []
    for pool, (useful, slots, most) in counts.items():
        assert allowed(slots, useful) == most
        given += [
            f"pools.{pool}.usefulSlots={useful}",
            f"pools.{pool}.slots={slots}",
            f"pools.{pool}.maxReplicas={most}",
        ]
    helm.template(rendered("defaults"), helm.VALUES / "defaults.yaml", sets=given)
    for pool, (_, _, most) in list(counts.items())[1:3]:
        with pytest.raises(helm.Refused, match=f"pools.{pool}.maxReplicas to at most {most},"):
            helm.template(
                rendered("defaults"),
                helm.VALUES / "defaults.yaml",
                sets=[*given, f"pools.{pool}.maxReplicas={most + 1}"],
            )


# ---- the chart itself, broken

MUTATIONS: dict[str, list[tuple[str, str, str]]] = {
    "_pods.tpl": [
        ("runAsNonRoot: true", "runAsNonRoot: false", "may run as root"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "may write into its image"),
        ("drop: [ALL]", "drop: [NET_RAW]", "has privileges"),
        ("automountServiceAccountToken: false", "automountServiceAccountToken: true", "gets a token of Kubernetes"),
        ("type: RuntimeDefault", "type: Unconfined", "has no seccomp profile"),
        ("- name: FLEET_LOG_LEVEL", "- name: FLEET_LOGLEVEL", "FLEET_LOGLEVEL is no setting"),
        ("mountPath: /tmp", "mountPath: /temp", "has nowhere to write"),
        ("secretKeyRef:", "fieldRef:", "FLEET_REDIS_URL is no secret"),
        ("topologyKey:", "topologicalKey:", "'topologicalKey' were unexpected"),
        ("matchLabelKeys:", "matchLabelKey:", "('matchLabelKey', "),
    ],
    "_worker.tpl": [
        ("args: [worker, {{ .pool | quote }}]", "args: [worker, llm]", "is labelled as another pool"),
        ("args: {{ toJson .args }}", 'args: ["serve"]', "there is no such command: ['serve']"),
        ("add (ceil $spec.drainSeconds) 15", "add 0 15", "is killed while it drains"),
        ('"/live" "port" "health"', '"/live" "port" "probes"', "livenessProbe: is of no port"),
        ('value: "8303"', 'value: "8304"', "its probes are on another port"),
    ],
    "workers.yaml": [
        ("maxUnavailable: 0", "maxUnavailable: 1", "stops before another one serves"),
        ("revisionHistoryLimit: 5", "revisionHistory: 5", "'revisionHistory' was unexpected"),
        (
            'matchLabels:\n      {{- include "agent-fleet.workerLabels" .worker | nindent 6 }}',
            "matchLabels: { agent-fleet/pool: other }",
            "does not select its own pods",
        ),
    ],
    "disruption.yaml": [("agent-fleet/pool: {{ $pool | quote }}", "agent-fleet/pool: pool", "PodDisruptionBudget")],
    "network.yaml": [
        ("policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]", "is not closed by default"),
        ("port: 8303", "port: 8300", "nobody reaches {8303}"),
        (
            '(list "worker" "exporter")',
            '(list "exporter")',
            "FLEET_REDIS_URL and the way to port 6379 do not go together",
        ),
        ('"key" "from"', '"key" "to"', "lets anybody in"),
    ],
    "manifest.yaml": [
        ('(dict "root" $root "text" $text)', '(dict "root" $root "text" "") }}-{{ 1', "there is no ConfigMap")
    ],
    "autoscaling.yaml": [
        ("maxReplicaCount:", "maxReplicasCount:", "maxReplicasCount: unknown"),
        ("    name: {{ $target }}\n  {{- $deployment", "    name: {{ $full }}\n  {{- $deployment", "scales nothing"),
    ],
    "monitoring.yaml": [("honorLabels: true", "honourLabels: true", "honourLabels: unknown")],
    "exporter.yaml": [('"--every"', '"--each"', "No such option: --each")],
    "serviceaccount.yaml": [('include "agent-fleet.serviceAccount" .', '"other"', "its account does not exist")],
}


def _mutated(file: str, chart: Path) -> Path:
    """The chart with all that is to be broken in the file broken."""
    # without what lies outside of it, which is large and has nothing to do with it
    shutil.copytree(helm.CHART, chart, ignore=shutil.ignore_patterns("files"))
    path = chart / "templates" / file
    for old, new, _ in MUTATIONS[file]:
        assert old in path.read_text(), old
        path.write_text(path.read_text().replace(old, new))
    return chart


def _wrong(chart: Path, values: Path, *, modelled: bool) -> str:
    found = helm.template(values, helm.VALUES / "on.yaml", chart=chart)
    shapes = [why for one in found if kubernetes.modelled(one) == modelled for why in kubernetes.misshapen(one)]
    return "\n".join([*kubernetes.broken(found, helm.plan("on").manifest), *shapes])


@pytest.mark.parametrize("file", [file for file in MUTATIONS if file not in ("autoscaling.yaml", "monitoring.yaml")])
def test_what_is_broken_in_a_template_is_found(file, rendered, tmp_path):
    wrong = _wrong(_mutated(file, tmp_path / "fleet"), rendered("on"), modelled=False)
    assert [said for _, _, said in MUTATIONS[file] if said not in wrong] == [], wrong


def test_every_object_of_another_project_is_what_its_models_say(objects, rendered, tmp_path):
    # all of them, and what is broken, in one test: each process that reads the models needs seconds for it
    found = [one for name in helm.SETS for one in objects(name) if kubernetes.modelled(one)]
    assert {one["kind"] for one in found} == {
        *("ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule", "WorkerResourceTemplate"),
    }
    assert [why for one in found for why in kubernetes.misshapen(one)] == []
    for file in ("autoscaling.yaml", "monitoring.yaml"):
        wrong = _wrong(_mutated(file, tmp_path / file), rendered("on"), modelled=True)
        assert [said for _, _, said in MUTATIONS[file] if said not in wrong] == [], wrong
