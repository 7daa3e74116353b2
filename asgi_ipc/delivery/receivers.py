"""Receivers that wait, and the event loops and threads where they do.

All of it is guarded by the demultiplexer's lock, unless it says otherwise.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ..encoding.codec import Body
from ..engines.base import Bell

if TYPE_CHECKING:
    from .demultiplexer import Demultiplexer


class Listener:
    """A place where receivers wait: an event loop or a thread, and its bell."""

    def __init__(self, demux: Demultiplexer) -> None:
        self.demux = demux
        #: None until somebody has to wait here.
        self.bell: Bell | None = None

    def alive(self) -> bool:
        """Whether somebody may still hear the bell."""
        raise NotImplementedError

    def runs_here(self) -> bool:
        """Whether this is the event loop of the task that runs in this thread."""
        return False

    def next_turn(self) -> Any:
        """For the event loop that runs here: what to wake many waiters in (`Waiter.wake_in`)."""
        raise NotImplementedError

    def forget(self) -> None:
        """Be told of nothing any more. In a forked child: what is here is the parent's."""
        raise NotImplementedError

    def retire(self) -> None:
        """Close the bell. The demultiplexer forgets the waiters. May be called twice."""
        raise NotImplementedError


class Waiter:
    """One receiver that waits. Waking it means: look again."""

    __slots__ = ("error", "listener", "woken")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.woken = False
        #: What it shall raise instead of looking. Others may have the same: see `failure`.
        self.error: Exception | None = None

    def wake(self, here: Listener | None = None) -> bool:
        """Wake it, from any thread; False if there is nobody any more. Does not block.

        ``here`` is the caller's own listener, if that is known.
        """
        raise NotImplementedError

    def wake_in(self, turn: Any) -> bool:
        """As `wake`, together with others of the same listener (`Listener.next_turn`)."""
        raise NotImplementedError

    def failure(self) -> Exception:
        """The error as this receiver raises it.

        Each raises a copy: what one raises would grow by the traceback of all.
        """
        error = self.error
        assert error is not None
        try:
            mine = copy.copy(error)
        except Exception:
            return error
        mine.__cause__ = error.__cause__
        return mine


#: A message fetched for a local channel, shared by all it is for: the body, its deadline, its
#: number in the order of fetching. A bare tuple, as one is made for each message.
Buffered = tuple[Body, int, int]


__all__ = ["Buffered", "Listener", "Waiter"]
