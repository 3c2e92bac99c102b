"""Draws a dashboard as one SVG from Prometheus's own answers: a picture that needs nothing else."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from typing import Final

from fleet.dashboards import figures
from fleet.dashboards.answers import Filling, Prometheus, Refused, Series
from fleet.dashboards.drawing import CARD, EDGE, FAINT, INK, PAPER, at, box, fit, label
from fleet.dashboards.figures import Band, Span, Table
from fleet.dashboards.model import COLUMNS, Dashboard, Draw, Note, Panel, Place, Query, Row, placed
from fleet.dashboards.shared import NOTES

WIDTH: Final = 1320
MARGIN: Final = 14.0
GAP: Final = 8.0
UNIT_H: Final = 33.0
"""Height of a unit of the grid, gap included."""
HEAD_H: Final = 62.0
TITLE_H: Final = 26.0
NOTE_H: Final = 16.0
POINTS: Final = 240
"""About so many a chart has."""
NOTED: Final = 4000
"""In so many instants a range is searched for notes."""
MOST_NOTES: Final = 18
ASKED_AT_ONCE: Final = 4

_FACE = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is drawn: from when until when, of which Prometheus."""

    prometheus: Prometheus
    begin: float
    end: float
    scrape_s: float
    values: dict[str, str] = field(default_factory=dict)
    """By variable a regular expression; without: all."""

    @property
    def span(self) -> Span:
        """The time axis. Points lie where several looks at the same time have them, too."""
        step = max(self.scrape_s, math.ceil((self.end - self.begin) / POINTS))
        return Span(begin=self.begin, end=self.end, step=step)

    def filled(self, expression: str) -> str:
        """The expression without variables."""
        span = self.span
        filling = Filling(range_s=span.length, step_s=span.step, scrape_s=self.scrape_s, values=self.values)
        return filling(expression)


def svg(dashboard: Dashboard, look: Look) -> str:
    """The dashboard's picture.

    Raises:
        Unreachable: Prometheus does not answer. An expression that it refuses is shown in its panel.
    """
    bands = _bands(look)
    span = look.span
    items = placed(dashboard)
    with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
        bodies = list(threads.map(lambda one: _body(one, look, bands), items))
    top = HEAD_H + NOTE_H * _note_lines(bands)
    height = top + MARGIN + UNIT_H * max(place.y + place.h for place, _ in items)
    parts = [box(0, 0, WIDTH, height, PAPER), _head(dashboard, span, bands)]
    for (place, item), body in zip(items, bodies, strict=True):
        parts.append(_row(item, place, top) if isinstance(item, Row) else _card(item, place, top, body))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {at(height)}" width="{WIDTH}"'
        f' height="{at(height)}" font-family="{_FACE}" role="img" aria-label="{escape(dashboard.title)}">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _body(one: tuple[Place, Row | Panel], look: Look, bands: Sequence[Band]) -> str:
    place, panel = one
    if isinstance(panel, Row):
        return ""
    w, h = _size(place)
    h -= TITLE_H
    try:
        if panel.draw is Draw.TABLE:
            found = _table(panel, look)
            return figures.table(panel, found, w, h) if found.rows else figures.nothing(panel, w, h)
        series = [
            (_name(query, answer, panel), answer.points)
            for query in panel.queries
            for answer in _ask(panel, query, look)
        ]
    except Refused as error:
        return figures.nothing(panel, w, h, str(error))
    drawn = figures.coloured(panel, series)
    if not drawn:
        return figures.nothing(panel, w, h)
    if panel.draw is Draw.STAT:
        return figures.stat(panel, drawn, look.span, w, h)
    if panel.draw is Draw.BARS:
        return figures.bars(panel, drawn, w, h)
    if panel.draw is Draw.STATES:
        return figures.states(panel, drawn, look.span, bands, w, h)
    return figures.lines(panel, drawn, look.span, bands, w, h)


def _ask(panel: Panel, query: Query, look: Look) -> list[Series]:
    expression = look.filled(query.expr)
    if query.instant:
        return look.prometheus.instant(expression, look.end)
    span = look.span
    return look.prometheus.range(expression, span.begin, span.end, span.step)


def _table(panel: Panel, look: Look) -> Table:
    rows: dict[tuple[tuple[str, str], ...], list[float | None]] = {}
    for column, query in enumerate(panel.queries):
        for answer in look.prometheus.instant(look.filled(query.expr), look.end):
            if answer.points:
                key = tuple(sorted(answer.labels.items()))
                rows.setdefault(key, [None] * len(panel.queries))[column] = answer.points[-1][1]
    names = panel.labels
    ordered = sorted(rows.items(), key=lambda row: -(row[1][0] if row[1][0] is not None else -math.inf))
    lines = [([dict(key).get(name, "") for name in names], values) for key, values in ordered]
    return Table(labels=names, rows=lines[: panel.most_series])


def _name(query: Query, answer: Series, panel: Panel) -> str:
    return _legend(query.legend, answer) if query.legend else panel.title


def _legend(text: str, answer: Series) -> str:
    for name, value in answer.labels.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    # a label that a series lacks is empty in Grafana, too
    while (begin := text.find("{{")) >= 0 and (end := text.find("}}", begin)) >= 0:
        text = text[:begin] + text[end + 2 :]
    return " ".join(text.split()) or "value"


def _bands(look: Look) -> list[Band]:
    """What was noted, in the order of time, numbered."""
    span = look.span
    # finer than charts: what was short is seen, too
    step = max(look.scrape_s, span.length / NOTED)
    found: list[tuple[float, float, Note, Series]] = []
    for note in NOTES:
        for answer in look.prometheus.range(look.filled(note.expr), span.begin, span.end, step):
            begin = last = None
            for instant, _ in answer.points:
                if begin is None or last is None:
                    begin = instant
                elif instant - last > step * 1.5:
                    found.append((begin, last, note, answer))
                    begin = instant
                last = instant
            if begin is not None and last is not None:
                found.append((begin, last, note, answer))
    found.sort(key=lambda one: (one[0], one[1], one[2].name, sorted(one[3].labels.items())))
    return [
        Band(
            number=number,
            title=f"{_legend(note.title, answer)} {_legend(note.text, answer) if _has(note, answer) else ''}".strip(),
            colour=note.colour,
            begin=begin,
            end=begin if note.instant else end,
        )
        for number, (begin, end, note, answer) in enumerate(found[:MOST_NOTES], start=1)
    ]


def _has(note: Note, answer: Series) -> bool:
    return any(answer.labels.get(name) for name in answer.labels if f"{{{{{name}}}}}" in note.text)


def _note_lines(bands: Sequence[Band]) -> int:
    return math.ceil(len(bands) / 3)


def _head(dashboard: Dashboard, span: Span, bands: Sequence[Band]) -> str:
    begin, end = datetime.fromtimestamp(span.begin, UTC), datetime.fromtimestamp(span.end, UTC)
    until = f"{end:%H:%M:%S}" if begin.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S}"
    told = f"{begin:%Y-%m-%d %H:%M:%S} to {until} UTC, a point each {span.step:g} s"
    parts = [
        label(MARGIN, 28, dashboard.title, size=20, bold=True),
        label(WIDTH - MARGIN, 28, told, size=12, colour=FAINT, anchor="end"),
        label(MARGIN, 48, fit(dashboard.says, 12.5, WIDTH - 2 * MARGIN), size=12.5, colour=FAINT),
    ]
    third = (WIDTH - 2 * MARGIN) / 3
    lines = _note_lines(bands)
    for n, band in enumerate(bands):
        x, y = MARGIN + third * (n // lines), 66 + NOTE_H * (n % lines)
        first, last = (datetime.fromtimestamp(one, UTC) for one in (band.begin, band.end))
        parts.append(box(x, y - 9, 18, 12, band.colour, ' rx="2"'))
        parts.append(label(x + 9, y, str(band.number), size=9, colour=CARD, anchor="middle", bold=True))
        until = f"–{last:%H:%M:%S}" if last > first else ""  # noqa: RUF001 - a dash between instants
        text = f"{first:%H:%M:%S}{until} {band.title}"
        parts.append(label(x + 24, y, fit(text, 11, third - 32), size=11, colour=INK))
    return "".join(parts)


def _row(row: Row, place: Place, top: float) -> str:
    y = top + place.y * UNIT_H
    return label(MARGIN, y + 22, row.title, size=14, bold=True)


def _card(panel: Panel, place: Place, top: float, body: str) -> str:
    w, h = _size(place)
    x, y = MARGIN + place.x * _column(), top + place.y * UNIT_H
    title = fit(panel.title, 12.5, w - 20, bold=True)
    return (
        f'<svg x="{at(x)}" y="{at(y)}" width="{at(w)}" height="{at(h)}"><title>{escape(panel.says)}</title>'
        + box(0.5, 0.5, w - 1, h - 1, CARD, f' rx="4" stroke="{EDGE}"')
        + label(10, 18, title, size=12.5, bold=True)
        + f'<svg y="{at(TITLE_H)}" width="{at(w)}" height="{at(h - TITLE_H)}">{body}</svg></svg>'
    )


def _column() -> float:
    return (WIDTH - 2 * MARGIN + GAP) / COLUMNS


def _size(place: Place) -> tuple[float, float]:
    return place.w * _column() - GAP, place.h * UNIT_H - GAP
