"""The live picture of a trial on stderr: a table that renews itself on a terminal, else a line now and then."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fleet.cli.output import seconds, shorten
from load.trial import Mark

LINE_EVERY_S: Final = 5.0
SPARK_S: Final = 60.0
"""How far back the small curve goes."""
SPARK_CELLS: Final = 15
MOST_FAULTS: Final = 3
MOST_TEXT: Final = 1000
"""Characters of a line."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_BAR = 24
_AROUND = 9
"""Lines of the picture that are not scopes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopePicture:
    """One scope at the moment."""

    scope: str
    limit: str
    """The one that is used most."""
    used: float
    """Share of it (0-1)."""
    line_s: float
    """Seconds that the line owes."""
    calls: int
    """That went well, ever."""
    refused: int
    """429s, ever."""
    pace: float = 1.0
    """Share of the configured rate in force."""
    charged: Mapping[str, float] = field(default_factory=dict)
    """Units ever charged, by limit. Without them the curve shows calls against their own maximum."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Units a second that the provider grants, by limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Everything at the moment."""

    elapsed_s: float
    """Since the begin of the load."""
    total_s: float
    """How long load is offered."""
    agents: Mapping[str, int]
    """Counts by state, in the order in which they are shown."""
    scopes: Sequence[ScopePicture] = ()
    wait_p50_s: float | None = None
    wait_p99_s: float | None = None
    marks: Sequence[Mark] = ()
    """Faults so far; those that `View.mark` was told are known anyway."""
    eta_s: float | None = None
    """Until everything has ended. None: nobody knows."""
    phase: str = ""
    """Empty: as `View.phase` said."""


class View:
    """Shows pictures until it is closed; the last one stays. Not for two threads."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        """Args:
        quiet: show nothing, as with `--json`.
        console: to show it on. Default: stderr.
        """
        self._console = console or Console(stderr=True, markup=False, emoji=False, highlight=False)
        self._quiet = quiet
        # a dumb terminal cannot go back up
        self._moves = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live: Live | None = None
        self._phase = ""
        self._marks: list[Mark] = []
        self._curves: dict[str, _Curve] = {}
        self._last: Picture | None = None
        self._said_s: float | None = None
        self._closed = False

    def phase(self, text: str) -> None:
        """Say what is done now."""
        self._phase = text
        if self._quiet or self._closed:
            return
        if self._moves and self._last is not None:
            self._draw(self._last)
        else:
            self._write(text)

    def update(self, picture: Picture) -> None:
        """Show a picture, or note it for the next line."""
        for scope in picture.scopes:
            self._curves.setdefault(scope.scope, _Curve()).add(picture.elapsed_s, scope)
        self._last = picture
        if self._quiet or self._closed:
            return
        if self._moves:
            self._draw(picture)
        elif self._said_s is None or not 0 <= picture.elapsed_s - self._said_s < LINE_EVERY_S:
            self._said_s = picture.elapsed_s
            self._write(self._line(picture))

    def mark(self, mark: Mark) -> None:
        """Say that a fault strikes."""
        self._marks.append(mark)
        if self._quiet or self._closed:
            return
        if self._live and self._last is not None:
            self._draw(self._last)
        else:
            self._write(f"fault: {mark.what}")

    def close(self) -> None:
        """Leave the last picture on the screen. A second call does nothing."""
        if self._closed:
            return
        if self._live:
            self._live.stop()
        elif self._last is not None and self._said_s is not None and self._last.elapsed_s > self._said_s:
            self._write(self._line(self._last))
        self._closed = True

    def _write(self, text: str) -> None:
        self._console.print(Text(f"fleet: {shorten(text, MOST_TEXT)}"), soft_wrap=True)

    def _draw(self, picture: Picture) -> None:
        if self._live is None:
            # its own refreshing would redraw what has not changed
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()
        self._live.update(self._picture(picture), refresh=True)

    def _faults(self, picture: Picture) -> list[Mark]:
        """Those of the picture and those that were told, each once, in their order."""
        known = {(mark.kind, mark.what, mark.at): mark for mark in (*picture.marks, *self._marks)}
        return sorted(known.values(), key=lambda mark: mark.at)

    def _line(self, picture: Picture) -> str:
        parts = [_progress(picture, picture.phase or self._phase)]
        parts.append(_agents(picture))
        if waits := _waits(picture):
            parts.append(waits)
        parts += [
            f"{s.scope}: {s.limit} {s.used:.0%}, line {seconds(s.line_s)}, calls {s.calls}, 429s {s.refused}"
            + (f", pace {s.pace:.0%}" if s.pace < 1 else "")
            for s in picture.scopes
            if s.calls or s.refused or s.line_s
        ]
        return " · ".join(part for part in parts if part)

    def _picture(self, picture: Picture) -> RenderableType:
        width = self._console.width
        faults = self._faults(picture)[-MOST_FAULTS:]
        share = min(1.0, max(0.0, picture.elapsed_s / picture.total_s)) if picture.total_s > 0 else 1.0
        done = round(share * _BAR)
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append("━" * done, "cyan").append("━" * (_BAR - done), "bright_black")
        head.append(f" {_progress(picture, picture.phase or self._phase)}", "bold")
        counts = Text(
            " · ".join(p for p in (_agents(picture), _waits(picture)) if p), no_wrap=True, overflow="ellipsis"
        )
        room = max(1, self._console.height - _AROUND - len(faults))
        shown = list(picture.scopes[:room])
        parts: list[RenderableType] = [head, counts, Text("")]
        if shown:
            parts.append(self._table(shown, width))
        if len(picture.scopes) > len(shown):
            parts.append(Text(f"and {len(picture.scopes) - len(shown)} more quotas", "bright_black"))
        if faults:
            parts.append(Text(""))
        parts += [
            Text(shorten(f"fault  {mark.kind}: {mark.what}", width), "yellow", no_wrap=True, overflow="ellipsis")
            for mark in faults
        ]
        return Group(*parts)

    def _table(self, scopes: Sequence[ScopePicture], width: int) -> Table:
        cells = SPARK_CELLS if width < 100 else 2 * SPARK_CELLS
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("QUOTA", ratio=1, no_wrap=True, overflow="ellipsis", max_width=max(12, width - cells - 42))
        for name in ("USED", "LINE", "CALLS", "429s", "PACE"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("LAST MINUTE", no_wrap=True, min_width=cells)
        for one in scopes:
            table.add_row(
                Text(shorten(f"{one.scope} {one.limit}".strip(), 200)),
                f"{one.used:.0%}",
                seconds(one.line_s),
                str(one.calls),
                Text(str(one.refused), "red" if one.refused else ""),
                Text(f"{one.pace:.0%}", "yellow" if one.pace < 1 else ""),
                Text(self._curves[one.scope].drawn(cells), "cyan"),
            )
        return table


class _Curve:
    """What a scope was granted in the last minute, as a share of what its scarcest limit grants."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, ScopePicture]] = deque()

    def add(self, elapsed_s: float, one: ScopePicture) -> None:
        if self._seen:
            before, last = self._seen[-1]
            # the ledger was away: nothing is known of it
            if elapsed_s <= before or (one.calls == 0 and last.calls > 0):
                return
        self._seen.append((elapsed_s, one))
        # one from before the minute, to count from
        while len(self._seen) > 2 and self._seen[1][0] <= elapsed_s - SPARK_S:
            self._seen.popleft()

    def drawn(self, cells: int) -> str:
        """A cell for each part of the minute; a space where nothing is known."""
        if len(self._seen) < 2:
            return ""
        now = self._seen[-1][0]
        width = SPARK_S / cells
        shares = [self._share(now - (n + 1) * width, now - n * width) for n in reversed(range(cells))]
        if not any(one.rates for _, one in self._seen):
            most = max((share for share in shares if share is not None), default=0.0)
            shares = [share / most if share is not None and most else share for share in shares]
        return "".join(" " if share is None else _BLOCKS[min(7, int(max(0.0, share) * 7.999))] for share in shares)

    def _share(self, begin: float, end: float) -> float | None:
        """Of the part of a minute; calls a second where no rate is known."""
        if begin < self._seen[0][0] - 1e-9:
            return None
        first, last = self._at(begin), self._at(end)
        found = [
            self._between(first[limit], last[limit]) / (rate * (end - begin))
            for limit, rate in self._seen[-1][1].rates.items()
            if rate > 0 and limit in first and limit in last
        ]
        return max(found) if found else self._between(first[""], last[""]) / (end - begin)

    def _at(self, instant: float) -> dict[str, float]:
        """The counts at an instant, as if they grew evenly between two looks. Calls are under the empty name."""
        before = after = self._seen[0]
        for seen in self._seen:
            after = seen
            if seen[0] >= instant:
                break
            before = seen
        length = after[0] - before[0]
        part = min(1.0, max(0.0, (instant - before[0]) / length)) if length > 0 else 0.0
        one, other = _counts(before[1]), _counts(after[1])
        return {name: count + part * (other[name] - count) for name, count in one.items() if name in other}

    @staticmethod
    def _between(first: float, last: float) -> float:
        # a simulator that was restarted counts from zero
        return max(0.0, last - first)


def _counts(one: ScopePicture) -> dict[str, float]:
    return {**one.charged, "": float(one.calls)}


def _progress(picture: Picture, phase: str) -> str:
    parts = [phase, f"{seconds(picture.elapsed_s)} of {seconds(picture.total_s)}"]
    if picture.eta_s is not None:
        parts.append(f"about {seconds(max(0.0, picture.eta_s))} left")
    return " · ".join(part for part in parts if part)


def _agents(picture: Picture) -> str:
    return "agents: " + ", ".join(f"{count} {state}" for state, count in picture.agents.items())


def _waits(picture: Picture) -> str:
    if picture.wait_p50_s is None and picture.wait_p99_s is None:
        return ""
    return f"waits p50 {seconds(picture.wait_p50_s)} p99 {seconds(picture.wait_p99_s)}"
