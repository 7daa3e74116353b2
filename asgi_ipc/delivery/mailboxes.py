"""Mailboxes: the messages fetched for each of this process's channels, and their receivers.

An `OwnQueue` is a queue that only this process reads, ``<prefix>.<client>!``; it carries the
messages of all local channels of that prefix. A `Mailbox` belongs to one of these channels: a
buffer of fetched messages, and the receivers that wait for more.

The demultiplexer's lock guards all of it; methods need it held unless they say otherwise. A signal
handler may raise between any two steps of a method. So each method is written in an order in which
that loses no message, and `OwnQueue.sweep` then wakes the receivers that were to be woken.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Protocol

from ..encoding.codec import Body, SharedBody
from ..encoding.envelope import MAX_LOCALS, address, unpack
from ..engines.base import Engine
from ..engines.bell import hint
from ..exceptions import StoreCorrupt
from . import drop_lines
from .drop_log import DropLog
from .receivers import Buffered, Listener, Waiter

#: What a message takes beside its body, in bytes: the entry, its numbers, the body's own header.
RECORD = 200
#: The same of a message that several channels share, and that is kept decoded for them.
SHARED = 600
#: What each channel that it is for takes: a place in the channel's buffer.
REFERENCE = 8
#: Records fetched at once from a queue that only this process reads.
BATCH = 64
#: *Strangers* that are kept: channels with unread messages on which this process has not received.
#: As many as the largest record addresses; forged records could name millions, at a kilobyte each.
_MOST_STRANGERS = MAX_LOCALS
#: Nanoseconds between two looks for strangers whose messages have expired, once there are so many.
_LOOK_AGAIN = 1_000_000_000
#: Local channels of one queue that are remembered before idle ones are looked for.
SWEEP_AT = 1024
#: What a message for one channel takes beside its body, in bytes.
_SINGLE = RECORD + REFERENCE
#: Messages in a buffer that are looked through in one visit of the sweep.
_A_VISIT = 64
#: For each that is made beyond these, so many are looked at: then the idle ones never add up.
_PER_NEW_ONE = 2


class Missed(Protocol):
    """What a mailbox uses of `asgi_ipc.delivery.suspension.Memberships`."""

    def note_missed(self, channel: str, deadline: int) -> None:
        """Note that a message to a channel is dropped unread."""


class Limiter(Protocol):
    """What a mailbox uses of `asgi_ipc.delivery.memory_limit.MemoryLimit`."""

    def enforce(self, coming: int) -> None:
        """Measure all that is held; drop what is too much with ``coming`` bytes more."""


class Dispatcher(Protocol):
    """What a mailbox uses of its `asgi_ipc.delivery.demultiplexer.Demultiplexer`."""

    engine: Engine
    channels: dict[str, Mailbox]
    numbers: count[int]
    #: Bytes that may come before `memory_limit` measures again.
    allowance: int
    drops: DropLog

    @property
    def memory_limit(self) -> Limiter:
        """The bound in bytes of all that this process holds unread."""

    @property
    def memberships(self) -> Missed:
        """The groups of this process's channels."""

    def limit(self, channel: str) -> int:
        """Return how many messages the buffer of a channel may hold."""


class Held:
    """A measure of what buffers hold: messages, those of them that share a body, and bytes."""

    def __init__(self) -> None:
        self.messages = self.copies = self.bytes = 0
        #: The shared bodies that have been measured, by their addresses.
        self._shared: set[int] = set()

    def add(self, items: Iterable[Buffered]) -> None:
        """Measure what is in a buffer."""
        for body, _, _ in items:
            self.messages += 1
            self.bytes += REFERENCE
            if isinstance(body, SharedBody):
                self.copies += 1
                if id(body) not in self._shared:
                    self._shared.add(id(body))
                    self.bytes += SHARED + body.size
            else:
                self.bytes += RECORD + len(body)


class Mailbox:
    """The mailbox of one local channel: the messages fetched for it, and its waiting receivers."""

    __slots__ = ("header", "items", "known", "limit", "local", "own", "waiters")

    def __init__(self, own: OwnQueue, local: bytes) -> None:
        self.own = own
        self.local = local
        #: This process has received on it, and no visit has found it idle since.
        self.known = False
        #: What stands in front of a message that is for this channel alone.
        self.header = address([local])
        self.items: deque[Buffered] = deque()
        #: Messages in the buffer at which `OwnQueue.make_room` is asked.
        self.limit = 1
        self.waiters: deque[Waiter] = deque()

    @property
    def name(self) -> str:
        """Return the full name."""
        return (self.own.name + self.local).decode("ascii", "replace")


class OwnQueue:
    """A process-specific queue that this process reads, and its local channels."""

    def __init__(self, demux: Dispatcher, name: bytes, batch: int) -> None:
        self.demux = demux
        self.name = name
        self.batch = batch
        #: What signals for it say.
        self.hint = hint(name)
        self.locals: dict[bytes, Mailbox] = {}
        #: All names in `locals`, and perhaps more, in the order in which to look for idle ones.
        self._order: deque[bytes] = deque()
        #: Every channel with something in its buffer, and others; those that the sweep has yet to
        #: visit are in the second.
        self.filled: set[Mailbox] = set()
        self._to_sweep: set[Mailbox] = set()
        #: What was held when the sweep last came round, and what this round has found so far.
        self.measured = self._measuring = Held()
        #: The receivers that wait for any message of the queue, whatever its local channel.
        self.anyone: deque[Waiter] = deque()
        #: The waiters of each listener that are not woken yet, and what each waits for.
        self.waiting: dict[Listener, dict[Waiter, Mailbox | None]] = {}
        #: An exception came in the middle of a change to these; see `_repair`.
        self.needs_repair = False
        #: The listener whose bell was armed last.
        self.armed_by: Listener | None = None
        #: That bell has not been signalled, so the queue is empty. Code that knows better clears
        #: it, with the lock or without.
        self.known_empty = False
        #: The last look found nothing, and its receiver had to wait.
        self.last_look_empty = False
        #: How often a receive on any of its channels has looked (`asgi_ipc.delivery.suspension`).
        self.receives = 0
        #: For engines that block: held by the thread that fetches, without the `demux` lock.
        self.fetching = threading.RLock()
        self.fetching_now = self.fetch_again = False
        #: The channel of the message that was last passed directly while no receiver waited, and
        #: the message's number (`asgi_ipc.delivery.loopback`).
        self.holder: Mailbox | None = None
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
        self._nowhere = Mailbox(self, b"")
        self._nowhere.items = deque(maxlen=0)

    # Channels

    def channel(self, local: bytes) -> Mailbox:
        """Return the mailbox of a local channel for a receive that begins, made if need be.

        Ask for it anew whenever the lock was released: idle ones are forgotten. That happens here,
        and not when a message arrives, since a mailbox is idle until its receiver waits.
        """
        found = self.locals.get(local)
        if found is None:
            if len(self.locals) >= SWEEP_AT:
                self.forget_idle(_PER_NEW_ONE)
            found = self._new_channel(local)
        return found

    def _new_channel(self, local: bytes) -> Mailbox:
        made = Mailbox(self, local)
        self._order.append(local)
        self.locals[local] = made
        return made

    def forget_idle(self, number: int) -> None:
        """Visit so many channels, in turn, and forget those that are idle."""
        order = self._order
        for _ in range(min(number, len(order))):
            local = order[0]
            channel = self.locals.get(local)
            if channel is not None and not self.forget_if_idle(channel):
                order.append(local)
            order.popleft()

    def forget_if_idle(self, channel: Mailbox) -> bool:
        """Forget a channel without messages and receivers; return False if it has any."""
        if channel.items or channel.waiters:
            return False
        channel.known = False
        self.demux.channels.pop(channel.name, None)
        self.filled.discard(channel)
        self._to_sweep.discard(channel)
        self.locals.pop(channel.local, None)
        return True

    def is_idle(self) -> bool:
        """Return whether nothing is lost if the queue is forgotten."""
        return not (
            self.waiting
            or self.armed_by
            or self.fetching_now
            or any(channel.items or channel.waiters for channel in self.locals.values())
        )

    # Putting

    def deliver(self, payload: bytes, deadline: int, here: Listener | None) -> StoreCorrupt | None:
        """Put a record into the buffers it is for; return the error if it is no record."""
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
        demux = self.demux
        if len(local_names) > 1:
            shared: Body = SharedBody(body)
            size = len(body) + SHARED + REFERENCE * len(local_names)
        else:
            shared = body
            size = len(body) + _SINGLE
        demux.allowance -= size
        if demux.allowance < 0:
            demux.memory_limit.enforce(size)
        find, item = self.locals.get, (shared, deadline, next(demux.numbers))
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
                    # As `wake_first`, but with one wake-up of the loop for all of a broadcast.
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
            self.needs_repair = True
            raise
        finally:
            if mine is not None and not mine and here is not None:
                self.waiting.pop(here, None)

    def make_room(self, channel: Mailbox) -> None:
        """Drop the oldest of a buffer until one more message is within capacity.

        Capacity is asked for each time, as layers with other capacities come and go. Only this
        method decides how many messages a buffer may hold; `memory_limit` bounds their bytes.
        """
        limit = channel.limit = self.demux.limit(channel.name)
        items = channel.items
        while len(items) > limit or (len(items) == limit and items[0] is not self.held(0)):
            self.drop_oldest(channel)
            queue = self.name.decode("ascii")
            drop_lines.overflowed(self.demux.drops, channel.name, queue, channel.limit)

    def drop_oldest(self, channel: Mailbox) -> Body:
        """Drop the oldest message of a buffer for want of room, and return it."""
        item = channel.items.popleft()
        self.demux.memberships.note_missed(channel.name, item[1])
        self.copies_dropped += _copies([item])
        self.overflowed += 1
        return item[0]

    def _stranger(self, local: bytes, body: Body) -> Mailbox:
        """Return a mailbox for a channel on which this process has not received.

        It keeps nothing if there are too many such channels.
        """
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
                if channel.items:
                    self.demux.memberships.note_missed(channel.name, channel.items[0][1])
                self._expired(channel, len(channel.items))
                self.copies_dropped += _copies(channel.items)
                channel.items.clear()
                self.forget_if_idle(channel)
        if before - len(self.locals) < _MOST_STRANGERS // 2:
            self._strangers_at = now + _LOOK_AGAIN
        lost, self.lost = self.lost, 0
        self.overflowed += lost
        if lost:
            queue = self.name.decode("ascii")
            drop_lines.dropped_for_strangers(self.demux.drops, queue, lost, _MOST_STRANGERS)

    # Taking

    def take(self, channel: Mailbox) -> Body | None:
        """Take the next live message from a channel's buffer; return None if there is none."""
        items = channel.items
        while items:
            if items[0][1] > self.demux.engine.clock():
                return items.popleft()[0]
            self.copies_dropped += _copies([items.popleft()])
            self._expired(channel, 1)
        return None

    def take_any(self) -> tuple[bytes, Body] | None:
        """Take the message that was fetched first of all in the buffers, and return its channel."""
        while True:
            heads = [(channel.items[0][2], channel.local) for channel in self.with_items()]
            if not heads:
                return None
            local = min(heads)[1]
            body = self.take(self.locals[local])
            if body is not None:
                return local, body

    def with_items(self) -> list[Mailbox]:
        """Return all channels with something in their buffer."""
        for channels in (self.filled, self._to_sweep):
            for channel in [each for each in channels if not each.items]:
                channels.discard(channel)
        return [*self.filled, *self._to_sweep]

    def has_fetched(self) -> bool:
        """Return whether there is something in a buffer. Needs no lock."""
        return any(each.items for each in (*self.filled.copy(), *self._to_sweep.copy()))

    def buffered(self) -> int:
        """Return the number of messages in all buffers."""
        return sum(len(each.items) for each in (*self.filled, *self._to_sweep))

    def copies(self) -> int:
        """Return how many messages in buffers are copies of one that several channels had."""
        return sum(_copies(each.items) for each in (*self.filled, *self._to_sweep))

    def clear(self) -> int:
        """Empty the buffers; return how many messages that drops."""
        dropped = self.buffered()
        for channel in (*self.filled, *self._to_sweep):
            channel.items.clear()
        return dropped

    # The message that was passed directly

    def hold(self, channel: Mailbox) -> None:
        """Note that the only message of a channel was passed directly, and no receiver waits."""
        self.holder = channel
        self._held = channel.items[0][2]

    def held(self, now: int) -> Buffered | None:
        """Return the message that `hold` noted, if it is still there; it counts as on the queue.

        Needs no lock.
        """
        if self.holder is None or not self.holder.items:
            return None
        try:
            first = self.holder.items[0]
        except IndexError:
            return None  # Another thread took it.
        return first if first[2] == self._held and first[1] > now else None

    # Waiting

    def wait(self, channel: Mailbox | None, waiter: Waiter) -> None:
        """Register a waiter for a channel, or for any channel of the queue."""
        mine = self.waiting.get(waiter.listener)
        if mine is None:
            mine = self.waiting[waiter.listener] = {}
        # First, as a handler may raise in between: a waiter noted here for nothing costs a look.
        mine[waiter] = channel
        (self.anyone if channel is None else channel.waiters).append(waiter)

    def not_waiting(self, waiter: Waiter) -> None:
        """Forget a waiter that has been taken off its list."""
        mine = self.waiting.get(waiter.listener)
        if mine is not None:
            mine.pop(waiter, None)
            if not mine:
                self.waiting.pop(waiter.listener, None)

    def stop_waiting(self, channel: Mailbox | None, waiter: Waiter) -> None:
        """Forget a waiter that gives up."""
        waiters = self.anyone if channel is None else channel.waiters
        if waiter in waiters:
            waiters.remove(waiter)
        self.not_waiting(waiter)

    def wake_one(self, channel: Mailbox | None, here: Listener | None = None) -> None:
        """Wake the longest waiting receiver of a channel, or else of the whole queue."""
        if channel is None or not self.wake_first(channel.waiters, here):
            self.wake_first(self.anyone, here)

    def wake_first(self, waiters: deque[Waiter], here: Listener | None = None) -> bool:
        """Wake the first receiver on a list that still waits; return False if none does."""
        try:
            while waiters:
                # Woken first, then forgotten: a signal's handler may raise in between, and a
                # waiter on no list is never woken. Waking one twice does nothing.
                waiter = waiters[0]
                woken = waiter.wake(here)
                waiters.popleft()
                self.not_waiting(waiter)
                if woken:
                    return True
        except BaseException:
            self.needs_repair = True
            raise
        return False

    def wake_any(self) -> None:
        """Wake one of all receivers that wait, so that it looks."""
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

    def waiters(self) -> Iterator[tuple[Waiter, Mailbox | None]]:
        """Yield all waiters, with the channel that each waits for; None: any of the queue."""
        for mine in list(self.waiting.values()):
            yield from list(mine.items())

    # Upkeep

    def sweep(self, most: int) -> int:
        """Visit at most so many channels with something in their buffers; return how many.

        Drops what has expired, wakes the receivers that were to be woken when a handler raised, and
        forgets idle channels. A channel that holds much counts as several, so that a visit stays
        short. Costs little if nothing has come since the last visit.
        """
        if self.needs_repair:
            self._repair()
        if not self._to_sweep:
            self._to_sweep, self.filled = self.filled, self._to_sweep
            self._measuring = Held()
        now = self.demux.engine.clock()
        visits = 0
        while visits < most and self._to_sweep:
            channel = next(iter(self._to_sweep))
            visits += 1 + len(channel.items) // _A_VISIT
            self.drop_expired(channel, now)
            if channel.items:
                self.filled.add(channel)
                self._measuring.add(channel.items)
                if channel.waiters:
                    self.wake_first(channel.waiters)
            else:
                self.forget_if_idle(channel)
            self._to_sweep.discard(channel)
        if not self._to_sweep:
            self.measured = self._measuring
        return visits

    def drop_expired(self, channel: Mailbox, now: int) -> None:
        """Drop what has expired in a buffer."""
        items = channel.items
        if any(deadline <= now for _, deadline, _ in items):
            live = [item for item in items if item[1] > now]
            self._expired(channel, len(items) - len(live))
            self.demux.memberships.note_missed(channel.name, now)
            self.copies_dropped += _copies(items) - _copies(live)
            items.clear()
            items.extend(live)

    def _expired(self, channel: Mailbox, count: int) -> None:
        """Count and log messages of a buffer that have expired."""
        if count:
            self.expired += count
            queue = self.name.decode("ascii", "replace")
            drop_lines.expired(self.demux.drops, channel.name, queue, count)

    def _repair(self) -> None:
        """Make `waiting` agree with the lists of waiters, which lead; visits every waiter."""
        self.needs_repair = False
        listed: dict[Listener, dict[Waiter, Mailbox | None]] = {}
        for waiter in self.anyone:
            listed.setdefault(waiter.listener, {})[waiter] = None
        for channel in self.locals.values():
            for waiter in channel.waiters:
                listed.setdefault(waiter.listener, {})[waiter] = channel
        self.waiting = listed


def _copies(items: Iterable[Buffered]) -> int:
    return sum(type(item[0]) is SharedBody for item in items)


__all__ = ["BATCH", "RECORD", "REFERENCE", "SHARED", "SWEEP_AT", "Mailbox", "OwnQueue"]
