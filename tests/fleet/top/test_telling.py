"""The picture in words: no server, no terminal."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.client import RunInfo
from fleet.contracts.approvals import Approval, Ask
from fleet.pools import Backlog, PoolView, Slots, WorkerView
from fleet.top import telling
from fleet.top.layout import COLUMNS, LEAST, Panel, bar, fit, fitted, heights
from fleet.top.picture import ApprovalsSeen, LimitSeen, Picture, QuotaSeen, RunSeen, RunsSeen, Seen

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def limit(name: str = "tokens", **more) -> LimitSeen:
    return LimitSeen(
        **{"name": name, "rate": "90k/m", "level": 40.0, "burst": 100.0, "waiting": None, "closed_s": 0.0}
        | {"shadow": False, "shadowed": 0, "said": ""}
        | more
    )


def quota(scope: str, *limits: LimitSeen, **more) -> QuotaSeen:
    return QuotaSeen(
        **{"scope": scope, "within": "", "version": 1, "limits": limits, "pace": 1.0, "closed": "", "closed_s": 0.0}
        | {"line_s": 0.0, "grants": 7, "rejections": 0, "lately": 0, "calls_per_s": 1.5, "wait_s": 0.2}
        | more
    )


def worker(state: str = "running") -> WorkerView:
    return WorkerView(
        identity="7@box", host="box", pid=7, task_queue="llm", deployment="fleet", build="v1", state=state,
        started_at=NOW, seen_at=NOW, workflows=None, activities=Slots(used=6, free=2),
    )  # fmt: skip


def pool(name: str, *workers: WorkerView, current: str = "v1", waiting: int = 0) -> PoolView:
    backlog = Backlog(count=waiting, oldest_s=75.0, added_per_s=2.0, dispatched_per_s=1.5, limited=False)
    return PoolView(
        name=name, task_queue=name, current=current, workers=workers, workflows=None, activities=backlog,
        rate_limit=None,
    )  # fmt: skip


def run(run_id: str, *, waits: str = "", minutes: int = 5, **more) -> RunSeen:
    closed = more.pop("closed_at", NOW)
    info = RunInfo(
        **{"id": run_id, "agent": "payer", "goal": "pay\nthe bill", "tenant": "acme", "state": "running"}
        | {"started_at": NOW - timedelta(minutes=minutes), "closed_at": closed, "status": "working"}
        | more
    )
    return RunSeen(info=info, waits=waits)


def approval(number: int, hours: float) -> Approval:
    return Approval(
        id=f"r-{number}/1", run_id=f"r-{number}", agent="payer", tenant="t", ask=Ask.ALLOW, tool="transfer",
        arguments={"amount": "900", "note": "[b]now[/b]\nor \x1b[31mnever"}, digest="d", why="over 500 EUR", goal="g",
        opened_at=NOW - timedelta(hours=2), expires_at=NOW + timedelta(hours=hours), needed=2,
    )  # fmt: skip


PICTURE = Picture(
    quotas=Seen(
        source="Redis",
        at=NOW,
        data=(
            quota(
                "openai/large", limit(level=-30.0), limit("requests", level=-4.0, burst=60.0, waiting=4), line_s=95.0
            ),
            quota(
                "email/relay", limit("messages", level=20.0, burst=20.0, waiting=0), rejections=3, lately=2, pace=0.5
            ),
            quota("bank/transfers", closed="frozen", line_s=4e9),
        ),
    ),
    pools=Seen(
        source="Temporal",
        at=NOW,
        data=(pool("llm", worker(), worker("silent"), waiting=12), pool("search", current="v2")),
    ),
    runs=Seen(
        source="Temporal",
        at=NOW,
        data=RunsSeen(
            running=10_000,
            statuses={"working": 9_000, "approval": 1_000, "paused": 0},
            agents={"payer": 10_000},
            ended={"completed": 3, "failed": 1},
            rows=(run("r-2", waits="llm.chat: waits for openai/large"), run("r-1", state="failed", status="failed")),
        ),
    ),
    approvals=Seen(
        source="the database", at=NOW, data=ApprovalsSeen(rows=(approval(1, 1.5), approval(2, -1)), more=False)
    ),
)

TEXT = """\
QUOTAS  3 scopes · 1 CLOSED (bank/transfers) · 2 429s in the last minute · longest line 1m35s (openai/large)
  SCOPE                       LIMIT      USED       PACE STATE          LINE IN LINE CALLS/s      429s
  bank/transfers              -          not set    100% FROZEN       closed       0     1.5         0
  openai/large                tokens     █████ 100% 100% in line       1m35s       4     1.5         0
  email/relay                 messages   ·····   0%  50% open              -       0     1.5      +2 3

POOLS  1 live worker · not served: search · 1 silent · 6 of 8 slots used · 12 waiting
  POOL         LIVE SILENT SLOTS USED      WAITING  OLDEST BUILD
  llm             1      1 ████· 6/8            12   1m15s v1
  search          0      - -                     0       - v2             NO LIVE WORKER

RUNS  10,000 running (9,000 working, 1,000 approval) · last hour: 3 completed 1 failed · payer 10,000
  RUN                    AGENT       TENANT     STATUS         FOR WAITS FOR
  r-2                    payer       acme       running      5m00s llm.chat: waits for openai/large
  r-1                    payer       acme       failed       5m00s -

APPROVALS  2 open · 1 OVERDUE · oldest 2h00m
  APPROVAL                 TOOL          OPEN  EXPIRES VOTES AGENT       ASKS
  r-2/1                    transfer     2h00m  OVERDUE   0/2 payer       amount=900, note=[b]now[/b] …
  r-1/1                    transfer     2h00m    1h30m   0/2 payer       amount=900, note=[b]now[/b] …
"""


def test_the_picture_as_text_for_logs():
    assert telling.plain(PICTURE, NOW, 103) + "\n" == TEXT


def test_a_narrow_terminal_has_fewer_columns_and_no_line_is_too_long():
    for width in (79, 80, 100, 109, 110, 129, 160):
        for panel in Panel:
            assert sum(column.wide + 1 for _, column in fitted(panel, width)) <= width
    assert len(fitted(Panel.QUOTAS, 80)) < len(fitted(Panel.QUOTAS, 160)) == len(COLUMNS[Panel.QUOTAS])


def test_every_row_has_a_cell_for_each_column():
    for panel in Panel:
        for row in telling.rows(panel, PICTURE, NOW):
            assert len(row.cells) == len(COLUMNS[panel])


@pytest.mark.parametrize("panel", list(Panel))
def test_every_order_sorts(panel):
    keys = {row.key for row in telling.rows(panel, PICTURE, NOW)}
    for number, _ in enumerate(telling.ORDERS[panel]):
        assert {row.key for row in telling.rows(panel, PICTURE, NOW, order=number)} == keys


def test_what_was_written_by_strangers_is_on_one_line_and_seen():
    (row, _) = telling.rows(Panel.APPROVALS, PICTURE, NOW, order=1)
    assert row.cells[-1].plain == "amount=900, note=[b]now[/b] or \\x1b[31mnever"
    assert row.cells[-1].spans == []


def test_trouble_is_said_in_words_not_by_colour_alone():
    text = telling.plain(PICTURE, NOW, 160)
    for word in ("FROZEN", "in line", "NO LIVE WORKER", "1 silent", "OVERDUE", "failed"):
        assert word in text


def test_a_source_that_does_not_answer_is_told_with_the_age_of_what_is_known():
    lost = Picture(
        quotas=Seen(source="Redis", data=PICTURE.quotas.data, at=NOW - timedelta(seconds=34), error="gone"),
        pools=Seen(source="Temporal", error="never\nthere"),
    )
    assert not lost.whole
    said = telling.title(Panel.QUOTAS, lost, NOW).plain
    assert said == "REDIS DOES NOT ANSWER; data of 34.0s ago: gone"
    assert telling.title(Panel.POOLS, lost, NOW).plain == "TEMPORAL DOES NOT ANSWER; no data yet: never\\nthere"
    assert telling.title(Panel.RUNS, lost, NOW).plain == "asking Temporal …"
    assert len(telling.rows(Panel.QUOTAS, lost, NOW)) == 3


@given(st.floats(0, 1), st.integers(1, 30))
def test_a_bar_is_never_empty_with_something_in_it_nor_full_with_something_left(share, cells):
    drawn = bar(share, cells)
    assert len(drawn) == cells
    if cells > 1:
        assert ("█" in drawn) == (share > 0)
        assert ("·" in drawn) == (share < 1)


@given(st.lists(st.integers(1, 120), min_size=4, max_size=4), st.integers(1, 200), st.integers(0, 3))
def test_tables_share_the_lines_that_there_are(needs, available, focused):
    given_ = heights(needs, available, focused)
    assert sum(given_) <= available
    assert given_[focused] > 0
    if available >= LEAST * 4:
        assert all(lines >= min(LEAST, need) for lines, need in zip(given_, needs, strict=True))
        assert sum(given_) == available


@given(st.text(max_size=40), st.sampled_from(COLUMNS[Panel.RUNS]))
def test_a_cell_is_as_wide_as_its_column(text, column):
    from fleet.documents import visible

    if column.wide:
        assert fit(visible(text), column).cell_len == column.wide
