"""Objects of Kubernetes: whether they are what its own schemas say, and what every fleet promises about its pods."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from kubernetes_validate.utils import latest_version, schema_contents
from pydantic import ValidationError
from referencing import Registry, Resource
from typer.main import get_command

from fleet.cli import main
from fleet.manifest import Manifest
from fleet.settings import Settings

SCHEMAS = Path(__file__).with_name("schemas")
VERSIONS = (latest_version(), "1.30.0")
"""The newest that there is a schema of, and the oldest that the chart says it runs on."""
MODELS: Mapping[str, str] = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}
"""Made from the CRDs of the projects themselves; read when they are needed, which takes seconds."""
POD = ("Deployment", "Job", "WorkerDeployment")
"""Kinds that have pods."""
IN_POD = {
    "TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "TEMPORAL_API_KEY", "TEMPORAL_TLS", "TEMPORAL_TLS_SERVER_NAME",
    "TEMPORAL_TLS_SERVER_CA_CERT_PATH", "TEMPORAL_TLS_CLIENT_CERT_PATH",
    "TEMPORAL_TLS_CLIENT_KEY_PATH", "OTEL_EXPORTER_OTLP_ENDPOINT",
}  # fmt: skip
NEEDS = {
    "console": {"TEMPORAL_ADDRESS", "FLEET_DATABASE_URL"},
    "exporter": {"TEMPORAL_ADDRESS", "FLEET_DATABASE_URL", "FLEET_REDIS_URL"},
    "db": {"FLEET_DATABASE_URL"},
    "init": {"TEMPORAL_ADDRESS"},
}
"""What a command cannot do without, or nobody could use."""
RETAINED = {"fleet-manifest-538af48c3c"}
"""ConfigMaps of releases before, which sets name."""
SECRET = re.compile(r"(_KEY|_SECRET|_PASSWORD|_TOKEN|FLEET_REDIS_URL|FLEET_DATABASE_URL)$")

Object = Mapping[str, Any]


def modelled(found: Object) -> bool:
    """Whether it is of another project, whose models take seconds to read."""
    template = found.get("spec", {}).get("template", {}) if found["kind"] == "WorkerResourceTemplate" else found
    return template["apiVersion"] in MODELS


def misshapen(found: Object) -> list[str]:
    """Where the object is not what its kind's schema says, keys that are unknown to it included."""
    return _misshapen(json.dumps(found))


@cache
def _misshapen(text: str) -> list[str]:
    # sets have most objects in common
    found = json.loads(text)
    if found["apiVersion"] in MODELS:
        return _by_model(getattr(import_module(MODELS[found["apiVersion"]]), found["kind"]), found)
    if found["apiVersion"].startswith("temporal.io/"):
        return _told(_own(found["kind"]), found) + _within(found)
    return [f"{version}: {one}" for version in VERSIONS for one in _by_schema(version, found)]


def _within(found: Object) -> list[str]:
    """Of what the worker controller makes of the object."""
    match found["kind"]:
        case "WorkerResourceTemplate":
            return misshapen(_filled(found["spec"]["template"]))
        case "WorkerDeployment":
            return _by_schema(VERSIONS[0], _pod_of(found))
        case _:
            return []


def _by_schema(version: str, found: Object) -> list[str]:
    return _told(_validator(version, found["kind"].lower(), found["apiVersion"]), found)


def _told(validator: Draft202012Validator, found: Object) -> list[str]:
    return [f"{_name(found)} {'.'.join(map(str, e.absolute_path))}: {e.message}" for e in validator.iter_errors(found)]


@cache
def _validator(version: str, kind: str, api: str) -> Draft202012Validator:
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)
    schema = schema_contents(f"{folder}/{kind}-{group}.json", version)
    return Draft202012Validator(schema, registry=_definitions(folder, version))


@cache
def _definitions(folder: str, version: str) -> "Registry[Any]":
    return Resource.from_contents(schema_contents(f"{folder}/_definitions.json", version)) @ Registry()


@cache
def _own(kind: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((SCHEMAS / f"{kind}.json").read_text()))


def _by_model(model: Any, found: Object) -> list[str]:
    try:
        dumped = model.model_validate(found).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValidationError as error:
        return [f"{_name(found)} {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return [f"{_name(found)} {path}: unknown" for path in _lost(found, dumped)]


def _lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Keys that the model has not taken."""
    if isinstance(given, Mapping):
        for key, value in given.items():
            if not isinstance(kept, Mapping) or key not in kept:
                yield f"{path}.{key}"
            else:
                yield from _lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(kept, list):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{path}.{number}")


def _filled(template: Object) -> Object:
    """What the worker controller makes of a template: it fills in name and target."""
    spec = dict(template["spec"])
    assert spec["scaleTargetRef"] == {}
    spec["scaleTargetRef"] = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "made"}
    return {**template, "metadata": {"name": "made"}, "spec": spec}


def _pod_of(found: Object) -> Object:
    template = found["spec"]["template"]
    labels = template["metadata"]["labels"]
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": found["metadata"]["name"]},
        "spec": spec,
    }


# ---- promises


def broken(objects: list[dict[str, Any]], manifest: Manifest) -> list[str]:
    """What these objects promise and do not keep, a line each."""
    found = [*_names(objects), *_budgets(objects), *_networks(objects), *_scaled(objects), *_mounted(objects)]
    found += [*_hooked(objects), *_taken(objects), *_drained(objects)]
    for one in objects:
        if one["kind"] in POD:
            found += [f"{_name(one)}: {why}" for why in _pod(one, manifest)]
            found += [f"{_name(one)}: {why}" for why in _selects(one)]
        if one["kind"] in ("Service", "PodMonitor") and not _matched(objects, _selector(one)):
            found.append(f"{_name(one)}: selects no pod")
    return found


def _names(objects: list[dict[str, Any]]) -> Iterator[str]:
    seen = [(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in objects]
    yield from (f"{kind} {name} is there twice" for _, kind, name in {s for s in seen if seen.count(s) > 1})
    for _, kind, name in seen:
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
            yield f"{kind} {name}: is no name of DNS"


def _pod(one: Object, manifest: Manifest) -> Iterator[str]:
    spec = one["spec"]["template"]["spec"]
    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") != 10001:
        yield "may run as root"
    if security.get("fsGroup") != 10001:
        yield "may not read its secrets"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"
    if spec.get("automountServiceAccountToken") is not False:
        yield "gets a token of Kubernetes"
    if spec.get("enableServiceLinks") is not False:
        yield "gets variables of every Service"
    if {"hostNetwork", "hostPID", "hostIPC"} & set(spec):
        yield "shares its machine's namespaces"
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        yield from (f"{container['name']}: {why}" for why in _container(container, spec))
    if (args := spec["containers"][0]["args"])[0] == "worker":
        yield from _worker(one, args[1], manifest)


def _container(container: Object, spec: Object) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("readOnlyRootFilesystem") is not True:
        yield "may write into its image"
    if security.get("allowPrivilegeEscalation") is not False or security.get("capabilities") != {"drop": ["ALL"]}:
        yield "has privileges"
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
        yield "asks for no resources, or may use any memory"
    if "cpu" in resources.get("limits", {}):
        yield "is throttled"
    if not re.fullmatch(r"[^@: ]+(:\d+/[^@: ]+)?(:[\w.-]+)?(@sha256:[0-9a-f]{64})?", container["image"]):
        yield f"{container['image']} is no image"
    yield from _command(container)
    yield from _environment(container.get("env", []))
    yield from _files(container, spec)
    mounted = [mount["name"] for mount in container.get("volumeMounts", [])]
    if strangers := set(mounted) ^ {volume["name"] for volume in spec["volumes"]}:
        yield f"volumes are not mounted, or mounts have no volume: {sorted(strangers)}"
    if not {"/tmp", "/var/lib/fleet"} <= {mount["mountPath"] for mount in container["volumeMounts"]}:
        yield "has nowhere to write"


def _command(container: Object) -> Iterator[str]:
    """What is wrong with its command, and with how it is asked whether it lives."""
    args = container["args"]
    if why := _refused(tuple(args)):
        yield f"fleet {' '.join(args)}: {why}"
    if missing := NEEDS.get(args[0], set()) - {v["name"] for v in container["env"]}:
        yield f"fleet {args[0]} is not told {sorted(missing)}"
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    if "--host" in args and [args[2], args[4]] != ["0.0.0.0", str(ports["http"])]:
        yield "listens where nobody asks"
    ready = "/ready" if args[0] == "worker" else "/live"
    for probe, path in (("startupProbe", "/live"), ("livenessProbe", "/live"), ("readinessProbe", ready)):
        asked = container.get(probe, {}).get("httpGet", {})
        if ports and asked.get("port") not in ports:
            yield f"{probe}: is of no port"
        if ports and asked.get("path") != path:
            yield f"{probe}: asks {asked.get('path')}, not {path}"


def _files(container: Object, spec: Object) -> Iterator[str]:
    """Files that its variables name and that are nowhere."""
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: volumes.get(mount["name"], {}) for mount in container["volumeMounts"]}
    for one in container["env"]:
        path = Path(one.get("value", "").removeprefix("file:"))
        if not path.is_absolute() or str(path) in mounts:
            continue
        volume = mounts.get(str(path.parent))
        items = (volume or {}).get("secret", {}).get("items", [{"path": path.name}])
        if volume is None or path.name not in [item["path"] for item in items]:
            yield f"{one['name']}: there is no {path}"


def _environment(variables: list[dict[str, Any]]) -> Iterator[str]:
    names = [one["name"] for one in variables]
    yield from (f"{name} is there twice" for name in {n for n in names if names.count(n) > 1})
    settings = {f"FLEET_{name.upper()}" for name in Settings.model_fields} | IN_POD
    for one in variables:
        name, secret = one["name"], one.get("valueFrom", {}).get("secretKeyRef")
        if SECRET.search(name) and not name.startswith("FLEET_TLS_") and secret is None:
            yield f"{name} is no secret"
        if secret is not None and (not secret.get("name") or not secret.get("key") or "value" in one):
            yield f"{name}: names no secret, or says it"
        if secret is None and name.startswith(("FLEET_", "TEMPORAL_", "OTEL_")) and name not in settings:
            yield f"{name} is no setting"


def _worker(one: Object, pool: str, manifest: Manifest) -> Iterator[str]:
    if pool not in manifest.pools:
        yield f"there is no pool {pool}"
        return
    template = one["spec"]["template"]
    if template["metadata"]["labels"].get("agent-fleet/pool") != pool:
        yield "is labelled as another pool"
    if template["spec"].get("terminationGracePeriodSeconds", 30) <= manifest.pools[pool].drain.total_seconds() + 5:
        yield "is killed while it drains"
    environment = {v["name"]: v for v in template["spec"]["containers"][0]["env"]}
    if environment["FLEET_HEALTH_HOST"]["value"] != "0.0.0.0":
        yield "its probes are not reachable"
    port = template["spec"]["containers"][0]["ports"][0]["containerPort"]
    if environment["FLEET_HEALTH_PORT"]["value"] != str(port):
        yield "its probes are on another port"
    strategy = one["spec"].get("strategy", {}).get("rollingUpdate", {"maxUnavailable": 0})
    if strategy["maxUnavailable"] != 0:
        yield "stops before another one serves"


def _selects(one: Object) -> Iterator[str]:
    wanted = one["spec"].get("selector", {}).get("matchLabels", {})
    labels = one["spec"]["template"]["metadata"]["labels"]
    if one["kind"] == "Deployment" and (not wanted or not wanted.items() <= labels.items()):
        yield "does not select its own pods"
    for spread in one["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
        if not spread["labelSelector"]["matchLabels"].items() <= labels.items():
            yield "spreads other pods"


def _budgets(objects: list[dict[str, Any]]) -> Iterator[str]:
    for one in objects:
        if one["kind"] == "PodDisruptionBudget" and not _matched(objects, _selector(one)):
            yield f"{_name(one)}: selects no pod"


def _networks(objects: list[dict[str, Any]]) -> Iterator[str]:
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    pods = [one for one in objects if one["kind"] in POD] if policies else []
    for one in pods:
        mine = [p["spec"] for p in policies if _fits(p["spec"]["podSelector"], _labels(one))]
        yield from (f"{_name(one)}: {why}" for why in _ways(one, mine))
    for policy in policies:
        if not any(_fits(policy["spec"]["podSelector"], _labels(one)) for one in pods):
            yield f"{_name(policy)}: selects no pod"
        if not all(rule.get("from") for rule in policy["spec"].get("ingress", [])):
            yield f"{_name(policy)}: lets anybody in"


def _ways(one: Object, policies: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with the ways in and out of a pod."""
    if not any(
        set(p["policyTypes"]) == {"Ingress", "Egress"} and not p.keys() & {"ingress", "egress"} for p in policies
    ):
        yield "is not closed by default"
    into, out = (
        {port["port"] for p in policies for rule in p.get(way, []) for port in rule["ports"]}
        for way in ("ingress", "egress")
    )
    for container in one["spec"]["template"]["spec"]["containers"]:
        if closed := {port["containerPort"] for port in container.get("ports", [])} - into:
            yield f"nobody reaches {closed}"
        names = {v["name"] for v in container["env"]} | (
            {"TEMPORAL_ADDRESS"} if one["kind"] == "WorkerDeployment" else set()
        )
        for name, port in (("FLEET_REDIS_URL", 6379), ("FLEET_DATABASE_URL", 5432), ("TEMPORAL_ADDRESS", 7233)):
            if (name in names) != (port in out):
                yield f"{name} and the way to port {port} do not go together"


def _scaled(objects: list[dict[str, Any]]) -> Iterator[str]:
    fixed = {(o["kind"], o["metadata"]["name"]): "replicas" in o["spec"] for o in objects if o["kind"] in POD}
    for one in objects:
        if one["kind"] in ("ScaledObject", "HorizontalPodAutoscaler", "WorkerResourceTemplate"):
            reference = one["spec"].get("scaleTargetRef") or one["spec"]["workerDeploymentRef"]
            kind = "WorkerDeployment" if "workerDeploymentRef" in one["spec"] else "Deployment"
            if (kind, reference["name"]) not in fixed:
                yield f"{_name(one)}: scales nothing"
            elif fixed[kind, reference["name"]]:
                yield f"{_name(one)}: scales what is set to a number of processes"
            spec = one["spec"].get("template", one)["spec"]
            for trigger in spec.get("triggers", []):
                wanted = trigger.get("authenticationRef", {}).get("name")
                if wanted and not any(
                    (o["kind"], o["metadata"]["name"]) == ("TriggerAuthentication", wanted) for o in objects
                ):
                    yield f"{_name(one)}: there is no {wanted}"


def _mounted(objects: list[dict[str, Any]]) -> Iterator[str]:
    there = {o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"} | RETAINED
    for one in objects:
        for volume in _volumes(one):
            if "configMap" in volume and volume["configMap"]["name"] not in there:
                yield f"{_name(one)}: there is no ConfigMap {volume['configMap']['name']}"
    accounts = {o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"} | {"default"}
    for one in objects:
        if one["kind"] in POD and one["spec"]["template"]["spec"].get("serviceAccountName", "default") not in accounts:
            yield f"{_name(one)}: its account does not exist"


def _hooked(objects: list[dict[str, Any]]) -> Iterator[str]:
    """What runs before the release, and needs what is only made with it or later."""
    weights = {
        (one["kind"], one["metadata"]["name"]): int(one["metadata"]["annotations"].get("helm.sh/hook-weight", 0))
        for one in objects
        if one["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-install,pre-upgrade"
    }
    for one in objects:
        if one["kind"] == "Job":
            needed = [("ConfigMap", v["configMap"]["name"]) for v in _volumes(one) if "configMap" in v]
            mine = weights.get(("Job", one["metadata"]["name"]))
            if mine is None or not all(weights.get(key, mine) < mine for key in needed):
                yield f"{_name(one)}: comes before what it needs, or after the release"


def _taken(objects: list[dict[str, Any]]) -> Iterator[str]:
    """Deployments that take each other's pods, or of the worker controller that have no connection."""
    connections = {one["metadata"]["name"] for one in objects if one["kind"] == "Connection"}
    pods = [one for one in objects if one["kind"] in POD]
    for one in pods:
        if one["kind"] == "WorkerDeployment":
            if one["spec"]["workerOptions"]["connectionRef"]["name"] not in connections:
                yield f"{_name(one)}: there is no such Connection"
        elif one["kind"] == "Deployment":
            others = [other for other in pods if other is not one and _fits(_selector(one), _labels(other))]
            yield from (f"{_name(one)}: takes the pods of {_name(other)}" for other in others)


def _drained(objects: list[dict[str, Any]]) -> Iterator[str]:
    """Pods that a Service leads to, and that stop before it knows."""
    for service in objects:
        if service["kind"] == "Service":
            for one in objects:
                if one["kind"] in POD and _fits(_selector(service), _labels(one)):
                    container = one["spec"]["template"]["spec"]["containers"][0]
                    if not container.get("lifecycle", {}).get("preStop"):
                        yield f"{_name(one)}: stops while requests come"


def _volumes(one: Object) -> Iterable[dict[str, Any]]:
    return one["spec"]["template"]["spec"]["volumes"] if one["kind"] in POD else ()


def _selector(one: Object) -> Object:
    selector = one["spec"]["selector"]
    return selector if "matchLabels" in selector else {"matchLabels": selector}


def _matched(objects: list[dict[str, Any]], selector: Object) -> bool:
    return any(_fits(selector, _labels(one)) for one in objects if one["kind"] in POD)


def _labels(one: Object) -> Mapping[str, str]:
    labels: Mapping[str, str] = one["spec"]["template"]["metadata"]["labels"]
    return labels


def _fits(selector: Object, labels: Mapping[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    return all(
        (labels.get(one["key"]) in one["values"]) == (one["operator"] == "In")
        for one in selector.get("matchExpressions", [])
    )


def _name(one: Object) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


@cache
def _refused(words: tuple[str, ...]) -> str:
    """Why the real command line does not take the words."""
    rest, command, path = list(words), get_command(main.app), ["fleet"]
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            return f"there is no such command: {rest[:1]}"
        path.append(rest.pop(0))
        command = command.commands[path[-1]]
    try:
        command.make_context(" ".join(path), rest)
    except Exception as error:  # noqa: BLE001 - click's usage errors: typer carries a click of its own
        return str(getattr(error, "message", error))
    return ""
