"""The picture: four panels that share the screen."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static

from fleet.cli.output import visible
from fleet.top.grid import Grid
from fleet.top.layout import Panel, heights
from fleet.top.screens import ApprovalScreen, Detail, PoolScreen, QuotaScreen, RunScreen
from fleet.top.telling import DIM, ORDERS, WARN, rows, seen_of, title

if TYPE_CHECKING:
    from fleet.top.app import TopApp

DETAILS: Final[dict[Panel, type[Detail]]] = {
    Panel.QUOTAS: QuotaScreen,
    Panel.POOLS: PoolScreen,
    Panel.RUNS: RunScreen,
    Panel.APPROVALS: ApprovalScreen,
}
_AROUND = 6
"""Lines that are no table: the heading, four titles, the keys."""


class Main(Screen[None]):
    """Quotas, pools, runs, approvals."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,1", "panel('quotas')", "Quotas", key_display="q"),
        Binding("p,2", "panel('pools')", "Pools", key_display="p"),
        Binding("r,3", "panel('runs')", "Runs", key_display="r"),
        Binding("a,4", "panel('approvals')", "Approvals", key_display="a"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("question_mark", "app.help", "Keys", key_display="?"),
        Binding("space", "pause", "Hold"),
        Binding("s", "sort(1)", "Sort"),
        Binding("S", "sort(-1)", "Sort back", show=False),
        Binding("R,f5", "again", "Refresh", key_display="R"),
        Binding("tab", "next(1)", "Next", show=False),
        Binding("shift+tab", "next(-1)", "Former", show=False),
        Binding("escape", "unfilter", "No filter", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.active = Panel.QUOTAS
        self.orders = dict.fromkeys(Panel, 0)
        self.filters = dict.fromkeys(Panel, "")

    @property
    def top(self) -> "TopApp":
        """The app."""
        return self.app  # type: ignore[return-value]  # no other app has this screen

    def grid(self, panel: Panel) -> Grid:
        """The table of a panel."""
        return self.query_one(f"#{panel.value}", Grid)

    def compose(self) -> ComposeResult:
        """A heading, the panels, a line for the filter, the keys."""
        yield Static("", id="heading", markup=False)
        for panel in Panel:
            yield Static("", id=f"title-{panel.value}", classes="title", markup=False)
            yield Grid(panel, id=panel.value)
        yield Input(placeholder="filter", id="filter")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Show what is there: nothing yet."""
        self.query_one("#filter", Input).display = False
        self.set_interval(1, self._tick)
        self.action_panel(self.active.value)

    def on_resize(self, event: events.Resize) -> None:
        """Another room."""
        del event
        self._arrange()
        for panel in Panel:
            self.draw(panel)

    def draw(self, panel: Panel) -> None:
        """Show what is known of a panel."""
        # before it is made, and while it is taken down
        if not self.query(f"#{panel.value}") or not self.size.width:
            return
        now = datetime.now(UTC)
        found = rows(panel, self.top.picture, now, order=self.orders[panel], wanted=self.filters[panel])
        grid = self.grid(panel)
        # the scrollbar's own column is kept free
        grid.show(found, self.size.width - 1, stale=bool(seen_of(panel, self.top.picture).error))
        self._title(panel, now)
        self._arrange()

    def _tick(self) -> None:
        now = datetime.now(UTC)
        for panel in Panel:
            self._title(panel, now)

    def _title(self, panel: Panel, now: datetime) -> None:
        number = list(Panel).index(panel) + 1
        text = Text(f"{number} {panel.value.capitalize():<10}", "bold", no_wrap=True, overflow="ellipsis")
        text.append_text(Text("").append_text(title(panel, self.top.picture, now)))
        if self.filters[panel]:
            text.append(f" · filter {visible(self.filters[panel])!r}: {self.grid(panel).row_count}", WARN)
        if self.orders[panel]:
            text.append(f" · by {ORDERS[panel][self.orders[panel]].name}", DIM)
        widget = self.query_one(f"#title-{panel.value}", Static)
        widget.set_class(panel is self.active, "-active")
        widget.update(text)
        self._heading(now)

    def _heading(self, now: datetime) -> None:
        text = Text("fleet top", "bold", no_wrap=True, overflow="ellipsis")
        text.append(f" · {visible(self.top.where)} · {now:%H:%M:%S} UTC", "")
        text.append(" · HELD, space goes on", WARN) if self.top.paused else text.append(
            f" · every {self.top.every:g}s", DIM
        )
        if self.top.read_only:
            text.append(" · read only", DIM)
        self.query_one("#heading", Static).update(text)

    def _arrange(self) -> None:
        """Give every table its lines."""
        filtering = self.query_one("#filter", Input).display
        available = self.size.height - _AROUND - int(filtering)
        needs = [self.grid(panel).row_count + 1 for panel in Panel]
        for panel, lines in zip(Panel, heights(needs, available, list(Panel).index(self.active)), strict=True):
            grid = self.grid(panel)
            grid.display = lines > 0
            grid.styles.height = max(1, lines)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Whichever table the operator has gone to."""
        if isinstance(event.widget, Grid) and event.widget.panel is not self.active:
            self.active = event.widget.panel
            self._arrange()
            self._tick()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Its details."""
        event.stop()
        self.action_open()

    def action_panel(self, name: str) -> None:
        """Work with this panel."""
        self.active = Panel(name)
        self._arrange()
        self.grid(self.active).focus()
        self._tick()

    def action_next(self, step: int) -> None:
        """Work with the next panel."""
        panels = list(Panel)
        self.action_panel(panels[(panels.index(self.active) + step) % len(panels)].value)

    def action_open(self) -> None:
        """Open what the cursor is on."""
        selected = self.grid(self.active).selected
        if selected is not None:
            self.app.push_screen(DETAILS[self.active](selected))

    def action_sort(self, step: int) -> None:
        """By the next order."""
        self.orders[self.active] = (self.orders[self.active] + step) % len(ORDERS[self.active])
        self.draw(self.active)
        # what is looked for is at the top now
        self.grid(self.active).move_cursor(row=0)

    def action_pause(self) -> None:
        """Hold everything as it is, or go on."""
        self.top.paused = not self.top.paused
        if not self.top.paused:
            self.top.look_now()
        self._tick()

    def action_again(self) -> None:
        """Look again now."""
        self.top.look_now()

    def action_filter(self) -> None:
        """Ask what to look for in this panel."""
        line = self.query_one("#filter", Input)
        line.display = True
        line.value = self.filters[self.active]
        self._arrange()
        line.focus()

    def action_unfilter(self) -> None:
        """Show everything again."""
        self.query_one("#filter", Input).value = ""
        self._filter("")
        self._close_filter()

    def on_input_changed(self, event: Input.Changed) -> None:
        """What is there is filtered at once."""
        event.stop()
        if event.input.display:
            self._filter(event.value, ask=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter; of runs, Temporal is asked too."""
        event.stop()
        self._filter(event.value)
        self._close_filter()

    def _filter(self, wanted: str, *, ask: bool = True) -> None:
        self.filters[self.active] = wanted.strip()
        if ask and self.active is Panel.RUNS and self.top.wanted != wanted.strip():
            self.top.wanted = wanted.strip()
            self.top.look_now(Panel.RUNS)
        self.draw(self.active)

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self._arrange()
        self.grid(self.active).focus()
