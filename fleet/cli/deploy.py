"""`fleet deploy …`: the manifest as the files that run it."""

import hashlib
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Final

import typer
from pydantic import ValidationError

from fleet import manifest as manifests
from fleet import settings as environment
from fleet.cli import context, output
from fleet.cli.deploy_app import Target
from fleet.deploying import making
from fleet.deploying.plan import Files, Plan
from fleet.errors import BadInput

MARK: Final = "Written by `fleet deploy render"
"""Stands at the beginning of what this command has written; other files are not overwritten."""

FOLDERS: Final = {Target.COMPOSE: ".", Target.HELM: "helm", Target.SYSTEMD: "systemd"}
"""Where the files of each target lie below `deploy`."""

_DEPLOY: Final = Path("deploy")
_BEGINNING: Final = 1_000
_NAMESPACE: Final = "agents"
"""Of Kubernetes, as docs/kubernetes.md has it."""
_LONGEST: Final = 52
"""Characters of a Deployment's name."""
_SECRETS: Final = ("FLEET_REDIS_URL", "FLEET_DATABASE_URL", "FLEET_DATABASE_OWNER_URL")


def plan(*, image: str | None, build_id: str | None, manifest: Path | None, json: bool) -> None:
    """Tell the plan.

    Raises:
        BadInput: the manifest has problems.
    """
    made, path = _plan(manifest, image, build_id)
    idle = making.idle(made)
    if json:
        output.document(
            {
                "manifest": str(path),
                "ok": not idle,
                "problems": idle,
                "image": made.image,
                "build_id": made.build_id,
                "pools": made.pools,
                "secrets": made.secrets,
                "console_secrets": made.console_secrets,
                "codec_secrets": made.codec_secrets,
            }
        )
        raise typer.Exit(2 if idle else 0)
    typer.echo(f"{path}: image {made.image}, " + (f"build {made.build_id}" if made.build_id else "not versioned"))
    rows = [
        (
            pool.name,
            f"{pool.replicas} to {pool.max_replicas}",
            pool.slots,
            "-" if pool.useful_slots is None else pool.useful_slots,
            f"{pool.cpu}, {pool.memory}",
            ", ".join([*(["FLEET_DATABASE_URL"] if pool.database else []), *pool.secrets]) or "-",
        )
        for pool in made.pools
    ]
    output.table(
        ("POOL", "PROCESSES", "SLOTS EACH", "USEFUL SLOTS", "EACH ASKS FOR", "SECRETS"), rows, empty="no pools"
    )
    typer.echo("")
    for pool in made.pools:
        for line in pool.arithmetic:
            typer.echo(f"{pool.name}: {line}")
    for line in idle:
        output.problem(line)
    raise typer.Exit(2 if idle else 0)


def render(
    target: Target,
    *,
    out: Path | None,
    check: bool,
    force: bool,
    idle: bool,
    image: str | None,
    build_id: str | None,
    manifest: Path | None,
    json: bool,
) -> None:
    """Write the files of a target, or say which would change.

    Raises:
        BadInput: the manifest has problems or asks for slots that would only wait, a file is somebody else's, or the
            folder cannot be written.
    """
    made, path = _plan(manifest, image, build_id, idle_allowed=idle)
    if waiting := making.idle(made):
        if not idle:
            raise BadInput("\n".join(waiting))
        for line in waiting:
            output.problem(f"written all the same: {line.partition(': let it')[0]}")
    chosen = [one for one in Target if one is not Target.ALL] if target is Target.ALL else [target]
    folders: dict[Target, Path] = {one: _folder(one, out, alone=target is not Target.ALL) for one in chosen}
    texts = {folders[one] / name: text for one in chosen for name, text in _files(one, made).items()}
    changed = [path for path, text in texts.items() if _read(path) != text]
    old = [path for path in _old(folders.get(Target.SYSTEMD)) if path not in texts]
    if not check:
        _write(texts, changed, force=force)
    if json:
        paths = {"files": [*texts], "changed": changed, "superfluous": old}
        output.document({key: [str(path) for path in value] for key, value in paths.items()} | {"written": not check})
    else:
        _tell(texts, changed, old, check=check)
        if not check:
            _tell_next(made, path, folders)
    if check and (changed or old):
        raise typer.Exit(1)


def _tell(texts: dict[Path, str], changed: list[Path], old: list[Path], *, check: bool) -> None:
    for path in changed:
        typer.echo(f"{path} {'differs from what the manifest says' if check else 'written'}")
    for path in old:
        typer.echo(f"{path} belongs to no pool of the manifest any more: delete it")
    if not changed:
        typer.echo(f"{len(texts)} files, all as the manifest says")


def _tell_next(made: Plan, manifest: Path, folders: dict[Target, Path]) -> None:
    next_of = {Target.SYSTEMD: _next_systemd, Target.COMPOSE: _next_compose, Target.HELM: _next_helm}
    for one, folder in folders.items():
        typer.echo(f"next, for {one.value}:")
        for line in next_of[one](made, manifest, folder):
            typer.echo(f"  {line}")


def _next_systemd(made: Plan, manifest: Path, out: Path) -> list[str]:
    return [
        f"install {manifest} as /etc/fleet/fleet.toml and {out}/fleet.env.example as /etc/fleet/fleet.env",
        " && ".join(f"cp {out}/{name}/fleet.conf /etc/{name}/" for name in ("sysusers.d", "tmpfiles.d")),
        "systemd-sysusers && systemd-tmpfiles --create",
        f"write each secret into its file in /etc/fleet/secrets: {', '.join((*_SECRETS, *made.secrets))}",
        f"cp {out}/fleet*.service {out}/fleet.target /etc/systemd/system/ && systemctl daemon-reload",
        "systemctl enable --now fleet.target",
        "systemctl start fleet-doctor; journalctl --unit fleet-doctor --output cat",
    ]


def _next_compose(made: Plan, manifest: Path, out: Path) -> list[str]:
    compose = f"docker compose --file {out}/compose.yaml"
    text = _read(out / "compose.yaml") or ""
    # what it mounts, and what makes its secrets
    beside = dict.fromkeys([*re.findall(r"^ +- \./([\w.-]+)", text, re.MULTILINE), "secrets.sh"])
    missing = [str(_DEPLOY / name) for name in beside if not (out / name).exists()]
    lines = [f"cp -r {shlex.join(missing)} {out}/"] if missing else []
    if _read(out / "fleet.toml") != made.text:
        beside_it = manifest.resolve().parent == out.resolve()
        named = f"write FLEET_MANIFEST_FILE=./{manifest.name} into {out}/.env"
        lines.append(named if beside_it else f"cp {manifest} {out}/fleet.toml")
    lines += [
        f"docker pull {made.image}" if "@" in made.image else f"docker build -f {_DEPLOY}/Dockerfile -t {made.image} .",
        f"sh {out}/secrets.sh, and write into {out}/secrets what is yours: {', '.join(made.secrets) or 'nothing'}",
        f"{compose} up --detach --wait",
    ]
    if made.build_id:
        # `up` has stopped the workers of the version that was current
        promoted = f"{compose} run --rm cli rollout promote {made.build_id}"
        lines.append(f"{promoted}, unless it is the first version: until then nothing is worked off")
    return [*lines, f"{compose} run --rm cli doctor --target compose"]


def _next_helm(made: Plan, _: Path, out: Path) -> list[str]:
    into = f"--namespace {_NAMESPACE} --create-namespace"
    pool = made.pools[0].name
    workers = deployment("fleet", pool, *([made.build_id] if made.build_id else []))
    looked = f"kubectl --namespace {_NAMESPACE} exec deploy/{workers} -- fleet doctor --target kubernetes"
    return [
        f"helm upgrade --install fleet deploy/helm/fleet {into} --values {out}/values.yaml --values production.yaml",
        f"{looked} --pool {pool}, and so for each pool",
    ]


def deployment(*words: str) -> str:
    """The name that the chart gives to a Deployment of these words, as its template `agent-fleet.object` does.

    Args:
        words: the release, the pool and the build, if there is one.
    """
    said = "-".join(words)
    plain = re.sub(r"[^a-z0-9-]", "-", said.lower())
    if plain == said and len(plain) <= _LONGEST:
        return plain
    return f"{plain[:45].removesuffix('-')}-{hashlib.sha256(said.encode()).hexdigest()[:6]}"


def _plan(
    manifest: Path | None, image: str | None, build_id: str | None, *, idle_allowed: bool = False
) -> tuple[Plan, Path]:
    path = context.manifest_path(environment.load(), manifest)
    loaded = manifests.load(path)
    text = path.read_text(encoding="utf-8")
    if image is not None or build_id is not None:
        # by the same rules as the manifest's own
        said = {key: value for key, value in (("image", image), ("build_id", build_id)) if value is not None}
        try:
            type(loaded.deploy).model_validate(said)
        except ValidationError as error:
            told = error.errors()[0]
            raise BadInput(f"--{told.get('ctx', {}).get('error', told['msg'])}".replace("_", "-", 1)) from None
    return making.make(loaded, text, image=image, build_id=build_id, idle_allowed=idle_allowed), path


def _folder(target: Target, out: Path | None, *, alone: bool) -> Path:
    return out if out is not None and alone else (out or _DEPLOY) / FOLDERS[target]


def _files(target: Target, made: Plan) -> Files:
    name = f"fleet.deploying.{target.value}"
    found: Files = import_module(name).render(made)
    return found


def _old(folder: Path | None) -> list[Path]:
    """Units of pools that the manifest may have had before."""
    if folder is None:
        return []
    return sorted(path for path in folder.glob("fleet-*.service") if MARK in (_read(path) or "")[:_BEGINNING])


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _write(texts: dict[Path, str], changed: list[Path], *, force: bool) -> None:
    """All of them or none, as far as can be told before."""
    if not force:
        for path in changed:
            if path.exists() and MARK not in (_read(path) or "")[:_BEGINNING]:
                raise BadInput(f"{path} was not written by `fleet deploy render`: name another --out, or say --force")
    for path in changed:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts[path], encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{path} cannot be written ({error.strerror}): name a folder that can be") from None
