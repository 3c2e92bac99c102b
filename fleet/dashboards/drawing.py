"""SVG of dashboards: numbers with units, texts that fit, axes. No script, no font and no picture from elsewhere."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final

from fleet.dashboards import model
from fleet.documents import visible

INK: Final = "#1f2328"
FAINT: Final = "#656d76"
GRID: Final = "#e4e7eb"
PAPER: Final = "#f4f5f7"
CARD: Final = "#ffffff"
EDGE: Final = "#d8dce2"

_NARROW, _WIDE = frozenset("iljtfrI.,:;'|!()[]/ -"), frozenset("mwMW@%—…")
"""By the widths of DejaVu Sans, the widest of the faces that are likely: no text is drawn too long."""
SEEN_PX: Final = 0.2
"""Less nobody sees."""
LEAST: Final = 1e-4
"""Numbers that are smaller are shown as 0."""
_STEPS_S = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800,
)  # fmt: skip


def number(value: float, decimals: int | None = None) -> str:
    """For people: `1.2k`, `90k`, `0.05`."""
    if decimals is not None and abs(value) < 10_000:
        return f"{value:.{decimals}f}"
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:.3g}{letter}"
    if abs(value) < LEAST:
        return "0"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def duration(value: float) -> str:
    """Seconds for people: `12 ms`, `4.5 s`, `3.2 min`, `1.5 h`, `2 d`."""
    size = abs(value)
    if size < 1e-6:
        return "0 s"
    for scale, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if size >= scale * 0.9995:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e3:.3g} ms" if size >= 0.001 else f"{value * 1e6:.3g} µs"


def measure(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit."""
    if unit == model.SECONDS:
        return duration(value)
    if unit == model.SHARE:
        share = value * 100
        return f"{share:.{decimals}f}%" if decimals is not None else f"{share:.3g}%"
    text = number(value, decimals)
    return f"{text}{unit.removeprefix('suffix:')}" if unit.startswith("suffix:") else text


def width(text: str, size: float, *, bold: bool = False) -> float:
    """Roughly how many pixels a text takes in a sans-serif face."""
    em = sum(0.37 if c in _NARROW else 0.95 if c in _WIDE else 0.7 if c.isupper() else 0.62 for c in text)
    return em * size * (1.12 if bold else 1.0)


def fit(text: str, size: float, most: float, *, bold: bool = False) -> str:
    """The text, or as much of it as fits, and a sign that there is more."""
    text = visible(text)
    if width(text, size, bold=bold) <= most:
        return text
    while text and width(f"{text}…", size, bold=bold) > most:
        text = text[:-1]
    return f"{text.rstrip()}…" if text else ""


def squeeze(text: str, size: float, most: float) -> str:
    """The text, or its begin and its end: names of series differ in both."""
    text = visible(text)
    kept = len(text)
    short = text
    while kept > 1 and width(short, size) > most:
        kept -= 1
        head = kept // 2
        short = f"{text[:head]}…{text[len(text) - (kept - head) :]}"
    return short


def wrap(text: str, size: float, most: float) -> list[str]:
    """The text in lines that fit."""
    lines: list[str] = []
    for word in visible(text).split():
        if lines and width(f"{lines[-1]} {word}", size) <= most:
            lines[-1] += f" {word}"
        else:
            lines.append(fit(word, size, most))
    return lines


def label(
    x: float, y: float, text: str, *, size: float = 11, colour: str = INK, anchor: str = "start", bold: bool = False
) -> str:
    """A text on its baseline."""
    heavy = ' font-weight="600"' if bold else ""
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{at(x)}" y="{at(y)}" font-size="{size:g}" fill="{colour}"{where}{heavy}>{escape(text)}</text>'


def box(x: float, y: float, w: float, h: float, colour: str, more: str = "") -> str:
    """A filled rectangle."""
    return f'<rect x="{at(x)}" y="{at(y)}" width="{at(max(0.0, w))}" height="{at(max(0.0, h))}" fill="{colour}"{more}/>'


def path(points: Sequence[tuple[float, float]]) -> str:
    """Data of a path through points. Those that lie on the line between those that are kept are left out."""
    kept = [points[0]]
    between: list[tuple[float, float]] = []
    for point in points[1:]:
        if not all(_near(one, kept[-1], point) for one in between):
            kept.append(between[-1])
            between = []
        between.append(point)
    if between:
        kept.append(between[-1])
    return "M" + "L".join(f"{at(x)} {at(y)}" for x, y in kept)


def _near(point: tuple[float, float], begin: tuple[float, float], end: tuple[float, float]) -> bool:
    share = (point[0] - begin[0]) / ((end[0] - begin[0]) or 1.0)
    return abs(point[1] - begin[1] - (end[1] - begin[1]) * share) <= SEEN_PX


def at(value: float) -> str:
    """A coordinate."""
    return f"{value:.1f}".removesuffix(".0")


def ticks(least: float, most: float, about: int = 4, *, unit: str = "") -> list[float]:
    """Values that hold `least` and `most` between them, round ones in the unit."""
    if not most > least:
        most = least + 1
    raw = (most - least) / about
    power: float = 10.0 ** math.floor(math.log10(raw))
    step = next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= raw * 0.999)
    if unit == model.SECONDS and raw > 10:
        step = float(next((s for s in _STEPS_S if s >= raw * 0.999), math.ceil(raw / 604_800) * 604_800))
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def instants(begin: float, end: float, about: int) -> list[float]:
    """Round instants of a time axis."""
    step = next((s for s in _STEPS_S if (end - begin) / s <= about), _STEPS_S[-1])
    return [n * float(step) for n in range(math.ceil(begin / step), math.floor(end / step) + 1)]


def clock(instant: float, span_s: float) -> str:
    """An instant of an axis that is `span_s` long, in UTC."""
    told = datetime.fromtimestamp(instant, UTC)
    if span_s <= 1200:
        return f"{told:%H:%M:%S}"
    return (
        f"{told:%H:%M}"
        if span_s <= 86_400 * 1.5
        else f"{told:%m-%d %H:%M}"
        if span_s <= 86_400 * 7
        else f"{told:%m-%d}"
    )
