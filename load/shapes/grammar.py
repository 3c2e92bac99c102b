"""Shapes of load as people write them on a command line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleet.errors import BadInput
from fleet.rates import duration
from load.shapes.patterns import Burst, Constant, Ramp, Scheduled, Shape, Together, Wave
from load.shapes.trace import Trace

GRAMMAR = """\
constant:5/s                 so many a second, at random (a Poisson process)
constant:500                 exactly so many, spread over the whole time
ramp:1/s-20/s                from one rate to another
wave:5/s+-4/s/60s            up and down around a rate, once in each period
burst:500@10s                all at once at that second; width=2s spreads them
scheduled:50/1h,jitter=5m    so many agents at every turn, each with its own jitter; at=10s is the first turn
trace:arrivals.csv,speed=2   as a file says: seconds in its column "at" or its first one, or JSON lines

Rates are by the s, m or h; times are 500ms, 10s, 2m, 1h. Where constant, burst and scheduled leave out the number, as
in constant, burst:@10s and scheduled:1h, it is that of the agents. Options follow after commas: for=2m (how long load
is offered), jitter=5s (each arrival comes up to so much later), even (no chance in it: constant, ramp, wave). Shapes
are added with a plus between blanks: constant:2/s + burst:300@30s"""

_KINDS: dict[str, Callable[..., Shape]] = {
    "constant": Constant, "ramp": Ramp, "wave": Wave, "burst": Burst, "scheduled": Scheduled, "trace": Trace,
}  # fmt: skip
_EXAMPLES = {
    "constant": "constant:5/s,for=2m",
    "ramp": "ramp:1/s-20/s",
    "wave": "wave:5/s+-4/s/60s",
    "burst": "burst:500@10s",
    "scheduled": "scheduled:50/1h,jitter=5m",
    "trace": "trace:arrivals.csv,speed=2",
}
_OPTIONS = {
    "constant": ("for", "jitter", "even"),
    "ramp": ("for", "jitter", "even"),
    "wave": ("for", "jitter", "even"),
    "burst": ("width", "jitter"),
    "scheduled": ("for", "at", "jitter"),
    "trace": ("for", "speed", "jitter"),
}
_RATE = r"\d+(?:\.\d+)?/[smh]"
_TIME = r"\d+(?:\.\d+)?(?:ms|s|m|h|d)"
_FORMS = {
    "constant": re.compile(rf"(?P<rate>{_RATE})|(?P<count>\d+)?"),
    "ramp": re.compile(rf"(?P<first>{_RATE})-(?P<last>{_RATE})"),
    "wave": re.compile(rf"(?P<mean>{_RATE})(?:\+-|±)(?P<amplitude>{_RATE})/(?P<period_s>{_TIME})"),
    "burst": re.compile(rf"(?P<count>\d+)?(?:@(?P<at_s>{_TIME}))?"),
    "scheduled": re.compile(rf"(?:(?P<count>\d+)/)?(?P<every_s>{_TIME})"),
    "trace": re.compile(r"(?P<path>.+)"),
}
_COUNTED = ("constant", "burst", "scheduled")
_OPTION = re.compile(r",(?=(?:for|at|width|jitter|speed)=|even(?:,|$))")
"""Other commas belong to the name of a file."""
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse(text: str, *, count: int | None = None, for_s: float = 60.0) -> Shape:
    """Read a shape as people write it (`GRAMMAR`).

    Args:
        text: the shape, or several with a plus between blanks.
        count: arrivals where the text does not say how many.
        for_s: how long load is offered where the text does not say.

    Raises:
        BadInput: it is no shape; one line with an example.
    """
    parts = tuple(_part(part.strip(), count, for_s) for part in re.split(r"\s\+\s", text))
    return parts[0] if len(parts) == 1 else Together(parts=parts)


def _part(text: str, count: int | None, for_s: float) -> Shape:
    kind, _, rest = text.partition(":")
    kind, comma, more = kind.partition(",")
    if kind not in _KINDS:
        raise BadInput(f"{text!r} is not a shape of load such as {', '.join(map(repr, _EXAMPLES.values()))}")
    example = _EXAMPLES[kind]
    core, *options = _OPTION.split(rest or comma + more)
    found = _FORMS[kind].fullmatch(core)
    if not found:
        raise BadInput(f"{text!r} is not a shape of load such as {example!r}")
    given = {key: _value(key, value) for key, value in found.groupdict().items() if value is not None}
    if kind in _COUNTED and not given.keys() & {"rate", "count"}:
        if count is None:
            raise BadInput(f"{text!r} does not say how many arrive, as in {example!r}")
        given["count"] = count
    if kind not in ("burst", "trace"):
        given["for_s"] = for_s
    for option in options:
        name, _, value = option.partition("=")
        if name not in _OPTIONS[kind]:
            raise BadInput(f"{text!r}: {kind} has no {name!r}, only {', '.join(_OPTIONS[kind])}, as in {example!r}")
        key, said = _option(text, name, value)
        given[key] = said
    try:
        return _KINDS[kind](**given)
    except BadInput as error:
        raise BadInput(f"{text!r}: {error}") from None


def _option(text: str, name: str, value: str) -> tuple[str, Any]:
    if name == "even":
        return "poisson", False
    if name == "speed":
        try:
            return name, float(value)
        except ValueError:
            raise BadInput(f"{text!r}: {value!r} is not a number such as '2' or '0.5'") from None
    try:
        return f"{name}_s", duration(value).total_seconds()
    except (ValueError, OverflowError):
        raise BadInput(f"{text!r}: {value!r} is not a time such as '500ms', '10s', '2m', '1h'") from None


def _value(key: str, text: str) -> Any:
    if key == "count":
        return int(text[:20])
    if key == "path":
        return Path(text)
    if key.endswith("_s"):
        return duration(text[:20]).total_seconds()
    units, _, per = text.partition("/")
    return float(units) / _SECONDS[per]
