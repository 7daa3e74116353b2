"""Threads that are stopped in the middle of a call, as if other code waited there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tests.tools.doubles import (
    PATIENCE,
)


class Stopped:
    """A thread that is stopped in the middle of a call, as if other code waited there."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=call, daemon=True)

    def here(self, *_: object) -> None:
        """What is to be called where the thread stops."""
        if threading.current_thread() is self.thread:
            self.inside.set()
            self.go_on.wait(PATIENCE)

    def __enter__(self) -> None:
        self.thread.start()
        assert self.inside.wait(PATIENCE)

    def __exit__(self, *_: object) -> None:
        assert self.thread.is_alive()
        self.go_on.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def stopping(stop: Callable[[], Stopped], function: Callable[..., Any]) -> Callable[..., Any]:
    def stopped(*arguments: Any, **named: Any) -> Any:
        stop().here()
        return function(*arguments, **named)

    return stopped
