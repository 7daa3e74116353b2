"""The screen of one store."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, ClassVar, cast

from rich.console import Group
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container
from textual.events import Resize
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static, Tab, Tabs

from ..background import Background
from ..choice import StoreChoice
from ..failures import FAILURES
from ..output import age, count, printable
from . import figures
from .look import FIRST, Look, Orders, look
from .panes import KINDS, Pane

#: Seconds until the screen says that there is no answer.
_PATIENCE = 3.0
#: Seconds for which a notice stays.
_NOTICE = 60.0
#: At most this part of the time is spent on looking.
_SHARE = 0.25
#: Rates are those of so many seconds: processes note about once a second what bypassed the store.
_WINDOW = 3.0
#: Looks whose rate is kept.
_KEPT = 240
#: The refresh intervals that keys choose from, in seconds.
_INTERVALS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Watching(Screen[None]):
    """Rates, memory, channels, groups and processes of a store, again and again."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[Any]] = [
        Binding("q", "app.quit_top", "quit"),
        Binding("s", "sort", "sort"),
        Binding("r", "reverse", "reverse"),
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("p,space", "pause", "pause"),
        Binding("plus,equals_sign", "interval(1)", "slower", key_display="+"),
        Binding("minus", "interval(-1)", "faster", key_display="-"),
        Binding("1", "pane('channels')", "channels", show=False),
        Binding("2", "pane('groups')", "groups", show=False),
        Binding("3", "pane('processes')", "processes", show=False),
        Binding("l", "app.stores", "stores"),
        Binding("escape", "leave", show=False),
    ]
    AUTO_FOCUS = "#channels"

    def __init__(self, store: StoreChoice, interval: float) -> None:
        super().__init__()
        self.store = store
        self.interval = interval
        self.is_paused = False
        self.last: Look | None = None
        self._rates: figures.Rates | None = None
        #: The looks of the last seconds, and at least two.
        self._looks: deque[Look] = deque()
        self._history: deque[float] = deque(maxlen=_KEPT)
        self._orders: Orders = dict(FIRST)
        self._background: Background[Look] = Background(
            lambda: look(self.store, dict(self._orders))
        )
        self._wake = asyncio.Event()
        #: Why there is no newer look, or "".
        self.trouble = ""
        #: What happened to the store, and until when it is shown.
        self.notice, self._notice_until = "", 0.0

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield Static(id="title")
        yield Static(id="figures")
        yield Static(id="notice")
        yield Tabs(*(Tab(kind.name, id=f"tab-{kind.name}") for kind in KINDS))
        with Container(id="panes"):
            for kind in KINDS:
                yield Pane(kind, self._orders[kind.name])
        yield Input(placeholder="text in names; Enter keeps it, Escape shows all", id="filter")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one(Tabs).can_focus = False
        self.query_one("#filter").display = False
        self.query_one("#channels").add_class("-shown")
        self._show_head()
        self.run_worker(self._follow(), exit_on_error=True)

    # ---- looking

    async def _follow(self) -> None:
        while True:
            self._wake.clear()
            begin = time.monotonic()
            if not self.is_paused:
                await self._look_once()
            took = time.monotonic() - begin
            pause = max(self.interval - took, took / _SHARE - took, 0.05)
            try:
                await asyncio.wait_for(self._wake.wait(), None if self.is_paused else pause)
            except asyncio.TimeoutError:
                pass

    async def _look_once(self) -> None:
        waiting = asyncio.wrap_future(self._background.start())
        done, _ = await asyncio.wait([waiting], timeout=_PATIENCE)
        if not done:
            self.trouble = (
                f"no answer for {_PATIENCE:g} seconds: the store is large, or a stopped process "
                "(state T in ps) holds its lock: continue it (kill -CONT) or end it"
            )
            self._show_head()
            await asyncio.wait([waiting])
        try:
            found = waiting.result()
        except FAILURES as error:
            self.trouble = str(error)
            self._show_head()
        else:
            self._arrived(found)

    def _arrived(self, found: Look) -> None:
        last, self.trouble = self.last, ""
        is_same = last is not None and last.store == found.store
        if last is not None:
            if not is_same:
                self._tell("the store was removed and made anew: what it held is gone, and its "
                           "counts begin again")  # fmt: skip
                self._history.clear()
                self._looks.clear()
            elif last.flushes != found.flushes:
                self._tell("the store was flushed: its messages and memberships are gone")
        self._looks.append(found)
        while len(self._looks) > 2 and self._looks[1].taken <= found.taken - _WINDOW:
            self._looks.popleft()
        self._rates = figures.rates(self._looks[0], found)
        if self._rates is not None:
            self._history.append(self._rates.came)
        self.last = found
        self._show_head()
        with self.app.batch_update():
            for pane in self.query(Pane):
                pane.update_rows(getattr(found, pane.kind.name), found.taken, is_same)

    def _tell(self, text: str) -> None:
        self.notice = f"{time.strftime('%H:%M:%S')}: {text}"
        self._notice_until = time.monotonic() + _NOTICE

    # ---- showing

    def _show_head(self) -> None:
        if not self.query("#title"):
            return  # The screen is being left: its widgets go first.
        width = max(20, self.app.size.width - 2)
        self.query_one("#title", Static).update(self._title(width))
        self.query_one("#figures", Static).update(self._figures(width))
        if self.notice and time.monotonic() > self._notice_until:
            self.notice = ""
        notice = self.query_one("#notice", Static)
        notice.display = bool(self.trouble or self.notice)
        notice.set_class(bool(self.trouble), "-trouble")
        notice.update(Text(printable(self.trouble or self.notice)))

    def _title(self, width: int) -> Text:
        title = Text(printable(self.store.prefix), style="bold", no_wrap=True, overflow="ellipsis")
        if self.last is not None:
            title.append(f" {printable(self.last.engine)}", style="not bold")
        right = "paused" if self.is_paused else f"every {self.interval:g}s"
        if width >= 60 and self.last is not None and self.last.took > 0.2:
            right += f", a look takes {age(self.last.took)}"
        right = f"{right}  {time.strftime('%H:%M:%S')}"
        title.truncate(max(1, width - len(right) - 1), overflow="ellipsis")
        title.append(" " * max(1, width - title.cell_len - len(right)))
        title.append(right, style="not bold dim")
        return title

    def _figures(self, width: int) -> Group:
        found = self.last
        if found is None:
            return Group(Text("looking ..." if not self.trouble else ""))
        rates = self._rates
        line = Text()
        for name, value in zip(("in", "out", "dropped"), rates or (None,) * 3, strict=True):
            is_bad = name == "dropped" and bool(value)
            line.append(f"{name} ", style="bold red" if is_bad else "bold")
            line.append("-" if value is None else count(float(value)))
            line.append("/s  ")
        if width >= 80:
            line.append(f"{count(figures.dropped(found))} dropped ever  ", style="dim")
        line.append(figures.sparkline(self._history, min(60, width - line.cell_len)), style="cyan")
        line.truncate(width)
        state = Text(figures.state(found))
        bars = [_bar(each, width) for each in figures.memories(found, width)]
        return Group(line, state, *bars)

    @on(Resize)
    def _resized(self) -> None:
        self.call_after_refresh(self._show_again)

    def _show_again(self) -> None:
        self._show_head()
        for pane in self.query(Pane):
            pane.show_rows()

    # ---- keys and mouse

    @property
    def _pane(self) -> Pane:
        """The table that keys act on: the one that has the focus, or had it last."""
        return self.query_one(".pane.-shown", Pane)

    @on(Tabs.TabActivated)
    def _tab_chosen(self, event: Tabs.TabActivated) -> None:
        name = (event.tab.id or "").removeprefix("tab-")
        if name and self._pane.id != name:
            self.action_pane(name)

    def action_pane(self, name: str) -> None:
        """Go to a table."""
        for pane in self.query(Pane):
            pane.set_class(pane.id == name, "-shown")
        self.query_one(f"#{name}").focus()
        self.query_one(Tabs).active = f"tab-{name}"
        self.call_after_refresh(self._show_again)

    def on_descendant_focus(self) -> None:
        """Follow the focus, by Tab or the mouse."""
        focused = self.focused
        if isinstance(focused, Pane) and not focused.has_class("-shown"):
            self.action_pane(focused.kind.name)

    @on(DataTable.HeaderSelected)
    def _header_clicked(self, event: DataTable.HeaderSelected) -> None:
        pane = cast(Pane, event.data_table)
        pane.sort_by(event.column_key.value or "")
        self._ordered(pane)

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._pane.sort_by_next()
        self._ordered(self._pane)

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self._pane.sort_by(self._pane.order.key)
        self._ordered(self._pane)

    def _ordered(self, pane: Pane) -> None:
        self._orders[pane.kind.name] = pane.order
        pane.show_rows()
        self._wake.set()

    def action_filter(self) -> None:
        """Ask for text."""
        asked = self.query_one("#filter", Input)
        asked.display = True
        asked.focus()

    @on(Input.Changed)
    def _filter_changed(self, event: Input.Changed) -> None:
        for pane in self.query(Pane):
            pane.order = pane.order._replace(text=event.value)
            self._orders[pane.kind.name] = pane.order
        self._wake.set()

    @on(Input.Submitted)
    def _filter_done(self) -> None:
        self.query_one("#filter").display = False
        self._pane.focus()

    def action_leave(self) -> None:
        """Show all rows again."""
        asked = self.query_one("#filter", Input)
        asked.value = ""
        self._filter_done()

    def action_pause(self) -> None:
        """Stop to look, or go on."""
        self.is_paused = not self.is_paused
        self._show_head()
        self._wake.set()

    def action_interval(self, step: int) -> None:
        """Look more or less often."""
        nearest = min(range(len(_INTERVALS)), key=lambda at: abs(_INTERVALS[at] - self.interval))
        self.interval = _INTERVALS[min(max(0, nearest + step), len(_INTERVALS) - 1)]
        self._show_head()
        self._wake.set()

    @property
    def is_looking(self) -> bool:
        """Whether a thread may be waiting for the store's lock."""
        return self._background.is_busy


def _bar(memory: figures.Memory, width: int) -> Text:
    """Return a memory as a line: used, reserved and free."""
    line = Text(f"{memory.title:<11} ", no_wrap=True)
    cells = max(0, min(40, width - len(line) - len(memory.text) - 1))
    used = min(cells, -int(-memory.used * cells // 1))
    reserved = min(cells, max(used, -int(-memory.reserved * cells // 1)))
    full = memory.used > 0.8
    line.append("━" * used, style="red" if full else "green")
    line.append("━" * (reserved - used), style="yellow dim")
    line.append("─" * (cells - reserved), style="dim")
    line.append(f" {memory.text}", style="bold red" if full else "")
    return line


__all__ = ["Watching"]
