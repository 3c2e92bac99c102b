"""`fleet deploy …`: the manifest as the files that run it."""

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
_NEXT: Final = {
    Target.SYSTEMD: (
        "install deploy/fleet.toml as /etc/fleet/fleet.toml and {out}/fleet.env.example as /etc/fleet/fleet.env",
        "cp {out}/sysusers.d/fleet.conf /etc/sysusers.d/ && cp {out}/tmpfiles.d/fleet.conf /etc/tmpfiles.d/",
        "systemd-sysusers && systemd-tmpfiles --create",
        "a file for each secret in /etc/fleet/secrets: {secrets}",
        "cp {out}/fleet*.service {out}/fleet.target /etc/systemd/system/ && systemctl daemon-reload",
        "systemctl enable --now fleet.target",
        "systemctl start fleet-doctor; journalctl --unit fleet-doctor --output cat",
    ),
    Target.COMPOSE: (
        "docker compose --file {out}/compose.yaml up --detach --wait",
        "docker compose --file {out}/compose.yaml run --rm cli doctor --target compose",
    ),
    Target.HELM: (
        "helm upgrade --install fleet deploy/helm/fleet --values {out}/values.yaml --values production.yaml",
        "kubectl exec deploy/fleet-llm -- fleet doctor --target kubernetes --pool llm, and so for each pool",
    ),
}
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
    made, _ = _plan(manifest, image, build_id, idle_allowed=idle)
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
        _tell(made, folders, texts, changed, old, check=check)
    if check and (changed or old):
        raise typer.Exit(1)


def _tell(
    made: Plan,
    folders: dict[Target, Path],
    texts: dict[Path, str],
    changed: list[Path],
    old: list[Path],
    *,
    check: bool,
) -> None:
    for path in changed:
        typer.echo(f"{path} {'differs from what the manifest says' if check else 'written'}")
    for path in old:
        typer.echo(f"{path} belongs to no pool of the manifest any more: delete it")
    if not changed:
        typer.echo(f"{len(texts)} files, all as the manifest says")
    if check:
        return
    for one, folder in folders.items():
        typer.echo(f"next, for {one.value}:")
        for line in _NEXT[one]:
            typer.echo("  " + line.format(out=folder, secrets=", ".join((*_SECRETS, *made.secrets))))


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
