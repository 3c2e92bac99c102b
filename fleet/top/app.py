"""The app: reads every source in a task of its own, and shows what it has."""

import asyncio
from contextlib import suppress
from typing import Any, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from fleet.top.layout import Panel
from fleet.top.main import Main
from fleet.top.picture import Picture
from fleet.top.reading import Reading, Source
from fleet.top.screens import Help


class TopApp(App[None]):
    """`fleet top`."""

    TITLE = "fleet top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", key_display="^q", priority=True),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]
    CSS = """
    #heading, .title, #head, #trouble { height: 1; padding: 0 1; }
    #heading { background: $panel; }
    #head { background: $primary-muted; }
    #trouble { display: none; }
    .title { background: $surface-lighten-1; }
    .title.-active { background: $primary-muted; }
    Grid { height: 1; scrollbar-size: 1 1; overflow-x: hidden; padding: 0 0 0 1; background: $background; }
    Grid > .datatable--header { background: $background; color: $text-muted; }
    Grid > .datatable--cursor { background: $background; color: $text; }
    Grid:focus > .datatable--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    #filter { height: 1; border: none; padding: 0 1; background: $boost; }
    Detail VerticalScroll { padding: 0 1; scrollbar-size: 1 1; }
    Ask, Help { align: center middle; }
    #ask { width: 72; max-width: 95%; height: auto; padding: 1 2; border: thick $warning; background: $surface; }
    #ask #question { margin-bottom: 1; }
    #ask Horizontal { height: auto; margin-top: 1; }
    #ask Button { margin-right: 2; }
    #help { width: 78; max-width: 95%; height: auto; max-height: 95%; padding: 1 2; border: thick $primary;
            background: $surface; }
    """

    def __init__(
        self, reading: Reading, *, every: float = 2.0, read_only: bool = False, by: str | None = None, where: str = ""
    ) -> None:
        """Args:
        reading: connected by itself; the caller closes it.
        every: seconds between two looks.
        read_only: nothing can be changed.
        by: who acts. Default: the user of this machine.
        where: which fleet that is, in words.
        """
        super().__init__()
        self.reading = reading
        self.every = every
        self.read_only = read_only
        self.by = by
        self.where = where
        self.paused = False
        self.wanted = ""
        """Which runs Temporal is asked for, beside the page."""
        self.sources: dict[Panel, Source[Any]] = {
            Panel.QUOTAS: Source("Redis", reading.quotas),
            Panel.POOLS: Source("Temporal", reading.pools),
            Panel.RUNS: Source("Temporal", lambda: reading.runs(self.wanted)),
            Panel.APPROVALS: Source("the database", reading.approvals),
        }
        self._now = {panel: asyncio.Event() for panel in Panel}
        self._main = Main()

    @property
    def picture(self) -> Picture:
        """Everything at the moment."""
        return Picture(**{panel.value: source.seen for panel, source in self.sources.items()})

    def on_mount(self) -> None:
        """Begin to look."""
        self.push_screen(self._main)
        for panel in Panel:
            self.run_worker(self._follow(panel), group=f"source-{panel.value}")

    def look_now(self, *panels: Panel) -> None:
        """Look again at these, without waiting for their time. None named: at all."""
        for panel in panels or tuple(Panel):
            self._now[panel].set()

    def say(self, text: str, *, wrong: bool = False) -> None:
        """Tell the operator what came of an act."""
        self.notify(text, severity="error" if wrong else "information", timeout=10, markup=False)

    def action_help(self) -> None:
        """The keys."""
        self.push_screen(Help())

    async def _follow(self, panel: Panel) -> None:
        source, now = self.sources[panel], self._now[panel]
        while True:
            if not self.paused or now.is_set():
                now.clear()
                await source.look()
                self._main.draw(panel)
            with suppress(TimeoutError):
                await asyncio.wait_for(now.wait(), self.every)
