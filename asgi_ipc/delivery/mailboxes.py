"""A process's own channels: what has been fetched for each, and is waited for.

A queue that only this process reads, ``<prefix>.<client>!``, carries the messages of all local
channels of that prefix. Each local channel has a buffer here, and the receivers that wait for it.

The demultiplexer's lock guards all that is here; methods need it held unless they say otherwise.
A signal's handler may raise between any two steps of them. So each is written in an order in
which that loses no message, and `OwnQueue.sweep` puts right who was to be woken.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..encoding.codec import Body, SharedBody
from ..encoding.envelope import MAX_LOCALS, address, unpack
from ..engines.bell import hint
from ..exceptions import StoreCorrupt
from .receivers import Buffered, Listener, Waiter

if TYPE_CHECKING:
    from .demultiplexer import Demultiplexer

#: Records fetched at once from a queue that only this process reads.
BATCH = 64
#: Channels with something unread on which this process has not received: as many as the largest
#: record addresses. A forger of records names millions, at a kilobyte each.
_MOST_STRANGERS = MAX_LOCALS
#: Nanoseconds between two looks for strangers whose messages have expired, once there are so many.
_LOOK_AGAIN = 1_000_000_000
#: Local channels of one queue that are remembered before idle ones are looked for.
SWEEP_AT = 1024
#: For each that is made beyond these, so many are looked at: then the idle ones never add up.
_PER_NEW_ONE = 2


class LocalChannel:
    """A local channel: what has been fetched for it, and who waits for more."""

    __slots__ = ("header", "items", "known", "limit", "local", "own", "waiters")

    def __init__(self, own: OwnQueue, local: bytes) -> None:
        self.own = own
        self.local = local
        #: Somebody has received on it, and it was not forgotten since.
        self.known = False
        #: What stands in front of a message that is for this channel alone.
        self.header = address([local])
        self.items: deque[Buffered] = deque()
        #: Messages in the buffer at which `OwnQueue.make_room` is asked.
        self.limit = 1
        self.waiters: deque[Waiter] = deque()

    @property
    def name(self) -> str:
        """The full name."""
        return (self.own.name + self.local).decode("ascii", "replace")


class OwnQueue:
    """A process-specific queue that this process reads, and its local channels."""

    def __init__(self, demux: Demultiplexer, name: bytes, batch: int) -> None:
        self.demux = demux
        self.name = name
        self.batch = batch
        #: What signals for it say.
        self.hint = hint(name)
        self.locals: dict[bytes, LocalChannel] = {}
        #: All names in `locals`, and perhaps more, in the order in which to look for idle ones.
        self._order: deque[bytes] = deque()
        #: Every channel with something in its buffer, and others; those that the sweep has yet to
        #: visit are in the second.
        self.filled: set[LocalChannel] = set()
        self._to_sweep: set[LocalChannel] = set()
        #: Who waits for any message of the queue, whatever its local channel.
        self.anyone: deque[Waiter] = deque()
        #: The waiters of each listener that are not woken yet, and what each waits for.
        self.waiting: dict[Listener, dict[Waiter, LocalChannel | None]] = {}
        #: An exception came in the middle of a change to these; see `_repair`.
        self.shaken = False
        #: Whose bell was armed last; ``certain``: and has not signalled, so the queue is empty. Whoever
        #: knows better says so, with the lock or without.
        self.armed_by: Listener | None = None
        self.certain = False
        #: Whoever looked last had to wait.
        self.dry = False
        #: For engines that block: held by the one who fetches, without the big lock.
        self.fetching = threading.RLock()
        self.fetching_now = self.fetch_again = False
        #: The channel of the message that was last passed directly while nobody waited for it,
        #: and the message's number (`asgi_ipc.delivery.loopback`).
        self.holder: LocalChannel | None = None
        self._held = -1
        self.looped_back = 0
        self.overflowed = 0
        self.expired = 0
        #: How many of the dropped were copies of a message that several channels had.
        self.copies_dropped = 0
        #: When strangers may be looked through again (`_stranger`).
        self._strangers_at = 0
        #: Messages dropped since then for more of them than are kept.
        self.lost = 0
        #: The channel of those: it keeps nothing.
        self._nowhere = LocalChannel(self, b"")
        self._nowhere.items = deque(maxlen=0)

    # Channels

    def channel(self, local: bytes) -> LocalChannel:
        """The local channel that somebody is about to receive on, made if need be.

        To be asked for anew whenever the lock was let go: idle ones are forgotten. That is
        done here, and not when a message arrives, since the one that is being looked at is
        idle too until its receiver waits.
        """
        found = self.locals.get(local)
        if found is None:
            if len(self.locals) >= SWEEP_AT:
                self.forget_idle(_PER_NEW_ONE)
            found = self._new_channel(local)
        return found

    def _new_channel(self, local: bytes) -> LocalChannel:
        made = LocalChannel(self, local)
        self._order.append(local)
        self.locals[local] = made
        return made

    def forget_idle(self, number: int) -> None:
        """Look at so many channels, in turn, and forget those that nobody uses."""
        order = self._order
        for _ in range(min(number, len(order))):
            local = order[0]
            channel = self.locals.get(local)
            if channel is not None and not self._forget_if_idle(channel):
                order.append(local)
            order.popleft()

    def _forget_if_idle(self, channel: LocalChannel) -> bool:
        if channel.items or channel.waiters:
            return False
        channel.known = False
        self.demux.channels.pop(channel.name, None)
        self.filled.discard(channel)
        self._to_sweep.discard(channel)
        self.locals.pop(channel.local, None)
        return True

    def is_idle(self) -> bool:
        """Whether nothing is lost if the queue is forgotten."""
        return not (
            self.waiting
            or self.armed_by
            or self.fetching_now
            or any(channel.items or channel.waiters for channel in self.locals.values())
        )

    # Putting

    def deliver(self, payload: bytes, deadline: int, here: Listener | None) -> StoreCorrupt | None:
        """Put a record into the buffers it is for; returns what is wrong with it."""
        try:
            local_names, body = unpack(payload)
        except StoreCorrupt as error:
            # Raised later: the rest of the batch is off the queue as well.
            return error
        self.put(local_names, body, deadline, here)
        return None

    def put(
        self, local_names: Sequence[bytes], body: bytes, deadline: int, here: Listener | None
    ) -> None:
        """Put a message into the buffers of channels; wake a waiter of each.

        ``here`` is the listener of the event loop that runs here, or None.
        """
        shared = SharedBody(body) if len(local_names) > 1 else body
        find, item = self.locals.get, (shared, deadline, next(self.demux.numbers))
        filled = self.filled.add
        turn, mine = None, None
        try:
            for local in local_names:
                channel = find(local) or self._stranger(local, shared)
                items, waiters = channel.items, channel.waiters
                if len(items) >= channel.limit:
                    self.make_room(channel)
                filled(channel)
                items.append(item)
                if waiters and (waiter := waiters[0]).listener is here:
                    # As `wake_first` does it, but once for all of a broadcast.
                    if turn is None:
                        turn, mine = here.next_turn(), self.waiting.get(here)
                    awake = waiter.wake_in(turn)
                    waiters.popleft()
                    if mine:
                        mine.pop(waiter, None)
                    if awake:
                        continue
                if waiters or self.anyone:
                    self.wake_one(channel, here)
        except BaseException:
            self.shaken = True
            raise
        finally:
            if mine is not None and not mine and here is not None:
                self.waiting.pop(here, None)

    def make_room(self, channel: LocalChannel) -> None:
        """Drop the oldest of a buffer until one more message is within capacity.

        Capacity is asked for each time, as layers with others come and go. This is the one
        place that decides how much a buffer may hold.
        """
        limit = channel.limit = self.demux.limit(channel.name)
        items = channel.items
        while len(items) > limit or (len(items) == limit and items[0] is not self.held(0)):
            self.copies_dropped += _copies([items.popleft()])
            self.overflowed += 1
            self.demux.overflowed(channel)

    def _stranger(self, local: bytes, body: Body) -> LocalChannel:
        """A channel on which this process has not received, to be kept if there is room for it."""
        if len(self.locals) >= _MOST_STRANGERS + len(self.demux.channels):
            now = self.demux.engine.clock()
            if now >= self._strangers_at:
                self._forget_strangers(now)
            if len(self.locals) >= _MOST_STRANGERS + len(self.demux.channels):
                self.lost += 1
                self.copies_dropped += type(body) is SharedBody
                return self._nowhere
        return self._new_channel(local)

    def _forget_strangers(self, now: int) -> None:
        """Forget the strangers whose messages have expired, and count what was dropped."""
        before = len(self.locals)
        for channel in list(self.locals.values()):
            live = any(deadline > now for _, deadline, _ in channel.items)
            if not (live or channel.known):
                self.expired += len(channel.items)
                self.copies_dropped += _copies(channel.items)
                channel.items.clear()
                self._forget_if_idle(channel)
        if before - len(self.locals) < _MOST_STRANGERS // 2:
            self._strangers_at = now + _LOOK_AGAIN
        lost, self.lost = self.lost, 0
        self.overflowed += lost
        if lost:
            self.demux.dropped_for_strangers(self, lost, _MOST_STRANGERS)

    # Taking

    def take(self, channel: LocalChannel) -> Body | None:
        """The next live message in a channel's buffer."""
        items = channel.items
        while items:
            if items[0][1] > self.demux.engine.clock():
                return items.popleft()[0]
            self.copies_dropped += _copies([items.popleft()])
            self.expired += 1
        return None

    def take_any(self) -> tuple[bytes, Body] | None:
        """The message that was fetched first of all in the buffers of the queue."""
        while True:
            heads = [(channel.items[0][2], channel.local) for channel in self._with_items()]
            if not heads:
                return None
            local = min(heads)[1]
            body = self.take(self.locals[local])
            if body is not None:
                return local, body

    def _with_items(self) -> list[LocalChannel]:
        for channels in (self.filled, self._to_sweep):
            for channel in [each for each in channels if not each.items]:
                channels.discard(channel)
        return [*self.filled, *self._to_sweep]

    def has_fetched(self) -> bool:
        """Whether there is something in a buffer. Needs no lock."""
        return any(each.items for each in (*self.filled.copy(), *self._to_sweep.copy()))

    def buffered(self) -> int:
        """Messages in all buffers."""
        return sum(len(each.items) for each in (*self.filled, *self._to_sweep))

    def copies(self) -> int:
        """How many of them are copies of a message that several channels had."""
        return sum(_copies(each.items) for each in (*self.filled, *self._to_sweep))

    def clear(self) -> int:
        """Empty the buffers; returns how many messages that takes away."""
        dropped = self.buffered()
        for channel in (*self.filled, *self._to_sweep):
            channel.items.clear()
        return dropped

    # The message that was passed directly

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

    # Waiting

    def wait(self, channel: LocalChannel | None, waiter: Waiter) -> None:
        """Note who waits for a channel, or for any of the queue."""
        mine = self.waiting.get(waiter.listener)
        if mine is None:
            mine = self.waiting[waiter.listener] = {}
        # First, as a handler may raise in between: one who is noted here without result costs a look.
        mine[waiter] = channel
        (self.anyone if channel is None else channel.waiters).append(waiter)

    def not_waiting(self, waiter: Waiter) -> None:
        """Forget a waiter that has been taken off its list."""
        mine = self.waiting.get(waiter.listener)
        if mine is not None:
            mine.pop(waiter, None)
            if not mine:
                self.waiting.pop(waiter.listener, None)

    def stop_waiting(self, channel: LocalChannel | None, waiter: Waiter) -> None:
        """Forget a waiter that gives up."""
        waiters = self.anyone if channel is None else channel.waiters
        if waiter in waiters:
            waiters.remove(waiter)
        self.not_waiting(waiter)

    def wake_one(self, channel: LocalChannel | None, here: Listener | None = None) -> None:
        """Wake who waits longest for a channel, or else for any of the queue."""
        if channel is None or not self.wake_first(channel.waiters, here):
            self.wake_first(self.anyone, here)

    def wake_first(self, waiters: deque[Waiter], here: Listener | None = None) -> bool:
        """Wake the first on a list who still is there; False if there is nobody."""
        try:
            while waiters:
                # Woken first, and then forgotten: a signal's handler may raise in between, and
                # who is on no list is never woken. To wake somebody twice wakes nobody.
                waiter = waiters[0]
                woken = waiter.wake(here)
                waiters.popleft()
                self.not_waiting(waiter)
                if woken:
                    return True
        except BaseException:
            self.shaken = True
            raise
        return False

    def wake_somebody(self) -> None:
        """Wake one of all that wait, so that it looks."""
        while self.waiting:
            listener = next(iter(self.waiting))
            mine = self.waiting[listener]
            if not mine:
                del self.waiting[listener]
                continue
            waiter, channel = next(iter(mine.items()))
            awake = waiter.wake()
            self.stop_waiting(channel, waiter)
            if awake:
                return

    def waiters(self) -> Iterator[tuple[Waiter, LocalChannel | None]]:
        """All who wait, with what each waits for."""
        for mine in list(self.waiting.values()):
            yield from list(mine.items())

    # Upkeep

    def sweep(self, most: int) -> int:
        """Visit at most so many channels with something in their buffers; returns how many.

        What has expired is dropped, who was to be woken when a handler raised is woken, and
        channels that nobody uses are forgotten. Cheap where nothing came since the last visit.
        """
        if self.shaken:
            self._repair()
        if not self._to_sweep:
            self._to_sweep, self.filled = self.filled, self._to_sweep
        now = self.demux.engine.clock()
        visits = min(most, len(self._to_sweep))
        for _ in range(visits):
            channel = next(iter(self._to_sweep))
            items = channel.items
            if items and any(deadline <= now for _, deadline, _ in items):
                live = [item for item in items if item[1] > now]
                self.expired += len(items) - len(live)
                self.copies_dropped += _copies(items) - _copies(live)
                items.clear()
                items.extend(live)
            if items:
                self.filled.add(channel)
                if channel.waiters:
                    self.wake_first(channel.waiters)
            else:
                self._forget_if_idle(channel)
            self._to_sweep.discard(channel)
        return visits

    def _repair(self) -> None:
        """Make `waiting` agree with the lists, which lead. Costs as much as all that wait."""
        self.shaken = False
        listed: dict[Listener, dict[Waiter, LocalChannel | None]] = {}
        for waiter in self.anyone:
            listed.setdefault(waiter.listener, {})[waiter] = None
        for channel in self.locals.values():
            for waiter in channel.waiters:
                listed.setdefault(waiter.listener, {})[waiter] = channel
        self.waiting = listed


def _copies(items: Iterable[Buffered]) -> int:
    return sum(type(item[0]) is SharedBody for item in items)


__all__ = ["BATCH", "SWEEP_AT", "LocalChannel", "OwnQueue"]
