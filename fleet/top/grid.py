"""A table that is drawn again and again without losing the operator's place."""

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

from fleet.top.layout import Panel, fit, fitted
from fleet.top.telling import DIM, Row


class Grid(DataTable[Text]):
    """The rows of one panel. The cursor stays on what it is on, wherever that moves to."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select_cursor", "Open")]

    def __init__(self, panel: Panel, **more: Any) -> None:
        super().__init__(cursor_type="row", cell_padding=0, zebra_stripes=False, show_row_labels=False, **more)
        self.panel = panel
        self._width = 0

    def on_mount(self) -> None:
        """A cursor hides the colours of its row."""
        self.show_cursor = self.has_focus

    def on_focus(self) -> None:
        """The operator works here."""
        self.show_cursor = True

    def on_blur(self) -> None:
        """And no more."""
        self.show_cursor = False

    @property
    def selected(self) -> str | None:
        """The key of the row under the cursor; None: there is no row."""
        if not self.row_count:
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    @property
    def keys(self) -> list[str]:
        """What is shown, in its order."""
        return [str(key.value) for key in self.rows]

    def show(self, rows: Sequence[Row], width: int, *, stale: bool) -> None:
        """Show these.

        Args:
            rows: in their order.
            width: cells of a line.
            stale: nobody answers: it is what was seen last.
        """
        columns = fitted(self.panel, width)
        drawn = {row.key: [self._cell(row.cells[i], column, stale=stale) for i, column in columns] for row in rows}
        if width == self._width and list(drawn) == self.keys:
            for y, cells in enumerate(drawn.values()):
                for x, cell in enumerate(cells):
                    self._put(x, y, cell)
            return
        at, before, scrolled = self.cursor_row, self.selected, self.scroll_y
        if width != self._width:
            self._width = width
            self.clear(columns=True)
            for _, column in columns:
                self.add_column(fit(Text(column.name, "bold"), column), width=column.wide + 1)
        else:
            self.clear()
        for key, cells in drawn.items():
            self.add_row(*cells, key=key)
        keys = list(drawn)
        if keys:
            self.move_cursor(row=keys.index(before) if before in keys else min(at, len(keys) - 1), scroll=False)
            self.call_after_refresh(self._settle, scrolled)

    def _settle(self, scrolled: float) -> None:
        self.scroll_to(y=scrolled, animate=False, immediate=True)
        self.move_cursor(row=self.cursor_row)

    def _put(self, x: int, y: int, cell: Text) -> None:
        old = self.get_cell_at((y, x))  # type: ignore[arg-type]  # a Coordinate is a tuple of row and column
        if old != cell or old.spans != cell.spans or old.style != cell.style:
            self.update_cell_at((y, x), cell)  # type: ignore[arg-type]

    @staticmethod
    def _cell(cell: Text, column: Any, *, stale: bool) -> Text:
        return fit(Text(cell.plain, DIM) if stale else cell, column)
