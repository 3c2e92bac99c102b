"""Reports side by side: two of a scenario, or one for each way to limit."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import typer

from fleet.cli import output
from fleet.documents import visible
from fleet.errors import BadInput
from load.charts import Chart, Line
from load.report import Document, finite, render, series_of, verdict
from load.series import LimitSeries, Series

SAME_WITHIN: Final = 0.05
"""A smaller relative change is noise."""
SAME_SHARE_WITHIN: Final = 0.02
"""Of what cannot be above 1."""
GLOBAL: Final = "global"

Change = Literal["better", "worse", "same", "changed"]
Way = Literal["more", "less"]
"""Which direction is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of both reports. None: a report does not have it."""

    group: str
    name: str
    a: float | None
    b: float | None
    change: Change
    """Of the second against the first. `changed`: nobody says which is better."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What `fleet load compare` says."""

    a: Document
    b: Document
    rows: Sequence[Row]
    warnings: Sequence[str]
    """Why the two are not comparable."""

    @property
    def worse(self) -> list[Row]:
        """What is worse in the second."""
        return [row for row in self.rows if row.change == "worse"]

    def document(self) -> Document:
        """What `--json` prints."""
        keys = ("scenario", "seed", "duration_s", "ok", "interrupted")
        found: Document = finite(
            {
                "a": {key: self.a[key] for key in keys},
                "b": {key: self.b[key] for key in keys},
                "rows": [asdict(row) for row in self.rows],
                "warnings": list(self.warnings),
                "worse": len(self.worse),
            }
        )
        return found

    def show(self) -> None:
        """Print the comparison for people; warnings go to stderr."""
        for warning in self.warnings:
            output.problem(f"warning: {warning}")
        typer.echo(f"A  {visible(_named(self.a))}\nB  {visible(_named(self.b))}\n")
        rows = [(r.group, r.name, value(r.a), value(r.b), r.change.upper() if r.change == "worse" else r.change, r.note)
                for r in self.rows]  # fmt: skip
        output.table(("OF", "FIGURE", "A", "B", "B IS", ""), rows, empty="")

    def html(self) -> str:
        """The same as a page of its own, with the charts of both laid over each other."""
        return render(
            "compare.html",
            names=(_named(self.a), _named(self.b)),
            rows=self.rows,
            warnings=self.warnings,
            worse=len(self.worse),
            better=sum(row.change == "better" for row in self.rows),
            sections=_overlaid({"A": series_of(self.a), "B": series_of(self.b)}),
        )


def compare(a: Document, b: Document) -> Comparison:
    """Lay the second report beside the first. Pure.

    Args:
        a: as `load.report.read` returns it.
        b: the one that is better or worse.
    """
    rows = [*_oracles(a, b), *_agents(a, b), *_quotas(a, b)]
    rows.append(_row("trial", "duration_s", a["duration_s"], b["duration_s"], "less"))
    return Comparison(a=a, b=b, rows=rows, warnings=_warnings(a, b))


def _oracles(a: Document, b: Document) -> list[Row]:
    first = {oracle["name"]: oracle for oracle in a["oracles"]}
    second = {oracle["name"]: oracle for oracle in b["oracles"]}
    rows = []
    for name in dict.fromkeys([*first, *second]):
        one, other = first.get(name), second.get(name)
        if one is None or other is None:
            has, whose = (one, "A") if one else (other, "B")
            assert has is not None
            said = f"only {whose} has it, and it {'holds' if has['ok'] else 'is broken'}"
            left, right = (has["value"], None) if one else (None, has["value"])
            rows.append(Row(group="oracle", name=name, a=left, b=right, change="changed", note=said))
            continue
        rows.append(_oracle(name, one, other))
    return rows


def _oracle(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Row:
    row = _row("oracle", name, a["value"], b["value"], "more" if a["least"] else "less")
    change, note = row.change, "both hold" if a["ok"] else "both broken"
    if not (a["judged"] and b["judged"]):
        change = "changed" if a["judged"] != b["judged"] else "same"
        note = f"nothing to judge in {' and '.join(w for w, one in (('A', a), ('B', b)) if not one['judged'])}"
    if a["ok"] != b["ok"]:
        change, note = ("better", "was broken") if b["ok"] else ("worse", "is broken")
    if a["bound"] != b["bound"]:
        note += f", bound {value(a['bound'])} then {value(b['bound'])}"
    return Row(group=row.group, name=name, a=row.a, b=row.b, change=change, note=note)


_AGENTS: Final[Mapping[str, Way]] = {
    "completed": "more", "failed": "less", "lost": "less", "took_p50_s": "less", "took_p99_s": "less",
}  # fmt: skip
_QUOTA: Final[Mapping[str, Way]] = {
    "provider_429": "less", "errors": "less", "utilisation": "more", "utilisation_queued": "more",
    "wait_p50_s": "less", "wait_p99_s": "less",
}  # fmt: skip
_SHARES = ("utilisation", "utilisation_queued")
_EXACT = ("completed", "failed", "stopped", "lost", "open")
"""One agent is no noise."""


def _agents(a: Document, b: Document) -> list[Row]:
    one, other = a["agents"], b["agents"]
    return [
        _row("agents", name, one.get(name), other.get(name), _AGENTS.get(name))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) or other.get(name)
    ]


def _quotas(a: Document, b: Document) -> list[Row]:
    rows = []
    for scope in dict.fromkeys([*a["quotas"], *b["quotas"]]):
        one, other = a["quotas"].get(scope, {}), b["quotas"].get(scope, {})
        rows += [
            _row(scope, name, one.get(name), other.get(name), _QUOTA.get(name))
            for name in ("granted", *_QUOTA)
            if one.get(name) or other.get(name)
        ]
    return rows


def _row(group: str, name: str, a: float | None, b: float | None, way: Way | None) -> Row:
    change: Change
    if a is None or b is None:
        change = "same" if a == b else "changed"
    elif math.isclose(a, b, rel_tol=0.0 if name in _EXACT else _within(name), abs_tol=1e-9):
        change = "same"
    elif way is None:
        change = "changed"
    else:
        change = "better" if (b > a) == (way == "more") else "worse"
    return Row(group=group, name=name, a=a, b=b, change=change)


def _within(figure: str) -> float:
    return SAME_SHARE_WITHIN if figure in _SHARES else SAME_WITHIN


def _warnings(a: Document, b: Document) -> list[str]:
    found = [f"{key} differs: {a[key]} and {b[key]}" for key in ("scenario", "seed") if a[key] != b[key]]
    first, second = a["parameters"], b["parameters"]
    found += [
        f"parameter {name} differs: {_said(first, name)} and {_said(second, name)}"
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name) and name != "seed"
    ]
    found += [f"{whose} was interrupted" for whose, one in (("A", a), ("B", b)) if one["interrupted"]]
    machines = [one.get("versions", {}).get("machine") for one in (a, b)]
    if machines[0] != machines[1]:
        found.append(f"machine differs: {machines[0]} and {machines[1]}")
    return found


def _said(parameters: Mapping[str, Any], name: str) -> str:
    return output.shorten(str(parameters[name]), 60) if name in parameters else "nothing"


def _named(document: Document) -> str:
    return f"{document['scenario']}, seed {document['seed']}: {verdict(document)}"


def value(number: float | None) -> str:
    """A figure for a table."""
    return "-" if number is None else f"{number:,.4g}" if abs(number) < 1e4 else f"{number:,.0f}"


def _overlaid(found: Mapping[str, Series]) -> list[tuple[str, list[Any]]]:
    """Charts by heading in which each report is a line."""
    length_s = max(one.length_s for one in found.values())

    def chart(title: str, unit: str, lines: Sequence[Line]) -> Any:
        return Chart(title=title, unit=unit, lines=lines, length_s=length_s).svg()

    def lines(read: Mapping[str, Sequence[float | None]]) -> list[Line]:
        return [
            Line(name=name, values=read[name], bin_s=one.bin_s, colour=number)
            for number, (name, one) in enumerate(found.items())
            if name in read
        ]

    drawn = [
        (
            "Agents",
            [
                chart("In flight", "agents", lines({name: one.backlog for name, one in found.items()})),
                chart("Ended", "agents", lines({name: one.ended for name, one in found.items()})),
            ],
        )
    ]
    for scope in dict.fromkeys(scope for one in found.values() for scope in one.scopes):
        of = {name: one.scopes[scope] for name, one in found.items() if scope in one.scopes}
        charts = []
        for limit in dict.fromkeys(limit for one in of.values() for limit in one.limits):
            having = {name: one.limits[limit] for name, one in of.items() if limit in one.limits}
            if any(any(one.offered) for one in having.values()):
                granted = lines({name: one.granted for name, one in having.items()})
                unit = f"{limit.replace('_', ' ')}/s"
                charts.append(chart("Granted", unit, [*granted, *_bounds(having, found)]))
        for title, unit, read in (
            ("429s", "a second", {name: _per_s(one.refused, found[name]) for name, one in of.items()}),
            ("Wait", "s that the line owes", {name: one.wait_s for name, one in of.items()}),
        ):
            if any(any(values) for values in read.values()):
                charts.append(chart(title, unit, lines(read)))
        if charts:
            drawn.append((scope, charts))
    return drawn


def _bounds(having: Mapping[str, LimitSeries], found: Mapping[str, Series]) -> list[Line]:
    """The quota, once if it is the same for all: that of the longest."""
    known = sorted((name for name, one in having.items() if any(one.quota)), key=lambda name: -found[name].length_s)
    alike = len({value for name in known for value in having[name].quota}) == 1
    return [
        Line(
            name="quota" if alike else f"quota of {name}",
            values=having[name].quota,
            bin_s=found[name].bin_s,
            colour=7,
            style="bound",
        )
        for name in (known[:1] if alike else known)
    ]


def _per_s(counts: Iterable[float | None], of: Series) -> list[float | None]:
    return [None if count is None else count / of.bin_s for count in counts]


_FIGURES: Final[Mapping[str, tuple[str, Way]]] = {
    "utilisation": ("quota used", "more"),
    "refused_per_ok": ("429s a success", "less"),
    "took_p50_s": ("agent p50", "less"),
    "took_p99_s": ("agent p99", "less"),
    "wait_p50_s": ("wait p50", "less"),
    "wait_p99_s": ("wait p99", "less"),
    "completed": ("completed", "more"),
    "duration_s": ("finished after", "less"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """Ways to limit, under the same load."""

    scope: str
    """Whose quota was the scarcest: the figures of a quota are of this one."""
    figures: Mapping[str, Mapping[str, float | None]]
    """By mode and figure."""
    reports: Mapping[str, Document]
    warnings: Sequence[str]

    def best(self, figure: str) -> list[str]:
        """The modes that are best in a figure, those that are as good but for noise included."""
        known = {mode: one[figure] for mode, one in self.figures.items()}
        there = {mode: number for mode, number in known.items() if number is not None}
        if len(there) < 2:
            return []
        most = (max if _FIGURES[figure][1] == "more" else min)(there.values())
        within = 0.0 if figure in _EXACT else _within(figure)
        return [mode for mode, number in there.items() if math.isclose(number, most, rel_tol=within, abs_tol=1e-9)]

    @property
    def conclusion(self) -> str:
        """One line, computed from the figures."""
        ours = self.figures.get(GLOBAL)
        others = {mode: one for mode, one in self.figures.items() if mode != GLOBAL}
        if ours is None or not others:
            return "there is nothing to hold against each other: it needs global and another mode"
        used, refused, after = _told(ours)
        said = [f"{GLOBAL} uses {used} of the quota with {refused} 429s a success and finishes after {after}"]
        said += [f"{mode} {', '.join(_told(one))}{_fewer(one, ours)}" for mode, one in others.items()]
        held = [figure for figure in _FIGURES if self.best(figure)]
        first = [figure for figure in held if GLOBAL in self.best(figure)]
        behind = [f"{_FIGURES[figure][0]} ({', '.join(self.best(figure))})" for figure in held if figure not in first]
        end = f"{GLOBAL} is as good as the best in {len(first)} of {len(held)} figures"
        return "; ".join(said) + f". {end}" + (f", not in {', '.join(behind)}." if behind else ".")

    def document(self) -> Document:
        """What `--json` prints."""
        found: Document = finite(
            {
                "scope": self.scope,
                "modes": {mode: dict(figures) for mode, figures in self.figures.items()},
                "best": {figure: self.best(figure) for figure in _FIGURES},
                "conclusion": self.conclusion,
                "warnings": list(self.warnings),
            }
        )
        return found

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and lines: a line for each mode."""
        heads = ["MODE", *(name.upper() for name, _ in _FIGURES.values())]
        return heads, [[mode, *self._cells(mode)] for mode in self.figures]

    def show(self) -> None:
        """Print the table and the conclusion; warnings go to stderr."""
        for warning in self.warnings:
            output.problem(f"warning: {warning}")
        heads, lines = self.table()
        output.table(heads, lines, empty="")
        typer.echo(f"\nquota of {visible(self.scope)}\n{visible(self.conclusion)}")

    def markdown(self) -> str:
        """The table and the conclusion, for a document."""
        return render("modes.md", modes=self, heads=[name for name, _ in _FIGURES.values()], rows=self._rows())

    def html(self) -> str:
        """A page of its own, with the charts of all modes laid over each other."""
        return render(
            "modes.html",
            modes=self,
            heads=[name for name, _ in _FIGURES.values()],
            rows=self._rows(),
            sections=_overlaid({mode: series_of(report) for mode, report in self.reports.items()}),
        )

    def _rows(self) -> list[tuple[str, list[tuple[str, bool]]]]:
        # where all are as good nobody stands out
        best = [found if len(found := self.best(figure)) < len(self.figures) else [] for figure in _FIGURES]
        return [
            (mode, [(cell, mode in bests) for cell, bests in zip(self._cells(mode), best, strict=True)])
            for mode in self.figures
        ]

    def _cells(self, mode: str) -> list[str]:
        return [_cell(figure, self.figures[mode][figure]) for figure in _FIGURES]


def modes(reports: Mapping[str, Document]) -> Modes:
    """Hold ways to limit against each other. Pure.

    Args:
        reports: by mode (`global`, `backoff`, …), of the same scenario, seed and parameters.

    Raises:
        BadInput: there is no report.
    """
    if not reports:
        raise BadInput("there is no report to compare: run the scenario in two modes at least")
    first_mode, first = next(iter((mode, reports[mode]) for mode in (GLOBAL, *reports) if mode in reports))
    # where everybody is idle no way to limit matters
    scope = max(first["quotas"], key=lambda name: first["quotas"][name].get("utilisation") or 0.0, default="")
    warnings = [
        f"{first_mode} and {mode}: {warning}"
        for mode, report in reports.items()
        if mode != first_mode
        for warning in _warnings(first, report)
        if not warning.startswith("parameter mode ")
    ]
    return Modes(
        scope=scope,
        figures={mode: _figures(report, scope) for mode, report in reports.items()},
        reports=dict(reports),
        warnings=warnings,
    )


def _figures(report: Document, scope: str) -> dict[str, float | None]:
    agents, quota = report["agents"], report["quotas"].get(scope, {})
    good = sum(one.get("granted", 0) for one in report["quotas"].values())
    refused = sum(one.get("provider_429", 0) for one in report["quotas"].values())
    called = quota.get("waits_of") == "calls"
    return {
        "utilisation": quota.get("utilisation"),
        "refused_per_ok": refused / good if good else None,
        "took_p50_s": agents.get("took_p50_s"),
        "took_p99_s": agents.get("took_p99_s"),
        # of a mode without a line the looks have seen none
        "wait_p50_s": quota.get("wait_p50_s") if called or quota.get("queued_s") else None,
        "wait_p99_s": quota.get("wait_p99_s") if called or quota.get("queued_s") else None,
        "completed": agents.get("completed"),
        "duration_s": report["duration_s"],
    }


def _told(figures: Mapping[str, float | None]) -> list[str]:
    return [_cell(name, figures[name]) for name in ("utilisation", "refused_per_ok", "duration_s")]


def _fewer(one: Mapping[str, float | None], ours: Mapping[str, float | None]) -> str:
    """Whoever completes fewer agents may well finish early."""
    theirs, mine = one["completed"] or 0, ours["completed"] or 0
    return f" and {abs(mine - theirs):g} agents {'fewer' if theirs < mine else 'more'}" if theirs != mine else ""


def _cell(figure: str, number: float | None) -> str:
    if number is None:
        return "-"
    if figure == "utilisation":
        return f"{number:.1%}"
    return output.seconds(number) if figure.endswith("_s") else f"{number:,.3g}" if number < 1 else f"{number:,.5g}"
