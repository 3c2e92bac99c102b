"""Screens over the picture: one thing in detail, a question before an act, the keys."""

import asyncio
from abc import abstractmethod
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Button, Footer, Input, Label, Static

from fleet.cli import context
from fleet.cli.output import visible
from fleet.contracts.approvals import Approval, ApprovalState, Decision
from fleet.errors import BadInput, FleetError
from fleet.top import acting, details
from fleet.top.picture import ApprovalDetail
from fleet.top.reading import LOST, told
from fleet.top.runs import run_detail
from fleet.top.telling import BAD, DIM

if TYPE_CHECKING:
    from fleet.top.app import TopApp

READ_WITHIN_S = 15.0
"""How long a detail is waited for."""

KEYS = """\
q p r a  1-4   quotas, pools, runs, approvals   tab: the next of them
up down        choose a row                     enter: its details
/              filter; enter keeps it, escape ends it
s  S           sort by the next, by the former order
space          hold everything as it is; again: go on
R  F5          look again now
escape         back                             ctrl+q ctrl+c: quit

In the details of a quota     f freeze     t thaw
             of a run         p pause      u resume    x stop
             of an approval   y approve    n reject
Each asks before it is done: Y does it, escape and enter do not. It is
written down with your name.

Runs are a page; the counts above it are of all. A filter of runs is
asked of Temporal too: the beginning of an id, an agent or a tenant,
or a whole status.
"""


class Ask(ModalScreen[str | None]):
    """Whether something is to be done. Answers the reason; None: it is not."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "no", "Cancel"),
        # no key that asks: one that is held down must not answer its own question
        Binding("Y", "yes", "Do it"),
    ]

    def __init__(self, question: str, reason: str, label: str) -> None:
        """Args:
        question: what would be done.
        reason: that is given unless another one is typed.
        label: of the button that does it.
        """
        super().__init__()
        self._question = question
        self._reason = reason
        self._label = label

    def compose(self) -> ComposeResult:
        """The question, a reason, two buttons."""
        with Vertical(id="ask"):
            yield Static(self._question, id="question", markup=False)
            yield Label("Reason:", markup=False)
            yield Input(self._reason, id="reason", max_length=500)
            with Horizontal():
                yield Button(Text(f"{self._label} (Y)"), id="yes", variant="warning")
                yield Button(Text("Cancel (esc)"), id="no", variant="primary")

    def on_mount(self) -> None:
        """Enter alone does nothing."""
        self.query_one("#no", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Do it, or not."""
        self.action_yes() if event.button.id == "yes" else self.action_no()

    def action_yes(self) -> None:
        """It is to be done."""
        self.dismiss(self.query_one("#reason", Input).value)

    def action_no(self) -> None:
        """It is not."""
        self.dismiss(None)


class Help(ModalScreen[None]):
    """The keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,enter,q", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        """One text."""
        with VerticalScroll(id="help"):
            yield Static(KEYS, markup=False)


class Detail(Screen[None]):
    """One thing, read again and again while it is shown."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "back", "Back"),
        Binding("R,f5", "again", "Refresh", key_display="R"),
        Binding("question_mark", "app.help", "Keys", key_display="?"),
    ]
    ACTS: ClassVar[frozenset[str]] = frozenset()
    """Actions that change something."""
    EVERY_S: ClassVar[float] = 0.0
    """Seconds between two looks, if more than those of the picture."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.about = name
        self.loaded = asyncio.Event()
        """Set once there is something to see."""
        self._again = asyncio.Event()

    @property
    def top(self) -> "TopApp":
        """The app."""
        return self.app  # type: ignore[return-value]  # no other app has these screens

    @abstractmethod
    async def read(self) -> Text:
        """What is shown."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """What is shown, in a word."""

    def compose(self) -> ComposeResult:
        """A heading, the text, the keys."""
        yield Static(Text(f"{self.kind} {visible(self.about)}", "bold"), id="head", markup=False)
        yield Static("", id="trouble", markup=False)
        with VerticalScroll():
            yield Static(Text("reading …", DIM), id="body", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one(VerticalScroll).focus()
        self.run_worker(self._follow(), group="detail")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Nothing is changed by somebody who only reads."""
        if action in self.ACTS and self.top.read_only:
            return False
        return super().check_action(action, parameters)

    def action_back(self) -> None:
        """To the picture."""
        self.dismiss(None)

    def action_again(self) -> None:
        """Look again now."""
        self._again.set()

    async def _follow(self) -> None:
        while True:
            if not self.top.paused or self._again.is_set() or not self.loaded.is_set():
                self._again.clear()
                await self._look()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._again.wait(), max(self.top.every, self.EVERY_S))

    async def _look(self) -> None:
        trouble = ""
        try:
            text = await asyncio.wait_for(self.read(), READ_WITHIN_S)
        except TimeoutError:
            trouble = f"no answer within {READ_WITHIN_S:g} s"
        except (FleetError, *LOST) as error:
            trouble = told(error)
        except Exception as defect:  # noqa: BLE001 - a defect of one detail ends no session
            trouble = f"a defect of fleet top: {type(defect).__name__}: {told(defect)}"
        else:
            self.query_one("#body", Static).update(text)
        widget = self.query_one("#trouble", Static)
        widget.update(Text(trouble, BAD))
        widget.display = bool(trouble)
        self.loaded.set()

    def ask(self, question: str, reason: str, label: str, act: Any) -> None:
        """Ask, then do it and say what came of it.

        Args:
            question: what would be done.
            reason: that is given by default.
            label: of the button.
            act: does it, with the reason; answers what was done.
        """

        def answered(words: str | None) -> None:
            if words is not None:
                self.run_worker(self._do(act, words), group="act")

        who = visible(context.user(self.top.by))
        self.app.push_screen(Ask(f"{question}\nAs {who}.", reason, label), answered)

    async def _do(self, act: Any, words: str) -> None:
        try:
            said = await act(words)
        except (FleetError, *LOST) as error:
            self.top.say(told(error), wrong=True)
        except Exception as defect:  # noqa: BLE001 - what went wrong is told, the session goes on
            self.top.say(f"{type(defect).__name__}: {told(defect)}", wrong=True)
        else:
            self.top.say(said)
        self.top.look_now()
        self._again.set()


class QuotaScreen(Detail):
    """One scope."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("f", "freeze", "Freeze"), Binding("t", "thaw", "Thaw")]
    ACTS: ClassVar[frozenset[str]] = frozenset({"freeze", "thaw"})

    @property
    def kind(self) -> str:
        """What is shown."""
        return "quota"

    async def read(self) -> Text:
        """Its limits, the line, the history."""
        return details.quota(await self.top.reading.quota(self.about))

    def action_freeze(self) -> None:
        """Close it for the whole fleet."""
        self.ask(
            f"Freeze {visible(self.about)}?\nNo call of it starts, in the whole fleet, until somebody thaws it. Runs"
            " wait, none fails.",
            "",
            "Freeze",
            lambda words: acting.freeze(self.top.reading, self.about, words, self.top.by),
        )

    def action_thaw(self) -> None:
        """Open it."""
        self.ask(
            f"Thaw {visible(self.about)}?\nIt is opened if it was closed, and its cooldown ends.",
            "",
            "Thaw",
            lambda words: acting.thaw(self.top.reading, self.about, words, self.top.by),
        )


class PoolScreen(Detail):
    """One pool."""

    @property
    def kind(self) -> str:
        """What is shown."""
        return "pool"

    async def read(self) -> Text:
        """Its queue and its workers."""
        found = next((pool for pool in await self.top.reading.pools() if pool.name == self.about), None)
        if found is None:
            raise BadInput(f"the manifest has no pool {self.about!r}")
        return details.pool(found, datetime.now(UTC))


class RunScreen(Detail):
    """One run."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "act('pause')", "Pause"),
        Binding("u", "act('resume')", "Resume"),
        Binding("x", "act('stop')", "Stop"),
    ]
    ACTS: ClassVar[frozenset[str]] = frozenset({"act"})
    EVERY_S: ClassVar[float] = 5.0

    _QUESTIONS: ClassVar[dict[str, tuple[str, str]]] = {
        "pause": ("It begins nothing new until it is resumed.", "paused by an operator"),
        "resume": ("It goes on.", "resumed by an operator"),
        "stop": ("It finishes soon: an effect under way is waited for.", "stopped by an operator"),
    }

    @property
    def kind(self) -> str:
        """What is shown."""
        return "run"

    async def read(self) -> Text:
        """Where it stands, what it waits for, its steps."""
        return details.run(await run_detail(await self.top.reading.client(), self.about, self.top.reading.path))

    def action_act(self, name: str) -> None:
        """Pause, resume or stop it."""
        what, reason = self._QUESTIONS[name]
        self.ask(
            f"{name.capitalize()} {visible(self.about)}?\n{what}",
            reason,
            name.capitalize(),
            lambda words: acting.steer(self.top.reading, name, self.about, words, self.top.by),
        )


class ApprovalScreen(Detail):
    """One approval."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "decide('approve')", "Approve"),
        Binding("n", "decide('reject')", "Reject"),
    ]
    ACTS: ClassVar[frozenset[str]] = frozenset({"decide"})
    EVERY_S: ClassVar[float] = 5.0

    _shown: Approval | None = None

    @property
    def kind(self) -> str:
        """What is shown."""
        return "approval"

    async def read(self) -> Text:
        """Exactly what is decided."""
        found: ApprovalDetail = await acting.asked(self.top.reading, self.about)
        self._shown = found.approval
        return details.approval(found)

    def action_decide(self, name: str) -> None:
        """Approve or reject what is on the screen."""
        shown, decision = self._shown, Decision(name)
        if shown is None or shown.state is not ApprovalState.OPEN:
            self.top.say("there is nothing to decide: it is not open", wrong=True)
            return
        self.ask(
            f"{name.capitalize()} {visible(shown.id)}?\nThe call {visible(shown.tool)} with the arguments shown"
            f" (digest {shown.digest}).",
            "",
            name.capitalize(),
            lambda words: acting.decide(self.top.reading, decision, shown, words, self.top.by),
        )
