"""The Helm chart: bad values are refused with their name, and what is broken in the chart itself is found."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from fleet.deploying.capacity import allowed
from tests.deploy import helm, kubernetes

# ---- values that are refused


def _kept(**said: Any) -> str:
    """`versioning.keep` of one build."""
    return "versioning.keep=" + json.dumps([{"buildId": "v1", "pools": {"agents": 1}, **said}])


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("defaults", 'temporal.address=""', "temporal.address is empty"),
        ("defaults", "redis.url={}", None),
        ("defaults", 'redis.url.name=""', "redis"),
        ("defaults", 'manifest=""', "manifest is empty"),
        ("defaults", 'versioning.mode="fleet"', "versioning.buildId is empty"),
        (
            "defaults",
            'versioning.mode="controller"',
            'set task_queue = "agents/fleet-agents" in [pools.agents]',
        ),
        ("defaults", _kept(tag="1", manifest="#"), "builds are kept in mode fleet only"),
        ("builds", _kept(buildId="v2", tag="1", manifest="#"), "v2 is the build that is being deployed"),
        ("builds", _kept(tag="1", manifest="#", pools={"lm": 1}), "there is no pool lm"),
        (
            "builds",
            _kept(tag="1", manifest="#", pools={"llm": 2}),
            "pool llm: 2 x 64 slots = 128, but the quota keeps 14 busy, whatever the build. Set it to at most 1",
        ),
        ("controller", 'autoscaling.mode="hpa"', "use keda"),
        ("controller", "versioning.rollout.steps=[]", "Progressive needs steps"),
        ("cloud", "temporal.tls.enabled=false", "a key would be sent in the clear"),
        ("cloud", 'temporal.mtls.secret="client"', "one of the two"),
        ("keda", "temporal.tls.enabled=true", "pools.agents: KEDA asks Temporal over TLS only with an API key or a"),
        ("cloud", 'temporal.tls.ca={"name": "ca", "key": "ca.crt"}', "with an API key KEDA does not read"),
        (
            "defaults",
            'temporal.address="temporal.example.com:443"',
            "networkPolicy.temporal.ports: 7233, but temporal.address is on port 443,",
        ),
        ("defaults", 'telemetry.otlpEndpoint="https://otlp"', "telemetry.otlpEndpoint is on port 443, which no pod"),
        ("on", 'codecServer.jwksUrl="https://login:8443/keys"', "codecServer.jwksUrl is on port 8443, which no pod"),
        ("on", 'quota.reason=""', "quota.reason empty"),
        ("on", 'console.ingress.tlsSecret=""', "console.ingress: needs host and tlsSecret"),
        ("defaults", "codecServer.enabled=true", "codecServer: needs tokens or issuer"),
        ("defaults", 'pools.llm.secrets=["OTHER_KEY"]', "pools.llm needs OTHER_KEY"),
    ],
)
def test_bad_values_are_refused_with_their_name(name, changed, said, rendered):
    key = changed.partition("=")[0].split("=")[0]
    with pytest.raises(helm.Refused) as refused:
        helm.template(rendered(name), helm.VALUES / f"{name}.yaml", sets=[changed])
    assert (said or key.split(".")[0]) in str(refused.value)


OUT_OF_BOUNDS = [
    ('temporal.address="http://temporal:7233"', r"temporal.address"),
    ('database.url={"name": "db"}', r"database.url"),
    ("pools.llm.replica=3", r"replica'? (is )?not allowed"),
    ("pools.llm.slots=0", r"pools.llm.slots"),
    ("pools.llm.replicas=-1", r"pools.llm.replicas"),
    ('image.tag="a b"', r"image.tag"),
    ('image.digest="sha256:short"', r"image.digest"),
    ('autoscaling.mode="vpa"', r"autoscaling.mode"),
    ("networkPolicy.providers.ports=[0]", r"networkPolicy.providers.ports.0"),
    ('console.service.type="ExternalName"', r"console.service.type"),
    ('versioning.keep[0]={"buildId": "v1", "manifest": "#", "pools": {"llm": 1}}', r"versioning.keep.0"),
    ('versioning.keep[1]={"buildId": "v1", "manifest": "#", "pools": {"llm": 1}, "tag": ""}', r"versioning.keep.1.tag"),
    ('versioning.keep[2]={"buildId": "v1", "tag": "1", "pools": {"llm": 1}}', r"versioning.keep.2"),
]
"""What the schema refuses, and how it is named, with `.` or `/` by Helm's version."""


def test_values_out_of_bounds_are_refused_all_at_once_with_their_names(rendered):
    with pytest.raises(helm.Refused) as refused:
        helm.template(
            rendered("defaults"), helm.VALUES / "defaults.yaml", sets=[changed for changed, _ in OUT_OF_BOUNDS]
        )
    told = str(refused.value)
    assert [changed for changed, said in OUT_OF_BOUNDS if not re.search(said, told)] == [], told


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
        ("fsGroup: 10001", "fsGroup: 1", "may not read its secrets"),
        ("manifest/fleet.toml", "manifests/fleet.toml", "FLEET_MANIFEST: there is no /etc/fleet/manifests/fleet.toml"),
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
        ('"/ready"', '"/readyz"', "Deployment fleet-llm: worker: readinessProbe: asks /readyz, not /ready"),
        ('"/live" "port" "http"', '"/" "port" "http"', "fleet-exporter: exporter: livenessProbe: asks /, not"),
        ("{{- if .drained }}", "{{- if false }}", "Deployment fleet-console: stops while requests come"),
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
    "_names.tpl": [
        ("component: {{ .component }}", "component: worker", "fleet-exporter: takes the pods of Deployment fleet-llm"),
        ('"%s@%s" $image.repository', '"%s:%s" $image.repository', "agent-fleet:sha256:"),
    ],
    "codec-server.yaml": [
        ("codec/tokens", "codec/token", "FLEET_CODEC_TOKENS: there is no /etc/fleet/codec/token"),
        ("FLEET_CODEC_ISSUER", "FLEET_CODEC_ISSUED", "FLEET_CODEC_ISSUED is no setting"),
        ('"drained" true', '"drained" false', "Deployment fleet-codec-server: stops while requests come"),
    ],
    "console.yaml": [
        ('"drained" true', '"drained" false', "Deployment fleet-console: stops while requests come"),
        ('"database" true', '"database" false', "fleet console is not told ['FLEET_DATABASE_URL']"),
        ('"0.0.0.0"', '"127.0.0.1"', "Deployment fleet-console: console: listens where nobody asks"),
        ('"ready" "/live"', '"ready" "/ready"', "fleet-console: console: readinessProbe: asks /ready, not /live"),
    ],
    "migrate.yaml": [
        ('"db" "upgrade"', '"db" "update"', "there is no such command: ['update']"),
        ('reaches-database: "true"', 'reaches-database: "false"', "Job fleet-migrate: FLEET_DATABASE_URL and the way"),
        ('hook-weight: "-10"', 'hook-weight: "10"', "Job fleet-migrate: comes before what it needs"),
    ],
    "connection.yaml": [
        ('name: {{ include "agent-fleet.fullname" . }}', "name: other", "fleet-llm: there is no such Connection"),
        ("hostPort:", "hostport:", "'hostport' was unexpected"),
        ("key: {{ $temporal.apiKey.key }}", "optional: false", "'key' is a required property"),
    ],
    "exporter.yaml": [('"--every"', '"--each"', "No such option: --each")],
    "serviceaccount.yaml": [('include "agent-fleet.serviceAccount" .', '"other"', "its account does not exist")],
}

BROKEN = [
    ("on", ["_pods.tpl", "_names.tpl"]),
    ("on", ["_worker.tpl", "serviceaccount.yaml"]),
    ("on", ["workers.yaml", "disruption.yaml", "console.yaml", "migrate.yaml"]),
    ("on", ["network.yaml", "manifest.yaml", "exporter.yaml", "codec-server.yaml"]),
    ("cloud", ["connection.yaml"]),
]
"""Files that are broken together, as each rendering costs, and the set of values that needs them."""
MODELLED = ["autoscaling.yaml", "monitoring.yaml"]


def _mutated(files: list[str], chart: Path) -> Path:
    """The chart with all that is to be broken in the files broken."""
    # without what lies outside of it, which is large and has nothing to do with it
    shutil.copytree(helm.CHART, chart, ignore=shutil.ignore_patterns("files"))
    for file in files:
        path = chart / "templates" / file
        for old, new, _ in MUTATIONS[file]:
            assert old in path.read_text(), old
            path.write_text(path.read_text().replace(old, new))
    return chart


def _noted(chart: Path, name: str, values: Path) -> tuple[str, list[dict[str, Any]]]:
    """The notes, which `helm template` does not show unless they are an object, and the objects."""
    notes = chart / "templates" / "NOTES.txt"
    text = f'{{{{ define "notes" }}}}{notes.read_text()}{{{{ end }}}}\nnotes: {{{{ include "notes" . | toJson }}}}\n'
    notes.with_name("notes.yaml").write_text(text)
    found = helm.template(values, helm.VALUES / f"{name}.yaml", chart=chart)
    (told,) = (one["notes"] for one in found if "notes" in one)
    return told, [one for one in found if "notes" not in one]


def _wrong(chart: Path, name: str, values: Path, *, modelled: bool) -> str:
    found = helm.template(values, helm.VALUES / f"{name}.yaml", chart=chart)
    shapes = [why for one in found if kubernetes.modelled(one) == modelled for why in kubernetes.misshapen(one)]
    return "\n".join([*kubernetes.broken(found, helm.plan(name).manifest), *shapes])


def _misleading(notes: str) -> list[str]:
    """Commands in the notes that the real command line does not take."""
    asked = [line.partition(" #")[0].split()[1:] for line in re.findall(r"\bfleet [a-z]+\b.*", notes)]
    assert asked
    return [f"fleet {' '.join(words)}: {why}" for words in asked if (why := kubernetes._refused(tuple(words)))]


def test_the_notes_name_commands_that_exist_and_the_manifest_that_the_next_release_keeps(rendered, tmp_path):
    notes, found = _noted(_mutated([], tmp_path / "fleet"), "builds", rendered("builds"))
    assert _misleading(notes) == []
    (wrong,) = _misleading(notes.replace("rollout promote", "rollout promoted"))
    assert wrong == "fleet rollout promoted v2: there is no such command: ['promoted']"
    assert "llm        1 to 1 processes (keda) of 64 slots; the quota keeps 14 busy" in notes
    (reads,) = re.findall(r"manifestConfigMap: (\S+)", notes)
    (one,) = (one for one in found if one["metadata"]["name"] == reads)
    assert one["data"]["fleet.toml"] == helm.plan("builds").text


def test_every_template_is_broken_by_a_test():
    # the checks are, by values that they refuse, and the notes have a test of their own
    there = {path.name for path in (helm.CHART / "templates").iterdir()}
    assert there - MUTATIONS.keys() == {"_checks.tpl", "NOTES.txt"}
    assert sorted(file for _, files in BROKEN for file in files) == sorted(MUTATIONS.keys() - set(MODELLED))


@pytest.mark.parametrize(("name", "files"), BROKEN, ids=lambda one: one if isinstance(one, str) else one[0])
def test_what_is_broken_in_a_template_is_found(name, files, rendered, tmp_path):
    wrong = _wrong(_mutated(files, tmp_path / "fleet"), name, rendered(name), modelled=False)
    assert [said for file in files for _, _, said in MUTATIONS[file] if said not in wrong] == [], wrong


def test_every_object_of_another_project_is_what_its_models_say(objects, rendered, tmp_path):
    # all of them, and what is broken, in one test: each process that reads the models needs seconds for it
    found = [one for name in helm.SETS for one in objects(name) if kubernetes.modelled(one)]
    assert {one["kind"] for one in found} == {
        *("ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule", "WorkerResourceTemplate"),
    }
    assert [why for one in found for why in kubernetes.misshapen(one)] == []
    wrong = _wrong(_mutated(MODELLED, tmp_path / "fleet"), "on", rendered("on"), modelled=True)
    assert [said for file in MODELLED for _, _, said in MUTATIONS[file] if said not in wrong] == [], wrong
