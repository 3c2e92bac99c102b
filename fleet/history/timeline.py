"""A run as a picture: a row per step, its time coloured by cause. Inline SVG, nothing from elsewhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from markupsafe import Markup

from fleet.documents import visible
from fleet.history import clocks
from fleet.history.model import Cause, Question, Span, Step, Story

WIDTH: Final = 1000
LABEL: Final = 190
RIGHT: Final = 12
ROW: Final = 20
BAR: Final = 12
TOP: Final = 22
LEAST_PX: Final = 1.5
"""No stretch is drawn narrower."""
MOST_ROWS: Final = 400
"""Later ones are left out of the picture, and told below it."""
_PLOT: Final = WIDTH - LABEL - RIGHT
_STEPS_S: Final = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800,
    86_400, 604_800,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    what: str
    begins: datetime
    spans: list[Span]
    anchor: str


def anchor(step: Step) -> str:
    """Id of the step's own section on the page."""
    return f"step-{step.number}"


def picture(told: Story) -> Markup:
    """The timeline; empty for a run of no length."""
    begin, end = told.started_at, told.ended_at or told.read_at
    if begin is None or end is None or end <= begin:
        return Markup("")
    rows = _rows(told)
    drawn, left = rows[:MOST_ROWS], len(rows) - MOST_ROWS
    scale = _Scale(begin, (end - begin).total_seconds())
    height = TOP + ROW * (len(drawn) + 1) + 6
    parts = [*_axis(scale, height), *_bars(scale, TOP, "the run", clocks.sweep(told), "")]
    for number, row in enumerate(drawn, start=1):
        parts += _bars(scale, TOP + ROW * number, f"{row.name} {row.what}", row.spans, row.anchor)
    picture = Markup(
        '<svg class="timeline" viewBox="0 0 {width} {height}" role="img" aria-label="{says}">{parts}</svg>'
    ).format(width=WIDTH, height=height, says=_says(told), parts=Markup("").join(parts))
    if left > 0:
        picture += Markup('<p class="faint">{} more rows are told below.</p>').format(left)
    return picture


def _rows(told: Story) -> list[_Row]:
    end = told.ended_at or told.read_at
    rows = [_Row(s.name, s.what, s.scheduled_at, s.spans, anchor(s)) for s in told.steps]
    rows += [_of_question(question, end) for question in told.questions]
    return sorted(rows, key=lambda row: row.begins)


def _of_question(question: Question, end: datetime | None) -> _Row:
    asked = "was it had?" if question.settles else "asks"
    return _Row(question.step, asked, question.approval.opened_at, clocks.of_question(question, end), "")


@dataclass(frozen=True, slots=True)
class _Scale:
    begin: datetime
    length_s: float

    def x(self, at: datetime) -> float:
        return self.of((at - self.begin).total_seconds())

    def of(self, seconds: float) -> float:
        return LABEL + min(1.0, max(0.0, seconds / self.length_s)) * _PLOT


def _axis(scale: _Scale, height: int) -> Iterator[Markup]:
    step = next((s for s in _STEPS_S if scale.length_s / s <= 10), scale.length_s / 10)
    for number in range(int(scale.length_s / step + 1e-9) + 1):
        x = scale.of(number * step)
        yield Markup('<path class="grid" d="M{x} {top}V{bottom}"/>').format(x=_at(x), top=TOP - 4, bottom=height)
        where = "end" if x > WIDTH - 30 else "middle"
        yield Markup('<text class="{}" x="{}" y="{}">{}</text>').format(where, _at(x), TOP - 9, clock(number * step))


def _bars(scale: _Scale, y: int, name: str, spans: list[Span], target: str) -> Iterator[Markup]:
    shown = visible(name)
    label = Markup('<text class="label" x="{}" y="{}">{}</text>').format(LABEL - 8, y + 13, _cut(shown, 28))
    yield Markup('<a href="#{}">{}</a>').format(target, label) if target else label
    for span in spans:
        x = scale.x(span.begins)
        width = max(LEAST_PX, scale.x(span.ends) - x)
        yield Markup(
            '<rect class="{cause}" x="{x}" y="{y}" width="{width}" height="{height}"><title>{says}</title></rect>'
        ).format(
            cause=span.cause.value, x=_at(x), y=y + 4, width=_at(width), height=BAR,
            says=f"{shown}: {span.cause.value} {clock(span.seconds)}",
        )  # fmt: skip


def clock(seconds: float) -> str:
    """A time for people: `20 ms`, `4.5 s`, `2 min`, `1:30 min`, `2 h`, `3 d`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds else "0"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min" if whole % 60 else f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3600}:{whole % 3600 // 60:02} h" if whole % 3600 >= 60 else f"{whole // 3600} h"
    return f"{whole / 86_400:.3g} d"


def _says(told: Story) -> str:
    spent = ", ".join(f"{cause.value} {clock(told.time[cause])}" for cause in Cause if cause in told.time)
    return visible(f"Timeline of {told.run_id}: {len(told.steps)} steps in {clock(told.duration_s or 0.0)}: {spent}")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
