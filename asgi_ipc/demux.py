"""One process's share of a store: who here waits for what, and what has been fetched for whom.

There is one `Demultiplexer` per process and open engine, used by all layers on it
(`asgi_ipc.registry`), whatever their threads and event loops. What is on an ordinary
queue stays in the engine until the moment a receiver takes it. A process-specific queue
is read by this process alone, for all its local channels: whoever looks takes a batch of
records off it and puts each into the buffer of the channel it is for, waking who waits
there. A receiver takes from the buffer in its own continuation, so that cancelling it
loses nothing and messages keep their order.

`Demultiplexer.lock` guards all that is here. It is held while a record goes from queue to
buffer (S6: two at a time would mix up the order), never across an await. Lock order:
first this lock, then the engine's, which never calls back. Methods need it held unless
they say otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from typing import Any

from .buffers import Listener, LocalChannel, OwnQueue, Waiter
from .engines.base import Bell, Engine, Popped
from .exceptions import StoreCorrupt, StoreFull, StoreUnavailable
from .local_channels import LocalChannels
from .messages import Body

_log = logging.getLogger("asgi_ipc")

#: Batches fetched in one go, until others get their turn at the lock.
_ROUNDS = 64
#: Seconds after which who waits looks again, lest a wake-up was lost.
LOOK_AGAIN = 1.0
#: The same on an engine that rings no bells.
POLL = 0.02


def closed() -> StoreUnavailable:
    """What a receiver gets whose layer is closed under it."""
    return StoreUnavailable("the channel layer was closed while this receive waited")


class Demultiplexer(LocalChannels):
    """See the module."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.blocking = engine.capabilities.blocking
        self.look_again = LOOK_AGAIN if engine.capabilities.wakes else POLL
        self.closed = False

    def start_afresh(self) -> None:
        """Forget everything, as in a forked child: what is here is the parent's.

        The parent's bells are left alone: to close one may mean to remove it for the
        parent too. What the child has inherited of them is the engine's to close.
        """
        super().start_afresh()
        #: Listeners by the id of their event loop.
        self.loops: dict[int, Listener] = {}
        self.threads: list[Listener] = []
        self.this_thread: Any = threading.local()
        #: Listeners whose loop or thread was collected. Finalizers only append here: they
        #: run anywhere, even in the middle of something that holds the lock.
        self.dead: deque[Listener] = deque()

    def check_open(self) -> None:
        """Raise if the layer was closed; who was not noted as waiting then has to ask."""
        if self.closed:
            raise closed()

    # Taking

    def look(self, channel: LocalChannel, listener: Listener) -> Body | None:
        """The next message of a channel, fetched if need be; else the bell is armed."""
        own, engine = channel.own, self.engine
        if engine.flushes != self._flushes:
            self.notice_flush()
        if channel.items:
            body = self.take(channel)
            if body is not None:
                return body
        if self.is_empty(own, listener):
            return None
        # A bell armed while messages keep coming costs a system call for each of them, so it
        # is armed only if the last look found nothing; else we look again to arm it.
        for armed_with in (listener,) if own.dry else (None, listener):
            bell = self._claim(own, armed_with) if armed_with is not None else None
            records = engine.pop(own.name, own.batch, bell)
            if len(records) == 1 < own.batch and not own.waiting:
                payload = records[0].payload
                if payload.startswith(channel.header):
                    # The usual: it is for the one who asks, and for nobody else.
                    self._drained(own, armed_with)
                    own.dry = False
                    return payload[len(channel.header) :]
            self._distribute(own, records, armed_with, bell, channel)
            body = self.take(channel)
            if body is not None:
                own.dry = False
                return body
        own.dry = True
        return None

    def look_any(self, own: OwnQueue, listener: Listener | None) -> tuple[bytes, Body] | None:
        """The next message of a queue and its local channel, as `look`; if the engine blocks,
        only of those that have been fetched."""
        self.notice_flush()
        found = self.take_any(own)
        if found is None and not (
            # Which would have to be done without the lock.
            self.blocking or (listener and self.is_empty(own, listener))
        ):
            self.fetch(own, listener, None)
            found = self.take_any(own)
        return found

    def is_empty(self, own: OwnQueue, listener: Listener) -> bool:
        """Whether the engine need not be asked, as a bell is armed that will be heard."""
        armed_by = own.armed_by
        if not own.certain or armed_by is None:
            return False
        # Another's bell will do as long as there is somebody who answers it.
        return armed_by is listener or (armed_by in own.waiting and armed_by.alive())

    # Fetching

    def fetch(self, own: OwnQueue, listener: Listener | None, wanted: LocalChannel | None) -> None:
        """Move records from the engine to the buffers until nobody waits for them in vain.

        What nobody waits for stays in the engine, where capacity counts it. If the queue
        is drained, the listener's bell is armed. Raises what the engine raises, and
        `StoreCorrupt` for a record that is none, once the others have found their place.
        Whoever calls has noticed flushes.
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
        wanted: LocalChannel | None,
    ) -> None:
        """Put what was fetched into the buffers, and fetch more as long as that may help."""
        corrupt: StoreCorrupt | None = None
        for _ in range(_ROUNDS):
            for payload, deadline in records:
                corrupt = self.deliver(own, payload, deadline, listener) or corrupt
            if len(records) < own.batch:
                self._drained(own, listener)
                break
            if not own.waiting and (wanted is None or wanted.items):
                break
            records = self.engine.pop(own.name, own.batch, bell)
        else:
            # They come faster than we fetch. Let go of the lock, and come back.
            if bell is not None:
                bell.ring()
        if corrupt is not None:
            raise corrupt

    def fetch_blocking(self, own: OwnQueue, listener: Listener | None) -> None:
        """As `fetch`, for an engine that blocks. Called without the lock."""
        with own.fetching:
            with self.lock:
                self.notice_flush()
                bell = listener.bell if listener else None
                other = own.armed_by if bell is not None else None
            if other is not None and other is not listener and other.bell is not None:
                self.engine.disarm(own.name, other.bell)
            records = self.engine.pop(own.name, own.batch, bell)
            corrupt: StoreCorrupt | None = None
            with self.lock:
                for payload, deadline in records:
                    corrupt = self.deliver(own, payload, deadline, None) or corrupt
                if len(records) < own.batch:
                    self._drained(own, listener)
            if corrupt is not None:
                raise corrupt

    def _claim(self, own: OwnQueue, listener: Listener | None) -> Bell | None:
        """The bell to arm. Another's, armed before and heard by nobody, would ring first."""
        if listener is None or listener.bell is None:
            return None
        other = own.armed_by
        if other is not None and other is not listener:
            own.armed_by, own.certain = None, False
            if other.bell is not None:
                self.engine.disarm(own.name, other.bell)
        return listener.bell

    def _drained(self, own: OwnQueue, listener: Listener | None) -> None:
        if listener is not None and listener.bell is not None:
            own.armed_by, own.certain = listener, True

    # Waiting

    def leave(self, own: OwnQueue, channel: LocalChannel | None, waiter: Waiter) -> None:
        """Forget who does not wait any more. If it was woken, another is woken for it."""
        if not waiter.woken:
            waiters = own.anyone if channel is None else channel.waiters
            if waiter in waiters:
                waiters.remove(waiter)
                own.not_waiting(waiter.listener)
        elif channel is None:
            if any(each.items for each in own.locals.values()):
                own.wake_one(None)
        elif channel.items:
            own.wake_one(channel)
        self.hand_over(own, waiter.listener)

    def hand_over(self, own: OwnQueue, listener: Listener) -> None:
        """See to it that somebody hears the bell when a listener has nobody left waiting."""
        if own.armed_by is not listener or not own.waiting or listener in own.waiting:
            return
        own.armed_by, own.certain = None, False
        if listener.bell is not None and not self.blocking:
            try:
                self.engine.disarm(own.name, listener.bell)
            except (StoreCorrupt, StoreUnavailable):
                pass  # Who looks now gets to know.
        for waiters in own.waiter_lists():
            if own.wake_first(waiters):
                return

    def fail(self, own: OwnQueue, error: Exception) -> None:
        """Let an error that nobody's own call met be raised by all who wait for the queue."""
        if not own.waiting and not self.closed:
            _log.error("on queue %s: %s", own.name.decode("ascii"), error)
        for waiters in own.waiter_lists():
            while waiters:
                waiter = waiters.pop(0)
                own.not_waiting(waiter.listener)
                waiter.error = error
                waiter.wake()

    # Listeners

    def clear_away(self) -> list[Listener]:
        """Forget listeners that are gone, and return them; to be retired without the lock."""
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
            if listener in own.waiting:
                for waiters in own.waiter_lists():
                    for waiter in [each for each in waiters if each.listener is listener]:
                        waiters.remove(waiter)
                        own.not_waiting(waiter.listener)
            self.hand_over(own, listener)
            if own.armed_by is listener:
                own.armed_by, own.certain = None, False

    # Upkeep

    def shut(self, engine_stays: bool = False) -> None:
        """Let go of all listeners, and let who still waits raise. Called without the lock.

        If the engine stays open, so does what nobody has had to fetch yet.
        """
        with self.lock:
            self.closed = True
            if engine_stays:
                self._put_back()
            error = closed()
            for own in self.own.values():
                if own.waiting:
                    self.fail(own, error)
            self.own, self.channels = {}, {}
            listeners = [*self.loops.values(), *self.threads, *self.dead]
            self.loops, self.threads = {}, []
            self.dead.clear()
        for listener in listeners:
            listener.retire()

    def _put_back(self) -> None:
        """Put on the store what was passed directly and has not been read."""
        for own in self.own.values():
            holder, held = own.holder, own.held(self.engine.clock())
            if holder is not None and held is not None and isinstance(held[0], bytes):
                with contextlib.suppress(StoreCorrupt, StoreUnavailable, StoreFull):
                    self.engine.restore(own.name, Popped(holder.header + held[0], held[1]))


__all__ = ["LOOK_AGAIN", "POLL", "Demultiplexer", "closed"]
