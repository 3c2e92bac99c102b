"""Arrivals: how many, when, and the same again by the same seed."""

import math
import random
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.errors import BadInput
from load.shapes import GRAMMAR, Burst, Constant, Ramp, Scheduled, Together, Trace, Wave, parse

SECONDS = st.floats(0.5, 100)
JITTER = st.sampled_from([0.0, 0.3, 20.0])
RATES = st.floats(0.01, 20)
COUNTS = st.integers(0, 300)

SHAPES = st.one_of(
    st.builds(Constant, for_s=SECONDS, rate=st.floats(0.01, 2), poisson=st.booleans(), jitter_s=JITTER),
    st.builds(Constant, for_s=SECONDS, count=COUNTS, poisson=st.booleans(), jitter_s=JITTER),
    st.builds(Ramp, first=st.floats(0, 2), last=st.floats(0, 2), for_s=SECONDS, poisson=st.booleans(), jitter_s=JITTER),
    st.builds(
        Wave,
        mean=st.floats(0.5, 2),
        amplitude=st.floats(0, 0.5),
        period_s=st.floats(1, 100),
        for_s=SECONDS,
        poisson=st.booleans(),
        jitter_s=JITTER,
    ),
    st.builds(Burst, count=COUNTS, at_s=st.floats(0, 50), width_s=st.floats(0, 9), jitter_s=JITTER),
    st.builds(
        Scheduled,
        count=st.integers(0, 30),
        every_s=st.floats(10, 100),
        for_s=SECONDS,
        at_s=st.floats(0, 9),
        jitter_s=JITTER,
    ),
)


@settings(deadline=None)
@given(SHAPES, st.integers(0, 9))
def test_arrivals_are_in_order_and_within_the_time(shape, seed):
    times = shape.times(random.Random(seed))
    assert times == sorted(times)
    assert all(0 <= at <= shape.ends_s + 1e-6 for at in times)


@settings(deadline=None)
@given(SHAPES, SHAPES, st.integers(0, 9))
def test_the_same_dice_give_the_same_times(one, other, seed):
    for shape in (one, Together(parts=(one, other))):
        assert shape.times(random.Random(seed)) == shape.times(random.Random(seed))


@settings(deadline=None)
@given(SHAPES, st.integers(0, 9))
def test_jitter_makes_each_arrival_later_and_none_earlier(shape, seed):
    if getattr(shape, "poisson", False):
        shape = replace(shape, poisson=False)
    if isinstance(shape, Burst):
        shape = replace(shape, width_s=0.0)
    still = replace(shape, jitter_s=0.0).times(random.Random(seed))
    moved = shape.times(random.Random(seed))
    assert len(still) == len(moved)
    assert all(a <= b <= a + shape.jitter_s for a, b in zip(still, moved, strict=True))


@settings(deadline=None)
@given(COUNTS, SECONDS, st.booleans(), st.integers(0, 9))
def test_a_count_is_kept(count, for_s, poisson, seed):
    dice = random.Random(seed)
    assert len(Constant(for_s=for_s, count=count, poisson=poisson).times(dice)) == count
    assert len(Burst(count=count, width_s=for_s).times(dice)) == count


@settings(deadline=None)
@given(st.integers(0, 20), st.floats(1, 50), st.floats(0, 60), SECONDS)
def test_every_scheduled_agent_starts_at_every_turn_before_the_end(count, every_s, at_s, for_s):
    times = Scheduled(count=count, every_s=every_s, at_s=at_s, for_s=for_s).times(random.Random(0))
    turns = [at_s + n * every_s for n in range(1000) if at_s + n * every_s < for_s]
    assert times == pytest.approx([turn for turn in turns for _ in range(count)])


@settings(deadline=None)
@given(RATES, RATES, st.floats(1, 20))
def test_an_even_ramp_has_what_its_rates_promise_up_to_any_instant(first, last, for_s):
    times = Ramp(first=first, last=last, for_s=for_s, poisson=False).times(random.Random(0))
    slope = (last - first) / for_s
    for number, at in enumerate(times):
        assert first * at + slope * at * at / 2 == pytest.approx(number + 0.5, abs=1e-3)


# ---- rates, as far as chance lets them be tested: six standard deviations of a Poisson count


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (Constant(for_s=1000, rate=20), 20_000),
        (Ramp(first=1, last=39, for_s=1000), 20_000),
        (Wave(mean=20, amplitude=20, period_s=100, for_s=1000), 20_000),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_mean_rate_is_right(shape, expected, seed):
    assert abs(len(shape.times(random.Random(seed))) - expected) < 6 * math.sqrt(expected)


def test_a_poisson_process_is_as_dispersed_as_it_should_be():
    times = Constant(for_s=2000, rate=10).times(random.Random(4))
    counts = [0] * 2000
    for at in times:
        counts[int(at)] += 1
    mean = sum(counts) / 2000
    assert sum((count - mean) ** 2 for count in counts) / 2000 / mean == pytest.approx(1.0, abs=0.15)


def test_a_ramp_has_three_quarters_of_its_arrivals_in_its_upper_half():
    times = Ramp(first=0, last=40, for_s=500).times(random.Random(5))
    assert sum(at > 250 for at in times) / len(times) == pytest.approx(0.75, abs=0.03)


def test_a_wave_is_high_in_the_first_half_of_its_period_and_low_in_the_second():
    times = Wave(mean=10, amplitude=9, period_s=60, for_s=600).times(random.Random(6))
    high = sum(at % 60 < 30 for at in times) / len(times)
    assert high == pytest.approx(0.5 + 0.9 / math.pi, abs=0.03)


def test_a_part_of_a_sum_arrives_as_before_when_another_part_changes():
    base = Constant(for_s=60, rate=2)
    lone = set(Together(parts=(base, Burst(count=5, at_s=100))).times(random.Random(7)))
    more = set(Together(parts=(base, Burst(count=50, at_s=200))).times(random.Random(7)))
    assert {at for at in lone if at < 100} == {at for at in more if at < 100}


# ---- traces


def test_a_trace_is_read_from_its_first_column_or_from_the_one_named_at(tmp_path):
    (tmp_path / "a.csv").write_text("3.5\n1,first\n\n2\n")
    (tmp_path / "b.csv").write_text("agent,at\nx,4\ny,2\n")
    (tmp_path / "c.csv").write_text("seconds,agent\n6,x\n")
    assert Trace(path=tmp_path / "a.csv").times(random.Random(0)) == [1, 2, 3.5]
    assert Trace(path=tmp_path / "b.csv", speed=2).times(random.Random(0)) == [1, 2]
    assert Trace(path=tmp_path / "c.csv").times(random.Random(0)) == [6]
    assert Trace(path=tmp_path / "a.csv", for_s=2).times(random.Random(0)) == [1, 2]
    assert Trace(path=tmp_path / "a.csv", jitter_s=1).ends_s == 4.5


def test_a_trace_may_be_json_lines_and_instants_count_from_the_earliest(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"at": 2, "agent": "x"}\n1.5\n')
    (tmp_path / "b.csv").write_text("TIMESTAMP,tokens\n2026-05-10 00:00:10.6805900,5\n2026-05-10 00:00:09.5,4\n")
    (tmp_path / "c.csv").write_text("1760000010.5\n1760000009\n")
    assert Trace(path=tmp_path / "a.jsonl").times(random.Random(0)) == [1.5, 2]
    assert Trace(path=tmp_path / "b.csv").times(random.Random(0)) == pytest.approx([0, 1.18059])
    assert Trace(path=tmp_path / "c.csv").times(random.Random(0)) == [0, 1.5]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.csv", "1\nsoon\n", "line 2: 'soon'"),
        ("a.csv", "1\n-3\n", "line 2: '-3'"),
        ("a.csv", "1\nnan\n", "line 2: 'nan'"),
        ("a.csv", "x,at\n1\n", "line 2: ''"),
        ("a.jsonl", '{"agent": "x"}\n', "line 1: None"),
        ("a.jsonl", "{]\n", "line 1: '{]'"),
    ],
)
def test_a_line_without_a_time_is_named(tmp_path, name, text, line):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=re.escape(line)) as caught:
        Trace(path=tmp_path / name).times(random.Random(0))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"gone\.csv"):
        Trace(path=tmp_path / "gone.csv").times(random.Random(0))


# ---- as people write them


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("constant:5/s", Constant(for_s=60, rate=5)),
        ("constant:300/m,for=2m,even", Constant(for_s=120, rate=5, poisson=False)),
        ("constant:500", Constant(for_s=60, count=500)),
        ("constant", Constant(for_s=60, count=77)),
        ("constant,even", Constant(for_s=60, count=77, poisson=False)),
        ("ramp:1/s-20/s", Ramp(first=1, last=20, for_s=60)),
        ("ramp:0.5/s-0/s,jitter=500ms", Ramp(first=0.5, last=0, for_s=60, jitter_s=0.5)),
        ("burst:500@10s", Burst(count=500, at_s=10)),
        ("burst:@10s,width=2s", Burst(count=77, at_s=10, width_s=2)),
        ("burst", Burst(count=77)),
        ("wave:5/s+-4/s/60s", Wave(mean=5, amplitude=4, period_s=60, for_s=60)),
        ("wave:5/s±4/s/1m,for=1h", Wave(mean=5, amplitude=4, period_s=60, for_s=3600)),
        ("scheduled:50/1h,jitter=5m,at=10s", Scheduled(count=50, every_s=3600, at_s=10, for_s=60, jitter_s=300)),
        ("scheduled:10s", Scheduled(count=77, every_s=10, for_s=60)),
        ("trace:a,b+c.csv,speed=2,for=30s", Trace(path=Path("a,b+c.csv"), speed=2, for_s=30)),
        (
            "constant:2/s + burst:300@30s",
            Together(parts=(Constant(for_s=60, rate=2), Burst(count=300, at_s=30))),
        ),
    ],
)
def test_a_shape_is_read_as_it_is_written(text, shape):
    assert parse(text, count=77) == shape


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a shape of load such as 'constant:5/s"),
        ("steady:5/s", "not a shape of load such as 'constant:5/s"),
        ("constant:5", None),
        ("constant:five/s", "such as 'constant:5/s,for=2m'"),
        ("ramp:1-20", "such as 'ramp:1/s-20/s'"),
        ("ramp", "such as 'ramp:1/s-20/s'"),
        ("burst:5@soon", "such as 'burst:500@10s'"),
        ("wave:5/s+-9/s/60s", "at most the mean of 5/s"),
        ("wave:5/s+-4/s/0s", "period_s 0: must be above 0"),
        ("constant:0/s", "rate 0: must be above 0"),
        ("constant:5/s,for=0s", "for_s 0: must be above 0"),
        ("constant:5/s,for=long", "'long' is not a time such as"),
        ("constant:5/s,width=3s", "constant has no 'width', only for, jitter, even"),
        ("trace:a.csv,speed=fast", "'fast' is not a number"),
        ("trace:a.csv,speed=0", "speed 0: must be above 0"),
        ("constant:90000/s", "at most 1,000,000"),
        ("burst:99999999999999999999999999", "at most 1,000,000"),
        ("scheduled:1000/1ms", "at most 1,000,000"),
        ("constant:5/s + nothing", "'nothing' is not a shape"),
        ("constant:9/s,for=99999999999999999999d", "is not a time"),
        ("scheduled:5/0s", "every_s 0: must be above 0"),
    ],
)
def test_what_is_no_shape_is_refused_in_one_line(text, says):
    if says is None:
        assert parse(text) == Constant(for_s=60, count=5)
        return
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["constant", "burst", "burst:@5s", "scheduled:10s"])
def test_how_many_must_be_said_by_somebody(text):
    with pytest.raises(BadInput, match="does not say how many arrive"):
        parse(text)


@settings(deadline=None)
@given(
    st.text(max_size=40) | st.from_regex(r"(constant|ramp|burst|wave|scheduled):[0-9/smh@.,+-]{0,20}", fullmatch=True)
)
def test_any_text_is_a_shape_or_bad_input(text):
    with suppress(BadInput):
        parse(text, count=3)


def test_the_papers_of_the_grammar_name_shapes_that_parse():
    lines = GRAMMAR.partition("\n\n")[0].splitlines()
    assert len(lines) == 7
    for line in lines:
        parse(line.split()[0])


def test_a_constant_load_has_a_rate_or_a_count():
    for given_ in ({}, {"rate": 1.0, "count": 1}):
        with pytest.raises(BadInput, match="a rate or a count"):
            Constant(for_s=60, **given_)
    with pytest.raises(BadInput, match="at most"):
        Burst(count=-1)
