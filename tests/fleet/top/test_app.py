"""The app as an operator meets it: keys, panels, details, acts, on real servers and without a terminal."""

from datetime import timedelta

from textual.widgets import Input, Static

from fleet.contracts.approvals import ApprovalState
from fleet.settings import Settings
from fleet.top.app import TopApp
from fleet.top.layout import Panel
from fleet.top.main import Main
from fleet.top.reading import Reading
from fleet.top.screens import ApprovalScreen, Ask, Help, QuotaScreen, RunScreen
from ratelimit.places import Closed
from tests.fleet.fakes import says
from tests.fleet.top.conftest import ANA, PAY, in_line, paying, until
from workers.effects.book import Book

EVIL = (
    "[bold red]pay[/] [link=https://evil.example]now[/link] \x1b[31mred\x1b[0m \u202eesrever [/nothing] [@click=quit]x"
)


async def looked(app: TopApp) -> Main:
    """The picture, once every source has answered or failed."""
    await until(lambda: all(source.seen.asked for source in app.sources.values()))
    assert isinstance(app.screen_stack[1], Main)
    return app.screen_stack[1]


def title(main: Main, panel: Panel) -> str:
    return str(main.query_one(f"#title-{panel.value}", Static).render())


def body(app: TopApp) -> str:
    return str(app.screen.query_one("#body", Static).render())


async def shown(pilot, text: str) -> str:
    """The text of a detail, once it has this in it."""
    await until(lambda: app_has(pilot.app, text))
    return body(pilot.app)


def app_has(app, text: str) -> bool:
    return bool(app.screen.query("#body")) and text in body(app)


async def test_the_picture_has_four_panels_and_keys_go_from_one_to_the_next(house):
    await in_line(house)
    app = house.app()
    async with app.run_test(size=(120, 40)) as pilot:
        main = await looked(app)
        await pilot.pause()
        assert main.grid(Panel.QUOTAS).keys[0] == "openai/small"
        assert main.grid(Panel.POOLS).keys == list(house.manifest.pools)
        assert "3 scopes" in title(main, Panel.QUOTAS)
        assert "0 live workers · not served: agents, llm" in title(main, Panel.POOLS)
        assert "0 open" in title(main, Panel.APPROVALS)
        for key, panel in {
            "p": "pools",
            "r": "runs",
            "a": "approvals",
            "q": "quotas",
            "3": "runs",
            "2": "pools",
        }.items():
            await pilot.press(key)
            assert main.active == panel
            assert app.focused is main.grid(Panel(panel))
        await pilot.press("tab")
        assert main.active == "runs"
        assert all(main.grid(panel).display for panel in Panel)


async def test_eighty_by_twenty_four_shows_every_title_and_the_table_that_is_worked_with(house):
    await in_line(house)
    app = house.app()
    async with app.run_test(size=(80, 24)) as pilot:
        main = await looked(app)
        await pilot.press("p")
        await pilot.pause()
        assert main.grid(Panel.POOLS).size.height >= len(house.manifest.pools) + 1
        for panel in Panel:
            assert main.query_one(f"#title-{panel.value}", Static).region.height == 1
        for grid in main.query("Grid"):
            assert grid.virtual_size.width <= 80
        await pilot.resize_terminal(60, 15)
        await pilot.pause()
        assert main.grid(Panel.POOLS).display
        assert not main.grid(Panel.RUNS).display


async def test_sorting_goes_round_and_says_by_what(house):
    await in_line(house)
    app = house.app()
    async with app.run_test(size=(120, 40)) as pilot:
        main = await looked(app)
        assert main.grid(Panel.QUOTAS).keys[0] == "openai/small"
        await pilot.press("s", "s", "s")
        assert main.grid(Panel.QUOTAS).keys == sorted(house.manifest.scopes())
        assert "by name" in title(main, Panel.QUOTAS)
        await pilot.press("S", "S", "S")
        assert main.grid(Panel.QUOTAS).keys[0] == "openai/small"


async def test_a_filter_shows_less_and_escape_shows_all(house):
    app = house.app()
    async with app.run_test(size=(120, 40)) as pilot:
        main = await looked(app)
        await pilot.press("slash", *"bank")
        assert main.grid(Panel.QUOTAS).keys == ["bank/transfers"]
        await pilot.press("enter")
        assert app.focused is main.grid(Panel.QUOTAS)
        assert "filter 'bank': 1" in title(main, Panel.QUOTAS)
        await pilot.press("escape")
        assert len(main.grid(Panel.QUOTAS).keys) == 3
        assert not main.query_one("#filter", Input).display


async def test_a_filter_of_runs_is_asked_of_temporal(house):
    run_id = await house.start("researcher", "find me", run_id=f"needle-{house.mark}")
    await until(lambda: house.client.running(f"WorkflowId = '{run_id}'"))
    app = house.app()
    async with app.run_test(size=(120, 40)) as pilot:
        main = await looked(app)
        await pilot.press("r", "slash", *f"needle-{house.mark}", "enter")
        assert app.wanted == run_id
        await until(lambda: main.grid(Panel.RUNS).keys == [run_id])


async def test_what_strangers_wrote_is_text_everywhere(house):
    await paying(house, goal=EVIL)
    app = house.app()
    async with app.run_test(size=(160, 40), notifications=True) as pilot:
        main = await looked(app)
        await until(lambda: main.grid(Panel.RUNS).row_count)
        drawn = app.export_screenshot()
        assert "[bold&#160;red]pay[/]" in drawn
        assert "\x1b" not in drawn
        assert "\u202e" not in drawn
        await pilot.press("r", "slash", *house.mark, "enter", "enter")
        await until(lambda: isinstance(app.screen, RunScreen))
        text = await shown(pilot, "goal")
        assert "[bold red]pay[/] [link=https://evil.example]now[/link] \\x1b[31mred" in text
        await pilot.press("escape", "a", "enter")
        await until(lambda: isinstance(app.screen, ApprovalScreen))
        assert 'reference: "[bold red]INVOICE[/] 7"' in await shown(pilot, "reference")


async def test_a_run_is_paused_and_resumed_after_a_question_and_the_audit_says_by_whom(house):
    asked = await paying(house)
    run_id = asked.rpartition("/")[0]
    app = house.app()
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        main = await looked(app)
        await pilot.press("r", "slash", *run_id, "enter")
        await until(lambda: main.grid(Panel.RUNS).keys == [run_id])
        await pilot.press("enter")
        text = await shown(pilot, "STEPS")
        assert "waits for 1 of ana@example.com, bo@example.com to decide on transfer" in text
        assert "chose transfer" in text
        await pilot.press("p")
        assert isinstance(app.screen, Ask)
        assert f"Pause {run_id}?" in str(app.screen.query_one("#question", Static).render())
        # a key that is held down
        await pilot.press("p")
        assert isinstance(app.screen, Ask)
        await pilot.press("escape")
        assert (await house.client.status(run_id)).paused is None
        await pilot.press("p", "Y")
        await until(lambda: _paused(house, run_id))
        await pilot.press("u", "Y")
        await until(lambda: _resumed(house, run_id))
        await until(lambda: _audited(house, run_id, {"run.paused", "run.resumed"}))


async def _paused(house, run_id: str) -> bool:
    return (await house.client.status(run_id)).paused == "paused by an operator"


async def _resumed(house, run_id: str) -> bool:
    return (await house.client.status(run_id)).paused is None


async def _audited(house, run_id: str, whats: set[str]) -> bool:
    rows = await Book(house.database).audit(subject=run_id)
    return {row.what for row in rows if row.actor == ANA} >= whats


async def test_an_approval_is_given_by_an_approver_on_what_was_shown(house):
    asked = await paying(house)
    app = house.app()
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        main = await looked(app)
        await until(lambda: main.grid(Panel.APPROVALS).keys == [asked])
        done = says("paid")
        house.fakes.answer = lambda number, request: done
        await pilot.press("a", "enter")
        text = await shown(pilot, "digest")
        for name, value in PAY.items():
            assert f'argument  {name}: "{value}"' in text
        await pilot.press("y")
        await pilot.press("y")
        assert isinstance(app.screen, Ask)
        await pilot.press("Y")
        book = Book(house.database)
        decided = await until(lambda: _decided(book, asked))
        assert (decided.state, decided.votes[0].by, decided.votes[0].channel) == (ApprovalState.APPROVED, ANA, "cli")


async def _decided(book: Book, approval_id: str):
    found = await book.get(approval_id)
    return found if found and found.state is not ApprovalState.OPEN else None


async def test_who_may_not_decide_is_refused_and_that_is_written_down(house):
    asked = await paying(house)
    app = house.app(by="eve@example.com")
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        main = await looked(app)
        await until(lambda: main.grid(Panel.APPROVALS).keys == [asked])
        await pilot.press("a", "enter")
        await shown(pilot, "digest")
        await pilot.press("y", "Y")
        await until(lambda: any("may not decide" in note.message for note in app._notifications))
        book = Book(house.database)
        rows = await until(lambda: book.audit(subject=asked))
        assert any((row.what, row.actor) == ("approval.refused", "eve@example.com") for row in rows)
        assert (await book.get(asked)).state is ApprovalState.OPEN


async def test_a_quota_is_frozen_and_thawed(house):
    await in_line(house)
    app = house.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await looked(app)
        await pilot.press("enter")
        assert isinstance(app.screen, QuotaScreen)
        text = await shown(pilot, "IN LINE")
        assert "IN LINE  3" in text
        assert "run-0/1" in text
        await pilot.press("f", "Y")
        await until(lambda: _closed(house, "openai/small", Closed.FROZEN))
        await shown(pilot, "FROZEN")
        await pilot.press("t", "Y")
        await until(lambda: _closed(house, "openai/small", Closed.NO))
        assert [change.by for change in await house.shared.changes("openai/small", 2)] == [ANA, ANA]


async def _closed(house, scope: str, cause: Closed) -> bool:
    return (await house.shared.inspect(scope)).closed is cause


async def test_who_only_reads_changes_nothing(house):
    await in_line(house)
    app = house.app(read_only=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await looked(app)
        await pilot.press("enter")
        await shown(pilot, "IN LINE")
        await pilot.press("f", "t")
        assert isinstance(app.screen, QuotaScreen)
        assert (await house.shared.inspect("openai/small")).closed is Closed.NO


async def test_enter_alone_answers_no_question(house):
    await in_line(house)
    app = house.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await looked(app)
        await pilot.press("enter")
        await shown(pilot, "IN LINE")
        await pilot.press("f", "enter")
        assert isinstance(app.screen, QuotaScreen)
        assert (await house.shared.inspect("openai/small")).closed is Closed.NO


async def test_a_dead_redis_and_database_are_shown_while_the_rest_goes_on(house):
    settings = Settings(redis_url="redis://127.0.0.1:1/0", database_url="sqlite+aiosqlite:////nowhere/x.db")
    reading = Reading(settings, house.manifest)
    app = TopApp(reading, every=60)
    async with app.run_test(size=(120, 40)) as pilot:
        main = await looked(app)
        await pilot.pause()
        assert "REDIS DOES NOT ANSWER; no data yet" in title(main, Panel.QUOTAS)
        assert "THE DATABASE DOES NOT ANSWER" in title(main, Panel.APPROVALS)
        assert main.grid(Panel.POOLS).keys == list(house.manifest.pools)
        assert "running" in title(main, Panel.RUNS)
    await reading.aclose()


async def test_what_a_source_said_last_stays_with_its_age(house):
    await in_line(house)
    app = house.app()
    async with app.run_test(size=(120, 40)) as pilot:
        main = await looked(app)
        app.sources[Panel.QUOTAS]._read = Reading(Settings(redis_url="redis://127.0.0.1:1"), house.manifest).quotas
        await pilot.press("R")
        await until(lambda: app.sources[Panel.QUOTAS].seen.error)
        await until(lambda: "REDIS DOES NOT ANSWER; data of " in title(main, Panel.QUOTAS))
        assert len(main.grid(Panel.QUOTAS).keys) == 3
        app.sources[Panel.QUOTAS]._read = house.reading.quotas
        await pilot.press("f5")
        await until(lambda: "3 scopes" in title(main, Panel.QUOTAS))


async def test_a_defect_of_one_source_ends_no_session(house):
    app = house.app()

    async def broken():
        raise ZeroDivisionError("by [red]zero")

    app.sources[Panel.QUOTAS]._read = broken
    async with app.run_test(size=(120, 40)):
        main = await looked(app)
        await until(lambda: "ZeroDivisionError: by [red]zero" in title(main, Panel.QUOTAS))
        assert main.grid(Panel.POOLS).row_count == 5


async def test_held_pictures_stay_as_they_are_until_they_go_on(house):
    app = house.app(every=0.02)
    async with app.run_test(size=(120, 40)) as pilot:
        main = await looked(app)
        await pilot.press("space")
        assert app.paused
        assert "HELD" in str(main.query_one("#heading", Static).render())
        pools, quotas = app.sources[Panel.POOLS], app.sources[Panel.QUOTAS]
        for _ in range(2):
            # what was under way when it was held has ended after this
            await _looked_at(app, Panel.POOLS)
            await _looked_at(app, Panel.QUOTAS)
        at = quotas.seen.at
        await house.shared.close("openai/large", Closed.FROZEN)
        await _looked_at(app, Panel.POOLS)
        assert (quotas.seen.at, pools.seen.error) == (at, "")
        assert "CLOSED" not in title(main, Panel.QUOTAS)
        await pilot.press("space")
        await until(lambda: "1 CLOSED (openai/large)" in title(main, Panel.QUOTAS))


async def _looked_at(app: TopApp, panel: Panel) -> None:
    at = app.sources[panel].seen.at
    app.look_now(panel)
    await until(lambda: app.sources[panel].seen.at != at)


async def test_the_cursor_stays_on_its_row_when_others_come(house):
    app = house.app()
    async with app.run_test(size=(120, 40)) as pilot:
        main = await looked(app)
        await pilot.press("down")
        grid = main.grid(Panel.QUOTAS)
        at = grid.selected
        await house.shared.acquire("openai/small", {"requests": 1}, max_wait=timedelta(minutes=5))
        await in_line(house)
        app.look_now()
        await until(lambda: grid.keys[0] == "openai/small")
        assert grid.selected == at


async def test_help_tells_the_keys(house):
    app = house.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await looked(app)
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help)
        await pilot.press("escape")
        assert isinstance(app.screen, Main)
        await pilot.press("ctrl+c")
    assert app.return_code == 0
