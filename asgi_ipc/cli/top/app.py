"""The application: the screen of one store, above that of all stores."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any, ClassVar

from textual.app import App
from textual.binding import Binding

from ..choice import StoreChoice
from .choosing import Choosing, choice_of, stores
from .watching import Watching

#: The result of an application that Ctrl-C ended.
INTERRUPTED = 130


class Top(App[int]):
    """The live screen. Its result is the exit status of the command."""

    CSS = """
    #title { height: 1; padding: 0 1; background: $primary-background; }
    #figures { height: auto; padding: 0 1; }
    #notice { height: auto; padding: 0 1; color: $text-warning; }
    #notice.-trouble { color: $text-error; text-style: bold; }
    #panes { height: 1fr; layout: vertical; }
    .pane { height: 1fr; width: 1fr; border: round $primary-background; scrollbar-size: 1 1;
            border-title-color: $text-muted; }
    .pane:focus { border: round $primary; border-title-color: $text; }
    Tabs { display: none; }
    Watching.-narrow.-short Tabs { display: block; }
    Watching.-narrow.-short .pane { display: none; }
    Watching.-narrow.-short .pane.-shown { display: block; }
    Watching.-wide #panes { layout: grid; grid-size: 3 2; grid-rows: 3fr 2fr; }
    Watching.-wide #channels { column-span: 2; }
    Watching.-wide #processes { column-span: 3; }
    #filter { dock: bottom; margin-bottom: 1; height: 1; border: none; padding: 0 1; }
    """
    TITLE = "asgi-ipc top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[Any]] = [
        Binding("ctrl+c", "interrupt", show=False, priority=True),
    ]

    def __init__(self, store: StoreChoice | None, directory: str | None, interval: float) -> None:
        super().__init__()
        self._store = store
        self._directory = directory
        self._interval = interval
        self._watched: list[Watching] = []
        self.animation_level = "none"

    def on_mount(self) -> None:
        """Show the store; without one, the only one, or all to choose from."""
        # Ends without it would leave the terminal as it is now.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, self.exit, 128 + number)
        if self._store is not None:
            self.show_store(self._store)
            return
        self.push_screen(Choosing(self._directory, self.show_store))
        found = stores(self._directory)
        store = choice_of(found[0]) if len(found) == 1 else None
        if store is not None:
            self.show_store(store)

    def show_store(self, store: StoreChoice) -> None:
        """Show a store."""
        screen = Watching(store, self._interval)
        self._watched.append(screen)
        self.push_screen(screen)

    def action_stores(self) -> None:
        """Go back to the stores."""
        if self._store is None:
            self.pop_screen()
        else:
            self._store = None
            self.switch_screen(Choosing(self._directory, self.show_store))

    def action_quit_top(self) -> None:
        """End."""
        self.exit(0)

    def action_interrupt(self) -> None:
        """End by Ctrl-C."""
        self.exit(INTERRUPTED)

    @property
    def is_looking(self) -> bool:
        """Whether a thread may be waiting for a store's lock."""
        return any(each.is_looking for each in self._watched)


__all__ = ["INTERRUPTED", "Top"]
