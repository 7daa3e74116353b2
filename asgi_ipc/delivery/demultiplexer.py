"""Per-process message dispatch: waiting receivers, and the messages fetched for them.

There is one `Demultiplexer` per process and open engine, used by all layers on that engine
(`asgi_ipc.delivery.leases`), whatever their threads and event loops. A message on an ordinary queue
stays in the engine until a receiver takes it. A process-specific queue is read by this process
alone, for all its local channels (`asgi_ipc.delivery.mailboxes`): the first receiver that finds its
buffer empty takes a batch of records off the queue, puts each into the buffer of the channel that
it is for, and wakes the receivers that wait there. A receiver takes a message from the buffer in
its own continuation, so a cancelled one loses nothing and messages keep their order.

`Demultiplexer.lock` guards all of this module's state. A thread holds the lock while it moves a
record from queue to buffer (S6: two threads at once would mix up the order), never across an await.
Lock order: this lock first, then the engine's, which never calls back. Methods need the lock held
unless they say otherwise.

Python may run other code while a thread holds the lock (`asgi_ipc.engines.deferred`). If such code
calls the layer, a clean-up is deferred (`tidy`), a message is sent through the store, and a call
that needs an answer raises `Reentered` (`exclusive`).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from ..encoding.codec import Body
from ..encoding.names import ChannelName, queue_owner
from ..engines.base import Bell, Engine, Popped
from ..engines.deferred import defer, exclusive, is_inside, register, tell
from ..engines.guards import own_lock
from ..exceptions import Reentered, StoreCorrupt, StoreFull, StoreUnavailable
from . import drop_lines
from .drop_log import DropLog, counted
from .mailboxes import BATCH, Mailbox, OwnQueue
from .memory_limit import MemoryLimit
from .notes import Notes
from .receivers import Listener, Waiter
from .store_lost import observers
from .suspension import Memberships

if TYPE_CHECKING:
    from .workers import Workers

_log = logging.getLogger("asgi_ipc")

#: Batches fetched in one go, until others get their turn at the lock.
_ROUNDS = 64
#: Seconds after which a waiting receiver looks again without a signal, which may have been lost.
LOOK_AGAIN = 1.0
#: The same on an engine that signals no bells.
POLL = 0.02
#: Messages that receivers find without waiting, in a row, before the event loop gets its turn.
TURNS = 64
#: A queue that no layer uses, as no channel has such a name.
_UNUSED = b"!"
#: Queues that are remembered before idle ones are looked for.
_QUEUES = 64
#: Channels that are visited to measure what is held, where no event loop does it.
_VISITS = 1000


def closed() -> StoreUnavailable:
    """Return the error for a receiver that waits while its layer is closed."""
    return StoreUnavailable("the channel layer was closed while this receive waited")


class Companion(Protocol):
    """A part of another folder that a demultiplexer calls as long as it is open.

    All methods are called without the lock.
    """

    def tick(self, waited: bool, bell: Bell | None = None) -> float | None:
        """Do what is due. Called about once a second in event loops and waiting threads.

        In an event loop, ``waited`` tells whether a receiver waits there, or has found a message
        without waiting since the last call, and ``bell`` is the loop's bell, which the companion
        may arm on queues of its own. The loop calls again after the seconds that this returns, if
        any; when the bell was signalled for a queue that no receiver has; and at once when a first
        receiver begins to wait. Must not block.
        """

    def stop(self) -> None:
        """End, before the engine is closed. May block briefly, and be called twice."""

    def after_fork_in_child(self) -> None:
        """Forget in a forked child what is the parent's."""


_Companion = TypeVar("_Companion", bound=Companion)


class Demultiplexer:
    """The receivers and fetched messages of one process and one open engine; see the module."""

    def __init__(self, engine: Engine, name: str = "", prefix: str = "") -> None:
        self.engine = engine
        #: What log lines call the store, and its prefix.
        self.name, self.prefix = name, prefix
        #: What the layer that opened it asked for, by option, in bytes; nothing for a given engine.
        self.sizes_asked: dict[str, int] = {}
        #: The capacities of the layers attached; a buffer is as large as the largest allows.
        self.capacities: list[Callable[[str], int]] = []
        #: What bounds the bytes of all buffers together.
        self.memory_limit = MemoryLimit(self)
        #: The leases of the layers on this engine; `leases` alone changes them.
        self.leases: set[Any] = set()
        self.blocking = engine.capabilities.blocking
        self.look_again = LOOK_AGAIN if engine.capabilities.wakes else POLL
        self._engine_is_entered = getattr(engine, "inside", _never)
        self.closed = False
        #: For how many seconds receivers wait for the engine's server (`outages`); when it last
        #: answered one, and when an outage was last told, in seconds.
        self.outage = engine.capabilities.outage
        self.answered = self.outage_told = 0.0
        #: Whether it was logged that a relay joins the store to others, and no layer here has one.
        self.told_of_relay = False
        #: Messages that were fetched, and were still unread when the layer was closed.
        self.lost = 0
        #: Of this process's channels, and which of them are suspended.
        self.memberships = Memberships(self)
        #: What other processes are told of this one.
        self.notes = Notes(self)
        self.loops: dict[int, Listener] = {}
        self.threads: list[Listener] = []
        #: By their classes: of each there is one.
        self.companions: dict[type[Companion], Companion] = {}
        self._reset()
        register(self)
        self._watch_expiry(self.expired_in_store)

    def _watch_expiry(self, tell: Callable[[bytes, int], object] | None) -> None:
        watch = getattr(self.engine, "watch_expiry", None)
        if watch is not None:
            watch(tell)

    def after_fork_in_child(self) -> None:
        """Forget everything in a forked child: what is here is the parent's.

        Does not close the parent's bells, as that may remove them for the parent too. The engine
        closes what the child has inherited of them.
        """
        for listener in (*self.loops.values(), *self.threads):
            listener.cancel_finalizer()
        self.memberships.after_fork_in_child()
        self.notes.reset()
        for lease in list(self.leases):
            lease.callbacks.after_fork_in_child()
        for companion in self.companions.values():
            companion.after_fork_in_child()
        self._reset()

    def _reset(self) -> None:
        """Begin with no queue, no channel and no listener."""
        self.lock = own_lock()
        self.drops = DropLog()
        #: Bytes that may come until everything is measured (`asgi_ipc.delivery.memory_limit`).
        self.allowance = 0
        self.own: dict[bytes, OwnQueue] = {}
        #: Queues by what signals for them say.
        self.hinted: dict[int, tuple[OwnQueue, ...]] = {}
        self._order: deque[bytes] = deque()
        #: Channels on which this process has received lately, by their full names.
        self.channels: dict[str, Mailbox] = {}
        #: Of messages, in the order of fetching.
        self.numbers = itertools.count()
        #: The engine's number of flushes when the buffers were last known to be up to date. No
        #: engine has this one: the first look finds a difference, and nothing to forget.
        self.flushes = -1
        #: So many more messages may be found without waiting, until the loop gets its turn.
        self.turns = TURNS
        #: What was counted on queues that are forgotten.
        self._counted = {
            "passed directly": 0,
            "overflowed": 0,
            "expired": 0,
            "copies dropped": 0,
        }
        #: Listeners by the id of their event loop.
        self.loops, self.threads = {}, []
        self.this_thread: Any = threading.local()
        #: Listeners whose loop or thread has ended. Finalizers only append here: they run
        #: anywhere, even in the middle of something that holds the lock.
        self.dead: deque[Listener] = deque()
        self._workers: Workers | None = None
        #: Messages of another serializer that receivers met.
        self.unreadable = 0

    def workers(self) -> Workers:
        """Return the threads that call an engine that blocks, made when first needed."""
        if self._workers is None:
            # Imported late: it brings asyncio, which most engines do not need.
            from .workers import Workers

            self._workers = Workers()
        return self._workers

    # The lock

    def is_inside(self) -> bool:
        """Return whether this thread holds a lock here, or is inside a method of the engine.

        If so, the caller is code that Python runs in between, such as a finalizer. Needs no lock.
        """
        return (
            self.lock._is_owned() or self.memberships.lock._is_owned() or self._engine_is_entered()
        )

    def wait_for_lock(self) -> None:
        """Take the lock, waiting for its holder. Raises `Reentered` as `exclusive`."""
        # Also inside a call of another layer: the thread that holds it may wait for a lock there.
        exclusive(self.lock).acquire()

    def tidy(self, action: Callable[..., object], *arguments: Any) -> None:
        """Do something with the lock held: now, or once this thread has released its locks."""
        if is_inside():
            defer(partial(self.tidy, action, *arguments))
            return
        # When the interpreter ends, a thread that holds the lock may never run again.
        if sys.is_finalizing():
            if not self.lock.acquire(False):
                return
            self.lock.release()
        with self.lock:
            action(*arguments)

    def count_unreadable(self) -> None:
        """Count a message of another serializer."""
        self.unreadable += 1

    def check_open(self) -> None:
        """Raise `StoreUnavailable` if the layer was closed.

        A receiver that was not registered as waiting when the layer was closed must ask.
        """
        if self.closed:
            raise closed()

    def companion(self, kind: type[_Companion], make: Callable[[], _Companion]) -> _Companion:
        """Return the companion of a class, made if need be. Needs no lock."""
        found = self.companions.get(kind)
        if found is None:
            # One step decides between threads that do this at the same time.
            found = self.companions.setdefault(kind, make())
        return cast("_Companion", found)

    # Queues and channels

    def queue(self, name: bytes, batch: int = BATCH) -> OwnQueue:
        """Return the process-specific queue of that name, made if need be."""
        own = self.own.get(name)
        if own is None:
            if len(self.own) >= _QUEUES:
                self.forget_idle(2)
            own = OwnQueue(self, name, batch)
            self.hinted[own.hint] = (*self.hinted.get(own.hint, ()), own)
            self._order.append(name)
            self.own[name] = own
        return own

    def forget_idle(self, number: int) -> None:
        """Visit so many queues, in turn, and forget those that no receiver uses.

        Keeps the queues that this process owns: there are as many of these as it uses prefixes, and
        a thread that fetches without the lock may be using one.
        """
        for _ in range(min(number, len(self._order))):
            name = self._order[0]
            own = self.own.get(name)
            if own is not None:
                if queue_owner(name.decode("ascii")) or not own.is_idle():
                    self._order.append(name)
                else:
                    for what, count in _counts(own).items():
                        self._counted[what] += count
                    others = tuple(each for each in self.hinted[own.hint] if each is not own)
                    if others:
                        self.hinted[own.hint] = others
                    else:
                        del self.hinted[own.hint]
                    own.forget_idle(len(own.locals))
                    del self.own[name]
            self._order.popleft()

    def channel(self, name: ChannelName) -> Mailbox:
        """Return the mailbox of a channel for a receive that begins, made if need be."""
        found = self.queue(name.queue).channel(name.local)
        self.channels[name.full] = found
        found.known = True
        return found

    def limit(self, channel: str) -> int:
        """Return how many messages the buffer of a channel may hold."""
        return max((capacity(channel) for capacity in self.capacities), default=1)

    def expired_in_store(self, queue: bytes, count: int) -> None:
        """Log records that the engine dropped past their deadline. Needs no lock."""
        drop_lines.expired_in_store(self.drops, queue, count)

    def drop_expired(self, own_queues: Iterable[OwnQueue]) -> None:
        """Drop what has expired in all buffers of these queues."""
        now = self.engine.clock()
        for own in own_queues:
            for channel in own.with_items():
                own.drop_expired(channel, now)

    # Taking

    def take_fetched(self, channel: Mailbox) -> Body | None:
        """Take the next message from a channel's buffer; None if there is none. Takes the lock.

        A short cut for the usual case: also None if the lock is held or the store was flushed, or
        for other receivers to get their turn.
        """
        engine, lock, turns = self.engine, self.lock, self.turns
        if turns and not lock._is_owned():
            with lock:
                items = channel.items
                if items and items[0][1] > engine.clock() and engine.flushes == self.flushes:
                    self.turns = turns - 1
                    return items.popleft()[0]
        return None

    def take(self, channel: Mailbox, listener: Listener | None) -> Body | None:
        """Take the next message of a channel, fetching it if need be.

        Return None if there is none; then the listener's bell is armed on the queue.
        """
        own, engine = channel.own, self.engine
        if engine.flushes != self.flushes:
            self.notice_flush()
        if channel.items:
            body = own.take(channel)
            if body is not None:
                return body
        if self.is_empty(own, listener):
            return None
        # A bell armed while messages keep coming costs a system call for each of them. So if the
        # last look found something, this one does not arm it, and only a second one does.
        for armed_with in (listener,) if own.last_look_empty else (None, listener):
            bell = self._claim(own, armed_with) if armed_with is not None else None
            records = engine.pop(own.name, own.batch, bell)
            if len(records) == 1 < own.batch and not own.waiting:
                payload = records[0].payload
                if payload.startswith(channel.header):
                    # The usual case: it is for this channel alone.
                    if bell is not None:
                        own.armed_by, own.known_empty = armed_with, True
                    own.last_look_empty = False
                    return payload[len(channel.header) :]
            self._distribute(own, records, armed_with, bell, channel)
            body = own.take(channel)
            if body is not None:
                own.last_look_empty = False
                return body
        own.last_look_empty = True
        return None

    def take_any(self, own: OwnQueue, listener: Listener | None) -> tuple[bytes, Body] | None:
        """Take the next message of any channel of a queue, as `take`; return the channel too.

        If the engine blocks, take only what has been fetched.
        """
        self.notice_flush()
        found = own.take_any()
        if found is None and not (
            # An engine that blocks must be asked without the lock.
            self.blocking or (listener and self.is_empty(own, listener))
        ):
            self.fetch(own, listener, None)
            found = own.take_any()
        return found

    def is_empty(self, own: OwnQueue, listener: Listener | None) -> bool:
        """Return whether the queue is empty, and a bell is armed on it that a receiver answers."""
        armed_by = own.armed_by
        if not own.known_empty or armed_by is None:
            return False
        # Another listener's bell will do as long as a receiver there answers it.
        return armed_by is listener or (armed_by in own.waiting and armed_by.alive())

    def has_fetched(self, name: ChannelName) -> bool:
        """Return whether the buffer of a channel has a message. Needs no lock.

        A name that ends in ``!`` stands for all channels that begin with it.
        """
        own = self.own.get(name.queue)
        if own is None:
            return False
        if not name.local:
            return own.has_fetched()
        channel = own.locals.get(name.local)
        return channel is not None and len(channel.items) > 0

    # Fetching

    def fetch(self, own: OwnQueue, listener: Listener | None, wanted: Mailbox | None) -> None:
        """Move records from the engine to the buffers, as long as receivers wait for more.

        Records that no receiver waits for stay in the engine, where capacity counts them. If the
        queue is drained, the listener's bell is armed. Raises what the engine raises, and
        `StoreCorrupt` for a record that is none, after the others are in their buffers. The caller
        must have called `notice_flush`.
        """
        bell = self._claim(own, listener)
        records = self.engine.pop(own.name, own.batch, bell)
        self._distribute(own, records, listener, bell, wanted)

    def _distribute(
        self,
        own: OwnQueue,
        records: list[Popped],
        listener: Listener | None,
        bell: Bell | None,
        wanted: Mailbox | None,
    ) -> None:
        """Put what was fetched into the buffers, and fetch more as long as that may help."""
        corrupt: StoreCorrupt | None = None
        rounds = _ROUNDS
        while True:
            for payload, deadline in records:
                corrupt = own.deliver(payload, deadline, listener) or corrupt
            if len(records) < own.batch:
                if bell is not None:
                    own.armed_by, own.known_empty = listener, True
                break
            if not own.waiting and (wanted is None or wanted.items):
                break
            rounds -= 1
            if not rounds:
                # They come faster than this thread fetches: release the lock, and be woken again.
                if bell is not None:
                    bell.signal()
                break
            # Popped only here, so that each record that was popped is delivered.
            records = self.engine.pop(own.name, own.batch, bell)
        if corrupt is not None:
            raise corrupt

    def fetch_blocking(self, own: OwnQueue, listener: Listener | None) -> None:
        """As `fetch`, for an engine that blocks. Called without the lock."""
        if own.fetching._is_owned():  # type: ignore[attr-defined]
            raise Reentered
        with own.fetching:
            with exclusive(self.lock):
                self.notice_flush()
                bell = listener.bell if listener else None
                other = own.armed_by if bell is not None else None
            if other is not None and other is not listener and other.bell is not None:
                self.engine.disarm(own.name, other.bell)
            records = self.engine.pop(own.name, own.batch, bell)
            self.answered = time.monotonic()
            corrupt: StoreCorrupt | None = None
            with self.lock:
                for payload, deadline in records:
                    corrupt = own.deliver(payload, deadline, None) or corrupt
                if len(records) < own.batch and listener is not None and listener.bell is not None:
                    own.armed_by, own.known_empty = listener, True
            if corrupt is not None:
                raise corrupt

    def _claim(self, own: OwnQueue, listener: Listener | None) -> Bell | None:
        """Return the listener's bell, to be armed; disarm that of another listener.

        Of two bells the engine would signal the one armed first, to which no receiver may respond.
        """
        if listener is None or listener.bell is None:
            return None
        other = own.armed_by
        if other is not None and other is not listener:
            own.armed_by, own.known_empty = None, False
            if other.bell is not None:
                self.engine.disarm(own.name, other.bell)
        return listener.bell

    # Waiting

    def leave(self, own: OwnQueue, channel: Mailbox | None, waiter: Waiter) -> None:
        """Forget a waiter that gives up. If it was woken, wake another in its place."""
        own.stop_waiting(channel, waiter)
        if waiter.woken:
            if channel is None:
                if own.has_fetched():
                    own.wake_one(None)
            elif channel.items:
                own.wake_one(channel)
        self.hand_over(own, waiter.listener)

    def hand_over(self, own: OwnQueue, listener: Listener) -> None:
        """Disarm the bell of a listener without waiters, and wake a receiver that arms another."""
        if own.armed_by is not listener or not own.waiting or listener in own.waiting:
            return
        own.armed_by, own.known_empty = None, False
        if listener.bell is not None and not self.blocking:
            try:
                self.engine.disarm(own.name, listener.bell)
            except (StoreCorrupt, StoreUnavailable):
                pass  # The receiver that is woken now meets the error.
        own.wake_any()

    def fail(self, own: OwnQueue, error: Exception, listener: Listener | None = None) -> None:
        """Have all receivers that wait for a queue, or those of one listener, raise an error.

        For an error that no receiver's own call met. Logs it if none waits.
        """
        if not own.waiting and not self.closed:
            text = "on queue %s: %s"
            defer(partial(tell, _log.error, text, own.name.decode("ascii"), error))
        for waiter, channel in own.waiters():
            if listener not in (None, waiter.listener):
                continue
            waiter.error = error
            waiter.wake()
            own.stop_waiting(channel, waiter)

    # Listeners

    def clear_away(self) -> list[Listener]:
        """Forget listeners that are gone, and return them, to be retired without the lock."""
        gone = [each for each in (*self.loops.values(), *self.threads) if not each.alive()]
        while self.dead:
            gone.append(self.dead.popleft())
        if gone:
            self.loops = {k: each for k, each in self.loops.items() if each not in gone}
            self.threads = [each for each in self.threads if each not in gone]
            for listener in gone:
                self._forget(listener)
        return gone

    def _forget(self, listener: Listener) -> None:
        for own in self.own.values():
            for waiter, channel in list(own.waiting.get(listener, {}).items()):
                own.stop_waiting(channel, waiter)
            self.hand_over(own, listener)
            if own.armed_by is listener:
                own.armed_by, own.known_empty = None, False

    # Upkeep

    def is_due(self) -> bool:
        """Return whether the periodic check must go on although no receiver waits."""
        return (
            bool(self.memberships.awake)
            or self.drops.owes()
            or self.notes.are_owed()
            or self.is_watched()
        )

    def is_watched(self) -> bool:
        """Return whether a layer has callbacks for a store that lost what it held."""
        return any(lease.callbacks for lease in list(self.leases))

    def watch(self, looked: bool) -> None:
        """Notice whether the store was flushed or replaced; for periodic checks. Needs no lock.

        ``looked``: the engine was just asked. Only then does it find that its store was replaced.
        """
        try:
            if not looked:
                self.engine.pop(_UNUSED, 1)
            with exclusive(self.lock):
                self.notice_flush()
        except (Reentered, StoreCorrupt, StoreUnavailable):
            pass  # The next call meets the error itself, and another look follows.

    def notice_flush(self) -> None:
        """Empty the buffers if any process has flushed the store since they were filled (S17).

        Called before records are fetched. Records fetched during a flush may be from before it or
        after it; they are kept, as receive and flush overlap, and either order is right.
        """
        flushes = self.engine.flushes
        if flushes != self.flushes:
            first, self.flushes = self.flushes < 0, flushes
            dropped = sum(own.clear() for own in self.own.values())
            if not first:
                text = (
                    "store %s was flushed, or removed and made anew: its messages and memberships"
                    " are gone, and %s of this process's buffers; consumers rejoin their groups if"
                    " they use on_store_lost()"
                )
                messages = counted(dropped, "message")
                defer(partial(tell, _log.warning, text, self.name, messages))
                defer(self._tell_lost)

    def _tell_lost(self) -> None:
        """Call the callbacks for a store that lost what it held. Called without the lock."""
        for lease in list(self.leases):
            lease.callbacks.call()
        for observe in list(observers):
            observe(self.prefix)

    def counts(self, queue: bytes | None = None) -> dict[str, int]:
        """Return how many messages this process holds and has dropped: of one queue, or of all."""
        self.notice_flush()
        own = [o for o in self.own.values() if queue is None or o.name == queue]
        total = dict(self._counted) if queue is None else dict.fromkeys(self._counted, 0)
        self.drop_expired(own)
        for each in own:
            for what, count in _counts(each).items():
                total[what] += count
        copies = sum(each.copies() for each in own) + total.pop("copies dropped")
        return {"pending": sum(each.buffered() for each in own), "copies": copies, **total}

    def measure(self) -> None:
        """Measure what the buffers hold, in a process without an event loop that does so."""
        if not self.loops:
            for own in list(self.own.values()):
                own.sweep(_VISITS)

    def noteworthy(self) -> dict[str, int]:
        """Return the counts for other processes (`asgi_ipc.engines.base.COUNTERS`, ``GAUGES``)."""
        own = list(self.own.values())
        counted = self._counted.copy()
        for each in own:
            for what, count in _counts(each).items():
                counted[what] += count
        return {
            "passed_directly": counted["passed directly"],
            "overflowed": counted["overflowed"],
            "buffer_expired": counted["expired"],
            "copies_dropped": counted["copies dropped"],
            "held": sum(each.measured.messages for each in own),
            "held_copies": sum(each.measured.copies for each in own),
            "held_bytes": sum(each.measured.bytes for each in own),
        }

    def _last_counts(self) -> dict[str, int]:
        """Return the last counts, as `noteworthy`: what is still held is dropped now."""
        counts = self.noteworthy()
        counts["overflowed"] += self.lost
        counts["copies_dropped"] += sum(own.copies() for own in self.own.values())
        return {**counts, "held": 0, "held_copies": 0, "held_bytes": 0}

    def shut(self, engine_stays: bool = False) -> None:
        """Retire all listeners, and have the receivers that still wait raise.

        Called without the lock. May block while a companion ends. If the engine stays open,
        messages that were passed directly and not received go to the store.
        """
        for companion in list(self.companions.values()):
            companion.stop()
        with exclusive(self.lock):
            self.closed = True
            if engine_stays:
                self._put_back()
            error = closed()
            for own in self.own.values():
                if own.waiting:
                    self.fail(own, error)
            self.lost = sum(own.buffered() for own in self.own.values())
            counts = self._last_counts()
            self.own, self.channels, self.hinted = {}, {}, {}
            self.memberships.forget()
            listeners = [*self.loops.values(), *self.threads, *self.dead]
            self.loops, self.threads = {}, []
            self.dead.clear()
        for listener in listeners:
            listener.retire()
        if self._workers is not None:
            self._workers.stop()
        self.notes.end(counts, engine_stays)
        # So that the engine does not keep this object alive.
        self._watch_expiry(None)
        self.drops.sum_up(ending=True)
        if self.lost:
            text = "closing store %s dropped %s, fetched and not received"
            messages = counted(self.lost, "message")
            defer(partial(tell, _log.warning, text, self.name, messages))

    def _put_back(self) -> None:
        """Put messages that were passed directly and not received on the store."""
        for own in self.own.values():
            # The engine may be closed itself.
            with contextlib.suppress(StoreCorrupt, StoreUnavailable, StoreFull):
                holder, held = own.holder, own.held(self.engine.clock())
                if holder is not None and held is not None and isinstance(held[0], bytes):
                    self.engine.restore(own.name, Popped(holder.header + held[0], held[1]))
                    holder.items.popleft()


def _counts(own: OwnQueue) -> dict[str, int]:
    return {
        "passed directly": own.looped_back,
        "overflowed": own.overflowed + own.lost,
        "expired": own.expired,
        "copies dropped": own.copies_dropped,
    }


def _never() -> bool:
    return False


__all__ = ["LOOK_AGAIN", "POLL", "TURNS", "Demultiplexer", "closed"]
