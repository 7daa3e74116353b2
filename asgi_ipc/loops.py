"""Waiting in an event loop: what the asynchronous layer receives with.

Each loop has one bell, with a reader on it. A ring does not say which queue it is for, so
the loop looks at all it waits for: it fetches what is on process-specific queues, and
wakes a receiver of each ordinary one. A receiver that leaves sees to it that the ring it
waited for wakes somebody else, here or in another process.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref

from .buffers import Listener, LocalChannel, OwnQueue
from .demux import Demultiplexer, closed
from .engines.base import Bell
from .exceptions import StoreCorrupt, StoreUnavailable
from .loop_waiters import LoopWaiter, Turns, Watch, running_loop
from .messages import Body
from .names import ChannelName
from .spinning import LIMIT, Spinner

#: Seconds for which a bell stays armed on a queue whose receiver has got its message. Most
#: come back for the next one at once, and to disarm costs as much as to receive.
LINGER = 0.05


class LoopListener(Listener):
    """An event loop that waits."""

    def __init__(self, demux: Demultiplexer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(demux)
        # Weak, lest the demultiplexer keeps alive a loop that was dropped without closing.
        self.loop = weakref.ref(loop)
        self.watches: dict[bytes, Watch] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._idle: set[bytes] = set()
        self._descriptor = -1
        self._spinner = Spinner()
        self._turns = Turns()

    def alive(self) -> bool:
        """Whether the loop is there and not closed."""
        loop = self.loop()
        return loop is not None and not loop.is_closed()

    def runs_here(self) -> bool:
        """See `Listener.runs_here`."""
        loop = self.loop()
        return loop is not None and loop is running_loop()

    def next_turn(self) -> list[asyncio.Future[None]]:
        """See `Listener.next_turn`."""
        loop = self.loop()
        assert loop is not None
        return self._turns.next_one(loop)

    def is_interrupted(self) -> bool:
        """Whether this is no task of the loop that runs in this thread, so it may be asleep."""
        loop = running_loop()
        return loop is not None and asyncio.current_task(loop) is None

    def retire(self) -> None:
        """Stop listening, in the loop if it runs elsewhere."""
        bell, self.bell = self.bell, None
        loop = self.loop()
        if loop is None or loop.is_closed():
            if bell is not None:
                bell.close()
        elif loop.is_running() and running_loop() is not loop:
            try:
                loop.call_soon_threadsafe(self._stop, loop, bell)
            except RuntimeError:
                if bell is not None:
                    bell.close()
        else:
            self._stop(loop, bell)

    def _stop(self, loop: asyncio.AbstractEventLoop, bell: Bell | None) -> None:
        for watch in self.watches.values():
            error = closed()
            for waiter in watch.waiters:
                waiter.error = error
            while watch.wake_one():
                pass
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if bell is not None:
            # A bell may be closed already, by an engine that is; then its number is gone.
            if self._descriptor >= 0 and not loop.is_closed():
                loop.remove_reader(self._descriptor)
            bell.close()

    def open(self) -> Bell:
        """Hang up the bell, when somebody here first has to wait."""
        if self.bell is None:
            self.hang(asyncio.get_running_loop(), self.demux.engine.bell())
        assert self.bell is not None
        return self.bell

    def hang(self, loop: asyncio.AbstractEventLoop, bell: Bell) -> None:
        """Listen to that bell."""
        self._descriptor = bell.fileno()
        loop.add_reader(self._descriptor, self._rung)
        self.bell = bell

    # Receiving

    async def receive_own(self, name: ChannelName) -> Body:
        """The next message on a process-specific channel of this process."""
        demux = self.demux
        if self._spinner.worth_it():
            await self._look_out(name)
        since = 0.0
        while True:
            with demux.lock:
                demux.check_open()
                channel = demux.channels.get(name.full) or demux.channel(name)
                own = channel.own
                # Most who come back know that there is nothing, and that they will be told.
                if channel.items or not own.certain or own.armed_by is not self:
                    body = demux.look(channel, self)
                    if body is None and self.bell is None:
                        self.open()
                        body = demux.look(channel, self)
                    if body is not None:
                        if own.waiting and self not in own.waiting:
                            demux.hand_over(own, self)
                        if since:
                            self._spinner.waited(since)
                        return body
                waiter = self._waiter()
                own.wait(channel, waiter)
                if not since and own.waiting[self] == 1:
                    # With others waiting there is no looking out, and nothing to learn for it.
                    since = time.monotonic()
            try:
                await waiter.future
            except BaseException:
                self.give_up(channel, waiter)
                raise
            body = self.take_expected(channel, waiter)
            if body is not None:
                if since:
                    self._spinner.waited(since)
                return body

    def expect(self, channel: LocalChannel) -> LoopWaiter | None:
        """Wait for a channel's next message as one of many here; None: ask `receive_own`.

        For the usual case that others wait already, and so the bell is armed and nobody looks
        out: it costs no coroutine more. The waiter's future is to be waited for. If another
        loop runs here, that raises RuntimeError, which is cheaper than to ask each time.
        """
        demux, own, loop = self.demux, channel.own, self.loop()
        with demux.lock:
            waiting = own.waiting
            if (
                channel.items
                or not own.certain
                or own.armed_by is not self
                or self not in waiting
                or not channel.known
                or demux.closed
                or self._timer is None
                or loop is None
            ):
                return None
            waiter = LoopWaiter(self, loop)
            waiting[self] += 1
            channel.waiters.append(waiter)
        return waiter

    def give_up(self, channel: LocalChannel, waiter: LoopWaiter) -> None:
        """What is to be done when a waiter's receiver was cancelled."""
        with self.demux.lock:
            self.demux.leave(channel.own, channel, waiter)

    def take_expected(self, channel: LocalChannel, waiter: LoopWaiter) -> Body | None:
        """The message that a waiter was woken for, unless it is gone."""
        if waiter.error is not None:
            raise waiter.error
        demux, own = self.demux, channel.own
        body = demux.fetched(channel)
        if body is not None and own.waiting and self not in own.waiting:
            with demux.lock:
                demux.hand_over(own, self)
        return body

    async def receive_ordinary(self, name: ChannelName) -> bytes:
        """The next message on an ordinary queue.

        There is no await between taking it off the queue and returning it, so that
        cancelling the receiver never loses it.
        """
        pop, watches, queue = self.demux.engine.pop, self.watches, name.queue
        if self._spinner.worth_it():
            await self._look_out(name)
        watch, since = watches.get(queue), 0.0
        while True:
            self.demux.check_open()
            # Behind somebody who waits for a bell that will ring there is nothing to see.
            if watch is None or not watch.waiters or not watch.armed:
                try:
                    records = pop(queue, 1, self.bell)
                    if not records and self.bell is None:
                        records = pop(queue, 1, self.open())
                except BaseException:
                    if watch is not None:
                        watch.wake_one()  # It will meet the same, or it is better off.
                    raise
                if records:
                    if watch is not None:
                        self._left(queue, watch)
                    if since:
                        self._spinner.waited(since)
                    return records[0].payload
                if watch is None:
                    watch = watches[queue] = Watch()
                watch.armed = watch.touched = True
            waiter = self._waiter()
            watch.waiters.append(waiter)
            since = since or time.monotonic()
            try:
                await waiter.future
            except BaseException:
                if not waiter.woken:
                    watch.waiters.remove(waiter)
                elif watch.wake_one():
                    raise
                self._left(queue, watch, at_once=True)
                raise
            if waiter.error is not None:
                raise waiter.error
            watch = watches.get(queue)

    async def _look_out(self, name: ChannelName) -> None:
        """Return when there seems to be a message, or it is time to sleep (`spinning`)."""
        demux, queue = self.demux, name.queue
        own, watch = demux.own.get(queue), self.watches.get(queue)
        if (own is not None and own.waiting) or (watch is not None and watch.waiters):
            return  # There is no telling who of all these is next.
        spinner, peek, has_fetched = self._spinner, demux.engine.peek, demux.has_fetched
        until = time.monotonic() + LIMIT
        spinner.busy = True
        try:
            while not (peek(queue) or has_fetched(name) or demux.closed):
                if time.monotonic() >= until:
                    break
                os.sched_yield()
                await asyncio.sleep(0)
        finally:
            spinner.busy = False
        if time.monotonic() >= until:
            # Also if something came at last: then others wanted to run for so long.
            spinner.in_vain()
        own = demux.own.get(queue)
        if own is not None:
            own.certain = False  # A bell armed before may be about to ring for this.

    def _waiter(self) -> LoopWaiter:
        loop = self.loop()
        assert loop is not None
        # Long overdue if a handler raised when it was about to be called.
        if self._timer is None or self._timer.when() + self.demux.look_again < loop.time():
            self._timer = loop.call_later(self.demux.look_again, self._tick)
        return LoopWaiter(self, loop)

    # Rings

    def _rung(self) -> None:
        """The bell rang, for any of the queues it is armed on."""
        if self.bell is None:
            return
        self.bell.clear()
        self._fetch_own(rung=True)
        for queue, watch in list(self.watches.items()):
            watch.armed = False
            if not watch.wake_one() and watch.touched:
                # Nobody here wants it. If it was for this queue, somebody else shall know.
                self._disarm(queue, watch)

    def _tick(self) -> None:
        """Look again, lest a ring was lost with the process that was about to ring."""
        # First, as a signal's handler may raise in what follows.
        timer = asyncio.get_running_loop().call_later(self.demux.look_again, self._tick)
        self._timer = timer
        self._turns.catch_up()
        lost = self.bell is not None and self.bell.fileno() < 0
        if lost:
            self._lost_bell()
        # One real look at least, which is when an engine looks after its store. Whoever's bell
        # is not armed any more is served here too, as soon as there is something for him.
        looked = again = self._fetch_own(rung=False)
        for queue, watch in self.watches.items():
            if watch.waiters:
                again = True
                if not looked or lost or self._may_have(queue):
                    looked, watch.armed = True, False
                    watch.wake_one()
        if not again and self._timer is timer:
            timer.cancel()
            self._timer = None

    def _may_have(self, queue: bytes) -> bool:
        try:
            return self.demux.engine.peek(queue)
        except Exception:
            return True  # Who looks gets to know.

    def _lost_bell(self) -> None:
        """The engine can't ring the bell any more. Hang up another."""
        bell = self.bell
        assert bell is not None
        asyncio.get_running_loop().remove_reader(self._descriptor)
        self.bell = None
        for queue, watch in self.watches.items():
            if watch.touched:
                watch.touched = False
                self._engine_disarm(queue, bell)
        with self.demux.lock:
            for own in self.demux.own.values():
                if own.armed_by is self:
                    own.armed_by, own.certain = None, False
                    self._engine_disarm(own.name, bell)
        bell.close()
        if not self.demux.blocking:
            try:
                self.open()
            except (StoreCorrupt, StoreUnavailable):
                pass  # Who looks next tries again, and gets to know.

    def _fetch_own(self, rung: bool) -> bool:
        """Fetch what is on process-specific queues; True if somebody here waits for one."""
        demux, waiting = self.demux, False
        with demux.lock:
            for own in list(demux.own.values()):
                try:
                    if not rung:
                        demux.sweep(own)
                    here = self in own.waiting
                    if own.armed_by is self or here:
                        own.certain = False
                    # With nobody waiting it stays where capacity counts it.
                    wanted = here or bool(own.waiting and own.armed_by is self)
                    waiting = waiting or wanted
                    if wanted:
                        self._fetch(own)
                except Exception as error:
                    # Here it would end in the loop's log; those who wait have to know.
                    demux.fail(own, error)
        return waiting

    def _fetch(self, own: OwnQueue) -> None:
        self.demux.notice_flush()
        self.demux.fetch(own, self, None)

    # Leaving

    def _left(self, queue: bytes, watch: Watch, at_once: bool = False) -> None:
        """A receiver of an ordinary queue is done; see that no ring goes astray for it."""
        if watch.waiters:
            if not watch.armed:
                watch.wake_one()
        elif at_once or watch.armed:
            self._disarm(queue, watch)
        else:
            if not self._idle:
                asyncio.get_running_loop().call_later(LINGER, self._disarm_idle)
            self._idle.add(queue)

    def _disarm_idle(self) -> None:
        idle, self._idle = self._idle, set()
        for queue in idle:
            watch = self.watches.get(queue)
            if watch is not None and not watch.waiters:
                self._disarm(queue, watch)

    def _disarm(self, queue: bytes, watch: Watch) -> None:
        """Forget a queue that nobody here waits for."""
        if self.watches.get(queue) is watch:
            del self.watches[queue]
        if watch.touched and self.bell is not None:
            watch.touched = False
            self._engine_disarm(queue, self.bell)

    def _engine_disarm(self, queue: bytes, bell: Bell) -> None:
        try:
            self.demux.engine.disarm(queue, bell)
        except (StoreCorrupt, StoreUnavailable):
            pass  # Who looks next gets to know.


def listener_here(demux: Demultiplexer) -> LoopListener:
    """The listener of the running loop, made when it is first needed."""
    loop = asyncio.get_running_loop()
    found: LoopListener | None = demux.loops.get(id(loop))  # type: ignore[assignment]
    # The id may be that of a loop that is gone.
    if found is not None and found.loop() is loop:
        return found
    made = _make(demux)(demux, loop)
    with demux.lock:
        gone = demux.clear_away()
        demux.loops[id(loop)] = made
    weakref.finalize(loop, demux.dead.append, made).atexit = False
    for each in gone:
        each.retire()
    return made


def _make(demux: Demultiplexer) -> type[LoopListener]:
    if not demux.blocking:
        return LoopListener
    # Imported late: most engines answer in microseconds.
    from .offload import OffloadingListener

    return OffloadingListener


__all__ = ["LoopListener", "listener_here"]
