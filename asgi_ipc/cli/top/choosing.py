"""The screen on which a store is chosen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from ..background import Background
from ..choice import StoreChoice
from ..listing import Listed, listed
from ..output import age, count, printable, size

_COLUMNS = ("PREFIX", "ENGINE", "STATE", "PROCESSES", "MESSAGES", "MEMORY", "AGE", "DIRECTORY")
_NUMBERS = {"PROCESSES", "MESSAGES", "MEMORY", "AGE"}
_INTERVAL = 2.0


def stores(directory: str | None) -> list[Listed]:
    """Return the stores that can be joined."""
    found = [each for each in listed(directory) if choice_of(each) is not None]
    return sorted(found, key=lambda each: (each.entry.prefix or "", each.entry.engine or ""))


def choice_of(found: Listed) -> StoreChoice | None:
    """Return what names a store that was found; None if it can't be joined."""
    entry, site = found.entry, found.site
    if site is None or entry.state not in ("in use", "stale"):
        return None
    return StoreChoice(site.prefix, site.factory.argument(), dict(site.options))


class Choosing(Screen[None]):
    """The stores that this user may see."""

    BINDINGS: ClassVar[list[Any]] = [Binding("q", "app.quit_top", "quit")]

    def __init__(self, directory: str | None, show: Callable[[StoreChoice], None]) -> None:
        super().__init__()
        #: What to do with the store that is chosen.
        self._show_store = show
        self._found: dict[str, Listed] = {}
        self._background = Background(lambda: stores(directory))

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield Static("Stores: choose one with Enter or the mouse", id="title")
        yield DataTable[Text](cursor_type="row", zebra_stripes=True)
        yield Static(id="notice")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to look."""
        table = self.query_one(DataTable)
        for title in _COLUMNS:
            table.add_column(Text(title, justify="right" if title in _NUMBERS else "left"))
        self.run_worker(self._follow(), exit_on_error=True)

    async def _follow(self) -> None:
        while True:
            if self.is_current:
                self._show(await asyncio.wrap_future(self._background.start()))
            await asyncio.sleep(_INTERVAL)

    def _show(self, found: list[Listed]) -> None:
        table = self.query_one(DataTable)
        at = table.cursor_row
        table.clear()
        self._found = {str(number): each for number, each in enumerate(found)}
        for number, each in self._found.items():
            table.add_row(*_row(each), key=number)
        table.move_cursor(row=min(at, len(found) - 1))
        notice = self.query_one("#notice", Static)
        notice.display = not found
        notice.update("there are no stores that can be looked at")

    @on(DataTable.RowSelected)
    def _chosen(self, event: DataTable.RowSelected) -> None:
        found = self._found.get(event.row_key.value or "")
        store = choice_of(found) if found else None
        if store is not None:
            self._show_store(store)


def _row(each: Listed) -> list[Text]:
    entry = each.entry
    used = f"{size(entry.channel_bytes_used)} of {size(entry.channel_bytes_total)}"
    texts = (
        entry.prefix or "", entry.engine or "", entry.state, count(entry.processes),
        count(entry.messages), used, age(entry.age), entry.directory or "",
    )  # fmt: skip
    return [
        Text(printable(text), justify="right" if title in _NUMBERS else "left", no_wrap=True)
        for title, text in zip(_COLUMNS, texts, strict=True)
    ]


__all__ = ["Choosing", "choice_of", "stores"]
