"""Callbacks for a store that lost what it held: it was flushed, or another took its place.

Memberships are gone then, and consumers do not rejoin their groups by themselves. A layer's
`Callbacks` are called once for each such event that the process notices. Each callback runs in the
event loop in which it was added, or without one in the thread that notices the event, after that
thread has released its locks. An event loop calls a few of them in each turn, so that thousands of
consumers that rejoin do not hold it up.

Sending and receiving costs nothing for it: `asgi_ipc.delivery.demultiplexer` notices a flush as it
delivers, and while there are callbacks the periodic check of an event loop looks too.
"""

from __future__ import annotations

import itertools
import logging
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ..engines.deferred import tell
from ..engines.guards import items_of

if TYPE_CHECKING:
    # Not at run time: processes without an event loop come by here too.
    import asyncio

_log = logging.getLogger("asgi_ipc")

Callback = Callable[[], object]

#: Callbacks that an event loop calls in one turn.
_A_TURN = 32
#: Callbacks that are kept before those of closed loops and collected objects are looked for.
_SWEEP_AT = 64

#: Called with the prefix of each store that lost what it held; for `asgi_ipc.django.signals`.
observers: list[Callable[[str], object]] = []


class _Added:
    """A callback, and the event loop that calls it. A bound method is not kept alive."""

    def __init__(self, callback: Callback, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self._callback: Callable[[], Callback | None]
        if hasattr(callback, "__self__") and hasattr(callback, "__func__"):
            self._callback = weakref.WeakMethod(callback)
        else:
            self._callback = lambda: callback

    def is_over(self) -> bool:
        """Return whether it can't be called any more."""
        return self._callback() is None or (self.loop is not None and self.loop.is_closed())

    def __call__(self) -> object:
        callback = self._callback()
        return None if callback is None else callback()


class Callbacks:
    """The callbacks of one layer. Any thread may call any method."""

    def __init__(self) -> None:
        self._added: dict[int, _Added] = {}
        self._keys = itertools.count()
        self._sweep_at = _SWEEP_AT

    def __bool__(self) -> bool:
        return bool(self._added)

    def add(self, callback: Callback, loop: asyncio.AbstractEventLoop | None) -> Callable[[], None]:
        """Add a callback; return a function that removes it."""
        if len(self._added) >= self._sweep_at:
            self._sweep()
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._added))
        key = next(self._keys)
        self._added[key] = _Added(callback, loop)
        return lambda: _forget(self._added, key)

    def after_fork_in_child(self) -> None:
        """Forget in a forked child what event loops of the parent were to call."""
        for key, added in items_of(self._added):
            if added.loop is not None:
                _forget(self._added, key)

    def _sweep(self) -> None:
        for key, added in items_of(self._added):
            if added.is_over():
                _forget(self._added, key)

    def call(self) -> None:
        """Call all: in their event loops, and the others here. Call without a lock."""
        self._sweep()
        turns: dict[asyncio.AbstractEventLoop, deque[_Added]] = {}
        for _, added in items_of(self._added):
            if added.loop is None:
                _call(added)
            else:
                turns.setdefault(added.loop, deque()).append(added)
        for loop, turn in turns.items():
            try:
                loop.call_soon_threadsafe(_take_turn, loop, turn, context=Context())
            except RuntimeError:
                pass  # The loop was closed meanwhile.


def _forget(added: dict[int, _Added], key: int) -> None:
    added.pop(key, None)


def _take_turn(loop: asyncio.AbstractEventLoop, turn: deque[_Added]) -> None:
    """Call some callbacks in their loop, and the others in its next turns."""
    for _ in range(min(_A_TURN, len(turn))):
        result = _call(turn.popleft())
        if isinstance(result, Coroutine):
            task = loop.create_task(_finish(result))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)
    if turn:
        loop.call_soon(_take_turn, loop, turn)


def _call(callback: _Added) -> object:
    try:
        return callback()
    except Exception:
        tell(_log.exception, _FAILED)
    return None


async def _finish(result: Coroutine[Any, Any, object]) -> None:
    try:
        await result
    except Exception:
        tell(_log.exception, _FAILED)


#: Strong references, as asyncio keeps weak ones.
_tasks: set[asyncio.Task[None]] = set()
_FAILED = "a callback of on_store_lost() failed"

__all__ = ["Callback", "Callbacks", "observers"]
