"""`fleet dashboards …`: Grafana's files, and pictures drawn from Prometheus."""

import math
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Final
from urllib.parse import urlsplit

import typer

from fleet.cli import output
from fleet.dashboards.answers import Prometheus
from fleet.dashboards.catalog import dashboards
from fleet.dashboards.model import Dashboard
from fleet.dashboards.render import Look, svg
from fleet.errors import BadInput

LEAST_S: Final = 10.0
"""A range that is shorter has hardly two points."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def build(out: Path, *, runbooks: str, check: bool, json: bool) -> None:
    """Write the dashboards, or say which would change.

    Raises:
        BadInput: the extra is not installed, the address is none, or the folder cannot be written.
    """
    grafana = _grafana()
    parts = urlsplit(runbooks)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise BadInput(f"--runbooks {runbooks!r} is no address: name one as in https://docs.example.com/runbooks")
    texts = {one.file: grafana.text(one, runbooks=runbooks.rstrip("/")) for one in dashboards()}
    changed = [name for name, text in texts.items() if _read(out / name) != text]
    if not check:
        for name in changed:
            _write(out / name, texts[name])
    if json:
        output.document({"folder": str(out), "files": list(texts), "changed": changed, "written": not check})
    elif not changed:
        typer.echo(f"{out}: {len(texts)} dashboards, all as built")
    else:
        for name in changed:
            typer.echo(f"{out / name} {'differs from what is built' if check else 'written'}")
    if check and changed:
        raise typer.Exit(1)


def render(
    prometheus: str,
    out: Path,
    *,
    begin: str,
    end: str,
    only: Sequence[str],
    variables: Sequence[str],
    scrape: str | None,
    json: bool,
) -> None:
    """Draw dashboards.

    Raises:
        BadInput: an address, an instant, a dashboard or a variable is none, or the folder cannot be written.
        Unreachable: Prometheus does not answer.
    """
    chosen = _chosen(only)
    values = _values(variables, chosen)
    until = _instant(end, time.time(), "--to")
    since = _instant(begin, until, "--from")
    if until - since < LEAST_S:
        raise BadInput(f"--from {begin} --to {end} are {until - since:g} s: let them be at least {LEAST_S:g} s apart")
    server = Prometheus(prometheus)
    each_s = _interval(scrape) if scrape is not None else server.scrape_s()
    look = Look(prometheus=server, begin=since, end=until, scrape_s=each_s, values=values)
    files = []
    for one in chosen:
        path = out / f"{one.uid}.svg"
        _write(path, svg(one, look))
        files.append(str(path))
        if not json:
            typer.echo(path)
    if json:
        output.document({"from": since, "to": until, "files": files})


def _grafana() -> ModuleType:
    try:
        from fleet.dashboards import grafana
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "grafana_foundation_sdk":
            raise
        raise BadInput(
            "grafana-foundation-sdk is not installed: install the extra, as in pip install 'agent-fleet[dashboards]'"
        ) from None
    return grafana


def _chosen(only: Sequence[str]) -> list[Dashboard]:
    known = {one.uid: one for one in dashboards()}
    for uid in only:
        if uid not in known:
            raise BadInput(f"--dashboard {uid}: there is none of that uid; one of {', '.join(known)}")
    return [one for uid, one in known.items() if not only or uid in only]


def _values(variables: Sequence[str], chosen: Sequence[Dashboard]) -> dict[str, str]:
    known = sorted({variable.name for one in chosen for variable in one.variables})
    found: dict[str, str] = {}
    for text in variables:
        name, is_one, pattern = text.partition("=")
        if not is_one or name not in known:
            raise BadInput(f"--variable {text}: write NAME=REGEX, NAME one of {', '.join(known) or 'none'}")
        if '"' in pattern or "\\" in pattern:
            raise BadInput(f"--variable {text}: a pattern with quotes or backslashes is not understood, use . for them")
        try:
            re.compile(pattern)
        except re.error as error:
            raise BadInput(f"--variable {text}: {error}: write a regular expression") from None
        found[name] = pattern
    return found


def _instant(text: str, base: float, option: str) -> float:
    """An instant in seconds of the Unix epoch; `-30m` counts from `base`."""
    if text == "now":
        return time.time()
    if found := re.fullmatch(r"(?:now)?-(\d+(?:\.\d+)?)([smhd])", text):
        return base - float(found[1]) * _UNITS[found[2]]
    try:
        told = datetime.fromisoformat(text)
        instant = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        instant = -1.0
    if instant < 0:
        raise BadInput(f"{option} {text!r} is no instant: write 2026-01-31T12:00:00Z, -30m or now")
    return instant


def _interval(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not math.isfinite(value) or value <= 0:
        raise BadInput(f"--scrape {text!r} is no interval: write one as in 15s")
    return value


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror}): name a folder that can be") from None
