"""What a `asgi_ipc.demux.Demultiplexer` keeps: who waits where, and what was fetched for whom.

All of it is guarded by the demultiplexer's lock, unless it says otherwise.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .engines.base import Bell
from .messages import Body

if TYPE_CHECKING:
    from .demux import Demultiplexer

#: Local channels of one queue that are remembered before idle ones are looked for.
SWEEP_AT = 1024


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
        """Whether this is the event loop that runs in this thread."""
        return False

    def next_turn(self) -> list[Any]:
        """For the event loop that runs here: what to wake many waiters in (`Waiter.wake_in`)."""
        raise NotImplementedError

    def is_interrupted(self) -> bool:
        """Whether this is a signal's handler that interrupted an event loop which may sleep."""
        return False

    def retire(self) -> None:
        """Close the bell. The demultiplexer forgets the waiters. May be called twice."""
        raise NotImplementedError


class Waiter:
    """One receiver that waits. Waking it means: look again."""

    __slots__ = ("error", "listener", "woken")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.woken = False
        #: What it shall raise instead of looking.
        self.error: Exception | None = None

    def wake(self, here: Listener | None = None) -> bool:
        """Wake it, from any thread; False if there is nobody any more. Does not block.

        ``here`` is the caller's own listener, if that is known.
        """
        raise NotImplementedError

    def wake_in(self, turn: list[Any]) -> bool:
        """As `wake`, together with others of the same listener (`Listener.next_turn`)."""
        raise NotImplementedError


#: A message fetched for a local channel, shared by all it is for: the body, its deadline, its
#: number in the order of fetching. A bare tuple, as one is made for each message.
Buffered = tuple[Body, int, int]


class LocalChannel:
    """A local channel: what has been fetched for it, and who waits for more."""

    __slots__ = ("header", "items", "known", "limit", "own", "waiters")

    def __init__(self, own: OwnQueue, header: bytes, limit: int) -> None:
        self.own = own
        #: Somebody has received on it, and it was not forgotten since.
        self.known = False
        #: What stands in front of a message that is for this channel alone.
        self.header = header
        self.items: deque[Buffered] = deque()
        self.limit = limit
        self.waiters: list[Waiter] = []


class OwnQueue:
    """A process-specific queue that this process reads."""

    def __init__(self, name: bytes, batch: int) -> None:
        self.name = name
        self.batch = batch
        self.locals: dict[bytes, LocalChannel] = {}
        #: Who waits for any message of the queue, whatever its local channel.
        self.anyone: list[Waiter] = []
        #: How many waiters of each listener are not woken yet.
        self.waiting: defaultdict[Listener, int] = defaultdict(int)
        #: Whose bell was armed last; ``certain``: and has not rung, so the queue is empty. Whoever
        #: knows better says so, with the lock or without.
        self.armed_by: Listener | None = None
        self.certain = False
        #: Whoever looked last had to wait.
        self.dry = False
        self.sweep_at = SWEEP_AT
        #: When strangers may be looked through again (`LocalChannels`).
        self.strangers_at = 0
        #: Messages dropped since then for more of them than are kept.
        self.lost = 0
        #: The channel of those: it keeps nothing.
        self.nowhere = LocalChannel(self, b"", 1)
        self.nowhere.items = deque(maxlen=0)
        #: For engines that block: held by the one who fetches, without the big lock.
        self.fetching = threading.Lock()
        self.fetching_now = self.fetch_again = False
        #: The channel of the message that was last passed directly while nobody waited for it,
        #: and the message's number (`asgi_ipc.direct`).
        self.holder: LocalChannel | None = None
        self._held = -1
        self.passed_directly = 0
        self.overflowed = 0
        self.expired = 0

    def wait(self, channel: LocalChannel | None, waiter: Waiter) -> None:
        """Note who waits for a channel, or for any of the queue."""
        # Counted first: a handler may raise in between, and to be counted in vain costs a look.
        self.waiting[waiter.listener] += 1
        (self.anyone if channel is None else channel.waiters).append(waiter)

    def not_waiting(self, listener: Listener, number: int = 1) -> None:
        """Count waiters who have been taken off the lists."""
        left = self.waiting[listener] = self.waiting[listener] - number
        if left <= 0:
            del self.waiting[listener]

    def recount(self) -> None:
        """Count the waiters, lest a count stays wrong that a handler's exception has hit."""
        self.waiting = defaultdict(int)
        for waiters in self.waiter_lists():
            for waiter in waiters:
                self.waiting[waiter.listener] += 1

    def wake_one(self, channel: LocalChannel | None, here: Listener | None = None) -> None:
        """Wake who waits longest for a channel, or else for any of the queue."""
        if channel is None or not self.wake_first(channel.waiters, here):
            self.wake_first(self.anyone, here)

    def wake_first(self, waiters: list[Waiter], here: Listener | None = None) -> bool:
        """Wake the first on a list who still is there; False if there is nobody."""
        while waiters:
            # Woken first, and then forgotten: a signal's handler may raise in between, and who is
            # on no list is never woken. To wake somebody twice wakes nobody.
            waiter = waiters[0]
            woken = waiter.wake(here)
            del waiters[0]
            self.not_waiting(waiter.listener)
            if woken:
                return True
        return False

    def hold(self, channel: LocalChannel) -> None:
        """Note that the only message of a channel was passed directly, and nobody waits."""
        self.holder = channel
        self._held = channel.items[0][2]

    def held(self, now: int) -> Buffered | None:
        """That message, if it still is there, to be counted as on the queue. Needs no lock."""
        if self.holder is None:
            return None
        try:
            first = self.holder.items[0]
        except IndexError:
            return None
        return first if first[2] == self._held and first[1] > now else None

    def waiter_lists(self) -> Iterator[list[Waiter]]:
        """Those who wait for any message, then those of each channel."""
        yield self.anyone
        for channel in list(self.locals.values()):
            yield channel.waiters

    def buffered(self) -> int:
        """Messages in all buffers."""
        return sum(len(channel.items) for channel in self.locals.values())


__all__ = ["SWEEP_AT", "Buffered", "Listener", "LocalChannel", "OwnQueue", "Waiter"]
