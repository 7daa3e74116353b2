"""A process's own channels: what has been fetched for each, and is waited for.

The lock, `LocalChannels.lock`, guards all that is here and in `asgi_ipc.demux`. Methods
need it held unless they say otherwise.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

from .buffers import SWEEP_AT, Listener, LocalChannel, OwnQueue
from .droplog import DropLog
from .engines.base import Engine
from .envelope import MAX_LOCALS, address, unpack
from .exceptions import StoreCorrupt
from .messages import Body, SharedBody
from .names import ChannelName

#: Records fetched at once from a queue that only this process reads.
BATCH = 64
#: Channels with something unread on which this process has not received: as many as the largest
#: record addresses. A forger of records names millions, at a kilobyte each.
_MOST_STRANGERS = MAX_LOCALS
#: Nanoseconds between two looks for strangers whose messages have expired, once there are so many.
_LOOK_AGAIN = 1_000_000_000


class LocalChannels:
    """The buffers of all local channels of one engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        #: The capacities of the layers attached; a buffer is as large as the largest allows.
        self.capacities: list[Callable[[str], int]] = []
        self.drops = DropLog()
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget everything, as in a forked child: what is here is the parent's."""
        self.lock = threading.Lock()
        self.own: dict[bytes, OwnQueue] = {}
        #: Channels that somebody has received on, by their full names.
        self.channels: dict[str, LocalChannel] = {}
        self._numbers = itertools.count()
        # No engine has this many: the first look finds a difference, and nothing to forget.
        self._flushes = -1

    # Queues and channels

    def queue(self, name: bytes, batch: int = BATCH) -> OwnQueue:
        """The queue of that name, made if need be."""
        own = self.own.get(name)
        if own is None:
            own = self.own[name] = OwnQueue(name, batch)
        return own

    def channel(self, name: ChannelName) -> LocalChannel:
        """The local channel that somebody is about to receive on, made and noted if need be.

        To be asked for anew whenever the lock was let go: idle ones are forgotten. That is
        done here and not when a message arrives, since the one that is being looked at is
        idle too until its receiver waits.
        """
        own = self.queue(name.queue)
        found = own.locals.get(name.local)
        if found is None:
            if len(own.locals) >= own.sweep_at:
                self.sweep(own)
                own.sweep_at = max(SWEEP_AT, 2 * len(own.locals))
            found = self._new_channel(own, name.local)
        self.channels[name.full] = found
        found.known = True
        return found

    def _new_channel(self, own: OwnQueue, local: bytes) -> LocalChannel:
        made = own.locals[local] = LocalChannel(own, address([local]), self._limit(own, local))
        return made

    def _limit(self, own: OwnQueue, local: bytes) -> int:
        full = (own.name + local).decode("ascii")
        return max((capacity(full) for capacity in self.capacities), default=1)

    def sweep(self, own: OwnQueue) -> None:
        """Forget what has expired unread, and channels that nobody uses; see to who waits."""
        now = self.engine.clock()
        for local, channel in list(own.locals.items()):
            items = channel.items
            if items and any(deadline <= now for _, deadline, _ in items):
                live = [item for item in items if item[1] > now]
                own.expired += len(items) - len(live)
                items.clear()
                items.extend(live)
            if items and channel.waiters:
                # Who was to be woken when a signal's handler raised.
                own.wake_first(channel.waiters)
            if not items and not channel.waiters:
                del own.locals[local]
                channel.known = False
                self.channels.pop((own.name + local).decode("ascii"), None)
        own.recount()

    # Putting

    def deliver(
        self, own: OwnQueue, payload: bytes, deadline: int, here: Listener | None
    ) -> StoreCorrupt | None:
        """Put a record into the buffers it is for."""
        try:
            local_names, body = unpack(payload)
        except StoreCorrupt as error:
            # Raised later: the rest of the batch is off the queue as well.
            return error
        self.put(own, local_names, body, deadline, here)
        return None

    def put(
        self,
        own: OwnQueue,
        local_names: Sequence[bytes],
        body: bytes,
        deadline: int,
        here: Listener | None,
    ) -> None:
        """Put a message into the buffers of channels; wake a waiter of each.

        ``here`` is the listener of the event loop that runs here, or None.
        """
        shared = SharedBody(body) if len(local_names) > 1 else body
        find, item = own.locals.get, (shared, deadline, next(self._numbers))
        turn, woken = None, 0
        try:
            for local in local_names:
                channel = find(local) or self._stranger(own, local)
                items, waiters = channel.items, channel.waiters
                if len(items) >= channel.limit and (
                    len(items) > channel.limit or items[0] is not own.held(0)
                ):
                    items.popleft()
                    self._overflowed(own, local, channel.limit)
                items.append(item)
                if waiters and waiters[0].listener is here:
                    # As `wake_first` does it, but once for all of a broadcast.
                    if turn is None:
                        turn = here.next_turn()
                    awake = waiters[0].wake_in(turn)
                    del waiters[0]
                    woken += 1
                    if awake:
                        continue
                if waiters or own.anyone:
                    own.wake_one(channel, here)
        finally:
            if woken and here is not None:
                own.not_waiting(here, woken)

    def _stranger(self, own: OwnQueue, local: bytes) -> LocalChannel:
        """A channel on which nobody here has received yet, to be kept if there is room for it."""
        if len(own.locals) >= _MOST_STRANGERS + len(self.channels):
            now = self.engine.clock()
            if now >= own.strangers_at:
                self._sweep_strangers(own, now)
            if len(own.locals) >= _MOST_STRANGERS + len(self.channels):
                own.lost += 1
                return own.nowhere
        return self._new_channel(own, local)

    def _sweep_strangers(self, own: OwnQueue, now: int) -> None:
        """Forget the strangers whose messages have expired, and say how many were dropped."""
        before = len(own.locals)
        for local, channel in list(own.locals.items()):
            live = any(deadline > now for _, deadline, _ in channel.items)
            if not (live or channel.known or channel.waiters):
                own.expired += len(channel.items)
                del own.locals[local]
        if before - len(own.locals) < _MOST_STRANGERS // 2:
            own.strangers_at = now + _LOOK_AGAIN
        lost, own.lost = own.lost, 0
        own.overflowed += lost
        if lost:
            self.drops.dropped(
                f"strangers {own.name!r}",
                lost,
                lambda count: (
                    f"{count} messages were dropped for channels of {own.name.decode('ascii')} on"
                    f" which this process has not received: it keeps those of {_MOST_STRANGERS}"
                    " such channels"
                ),
            )

    def _overflowed(self, own: OwnQueue, local: bytes, limit: int) -> None:
        own.overflowed += 1
        full = (own.name + local).decode("ascii", "replace")

        def describe(count: int) -> str:
            return (
                f"channel {full} is read too slowly: over its capacity of {limit}, the oldest"
                f" messages were dropped, {count} on channels {own.name.decode('ascii')} of late"
            )

        self.drops.dropped(f"overflow {own.name!r}", 1, describe)

    # Taking

    def fetched(self, channel: LocalChannel) -> Body | None:
        """The next message of a channel if it is in the buffer already. Takes the lock itself.

        A short cut: what is not as it usually is is left for `look`.
        """
        items, engine = channel.items, self.engine
        with self.lock:
            if items and items[0][1] > engine.clock() and engine.flushes == self._flushes:
                return items.popleft()[0]
        return None

    def has_fetched(self, name: ChannelName) -> bool:
        """Whether a channel, or for a name that ends in ``!`` any such, has something in its
        buffer. Needs no lock."""
        own = self.own.get(name.queue)
        if own is None:
            return False
        if not name.local:
            return any(each.items for each in tuple(own.locals.values()))
        channel = own.locals.get(name.local)
        return channel is not None and len(channel.items) > 0

    def take(self, channel: LocalChannel) -> Body | None:
        """The next live message in a channel's buffer."""
        items = channel.items
        while items:
            body, deadline, _ = items.popleft()
            if deadline > self.engine.clock():
                return body
            channel.own.expired += 1
        return None

    def take_any(self, own: OwnQueue) -> tuple[bytes, Body] | None:
        """The message that was fetched first of all in the buffers of a queue."""
        while True:
            heads = [(c.items[0][2], local) for local, c in own.locals.items() if c.items]
            if not heads:
                return None
            local = min(heads)[1]
            body = self.take(own.locals[local])
            if body is not None:
                return local, body

    # Upkeep

    def notice_flush(self) -> None:
        """Empty the buffers if anybody has flushed the store since they were filled (S17).

        Read before records are fetched. Those fetched while a flush goes on may be from
        before it or after it; they are kept, as the receiver and the flush were at it
        together, and may have come in either order.
        """
        flushes = self.engine.flushes
        if flushes != self._flushes:
            self._flushes = flushes
            for own in self.own.values():
                for channel in own.locals.values():
                    channel.items.clear()

    def buffered(self, queue: bytes | None = None) -> dict[str, int]:
        """What this process holds for its local channels: of a queue, or of all."""
        own = [o for o in self.own.values() if queue is None or o.name == queue]
        self.notice_flush()
        for each in own:
            self.sweep(each)
        return {
            "pending": sum(each.buffered() for each in own),
            "passed directly": sum(each.passed_directly for each in own),
            "overflowed": sum(each.overflowed + each.lost for each in own),
            "expired": sum(each.expired for each in own),
        }


__all__ = ["BATCH", "LocalChannels"]
