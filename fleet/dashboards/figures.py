"""The body of each kind of panel as SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.dashboards import drawing
from fleet.dashboards.drawing import EDGE, FAINT, GRID, INK, at, box, fit, label, measure, squeeze
from fleet.dashboards.model import PALETTE, RED, Draw, Panel

SMALL: Final = 10.5
LEGEND_H: Final = 15.0
ROW_H: Final = 20.0
MOST_SHARE: Final = 0.45
"""Of a panel's width, that names of bands or bars may take."""
MOST_NAME: Final = 0.4
"""Of a panel's width, that a name in a legend may take: two fit beside each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A series as a panel shows it."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """When something held that is drawn behind every chart."""

    number: int
    title: str
    colour: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The time that charts show."""

    begin: float
    end: float
    step: float

    @property
    def length(self) -> float:
        """In seconds."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Lines of a table: labels, then a value of each query."""

    labels: Sequence[str]
    rows: Sequence[tuple[Sequence[str], Sequence[float | None]]]


def coloured(panel: Panel, found: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> list[Drawn]:
    """Series with their colours, in the order of their names, those with a colour of their own first as they are named.

    Those of one name are kept apart; what has no point is left out, and so are parts of a whole that are nothing.
    """
    if panel.draw is Draw.STACK and any(value for _, points in found for _, value in points):
        found = [one for one in found if any(value for _, value in one[1])]
    own = {name: rank for rank, name in enumerate(panel.colours)}
    kept = sorted((one for one in found if one[1]), key=lambda one: (own.get(one[0], len(own)), one[0]))
    free = [colour for colour in PALETTE if colour not in panel.colours.values()] or list(PALETTE)
    drawn: list[Drawn] = []
    others = 0
    for name, points in kept:
        colour = panel.colours.get(name)
        if colour is None:
            colour = free[others % len(free)]
            others += 1
        drawn.append(Drawn(name=name, colour=colour, points=points))
    return drawn


def grade(panel: Panel, value: float) -> str:
    """Colour of a value by the panel's mappings, else its thresholds."""
    for one in panel.mappings:
        if one.value == round(value):
            return one.colour
    colour = panel.base
    for bound, better in panel.thresholds:
        if value >= bound:
            colour = better
    return colour


def nothing(panel: Panel, w: float, h: float, problem: str = "") -> str:
    """What is shown for no data, or for a problem."""
    if problem:
        lines = drawing.wrap(problem, SMALL, w - 24)[: max(1, int(h // 14) - 1)]
        return "".join(label(12, 18 + 14 * n, line, size=SMALL, colour=RED) for n, line in enumerate(lines))
    text = fit(panel.none or "no data", 12, w - 16)
    return label(w / 2, h / 2 + 4, text, size=12, colour=FAINT, anchor="middle")


def stat(panel: Panel, drawn: Sequence[Drawn], span: Span, w: float, h: float) -> str:
    """One number, and its course behind it."""
    value = drawn[0].last
    colour = grade(panel, value)
    parts = []
    if panel.spark and len(drawn[0].points) > 1:
        most = max(v for _, v in drawn[0].points) or 1.0
        tall = h * 0.42
        shape = [((t - span.begin) / span.length * w, h - max(0.0, v) / most * tall) for t, v in drawn[0].points]
        closed = f"{drawing.path(shape)}V{at(h)}H{at(shape[0][0])}Z"
        parts.append(f'<path d="{closed}" fill="{colour}" opacity=".15"/>')
        parts.append(f'<path d="{drawing.path(shape)}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
    text = measure(value, panel.unit, panel.decimals)
    size = min(30.0, h * 0.55, 30.0 * (w - 24) / max(1.0, drawing.width(text, 30, bold=True)))
    parts.append(
        label(w / 2, h * 0.44 + size * 0.36, text, size=round(size, 1), colour=colour, anchor="middle", bold=True)
    )
    return "".join(parts)


def bars(panel: Panel, drawn: Sequence[Drawn], w: float, h: float) -> str:
    """One bar a series, the largest first."""
    ranked = sorted(drawn, key=lambda one: -one.last)
    rows = _rows(len(ranked), h, 26.0)
    most = panel.most or max(one.last for one in ranked) or 1.0
    names = min(w * MOST_SHARE, max(drawing.width(one.name, 11) for one in ranked) + 8)
    told = max(drawing.width(measure(one.last, panel.unit, panel.decimals), 11, bold=True) for one in ranked) + 10
    room = max(20.0, w - names - told - 16)
    parts = []
    for n, one in enumerate(ranked[: rows.shown]):
        y = n * rows.height
        middle = y + rows.height / 2
        parts.append(label(8 + names - 8, middle + 4, squeeze(one.name, 11, names - 4), size=11, anchor="end"))
        parts.append(box(8 + names, y + rows.height * 0.2, room, rows.height * 0.6, GRID, ' rx="2"'))
        share = min(1.0, max(0.0, one.last / most))
        parts.append(
            box(8 + names, y + rows.height * 0.2, room * share, rows.height * 0.6, grade(panel, one.last), ' rx="2"')
        )
        text = measure(one.last, panel.unit, panel.decimals)
        parts.append(label(w - 8, middle + 4, text, size=11, anchor="end", bold=True))
    parts.append(_more(rows, w, h))
    return "".join(parts)


def table(panel: Panel, found: Table, w: float, h: float) -> str:
    """Labels to the left, numbers to the right, what does not fit is counted."""
    heads = [*found.labels, *(query.legend for query in panel.queries)]
    cells = [[*labels, *(_cell(panel, n, value) for n, value in enumerate(values))] for labels, values in found.rows]
    wanted = [
        max(drawing.width(text, 11, bold=True) for text in [head, *(row[n] for row in cells)]) + 14
        for n, head in enumerate(heads)
    ]
    # numbers keep their room, names share the rest
    numbers = sum(wanted[len(found.labels) :])
    names = sum(wanted[: len(found.labels)])
    squeeze = min(1.0, max(0.2, (w - 16 - numbers) / names)) if names else 1.0
    widths = [one * squeeze if n < len(found.labels) else one for n, one in enumerate(wanted)]
    spare = max(0.0, w - 16 - sum(widths))
    widths = [one + spare / len(widths) for one in widths]
    rows = _rows(len(cells), h - ROW_H, ROW_H, stretch=False)
    parts = [box(0, 0, w, ROW_H, "#f0f2f5")]
    for n in range(-1, rows.shown):
        y = (n + 1) * ROW_H
        x = 8.0
        if n >= 0:
            parts.append(box(0, y + ROW_H, w, 0.8, GRID))
        for column, room in enumerate(widths):
            text = heads[column] if n < 0 else cells[n][column]
            is_number = column >= len(found.labels)
            colour = INK if n >= 0 else FAINT
            if n >= 0 and is_number and panel.mappings:
                value = found.rows[n][1][column - len(found.labels)]
                colour = grade(panel, value) if value is not None else FAINT
            shown = fit(text, 11, room - 6, bold=n < 0)
            where = (x + room - 4, "end") if is_number else (x, "start")
            parts.append(label(where[0], y + 14, shown, size=11, colour=colour, anchor=where[1], bold=n < 0))
            x += room
    parts.append(_more(rows, w, h))
    return "".join(parts)


def states(panel: Panel, drawn: Sequence[Drawn], span: Span, bands: Sequence[Band], w: float, h: float) -> str:
    """One band a series: its colour is its value."""
    head, foot = 10.0, 26.0 + LEGEND_H
    rows = _rows(len(drawn), h - foot, 28.0)
    names = min(w * MOST_SHARE, max(drawing.width(one.name, SMALL) for one in drawn) + 12)
    plot = _Plot(x=names, y=head, w=w - names - 12, h=rows.height * rows.shown, span=span, least=0, most=1)
    parts = [box(plot.x, head, plot.w, plot.h, "#f6f7f9")]
    for n, one in enumerate(drawn[: rows.shown]):
        y = head + n * rows.height
        name = squeeze(one.name, SMALL, names - 8)
        parts.append(label(names - 6, y + rows.height / 2 + 3.5, name, size=SMALL, anchor="end"))
        for begin, end, value in _runs(one.points, span.step):
            left, right = plot.at_x(begin), plot.at_x(min(end, span.end))
            parts.append(
                box(left, y + rows.height * 0.14, max(1.0, right - left), rows.height * 0.72, grade(panel, value))
            )
    parts += [box(plot.at_x(band.begin), 2, 0.8, plot.h + head - 2, band.colour) for band in bands]
    parts += _numbers(plot, bands, 9)
    parts.append(_time_axis(plot))
    seen = {round(value) for one in drawn for _, value in one.points}
    keys = [(one.text, one.colour) for one in panel.mappings if one.value in seen]
    parts.append(_legend(keys, w, h - LEGEND_H, 1))
    if rows.shown < rows.all:
        parts.append(label(w - 8, h - 4, f"+{rows.all - rows.shown} more", size=10, colour=FAINT, anchor="end"))
    return "".join(parts)


def lines(panel: Panel, drawn: Sequence[Drawn], span: Span, bands: Sequence[Band], w: float, h: float) -> str:
    """Lines or stacked areas over time, with what was noted behind them."""
    keys = [(one.name, one.colour) for one in drawn]
    legend = min(3, max(1, _lines_of(keys, w), 1)) if h > 150 else 1
    shapes = _stacked(drawn, span) if panel.draw is Draw.STACK else [(one, None) for one in drawn]
    top = max((v for one, _ in shapes for _, v in one.points), default=0.0)
    bottom = min((v for one, _ in shapes for _, v in one.points), default=0.0)
    least = min(0.0, bottom) if panel.least is None or bottom < 0 else panel.least
    most = panel.most if panel.most is not None and top <= panel.most else max(top, least)
    levels = drawing.ticks(least, most if most > least else least + 1, 4 if h > 170 else 3, unit=panel.unit)
    told = [measure(one, panel.unit) for one in levels]
    left = max(30.0, max(drawing.width(text, SMALL) for text in told) + 12)
    foot = 18 + LEGEND_H * legend
    plot = _Plot(x=left, y=8, w=w - left - 14, h=max(20.0, h - 8 - foot), span=span, least=levels[0], most=levels[-1])
    parts = []
    for band in bands:
        x, end = plot.at_x(band.begin), plot.at_x(band.end)
        parts.append(box(x, plot.y, max(1.5, end - x), plot.h, band.colour, ' opacity=".13"'))
        parts.append(box(x, plot.y, 0.8, plot.h, band.colour, ' opacity=".7"'))
    for level, text in zip(levels, told, strict=True):
        y = plot.at_y(level)
        parts.append(f'<path d="M{at(plot.x)} {at(y)}h{at(plot.w)}" stroke="{GRID}"/>')
        parts.append(label(plot.x - 6, y + 3.5, text, size=SMALL, colour=FAINT, anchor="end"))
    parts.append(_time_axis(plot))
    for bound, colour in panel.thresholds:
        if plot.least < bound < plot.most:
            parts.append(
                f'<path d="M{at(plot.x)} {at(plot.at_y(bound))}h{at(plot.w)}" stroke="{colour}"'
                ' stroke-dasharray="6 4" opacity=".8"/>'
            )
    parts += [_shape(plot, one, under, span.step) for one, under in reversed(shapes)]
    parts += _numbers(plot, bands, plot.y + 8)
    parts.append(_legend(keys, w, h - LEGEND_H * legend, legend))
    return "".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plot:
    x: float
    y: float
    w: float
    h: float
    span: Span
    least: float
    most: float

    def at_x(self, instant: float) -> float:
        return self.x + min(1.0, max(0.0, (instant - self.span.begin) / self.span.length)) * self.w

    def at_y(self, value: float) -> float:
        return self.y + (1 - min(1.0, max(0.0, (value - self.least) / (self.most - self.least)))) * self.h


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    all: int
    shown: int
    height: float


def _rows(count: int, h: float, wanted: float, *, stretch: bool = True) -> _Rows:
    """How many rows fit, and how high they are."""
    least = 13.0 if stretch else wanted
    shown = max(1, min(count, int(h // least)))
    if not stretch and shown < count:
        # the last line says how many are left out
        shown = max(1, shown - 1)
    return _Rows(all=count, shown=shown, height=min(wanted, h / shown) if stretch else wanted)


def _more(rows: _Rows, w: float, h: float) -> str:
    if rows.shown >= rows.all:
        return ""
    return label(w - 8, h - 5, f"+{rows.all - rows.shown} more", size=10, colour=FAINT, anchor="end")


def _cell(panel: Panel, column: int, value: float | None) -> str:
    if value is None:
        return "-"
    for one in panel.mappings:
        if one.value == round(value):
            return one.text
    query = panel.queries[column]
    return measure(value, query.unit or panel.unit, query.decimals)


def _time_axis(plot: _Plot) -> str:
    span, y = plot.span, plot.y + plot.h
    parts = [f'<path d="M{at(plot.x)} {at(y)}h{at(plot.w)}" stroke="{EDGE}"/>']
    text = drawing.width(drawing.clock(span.end, span.length), SMALL)
    for instant in drawing.instants(span.begin, span.end, max(2, int(plot.w // (text + 22)))):
        x = plot.at_x(instant)
        parts.append(f'<path d="M{at(x)} {at(y)}v4" stroke="{EDGE}"/>')
        # the outer ones would be cut off
        x = min(max(x, text / 2 + 2), plot.x + plot.w + 12 - text / 2)
        parts.append(label(x, y + 14, drawing.clock(instant, span.length), size=SMALL, colour=FAINT, anchor="middle"))
    return "".join(parts)


def _numbers(plot: _Plot, bands: Sequence[Band], y: float) -> list[str]:
    """Numbers of what is noted, moved aside where they would lie upon each other."""
    parts, last = [], -math.inf
    for band in sorted(bands, key=lambda one: one.begin):
        x = max(plot.at_x(band.begin) + 2, last + 3)
        text = str(band.number)
        room = drawing.width(text, 9, bold=True)
        if x + room > plot.x + plot.w + 12 or x - plot.at_x(band.begin) > 30:
            continue
        parts.append(label(x, y, text, size=9, colour=band.colour, bold=True))
        last = x + room
    return parts


def _shape(plot: _Plot, one: Drawn, under: Mapping[float, float] | None, step: float) -> str:
    parts = []
    for run in _unbroken(one.points, step):
        above = [(plot.at_x(t), plot.at_y(v)) for t, v in run]
        if len(above) == 1:
            parts.append(f'<circle cx="{at(above[0][0])}" cy="{at(above[0][1])}" r="1.6" fill="{one.colour}"/>')
            continue
        if under is not None:
            below = [(plot.at_x(t), plot.at_y(under.get(t, 0.0))) for t, _ in reversed(run)]
            closed = f"{drawing.path(above)}L{drawing.path(below)[1:]}Z"
            parts.append(f'<path d="{closed}" fill="{one.colour}" opacity=".5"/>')
        thick = 1 if under is not None else 1.6
        parts.append(
            f'<path d="{drawing.path(above)}" fill="none" stroke="{one.colour}" stroke-width="{thick}"'
            ' stroke-linejoin="round"/>'
        )
    return "".join(parts)


def _stacked(drawn: Sequence[Drawn], span: Span) -> list[tuple[Drawn, Mapping[float, float] | None]]:
    """Each series upon those before it, and what lies under it."""
    under: dict[float, float] = {}
    found: list[tuple[Drawn, Mapping[float, float] | None]] = []
    for one in drawn:
        below = dict(under)
        points = []
        for instant, value in one.points:
            under[instant] = under.get(instant, 0.0) + max(0.0, value)
            points.append((instant, under[instant]))
        found.append((Drawn(name=one.name, colour=one.colour, points=points), below))
    return found


def _unbroken(points: Sequence[tuple[float, float]], step: float) -> list[list[tuple[float, float]]]:
    """Points without a gap between them."""
    runs: list[list[tuple[float, float]]] = []
    for point in points:
        if runs and point[0] - runs[-1][-1][0] <= step * 1.5:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def _runs(points: Sequence[tuple[float, float]], step: float) -> list[tuple[float, float, float]]:
    """From when until when which value held."""
    found: list[tuple[float, float, float]] = []
    for run in _unbroken(points, step):
        for instant, value in run:
            if found and found[-1][2] == value and abs(found[-1][1] - instant) < step * 0.01:
                found[-1] = (found[-1][0], instant + step, value)
            else:
                found.append((instant, instant + step, value))
    return found


def _lines_of(keys: Sequence[tuple[str, str]], w: float) -> int:
    """Lines that a legend takes."""
    found, x = 1, 10.0
    for name, _ in keys:
        room = min(w * MOST_NAME, drawing.width(name, SMALL)) + 26
        if x + room > w - 8 and x > 10:
            found, x = found + 1, 10.0
        x += room
    return found


def _legend(keys: Sequence[tuple[str, str]], w: float, y: float, most: int) -> str:
    """Names with their colours, in as many lines as there are; what does not fit is counted."""
    parts: list[str] = []
    line, x = 0, 10.0
    for n, (name, colour) in enumerate(keys):
        text = squeeze(name, SMALL, w * MOST_NAME)
        room = drawing.width(text, SMALL) + 26
        # in the last line there must be room to say that there are more
        spare = 56 if line == most - 1 and n < len(keys) - 1 else 8
        if x + room > w - spare and x > 10:
            if line == most - 1:
                parts.append(label(x, y + LEGEND_H * line + 10, f"+{len(keys) - n} more", size=10, colour=FAINT))
                break
            line, x = line + 1, 10.0
        parts.append(box(x, y + LEGEND_H * line + 2.5, 10, 8, colour, ' rx="1.5"'))
        parts.append(label(x + 14, y + LEGEND_H * line + 10, text, size=SMALL))
        x += room
    return "".join(parts)
