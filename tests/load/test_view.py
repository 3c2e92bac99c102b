"""What is seen of a trial while it lasts."""

import io
import re

import pytest
from rich.console import Console

from load.trial import Mark
from load.view import Picture, ScopePicture, View

LONG = "anthropic/claude-opus-4-5/tenant-with-a-long-name"
KILL = Mark(kind="kill", what="kill -9 of llm-1 (pid 4711)", at=100.0, until=100.0)


def console(*, terminal=True, width=80, height=24):
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, height=height, legacy_windows=False,
        markup=False, emoji=False, highlight=False, _environ={"TERM": "xterm-256color"},
    )  # fmt: skip


def picture(at_s, calls=10, scopes=None, **changes):
    one = ScopePicture(
        scope="openai/sim-large", limit="tokens", used=0.97, line_s=12.3, calls=calls, refused=3, pace=0.5,
        charged={"tokens": calls * 100.0}, rates={"tokens": 200.0},
    )  # fmt: skip
    given = {
        "elapsed_s": at_s, "total_s": 300.0, "agents": {"active": 120, "completed": 40, "failed": 2},
        "scopes": [one] if scopes is None else scopes, "wait_p50_s": 1.2, "wait_p99_s": 9.8, "eta_s": 300.0 - at_s,
    }  # fmt: skip
    return Picture(**{**given, **changes})


def last(shown):
    """The lines that stay on the screen: what a terminal makes of what was written."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|[^\x1b]", shown.file.getvalue()):
        if part == "\n":
            row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
        elif part == "\r":
            column = 0
        elif part == "\x1b[2K":
            rows[row] = ""
        elif part.startswith("\x1b") and part.endswith("A"):
            row -= int(part[2:-1])
        elif not part.startswith("\x1b"):
            rows[row] = rows[row][:column].ljust(column) + part + rows[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in rows]


def test_the_picture_has_everything_within_eighty_columns():
    shown = console()
    view = View(console=shown)
    view.phase("load")
    idle = ScopePicture(scope=LONG, limit="input_tokens", used=0.3, line_s=0.0, calls=123_456, refused=0)
    for n in range(3):
        view.update(picture(10.0 + n, scopes=[*picture(0.0, calls=2 * n).scopes, idle]))
    view.mark(KILL)
    view.close()
    lines = last(shown)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    for said in ("load · 12.0s of 5m00s · about 4m48s left", "120 active, 40 completed, 2 failed",
                 "waits p50 1.2s p99 9.8s", "openai/sim-large tokens", "97%", "12.3s", "50%", "123456",
                 "anthropic/claude-opus", "fault kill: kill -9 of llm-1 (pid 4711)"):  # fmt: skip
        assert said in text


def test_the_curve_shows_what_was_granted_of_the_quota():
    shown = console()
    view = View(console=shown)
    for n in range(121):
        # two calls a second are the whole quota; nothing for the last thirty seconds
        view.update(picture(n / 2, calls=min(n, 60)))
    view.close()
    (line,) = [line for line in last(shown) if "openai" in line]
    assert re.search(r" █{6,8}.?▁{6,8}$", line)


def test_a_ledger_that_was_away_leaves_no_peak():
    shown = console()
    view = View(console=shown)
    for n in range(121):
        calls = 0 if 60 <= n < 64 else n // 2
        view.update(picture(n / 2, calls=calls))
    view.close()
    (line,) = [line for line in last(shown) if "openai" in line]
    # one call a second of two
    assert set(line[-12:]) <= set("▄▅")


def test_the_screen_is_not_cleared_and_lines_are_not_repeated_for_the_same_picture():
    shown = console()
    view = View(console=shown)
    view.update(picture(1.0))
    view.update(picture(1.5))
    view.close()
    view.close()
    written = shown.file.getvalue()
    assert "\x1b[2J" not in written
    assert sum("━" in line for line in last(shown)) == sum("QUOTA" in line for line in last(shown)) == 1
    assert written.endswith("\x1b[?25h")


def test_a_low_terminal_shows_as_many_quotas_as_fit():
    shown = console(height=12)
    view = View(console=shown)
    many = [
        ScopePicture(scope=f"p/model-{n}", limit="requests", used=0.1, line_s=0, calls=n, refused=0) for n in range(9)
    ]
    view.update(picture(1.0, scopes=many))
    view.close()
    text = "\n".join(last(shown))
    assert "and 6 more quotas" in text
    assert "p/model-2" in text


def test_only_the_last_faults_are_shown_each_once():
    shown = console()
    view = View(console=shown)
    marks = [Mark(kind="kill", what=f"kill {n}", at=float(n), until=float(n)) for n in range(5)]
    for mark in marks:
        view.mark(mark)
    view.update(picture(1.0, marks=marks))
    view.close()
    assert [line.split(": ")[1].strip() for line in last(shown) if line.startswith("fault")] == [
        "kill 2",
        "kill 3",
        "kill 4",
    ]


def test_without_a_terminal_there_is_a_line_every_five_seconds_and_one_for_each_fault():
    shown = console(terminal=False)
    view = View(console=shown)
    view.phase("load")
    for n in range(25):
        view.update(picture(n / 2))
        if n == 13:
            view.mark(KILL)
    view.close()
    lines = shown.file.getvalue().splitlines()
    assert lines[0] == "fleet: load"
    assert lines[1].startswith("fleet: load · 0.0s of 5m00s")
    assert lines[3] == "fleet: fault: kill -9 of llm-1 (pid 4711)"
    assert [line.split(" · ")[1].split()[0] for line in lines if " · " in line] == ["0.0s", "5.0s", "10.0s", "12.0s"]
    assert "openai/sim-large: tokens 97%, line 12.3s, calls 10, 429s 3, pace 50%" in lines[1]


def test_a_dumb_terminal_gets_lines():
    shown = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "dumb"})
    view = View(console=shown)
    view.update(picture(1.0))
    view.close()
    assert len(shown.file.getvalue().splitlines()) == 1
    assert "\x1b[" not in shown.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_is_quiet(terminal):
    shown = console(terminal=terminal)
    view = View(quiet=True, console=shown)
    view.phase("load")
    view.mark(KILL)
    view.update(picture(1.0))
    view.close()
    assert shown.file.getvalue() == ""


def test_what_strangers_wrote_neither_moves_the_cursor_nor_is_markup():
    shown = console(terminal=False)
    view = View(console=shown)
    view.mark(Mark(kind="kill", what="[red]\x1b[2J:smile:", at=0.0, until=0.0))
    assert shown.file.getvalue() == "fleet: fault: [red]\\x1b[2J:smile:\n"


def test_before_the_first_look_and_after_the_end_nothing_breaks():
    shown = console()
    view = View(console=shown)
    view.close()
    view.update(picture(1.0))
    view.mark(KILL)
    view.phase("late")
    assert shown.file.getvalue() == ""
    other = View(console=console())
    other.update(Picture(elapsed_s=0.0, total_s=0.0, agents={}))
    other.close()
