"""Receiving from an engine that blocks, such as one that asks a server.

Every call of the engine is made in a thread, so that the event loop goes on. What such a
call takes off a queue is never lost: for a process-specific queue it goes to the buffers,
whoever waits there by then; for an ordinary one, whose receiver may have been cancelled
meanwhile, it goes back in front of the queue.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

from .buffers import OwnQueue
from .demux import Demultiplexer
from .engines.base import Bell, Popped
from .exceptions import StoreCorrupt, StoreFull, StoreUnavailable
from .loop_waiters import Watch
from .loops import LoopListener
from .messages import Body
from .names import ChannelName

_log = logging.getLogger("asgi_ipc")


class OffloadingListener(LoopListener):
    """A loop that never calls the engine itself."""

    def __init__(self, demux: Demultiplexer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(demux, loop)
        #: What cancelled receivers have begun and not ended, by queue.
        self._settling: dict[bytes, set[asyncio.Future[Any]]] = {}

    async def receive_own(self, name: ChannelName) -> Body:
        """The next message on a process-specific channel of this process."""
        await self._opened()
        demux = self.demux
        while True:
            with demux.lock:
                channel = demux.channel(name)
                own = channel.own
                demux.notice_flush()
                body = demux.take(channel)
                if body is not None:
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
                raise waiter.error

    async def receive_ordinary(self, name: ChannelName) -> bytes:
        """The next message on an ordinary queue."""
        queue, bell = name.queue, await self._opened()
        loop = asyncio.get_running_loop()
        while True:
            while settling := self._settling.get(queue):
                # A cancelled receiver's record is on its way back to the front (S5).
                await asyncio.wait(settling)
            watch = self.watches.get(queue)
            if watch is None:
                watch = self.watches[queue] = Watch()
            waiter = self._waiter()
            # Before the look, since the bell may ring before its answer is here.
            watch.waiters.append(waiter)
            watch.touched = True
            pop = _Pop(self, queue, bell)
            running = loop.run_in_executor(None, pop.run)
            try:
                record = await asyncio.shield(running)
                if record is not None:
                    pop.taken = True
                    return record.payload
                await waiter.future
            except BaseException:
                if pop.cancel():
                    running = loop.run_in_executor(None, pop.put_back)
                self._settle(queue, running)
                raise
            finally:
                if not waiter.woken and waiter in watch.waiters:
                    watch.waiters.remove(waiter)
                    self._left(queue, watch)
                elif not watch.wake_one():
                    self._left(queue, watch)
            if waiter.error is not None:
                raise waiter.error

    def _settle(self, queue: bytes, running: asyncio.Future[Any]) -> None:
        """Let the next receiver of a queue wait for what a cancelled one has begun."""
        settling = self._settling.setdefault(queue, set())
        settling.add(running)

        def settled(done: asyncio.Future[Any]) -> None:
            settling.discard(done)
            if not settling:
                self._settling.pop(queue, None)
            error = None if done.cancelled() else done.exception()
            if isinstance(error, StoreFull):
                _log.error("on queue %s: a message is lost: %s", queue.decode("ascii"), error)
            # Any other error who looks next gets to know by itself.

        running.add_done_callback(settled)

    async def _opened(self) -> Bell:
        if self.bell is None:
            loop = asyncio.get_running_loop()
            bell = await loop.run_in_executor(None, self.demux.engine.bell)
            if self.bell is not None:
                bell.close()  # Another receiver was faster.
            else:
                if bell.fileno() < 0:  # The engine was closed while the bell was made.
                    self.demux.check_open()
                self.hang(loop, bell)
        assert self.bell is not None
        return self.bell

    def _fetch(self, own: OwnQueue) -> None:
        """Fetch in a thread. One at a time: who comes meanwhile waits for its answer."""
        loop = self.loop()
        if loop is None or own.fetching_now:
            own.fetch_again = True
            return
        own.fetching_now, own.fetch_again = True, False
        try:
            loop.run_in_executor(None, self._fetch_in_thread, own)
        except RuntimeError:
            # The loop is ending and has no threads any more; its receivers have gone before it.
            own.fetching_now = False
            self.demux.hand_over(own, self)

    def _fetch_in_thread(self, own: OwnQueue) -> None:
        demux = self.demux
        again = True
        while again:
            error: Exception | None = None
            try:
                demux.fetch_blocking(own, self)
            except Exception as caught:
                error = caught
            with demux.lock:
                if error is not None:
                    demux.fail(own, error)
                again = bool(own.waiting) and (own.fetch_again or not own.certain) and error is None
                own.fetch_again = False
                if not again:
                    own.fetching_now = False

    def _engine_disarm(self, queue: bytes, bell: Bell) -> None:
        loop = self.loop()
        if loop is not None and not loop.is_closed():
            try:
                loop.run_in_executor(None, self._disarm_in_thread, queue, bell)
            except RuntimeError:  # As above; but others wait for this ring.
                threading.Thread(target=self._disarm_in_thread, args=(queue, bell)).start()

    def _disarm_in_thread(self, queue: bytes, bell: Bell) -> None:
        super()._engine_disarm(queue, bell)


class _Pop:
    """A look at an ordinary queue, made in a thread, that can be called off at any time."""

    def __init__(self, listener: LoopListener, queue: bytes, bell: Bell) -> None:
        self._engine = listener.demux.engine
        self._queue, self._bell = queue, bell
        self._lock = threading.Lock()
        self._cancelled = False
        self._record: Popped | None = None
        #: The receiver has got the record.
        self.taken = False

    def run(self) -> Popped | None:
        """Look. In a thread."""
        if self._cancelled:
            return None
        records = self._engine.pop(self._queue, 1, self._bell)
        record = records[0] if records else None
        with self._lock:
            if not self._cancelled:
                self._record = record
                return record
        if record is not None:
            self._engine.restore(self._queue, record)
        return None

    def cancel(self) -> bool:
        """Nobody wants it any more. True: the record is here already, and to be put back."""
        with self._lock:
            self._cancelled = True
            return self._record is not None and not self.taken

    def put_back(self) -> None:
        """Put the record back. In a thread."""
        record, self._record = self._record, None
        if record is not None:
            try:
                self._engine.restore(self._queue, record)
            except (StoreCorrupt, StoreUnavailable):
                pass  # The store is gone, and the record with it.


__all__ = ["OffloadingListener"]
