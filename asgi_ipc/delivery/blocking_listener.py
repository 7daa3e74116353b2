"""Receiving from an engine that blocks, such as one that asks a server.

Every call of the engine is made in a thread of the layer's own, so that the event loop goes on
and nobody else's work in the loop's default executor is kept waiting. What such a
call takes off a queue is never lost: for a process-specific queue it goes to the buffers,
whoever waits there by then; for an ordinary one, whose receiver may have been cancelled
meanwhile, it goes back in front of the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import Any

from ..encoding.codec import Body
from ..encoding.names import ChannelName
from ..engines.base import Bell, Popped
from ..engines.deferred import carry_out, left
from ..exceptions import StoreCorrupt, StoreFull, StoreUnavailable
from .demultiplexer import Demultiplexer
from .loop_listener import LoopListener
from .loop_receivers import running_loop
from .mailboxes import OwnQueue
from .workers import tamed

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
        if demux.turns <= 0:
            await self.give_way()
        while True:
            with demux.exclusive():
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
        """The next message on an ordinary queue."""
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

        with contextlib.suppress(RuntimeError):  # The loop is closed, and no receiver comes.
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
        """Fetch in a thread. One at a time: who comes meanwhile waits for its answer."""
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
                # Whatever it is: nobody else would fetch from this queue any more.
                error = tamed(caught)
            with demux.lock:
                if error is not None:
                    demux.fail(own, error)
                again = bool(own.waiting) and (own.fetch_again or not own.certain) and error is None
                own.fetch_again = False
                if not again:
                    own.fetching_now = False
        if left:
            carry_out()

    def _engine_disarm(self, queue: bytes, bell: Bell) -> None:
        with contextlib.suppress(StoreUnavailable):  # It was closed, and all bells with it.
            self.demux.workers().do(partial(self._disarm_in_thread, queue, bell))

    def _disarm_in_thread(self, queue: bytes, bell: Bell) -> None:
        super()._engine_disarm(queue, bell)
        if left:
            carry_out()


class _Pop:
    """A look at an ordinary queue, made in a thread, that can be called off at any time."""

    def __init__(self, listener: LoopListener, queue: bytes, bell: Bell) -> None:
        self._engine = listener.demux.engine
        self._queue, self._bell = queue, bell
        self._record: Popped | None = None
        # What came first: the record, or the end of waiting for it. One step decides, and no
        # lock that a collection could come back to.
        self._first: dict[None, str] = {}
        #: The receiver has got the record.
        self.taken = False

    def run(self) -> Popped | None:
        """Look. In a thread."""
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
        """Nobody wants it any more. True: the record is here already, and to be put back."""
        return self._first.setdefault(None, "cancelled") == "record" and not self.taken

    def put_back(self) -> None:
        """Put the record back. In a thread."""
        record, self._record = self._record, None
        if record is not None:
            try:
                self._engine.restore(self._queue, record)
            except (StoreCorrupt, StoreUnavailable):
                pass  # The store is gone, and the record with it.


__all__ = ["OffloadingListener"]
