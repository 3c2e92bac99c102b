"""Line charts over time as inline SVG: no script, no font and no picture from elsewhere.

Colours are classes (`c0` …) that the page's style sheet gives a light and a dark value, and a dash: no chart depends on
colour alone.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from markupsafe import Markup

from fleet.documents import visible

WIDTH, HEIGHT = 560, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 16, 22
_PLOT_W, _PLOT_H = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
COLOURS: Final = 8
LEAST_BAND_PX = 2.0
LABEL_PX = 11.0
"""Numbers of faults that are closer than this would lie upon each other: they move aside, or are left out."""
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: values of bins that follow each other."""

    name: str
    values: Sequence[float | None]
    """None leaves a gap."""
    bin_s: float
    colour: int = 0
    """0 to 7. 7 is grey."""
    style: Literal["step", "area", "bound"] = "step"
    """`area` is filled, `bound` is dashed: what the others are held against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A fault, drawn behind the lines with its number."""

    number: int
    what: str
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What one figure shows."""

    title: str
    unit: str
    lines: Sequence[Line]
    length_s: float
    spans: Sequence[Span] = field(default_factory=tuple)
    top: float | None = None
    """Where the axis ends at least. None: at the largest value."""

    def svg(self) -> Markup:
        """The figure: caption, legend and picture."""
        return _figure(self)


def spans(marks: Iterable[Mapping[str, Any]]) -> list[Span]:
    """Faults of a report's series, numbered from 1."""
    return [
        Span(number=number, what=mark["what"], from_s=mark["from_s"], until_s=mark["until_s"])
        for number, mark in enumerate(marks, start=1)
    ]


def figure(value: float | None) -> str:
    """A number for people: `1.2k`, `90k`, `0.05`. A dash for none."""
    if value is None or not math.isfinite(value):
        return "-"
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def clock(seconds: float) -> str:
    """A time of the axis: `45 s`, `2 min`, `1:30 min`, `2 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h" if whole % 3600 >= 60 else f"{whole // 3600} h"


def ticks(most: float, about: int = 4) -> list[float]:
    """Round values from 0 to at least `most`."""
    if not math.isfinite(most) or most <= 0:
        return [0.0, 1.0]
    raw = most / about
    power: float = 10.0 ** math.floor(math.log10(raw))
    step = next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= raw * 0.999)
    return [n * step for n in range(math.ceil(most / step - 1e-9) + 1)]


def _figure(chart: Chart) -> Markup:
    drawn = [value for line in chart.lines for value in line.values if value is not None]
    levels = ticks(max([*drawn, chart.top or 0.0]))
    scale = _Scale(length_s=chart.length_s, top=levels[-1])
    legend = Markup("").join(
        Markup(
            '<li><svg class="key" viewBox="0 0 22 8" aria-hidden="true"><path class="{}" d="M0 4H22"/></svg>{}</li>'
        ).format(_classes(line), visible(line.name))
        for line in chart.lines
    )
    parts: list[Markup] = [*_grid(scale, levels), *_bands(scale, chart.spans)]
    parts += [area for line in chart.lines if line.style == "area" for area in _paths(scale, line, filled=True)]
    # the first one lies on top
    parts += [path for line in reversed(chart.lines) for path in _paths(scale, line, filled=False)]
    parts += _hints(scale, chart)
    return Markup(
        '<figure class="chart"><figcaption><b>{title}</b> <span>{unit}</span></figcaption>'
        '<ul class="legend">{legend}</ul>'
        '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{says}">{parts}</svg></figure>'
    ).format(
        title=visible(chart.title), unit=visible(chart.unit), legend=legend,
        width=WIDTH, height=HEIGHT, says=_says(chart), parts=Markup("").join(parts),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    length_s: float
    top: float

    def x(self, seconds: float) -> float:
        return LEFT + min(1.0, max(0.0, seconds / self.length_s)) * _PLOT_W

    def y(self, value: float) -> float:
        return TOP + (1 - min(1.0, max(0.0, value / self.top))) * _PLOT_H


def _grid(scale: _Scale, levels: Sequence[float]) -> Iterator[Markup]:
    for level in levels:
        y = _at(scale.y(level))
        yield Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, y, WIDTH - RIGHT)
        yield Markup('<text x="{}" y="{}" dy=".32em" class="end">{}</text>').format(LEFT - 5, y, figure(level))
    step = next((s for s in _STEPS_S if scale.length_s / s <= 8), math.ceil(scale.length_s / 8 / 86_400) * 86_400)
    for number in range(int(scale.length_s / step + 1e-9) + 1):
        x = scale.x(number * step)
        yield Markup('<path class="grid" d="M{} {}v4"/>').format(_at(x), HEIGHT - BOTTOM)
        # the last one would be cut off
        where = "end" if x > WIDTH - RIGHT - 12 else "middle"
        yield Markup('<text x="{}" y="{}" class="{}">{}</text>').format(_at(x), HEIGHT - 6, where, clock(number * step))


def _bands(scale: _Scale, spans: Sequence[Span]) -> Iterator[Markup]:
    last = -math.inf
    for span in spans:
        x = scale.x(span.from_s)
        width = max(LEAST_BAND_PX, scale.x(span.until_s) - x)
        yield Markup('<rect class="fault" x="{}" y="{}" width="{}" height="{}"/>').format(
            _at(x), TOP, _at(width), _PLOT_H
        )
        label = max(x, last + LABEL_PX)
        if label - x <= 2 * LABEL_PX and label <= WIDTH - LABEL_PX:
            last = label
            yield Markup('<text x="{}" y="{}" class="fault">{}</text>').format(_at(label), TOP - 4, span.number)


def _paths(scale: _Scale, line: Line, *, filled: bool) -> Iterator[Markup]:
    for begin, values in _runs(line.values):
        edges = [scale.x((begin + n) * line.bin_s) for n in range(len(values) + 1)]
        path = [f"M{_at(edges[0])} {_at(scale.y(values[0]))}"]
        for n, value in enumerate(values):
            if n and value != values[n - 1]:
                path.append(f"V{_at(scale.y(value))}")
            if n + 1 == len(values) or values[n + 1] != value:
                path.append(f"H{_at(edges[n + 1])}")
        drawn = "".join(path)
        if filled:
            base = _at(scale.y(0))
            yield Markup('<path class="fill c{}" d="{}V{}H{}Z"/>').format(line.colour, drawn, base, _at(edges[0]))
        else:
            yield Markup('<path class="{}" d="{}"/>').format(_classes(line), drawn)


def _runs(values: Sequence[float | None]) -> Iterator[tuple[int, list[float]]]:
    """Where values without a gap begin, and which they are."""
    run: list[float] = []
    for index, value in enumerate([*values, None]):
        if value is not None:
            run.append(value)
        elif run:
            yield index - len(run), run
            run = []


def _hints(scale: _Scale, chart: Chart) -> Iterator[Markup]:
    """What is read at each bin: the browser shows a title while the pointer rests on its strip."""
    width = min((line.bin_s for line in chart.lines), default=chart.length_s)
    for number in range(math.ceil(chart.length_s / width - 1e-9)):
        begin, end = number * width, min(chart.length_s, (number + 1) * width)
        said = [clock(begin)]
        for line in chart.lines:
            index = int((begin + end) / 2 // line.bin_s)
            if index < len(line.values) and (value := line.values[index]) is not None:
                said.append(f"{visible(line.name)}: {figure(value)}")
        said += [f"fault {s.number}: {visible(s.what)}" for s in chart.spans if s.from_s < end and s.until_s >= begin]
        x = scale.x(begin)
        yield Markup('<rect class="hint" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
            _at(x), TOP, _at(max(1.0, scale.x(end) - x)), _PLOT_H, "\n".join(said)
        )


def _says(chart: Chart) -> str:
    said = []
    for line in chart.lines:
        values = [value for value in line.values if value is not None]
        if values:
            said.append(f"{line.name} {figure(min(values))} to {figure(max(values))}")
    return visible(
        f"{chart.title}, {chart.unit}, over {clock(chart.length_s)}: {'; '.join(said) or 'nothing was seen'}"
    )


def _classes(line: Line) -> str:
    return f"line c{line.colour} {line.style}"


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
