"""Receive in an event loop from an engine that blocks, such as one that asks a server.

Every call of the engine runs in a thread of the layer's own, so that neither the event loop nor
other users of the loop's default executor wait for it. A record that such a call takes off a queue
is never lost. If the queue is process-specific, the record goes to the buffers, even if its
receiver has been cancelled meanwhile; if it is ordinary, the record of a cancelled receiver goes
back in front of the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import Any

from ..encoding.codec import Body
from ..encoding.names import ChannelName
from ..engines.base import Bell, Popped
from ..engines.deferred import exclusive, pending, run_deferred, tell
from ..exceptions import StoreCorrupt, StoreFull, StoreUnavailable
from .demultiplexer import Demultiplexer
from .loop_listener import LoopListener
from .loop_queues import running_loop
from .mailboxes import OwnQueue
from .outages import ride_out
from .suspension import NEVER
from .workers import as_exception

_log = logging.getLogger("asgi_ipc")


class OffloadingListener(LoopListener):
    """An event loop that calls the engine in threads only."""

    def __init__(self, demux: Demultiplexer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(demux, loop)
        #: By queue, the calls that cancelled receivers have begun and that have not ended.
        self._settling: dict[bytes, set[asyncio.Future[Any]]] = {}

    async def receive_own(self, name: ChannelName) -> Body:
        """Receive the next message on a process-specific channel of this process."""
        return await ride_out(self.demux, partial(self._receive_own, name))

    async def _receive_own(self, name: ChannelName) -> Body:
        await self._opened()
        demux = self.demux
        if demux.turns <= 0:
            await self.give_way()
        while True:
            with exclusive(demux.lock):
                demux.check_open()
                channel = demux.channel(name)
                own = channel.own
                demux.notice_flush()
                body = own.take(channel)
                if body is not None:
                    demux.turns -= 1
                    if own.waiting:
                        demux.hand_over(own, self)
                    return body
                waiter = self._waiter()
                own.wait(channel, waiter)
                if not demux.is_empty(own, self):
                    self._fetch(own)
            try:
                await waiter.future
            except BaseException:
                self.give_up(channel, waiter)
                raise
            if waiter.error is not None:
                raise waiter.failure()

    async def receive_ordinary(self, name: ChannelName) -> bytes:
        """Receive the next message on an ordinary queue."""
        return await ride_out(self.demux, partial(self._receive_ordinary, name))

    async def _receive_ordinary(self, name: ChannelName) -> bytes:
        queue, bell = name.queue, await self._opened()
        loop = asyncio.get_running_loop()
        while True:
            while settling := self._settling.get(queue):
                # A cancelled receiver's record is on its way back to the front (S5).
                await asyncio.wait(settling)
            self.demux.check_open()
            watch = self._watch(queue)
            waiter = self._waiter()
            # Before the look, since the bell may signal before its answer is here.
            watch.waiters.append(waiter)
            watch.touched = True
            pop, is_collected = _Pop(self, queue, bell), False
            running = self.demux.workers().call(loop, pop.run)
            try:
                record = await asyncio.shield(running)
                self.demux.answered = time.monotonic()
                if record is not None:
                    pop.taken = True
                    return record.payload
                await waiter.future
            except BaseException:
                is_collected = running_loop() is not loop
                if pop.cancel():
                    running = self.demux.workers().call(loop, pop.put_back)
                self._settle(queue, running)
                raise
            finally:
                if not waiter.woken and waiter in watch.waiters:
                    watch.waiters.remove(waiter)
                    self._left(queue, watch, is_collected)
                elif not watch.wake_one():
                    self._left(queue, watch, is_collected)
            if waiter.error is not None:
                raise waiter.failure()

    def _settle(self, queue: bytes, running: asyncio.Future[Any]) -> None:
        """Have the next receiver of a queue wait for the call that a cancelled one has begun."""
        settling = self._settling.setdefault(queue, set())
        settling.add(running)

        def settled(done: asyncio.Future[Any]) -> None:
            settling.discard(done)
            if not settling:
                self._settling.pop(queue, None)
            error = None if done.cancelled() else done.exception()
            if isinstance(error, StoreFull):
                _log.error("on queue %s: a message is lost: %s", queue.decode("ascii"), error)
            # Any other error the next receiver meets by itself.

        with contextlib.suppress(RuntimeError):  # The loop is closed, so no receiver comes.
            running.add_done_callback(settled)

    async def _opened(self) -> Bell:
        if self.bell is None:
            loop = asyncio.get_running_loop()
            bell = await self.demux.workers().call(loop, self.demux.engine.bell)
            if self.bell is not None:
                bell.close()  # Another receiver was faster.
            else:
                if bell.fileno() < 0:  # The engine was closed while the bell was made.
                    self.demux.check_open()
                self.install_bell(loop, bell)
        assert self.bell is not None
        return self.bell

    def _fetch(self, own: OwnQueue) -> None:
        """Fetch in a thread, one at a time: receivers that come meanwhile wait for its result."""
        if own.fetching_now:
            own.fetch_again = True
            return
        own.fetching_now, own.fetch_again = True, False
        try:
            self.demux.workers().do(partial(self._fetch_in_thread, own))
        except BaseException:
            own.fetching_now = False
            raise

    def _fetch_in_thread(self, own: OwnQueue) -> None:
        demux = self.demux
        again = True
        while again:
            error: Exception | None = None
            try:
                demux.fetch_blocking(own, self)
            except BaseException as caught:
                # Whatever was raised, as no other thread fetches from this queue meanwhile.
                error = as_exception(caught)
            with demux.lock:
                if error is not None:
                    demux.fail(own, error)
                again = (
                    bool(own.waiting) and (own.fetch_again or not own.known_empty) and error is None
                )
                own.fetch_again = False
                if not again:
                    own.fetching_now = False
        if pending:
            run_deferred()

    def _watch_store(self, looked: bool) -> None:
        with contextlib.suppress(StoreUnavailable):  # It was closed.
            self.demux.workers().do(self._watch_in_thread)

    def _watch_in_thread(self) -> None:
        try:
            self.demux.watch(looked=False)
        except Exception as error:
            tell(_log.error, "watching store %s: %s", self.demux.name, error)
        if pending:
            run_deferred()

    def _sweep_memberships(self) -> None:
        if self.demux.memberships.due == NEVER:
            return
        with contextlib.suppress(StoreUnavailable):  # It was closed.
            self.demux.workers().do(self._sweep_in_thread)

    def _write_notes(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # It was closed.
            self.demux.workers().do(self.demux.notes.write)

    def _sweep_in_thread(self) -> None:
        try:
            while self.demux.memberships.sweep():
                pass
        except Exception as error:
            tell(_log.error, "looking after memberships of store %s: %s", self.demux.name, error)
        if pending:
            run_deferred()

    def _engine_disarm(self, queue: bytes, bell: Bell) -> None:
        with contextlib.suppress(StoreUnavailable):  # It was closed, and all bells with it.
            self.demux.workers().do(partial(self._disarm_in_thread, queue, bell))

    def _disarm_in_thread(self, queue: bytes, bell: Bell) -> None:
        super()._engine_disarm(queue, bell)
        if pending:
            run_deferred()


class _Pop:
    """A pop from an ordinary queue, made in a thread, that can be cancelled at any time."""

    def __init__(self, listener: LoopListener, queue: bytes, bell: Bell) -> None:
        self._engine = listener.demux.engine
        self._queue, self._bell = queue, bell
        self._record: Popped | None = None
        # Which came first: the record or the cancellation. One step decides; a lock could be
        # waited for by code that a garbage collection runs while this thread holds it.
        self._first: dict[None, str] = {}
        #: The receiver has taken the record.
        self.taken = False

    def run(self) -> Popped | None:
        """Pop a record. Call in a thread."""
        if self._first:
            return None
        records = self._engine.pop(self._queue, 1, self._bell)
        if not records:
            return None
        self._record = records[0]
        if self._first.setdefault(None, "record") == "record":
            return records[0]
        self.put_back()
        return None

    def cancel(self) -> bool:
        """Cancel the pop; return True if its record has come already and must be put back."""
        return self._first.setdefault(None, "cancelled") == "record" and not self.taken

    def put_back(self) -> None:
        """Put the record back in front of its queue. Call in a thread."""
        record, self._record = self._record, None
        if record is not None:
            try:
                self._engine.restore(self._queue, record)
            except (StoreCorrupt, StoreUnavailable):
                pass  # The store is gone, and the record with it.


__all__ = ["OffloadingListener"]
