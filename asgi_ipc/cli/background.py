"""Look at a store in a thread, so that a stopped process which holds its lock blocks no one else.

A command that runs on, such as ``top``, joins the store for each look and leaves it again: between
two looks it is no process of the store, so a store that only such commands watch may be removed,
or replaced by another version.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Background(Generic[_T]):
    """Calls a function in a thread, and never twice at once."""

    def __init__(self, look: Callable[[], _T]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._running: Future[_T] | None = None

    def start(self) -> Future[_T]:
        """Start a call, unless one is under way; return its future result. Never waits.

        Raises `RuntimeError` if there can't be one more thread.
        """
        with self._lock:
            if self._running is None or self._running.done():
                future: Future[_T] = Future()
                future.set_running_or_notify_cancel()
                # A daemon: one that waits for a lock must not keep the command from ending.
                threading.Thread(
                    target=self._call, args=(future,), name="look", daemon=True
                ).start()
                self._running = future
            return self._running

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way."""
        return self._running is not None and not self._running.done()

    def _call(self, future: Future[_T]) -> None:
        try:
            result = self._look()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)


__all__ = ["Background"]
