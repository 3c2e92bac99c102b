"""The picture in words and cells: pure, no terminal needed. Colours repeat what the text says, they add nothing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rich.text import Text

from fleet.cli.output import seconds, shorten, visible
from fleet.contracts import names
from fleet.contracts.approvals import Approval, Ask
from fleet.contracts.runs import Outcome
from fleet.pools import Backlog, PoolView, Slots
from fleet.top.layout import Panel, bar, fit, fitted
from fleet.top.picture import ApprovalsSeen, Picture, QuotaSeen, RunSeen, RunsSeen, Seen

BAD: Final = "bold red"
WARN: Final = "yellow"
GOOD: Final = "green"
DIM: Final = "grey62"
SOON_S: Final = 3600.0
"""An approval that expires within this is shown as urgent."""
LONG_S: Final = 60.0
"""A line, or the oldest task of a queue, of more than this is shown as slow."""
_NEVER_S: Final = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table."""

    key: str
    """What it is about: a scope, a pool, a run or an approval."""
    cells: tuple[Text, ...]
    """One for each column, also for those that there is no room for."""
    text: str
    """What a filter looks in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A way to sort a panel."""

    name: str
    key: Callable[[Any], Any]


ORDERS: Final[Mapping[Panel, tuple[Order, ...]]] = {
    Panel.QUOTAS: (
        Order(name="longest line", key=lambda q: (not q.closed, -q.line_s, -_used(q))),
        Order(name="most used", key=lambda q: -_used(q)),
        Order(name="most 429s", key=lambda q: (-q.lately, -q.rejections)),
        Order(name="name", key=lambda q: q.scope),
    ),
    Panel.POOLS: (
        Order(name="the manifest", key=lambda _: 0),
        Order(name="most waiting", key=lambda p: -_waiting(p)),
        Order(name="oldest task", key=lambda p: -_oldest(p)),
        Order(name="trouble", key=lambda p: (p.served, not _silent(p))),
    ),
    Panel.RUNS: (
        Order(name="newest", key=lambda r: -r.info.started_at.timestamp()),
        Order(name="longest", key=lambda r: (r.info.closed_at is not None, -r.info.duration_s)),
        Order(name="waits for", key=lambda r: (r.info.closed_at is not None, not r.waits, r.waits)),
        Order(name="cost", key=lambda r: -r.info.cost),
        Order(name="agent", key=lambda r: (r.info.agent, r.info.id)),
    ),
    Panel.APPROVALS: (
        Order(name="next to expire", key=lambda a: a.expires_at),
        Order(name="longest open", key=lambda a: a.opened_at),
        Order(name="tool", key=lambda a: (a.tool, a.expires_at)),
    ),
}


def rows(panel: Panel, picture: Picture, now: datetime, *, order: int = 0, wanted: str = "") -> list[Row]:
    """The lines of a panel.

    Args:
        panel: which.
        picture: of everything.
        now: what ages are counted to.
        order: number of the order in `ORDERS`.
        wanted: only lines that have this text in them, in any case.
    """
    data = seen_of(panel, picture).data
    found = data.rows if isinstance(data, RunsSeen | ApprovalsSeen) else data or ()
    chosen = ORDERS[panel][order % len(ORDERS[panel])]
    made = [_row_of(panel, one, now) for one in sorted(found, key=chosen.key)]
    return [row for row in made if wanted.lower() in row.text.lower()] if wanted else made


def _row_of(panel: Panel, one: Any, now: datetime) -> Row:
    match panel:
        case Panel.QUOTAS:
            return _quota(one)
        case Panel.POOLS:
            return _pool(one)
        case Panel.RUNS:
            return _run(one)
        case Panel.APPROVALS:
            return _approval(one, now)


def seen_of(panel: Panel, picture: Picture) -> Seen[Any]:
    """What the panel's source has said."""
    seen: Seen[Any] = getattr(picture, panel.value)
    return seen


def title(panel: Panel, picture: Picture, now: datetime) -> Text:
    """One line that says the most important of a panel, or who does not answer and how old the data is."""
    seen = seen_of(panel, picture)
    said = Text(no_wrap=True, overflow="ellipsis")
    if seen.error:
        age = f"; data of {seconds((now - seen.at).total_seconds())} ago" if seen.at else "; no data yet"
        return said.append(f"{seen.source.upper()} DOES NOT ANSWER{age}: {visible(seen.error)}", BAD)
    if seen.data is None:
        return said.append(f"asking {seen.source} …", DIM)
    match panel:
        case Panel.QUOTAS:
            parts = _of_quotas(seen.data)
        case Panel.POOLS:
            parts = _of_pools(seen.data)
        case Panel.RUNS:
            parts = _of_runs(seen.data)
        case Panel.APPROVALS:
            parts = _of_approvals(seen.data, now)
    return said.append_text(Text(" · ").join(part for part in parts if part))


def plain(picture: Picture, now: datetime, width: int, most: int = 20) -> str:
    """The whole picture as text, for logs and scripts.

    Args:
        picture: of everything.
        now: what ages are counted to.
        width: cells of a line.
        most: rows of each table; of more it says how many.
    """
    lines: list[str] = []
    for panel in Panel:
        lines.append(f"{panel.value.upper()}  {title(panel, picture, now).plain}")
        found = rows(panel, picture, now)
        columns = fitted(panel, width - 2)
        if found:
            lines.append(_line(fit(column.name, column) for _, column in columns))
            lines += [_line(fit(row.cells[i], column) for i, column in columns) for row in found[:most]]
        if len(found) > most:
            lines.append(f"  and {len(found) - most} more")
        lines.append("")
    return "\n".join(lines[:-1])


def _line(cells: Iterable[Text]) -> str:
    return f"  {' '.join(cell.plain for cell in cells)}".rstrip()


def _used(quota: QuotaSeen) -> float:
    return quota.tightest.used if quota.tightest else 0.0


def _quota(quota: QuotaSeen) -> Row:
    tight = quota.tightest
    used = "not set" if tight is None else f"{bar(tight.used, 5)} {tight.used:>4.0%}"
    line = quota.line_s
    lately = f"+{quota.lately} " if quota.lately else ""
    state, style = quota_state(quota)
    cells = (
        Text(visible(quota.scope), "bold"),
        Text(tight.name if tight else "-"),
        Text(used, BAD if tight and tight.level < 0 else WARN if tight and tight.used >= 0.8 else ""),
        Text(f"{tight.level:,.0f} of {tight.burst:,.0f}" if tight else "-"),
        Text(f"{quota.pace:.0%}", WARN if quota.pace < 1 else ""),
        Text(state, style),
        Text("closed", BAD)
        if quota.closed
        else Text(seconds(line) if 0 < line < _NEVER_S else "-", WARN if LONG_S <= line < _NEVER_S else ""),
        Text("-" if quota.in_line is None else f"{quota.in_line:,}"),
        Text("-" if quota.calls_per_s is None else f"{quota.calls_per_s:.1f}"),
        Text(seconds(quota.wait_s)),
        Text(f"{lately}{quota.rejections:,}", WARN if quota.lately else ""),
    )
    return _row(quota.scope, cells)


def quota_state(quota: QuotaSeen) -> tuple[str, str]:
    """Whether calls may start, in a word; and its colour."""
    if quota.closed:
        return quota.closed.upper(), BAD
    if quota.closed_s > 0:
        return f"cools {seconds(quota.closed_s)}", WARN
    shut = max((limit.closed_s for limit in quota.limits), default=0.0)
    if shut > 0:
        return f"part {seconds(shut)}", WARN
    return ("in line", WARN) if quota.line_s > 0 else ("open", GOOD)


def backlogs(pool: PoolView) -> list[Backlog]:
    """Of the pool's two kinds of tasks, those that it has."""
    return [backlog for backlog in (pool.workflows, pool.activities) if backlog is not None]


def _waiting(pool: PoolView) -> int:
    return sum(backlog.count for backlog in backlogs(pool))


def _oldest(pool: PoolView) -> float:
    return max((backlog.oldest_s for backlog in backlogs(pool) if backlog.count), default=0.0)


def _silent(pool: PoolView) -> int:
    return sum(worker.state == "silent" for worker in pool.workers)


def _slots(pool: PoolView) -> Slots | None:
    """Those of calls, or of workflows' steps where these are closer to their end."""
    live = [worker for worker in pool.workers if worker.live]
    kinds = (_summed([w.activities for w in live]), _summed([w.workflows for w in live]))
    return max((one for one in kinds if one), key=_share, default=None)


def _summed(found: Sequence[Slots | None]) -> Slots | None:
    told = [one for one in found if one is not None]
    return Slots(used=sum(s.used for s in told), free=sum(s.free for s in told)) if told else None


def _share(slots: Slots) -> float:
    total = slots.used + slots.free
    return slots.used / total if total else 0.0


def pool_remark(pool: PoolView) -> tuple[str, str]:
    """What is wrong with a pool, and its colour; empty: nothing."""
    if not pool.live:
        return "NO LIVE WORKER", BAD
    if pool.unpromoted:
        return f"none is current: fleet rollout promote {' or '.join(pool.unpromoted)}", BAD
    if not pool.served:
        return f"NO LIVE WORKER OF {pool.current}", BAD
    return (f"limited to {pool.rate_limit:g}/s", WARN) if pool.rate_limit is not None else ("", "")


def _pool(pool: PoolView) -> Row:
    slots, silent, oldest, waiting = _slots(pool), _silent(pool), _oldest(pool), _waiting(pool)
    used = _share(slots) if slots else 0.0
    told = f"{bar(used, 5)} {slots.used}/{slots.used + slots.free}" if slots else "-"
    remark, style = pool_remark(pool)
    cells = (
        Text(visible(pool.name), "bold"),
        Text(str(pool.live), "" if pool.live else BAD),
        Text(str(silent) if silent else "-", BAD if silent else ""),
        Text(told, WARN if used >= 1 else ""),
        Text(f"{waiting:,}"),
        Text(seconds(oldest) if waiting else "-", WARN if oldest >= LONG_S else ""),
        Text(f"{sum(b.added_per_s for b in backlogs(pool)):.1f}"),
        Text(f"{sum(b.dispatched_per_s for b in backlogs(pool)):.1f}"),
        Text(visible(pool.current) or ("none" if pool.unpromoted else "any")),
        Text(visible(remark), style),
    )
    return _row(pool.name, cells)


_STATUS: Final[Mapping[str, str]] = {
    names.WORKING: GOOD,
    names.WORKING_APPROVAL: WARN,
    names.PAUSED: WARN,
    Outcome.COMPLETED: GOOD,
    Outcome.FAILED: BAD,
    "terminated": BAD,
    "timed_out": BAD,
}


def run_status(run: RunSeen) -> tuple[str, str]:
    """How a run stands, in a word; and its colour."""
    info = run.info
    # one that was ended from outside could not say so
    broken = info.closed_at is not None and info.state != "completed"
    word = info.state if broken or not info.status else info.status
    return word, _STATUS.get(word, "")


def _run(run: RunSeen) -> Row:
    info = run.info
    status, style = run_status(run)
    cells = (
        Text(visible(info.id), "bold"),
        Text(visible(info.agent)),
        Text(visible(info.tenant)),
        Text(status, style),
        Text(seconds(info.duration_s)),
        Text(f"{info.cost:.4g}" if info.cost else "-"),
        Text(shorten(run.waits, 300) or "-"),
        Text(shorten(info.goal, 300)),
    )
    return _row(info.id, cells)


def expires(approval: Approval, now: datetime) -> tuple[str, str]:
    """How long an approval may still be decided; and its colour."""
    left = (approval.expires_at - now).total_seconds()
    if left <= 0:
        return "OVERDUE", BAD
    days = left / 86_400
    return f"{days:.0f}d" if days >= 3 else seconds(left), WARN if left <= SOON_S else ""


def _approval(approval: Approval, now: datetime) -> Row:
    agreeing = len(approval.votes)
    call = ", ".join(f"{name}={value}" for name, value in approval.arguments.items())
    asks = call if approval.ask is Ask.ALLOW else f"was it had? {call}"
    open_s = max(0.0, (now - approval.opened_at).total_seconds())
    cells = (
        Text(visible(approval.id), "bold"),
        Text(visible(approval.tool)),
        Text(seconds(open_s)),
        Text(*expires(approval, now)),
        Text(f"{agreeing}/{approval.needed}"),
        Text(visible(approval.agent)),
        Text(shorten(asks, 300)),
    )
    return _row(approval.id, cells)


def _row(key: str, cells: tuple[Text, ...]) -> Row:
    return Row(key=key, cells=cells, text="\n".join(cell.plain for cell in cells))


def _of_quotas(found: tuple[QuotaSeen, ...]) -> list[Text]:
    closed = [q for q in found if q.closed]
    cooling = [q for q in found if not q.closed and q.closed_s > 0]
    lately = sum(q.lately for q in found)
    lines = [q for q in found if 0 < q.line_s < _NEVER_S]
    longest = max(lines, key=lambda q: q.line_s, default=None)
    return [
        Text(_number(len(found), "scope")),
        Text(f"{len(closed)} CLOSED ({', '.join(visible(q.scope) for q in closed)})", BAD) if closed else Text(),
        Text(f"{len(cooling)} cooling", WARN) if cooling else Text(),
        Text(f"{lately} 429s in the last minute", WARN) if lately else Text(),
        Text(
            f"longest line {seconds(longest.line_s)} ({visible(longest.scope)})",
            WARN if longest.line_s >= LONG_S else "",
        )
        if longest
        else Text("" if closed else "no line"),
    ]


def _of_pools(found: tuple[PoolView, ...]) -> list[Text]:
    slots = [s for s in map(_slots, found) if s]
    used, total = sum(s.used for s in slots), sum(s.used + s.free for s in slots)
    dead = [pool.name for pool in found if not pool.served]
    silent = sum(map(_silent, found))
    return [
        Text(_number(sum(pool.live for pool in found), "live worker")),
        Text(f"not served: {', '.join(map(visible, dead))}", BAD) if dead else Text(),
        Text(f"{silent} silent", BAD) if silent else Text(),
        Text(f"{used} of {total} slots used"),
        Text(f"{sum(map(_waiting, found)):,} waiting"),
    ]


def _of_runs(found: RunsSeen) -> list[Text]:
    statuses = ", ".join(f"{count:,} {name}" for name, count in found.statuses.items() if count)
    agents = ", ".join(f"{visible(name)} {count:,}" for name, count in _most(found.agents))
    ended = Text(" ").join(
        Text(f"{count:,} {name}", BAD if _STATUS.get(name) == BAD else "") for name, count in found.ended.items()
    )
    return [
        Text(f"{found.running:,} running{f' ({statuses})' if statuses else ''}"),
        Text("last hour: ").append_text(ended) if found.ended else Text(),
        Text(agents) if agents else Text(),
        Text(found.note, WARN) if found.note else Text(),
    ]


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(((name, count) for name, count in counts.items() if count), key=lambda pair: -pair[1])


def _of_approvals(found: ApprovalsSeen, now: datetime) -> list[Text]:
    overdue = sum(approval.expires_at <= now for approval in found.rows)
    oldest = min((approval.opened_at for approval in found.rows), default=None)
    return [
        Text(f"{len(found.rows)}{'+' if found.more else ''} open"),
        Text(f"{overdue} OVERDUE", BAD) if overdue else Text(),
        Text(f"oldest {seconds(max(0.0, (now - oldest).total_seconds()))}") if oldest else Text(),
    ]


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
