"""Pictures of dashboards: numbers, texts that fit, and labels by strangers."""

import xml.etree.ElementTree as ET

import pytest

from fleet.dashboards import drawing, figures, model
from fleet.dashboards.figures import Band, Span, Table
from fleet.dashboards.model import Draw, Mapped, Panel, Query

SPAN = Span(begin=1_000_000.0, end=1_000_600.0, step=60.0)
POINTS = [(1_000_000.0 + 60 * n, float(n % 3)) for n in range(11)]
HOSTILE = '<script>"&\x00\u202e tenant'


def panel(draw: Draw = Draw.LINES, **more) -> Panel:
    return Panel(title="t", says="s.", unit="s", queries=[Query(expr="1", legend="value")], width=8, draw=draw, **more)


def texts(body: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(f"<svg>{body}</svg>").iter("text")]


@pytest.mark.parametrize(
    ("value", "unit", "says"),
    [
        (0.0, "s", "0 s"),
        (0.0123, "s", "12.3 ms"),
        (90, "s", "1.5 min"),
        (3 * 86_400, "s", "3 d"),
        (0.5, "percentunit", "50%"),
        (1234, "short", "1.23k"),
        (1e-7, "short", "0"),
        (2.5, "suffix:/min", "2.5/min"),
        (-3, "short", "-3"),
    ],
)
def test_values_are_shown_in_their_unit(value, unit, says):
    assert drawing.measure(value, unit) == says


def test_a_text_that_is_too_long_is_cut_and_says_so():
    assert drawing.fit("short", 11, 100) == "short"
    cut = drawing.fit("a name that is much too long for its place", 11, 100)
    assert cut.endswith("…")
    assert drawing.width(cut, 11) <= 100
    kept = drawing.squeeze("anthropic/claude/org-a input_tokens", 11, 150)
    assert kept.startswith("anthropic/")
    assert kept.endswith("input_tokens")
    assert drawing.width(kept, 11) <= 150


@pytest.mark.parametrize(("least", "most"), [(0, 0), (0, 1e-9), (0, 7), (-3, 12), (0, 5e9)])
def test_the_values_of_an_axis_hold_what_is_drawn(least, most):
    found = drawing.ticks(least, most)
    assert found[0] <= least < found[-1] or most == least
    assert found[-1] >= most
    assert 2 <= len(found) <= 8


def test_an_axis_of_seconds_has_whole_minutes():
    assert drawing.ticks(0, 170, unit="s") == [0, 60, 120, 180]


def test_points_on_a_straight_line_are_left_out():
    assert drawing.path([(0, 0), (1, 1), (2, 2), (3, 0)]) == "M0 0L2 2L3 0"
    assert drawing.path([(0, 0)]) == "M0 0"
    # a bend that is too slight to be seen from one point to the next is seen from afar
    slight = [(float(n), n * n * 0.01) for n in range(40)]
    assert 3 < drawing.path(slight).count("L") < 20


def test_colours_that_are_named_are_kept_and_empty_parts_left_out():
    found = figures.coloured(
        panel(Draw.STACK, colours={"failed": model.RED}),
        [("b", POINTS), ("failed", POINTS), ("a", POINTS), ("never", [(1.0, 0.0)]), ("none", [])],
    )
    assert [one.name for one in found] == ["failed", "a", "b"]
    assert found[0].colour == model.RED
    assert len({one.colour for one in found}) == 3


def test_a_gap_is_not_drawn_over():
    drawn = figures.coloured(panel(), [("a", [*POINTS[:3], *POINTS[8:]])])
    body = figures.lines(panel(), drawn, SPAN, [], 400, 200)
    lines = [one for one in ET.fromstring(f"<svg>{body}</svg>").iter("path") if one.get("stroke-width")]
    assert len(lines) == 2


def test_a_band_of_states_ends_where_the_value_changes():
    shown = panel(
        Draw.STATES, mappings=[Mapped(value=0, text="no", colour="#f00"), Mapped(value=1, text="yes", colour="#0f0")]
    )
    drawn = figures.coloured(shown, [("up", [(1_000_000.0 + 60 * n, float(n < 5)) for n in range(10)])])
    body = figures.states(shown, drawn, SPAN, [], 400, 200)
    assert [one.get("fill") for one in ET.fromstring(f"<svg>{body}</svg>").iter("rect")][1:3] == ["#0f0", "#f00"]
    assert {"no", "yes"} <= set(texts(body))


def test_what_does_not_fit_is_counted():
    shown = panel(Draw.TABLE, labels=("tenant",))
    rows = [([f"tenant-{n}"], [float(n)]) for n in range(40)]
    said = texts(figures.table(shown, Table(labels=["tenant"], rows=rows), 400, 200))
    assert said[-1] == f"+{40 - sum(text.startswith('tenant-') for text in said)} more"
    many = figures.coloured(panel(), [(f"a rather long name of a series {n}", POINTS) for n in range(40)])
    assert any(text.endswith(" more") for text in texts(figures.lines(panel(), many, SPAN, [], 400, 200)))


def test_labels_by_strangers_are_no_markup():
    drawn = figures.coloured(panel(), [(HOSTILE, POINTS)])
    band = Band(number=1, title=HOSTILE, colour="#f00", begin=SPAN.begin, end=SPAN.end)
    bodies = [
        figures.lines(panel(), drawn, SPAN, [band], 400, 200),
        figures.states(panel(Draw.STATES), drawn, SPAN, [band], 400, 200),
        figures.bars(panel(Draw.BARS), drawn, 400, 200),
        figures.table(panel(Draw.TABLE, labels=("x",)), Table(labels=["x"], rows=[([HOSTILE], [None])]), 400, 200),
        figures.nothing(panel(), 400, 200, HOSTILE),
    ]
    for body in bodies:
        assert "<script" not in body
        assert all("\x00" not in text and "\u202e" not in text for text in texts(body))
