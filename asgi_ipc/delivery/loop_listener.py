"""Waiting in an event loop: what the asynchronous layer receives with.

Each loop has one bell, with a reader on it. A signal says which queue it is for; the loop fetches
what is on it if it is process-specific, and wakes a receiver of an ordinary one. A receiver that
leaves sees to it that the signal it waited for wakes somebody else, here or in another process.

About once a second a loop with waiting receivers looks at what it waits for without having been
signalled, lest a signal was lost with the process that was about to signal. That look comes in slices, so
that it costs next to nothing however many queues and receivers there are.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextvars import Context

from ..encoding.codec import Body
from ..encoding.names import ChannelName
from ..engines.base import Bell
from ..engines.deferred import carry_out, carry_out_all, leave, left
from ..exceptions import Reentered, StoreCorrupt, StoreUnavailable
from .demultiplexer import TURNS, Demultiplexer, closed
from .loop_receivers import LoopWaiter, Turns, Watch, running_loop
from .mailboxes import LocalChannel, OwnQueue
from .receivers import Listener
from .spinning import LIMIT, Spinner

#: Seconds for which a bell stays armed on a queue whose receiver has got its message. Most
#: come back for the next one at once, and to disarm costs as much as to receive.
LINGER = 0.05
#: Queues that are looked at in one go, and channels with unread messages that are swept in one:
#: less than a millisecond's work.
SLICE = 256
#: Channels that are looked at in each regular look, to see whether anybody uses them yet.
_IDLE_ONES = 32
#: A message of so many bytes counts as two or more where a loop is to get its turn.
_HEAVY = 13


class LoopListener(Listener):
    """An event loop that waits."""

    def __init__(self, demux: Demultiplexer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(demux)
        # Weak, lest the demultiplexer keeps alive a loop that was dropped without closing.
        self.loop = weakref.ref(loop)
        #: Ordinary queues that are waited for, and by what signals for them say.
        self.watches: dict[bytes, Watch] = {}
        self._hinted: dict[int, tuple[bytes, ...]] = {}
        self.turns = Turns(loop)
        self._timer: asyncio.TimerHandle | None = None
        self._idle: set[bytes] = set()
        #: Queues that are yet to be looked at after a signal that was for any; and those that the
        #: regular look has yet to come to.
        self._due: deque[bytes] = deque()
        self._round: deque[bytes] = deque()
        #: A duplicate of the bell's descriptor, which the loop polls. Closed in the loop alone:
        #: what another thread closes under it may be a stranger's socket the next moment.
        self._descriptor = -1
        self._spinner = Spinner()
        # Told of the loop's end; detached by `retire`, or it would keep all of this.
        self._end = weakref.finalize(loop, demux.dead.append, self)
        self._end.atexit = False

    def alive(self) -> bool:
        """Whether the loop is there and not closed."""
        loop = self.loop()
        return loop is not None and not loop.is_closed()

    def runs_here(self) -> bool:
        """See `Listener.runs_here`."""
        loop = self.loop()
        return (
            loop is not None and loop is running_loop() and asyncio.current_task(loop) is not None
        )

    def next_turn(self) -> deque[asyncio.Future[None]]:
        """See `Listener.next_turn`."""
        return self.turns.next_one()

    def forget(self) -> None:
        """Be told of nothing any more. In a forked child: what is here is the parent's."""
        self._end.detach()

    def retire(self) -> None:
        """Stop listening, in the loop if it may run elsewhere."""
        self._end.detach()
        bell, self.bell = self.bell, None
        loop = self.loop()
        if loop is not None and loop.is_running() and running_loop() is not loop:
            try:
                loop.call_soon_threadsafe(self._stop, bell)
                return
            except RuntimeError:
                pass  # It is closed now.
        self._stop(bell)

    def _stop(self, bell: Bell | None) -> None:
        error = closed()
        for watch in list(self.watches.values()):
            for waiter in list(watch.waiters):
                waiter.error = error
            while watch.wake_one():
                pass
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._uninstall_bell()
        if bell is not None:
            bell.close()

    def open(self) -> Bell:
        """Install the bell, when a receiver first has to wait here."""
        if self.bell is None:
            self.install_bell(asyncio.get_running_loop(), self.demux.engine.bell())
        assert self.bell is not None
        return self.bell

    def install_bell(self, loop: asyncio.AbstractEventLoop, bell: Bell) -> None:
        """Listen to that bell."""
        try:
            self._descriptor = os.dup(bell.fileno())
        except OSError as error:
            bell.close()
            raise StoreUnavailable(
                f"can't poll a wake-up bell ({error.strerror}); raise this process's limit of open"
                " files (ulimit -n), or open the layer again if it was closed"
            ) from error
        try:
            # In a context of its own: the caller's would live as long as the loop polls.
            Context().run(loop.add_reader, self._descriptor, self._signalled)
            self.bell = bell
        finally:
            # The loop can't, as it is closed or out of memory; or a signal's handler has raised.
            if self.bell is not bell:
                self._uninstall_bell()
                bell.close()

    def _uninstall_bell(self) -> None:
        """Poll no more. In the loop, or when it does not run."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            loop = self.loop()
            if loop is not None and not loop.is_closed():
                loop.remove_reader(descriptor)
            os.close(descriptor)

    # Receiving

    async def receive_own(self, name: ChannelName) -> Body:
        """The next message on a process-specific channel of this process."""
        demux = self.demux
        if demux.turns <= 0:
            await self.give_way()
        if self._spinner.worth_it():
            await self._spin(name)
        since, lock = 0.0, demux.lock
        while True:
            if lock._is_owned():
                raise Reentered
            try:
                if not lock.acquire(False):
                    demux.wait_for_lock()
                if demux.closed:
                    raise closed()
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
                        else:
                            demux.turns -= 1
                        return body
                waiter = self._waiter()
                own.wait(channel, waiter)
                if not since and len(own.waiting[self]) == 1:
                    # With others waiting there is no spinning, and nothing to learn for it.
                    since = time.monotonic()
            finally:
                # Not asked whether it was taken: a signal's handler may raise after the answer.
                try:
                    lock.release()
                except RuntimeError:
                    pass
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

    async def give_way(self) -> None:
        """Let the loop have its turn, after `TURNS` messages that nobody had to wait for."""
        self.demux.turns = TURNS
        await asyncio.sleep(0)

    def expect(self, channel: LocalChannel) -> LoopWaiter | None:
        """Wait for a channel's next message as one of many here; None: ask `receive_own`.

        For the usual case that others wait already, and so the bell is armed and nobody
        spins: it costs no coroutine more. The waiter's future is to be waited for. If another
        loop runs here, that raises RuntimeError, which is cheaper than to ask each time.
        """
        demux, own, loop = self.demux, channel.own, self.loop()
        if demux.lock._is_owned():
            return None
        with demux.lock:
            mine = own.waiting.get(self)
            if (
                channel.items
                or not own.certain
                or own.armed_by is not self
                or not mine
                or not channel.known
                or demux.closed
                or self._timer is None
                or loop is None
            ):
                return None
            waiter = LoopWaiter(self, loop)
            mine[waiter] = channel
            channel.waiters.append(waiter)
        return waiter

    def give_up(self, channel: LocalChannel, waiter: LoopWaiter) -> None:
        """What is to be done when a waiter's receiver was cancelled, or collected."""
        self.demux.tidy(self.demux.leave, channel.own, channel, waiter)
        if left:
            carry_out()

    def take_expected(self, channel: LocalChannel, waiter: LoopWaiter) -> Body | None:
        """The message that a waiter was woken for, unless it is gone."""
        if waiter.error is not None:
            raise waiter.failure()
        demux, own = self.demux, channel.own
        items, engine = channel.items, demux.engine
        with demux.lock:
            if items and items[0][1] > engine.clock() and engine.flushes == demux.flushes:
                body = items.popleft()[0]
                if own.waiting and self not in own.waiting:
                    demux.hand_over(own, self)
                return body
        return None

    async def receive_ordinary(self, name: ChannelName) -> bytes:
        """The next message on an ordinary queue.

        There is no await between taking it off the queue and returning it, so that
        cancelling the receiver never loses it.
        """
        demux, watches, queue = self.demux, self.watches, name.queue
        pop = demux.engine.pop
        if demux.turns <= 0:
            await self.give_way()
        if self._spinner.worth_it():
            await self._spin(name)
        watch, since = watches.get(queue), 0.0
        while True:
            demux.check_open()
            # Behind somebody who waits for a bell that will signal there is nothing to see.
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
                    payload = records[0].payload
                    if watch is not None:
                        self._left(queue, watch)
                    if since:
                        self._spinner.waited(since)
                    else:
                        demux.turns -= 1 + (len(payload) >> _HEAVY)
                    return payload
                if watch is None:
                    watch = self._watch(queue)
                watch.armed = watch.touched = True
            waiter = self._waiter()
            watch.waiters.append(waiter)
            since = since or time.monotonic()
            try:
                await waiter.future
            except BaseException:
                if not waiter.woken:
                    if waiter in watch.waiters:
                        watch.waiters.remove(waiter)
                elif watch.wake_one():
                    raise
                self._left(queue, watch, at_once=True)
                raise
            if waiter.error is not None:
                raise waiter.failure()
            watch = watches.get(queue)

    def _watch(self, queue: bytes) -> Watch:
        """The watch of a queue, made if need be."""
        watch = self.watches.get(queue)
        if watch is None:
            watch = self.watches[queue] = Watch(queue)
            others = self._hinted.get(watch.hint, ())
            if queue not in others:
                self._hinted[watch.hint] = (*others, queue)
        return watch

    async def _spin(self, name: ChannelName) -> None:
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
            spinner.wasted()
        own = demux.own.get(queue)
        if own is not None:
            own.certain = False  # A bell armed before may be about to signal for this.

    def _waiter(self) -> LoopWaiter:
        loop = self.loop()
        assert loop is not None
        # Long overdue if a handler raised when it was about to be called, or the loop was held up.
        if self._timer is None or self._timer.when() + self.demux.look_again < loop.time():
            self._set_timer(loop)
        return LoopWaiter(self, loop)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        before = self._timer
        # In a context of its own: the first receiver's would live as long as others wait.
        self._timer = loop.call_later(self.demux.look_again, self._tick, context=Context())
        if before is not None:
            before.cancel()

    # Signals

    def _signalled(self) -> None:
        """The bell rang."""
        bell = self.bell
        if bell is None or bell.fileno() < 0:
            # Closed by its engine, or lost: it would be readable for ever.
            self._uninstall_bell()
            return
        hints, demux = bell.clear(), self.demux
        if hints is None:
            self._due.extend(self._queues())
            self._look_on()
        else:
            for each in hints:
                if each in self._hinted:
                    self._wake(self._hinted[each])
                if each in demux.hinted:
                    self._fetch_for(demux.hinted[each])
            if left:
                carry_out()

    def _queues(self) -> list[bytes]:
        """All queues that are waited for here, or may be."""
        return [*self.demux.own, *self.watches]

    def _look_on(self) -> None:
        """Look at what is due, a slice in each turn of the loop."""
        due, demux = self._due, self.demux
        names = [due.popleft() for _ in range(min(SLICE, len(due)))]
        self._wake(names)
        self._fetch_for([demux.own[name] for name in names if name in demux.own])
        if due:
            asyncio.get_running_loop().call_soon(self._look_on)
        if left:
            carry_out()

    def _wake(self, queues: Sequence[bytes]) -> None:
        """Wake a receiver of each of these ordinary queues, for which the bell has signalled."""
        for queue in queues:
            watch = self.watches.get(queue)
            if watch is not None:
                watch.armed = False
                if not watch.wake_one(self) and watch.touched:
                    # Nobody here wants it. If it was for this queue, somebody else shall know.
                    self._disarm(queue, watch)

    def _fetch_for(self, own_queues: Sequence[OwnQueue]) -> None:
        """Fetch what is on these process-specific queues, for which the bell has signalled."""
        if self.demux.lock._is_owned():
            # The loop runs in the middle of something else. The regular look comes again.
            self._due.extend(own.name for own in own_queues)
            return
        with self.demux.lock:
            for own in own_queues:
                self._fetch_own(own)

    def _fetch_own(self, own: OwnQueue) -> bool:
        """Fetch what is on a process-specific queue, with the lock held; True if somebody here
        waits for it."""
        here = self in own.waiting
        if own.armed_by is self or here:
            own.certain = False
        # With nobody waiting it stays where capacity counts it.
        if not (here or (own.waiting and own.armed_by is self)):
            return False
        try:
            self._fetch(own)
        except Reentered:
            pass  # The loop runs in the middle of something else; the regular look comes again.
        except (StoreCorrupt, StoreUnavailable) as error:
            # Here it would end in the loop's log; those who wait have to know.
            self.demux.fail(own, error)
        except Exception as error:
            # A signal's handler may have raised it, for this thread alone: others look themselves.
            self.demux.fail(own, error, self)
            own.certain = False
            own.wake_somebody()
            if not here:
                raise
        return True

    def _fetch(self, own: OwnQueue) -> None:
        self.demux.notice_flush()
        self.demux.fetch(own, self, None)

    # The regular look

    def _tick(self) -> None:
        """Look again, lest a signal was lost with the process that was about to signal."""
        loop, demux = asyncio.get_running_loop(), self.demux
        # First, as a signal's handler may raise in what follows.
        self._set_timer(loop)
        timer, waited = self._timer, self._is_waited()
        self.turns.resolve()
        if self.bell is not None and self.bell.fileno() < 0:
            self._lost_bell()
            self._round.clear()
            self._due.extend(self._queues())
        if self._due:
            self._look_on()
        looked = False
        if not self._round:
            self._round.extend(self._queues())
        for _ in range(min(SLICE, len(self._round))):
            # One real look at least, which is when an engine looks after its store. Whoever's bell
            # is not armed any more is served here too, as soon as there is something for him.
            looked = self._look_again(self._round.popleft(), looked) or looked
        self._sweep()
        demux.drops.sum_up()
        if left:
            carry_out_all()
        if not waited and timer is not None and self._timer is timer:
            timer.cancel()
            self._timer = None

    def _look_again(self, queue: bytes, looked: bool) -> bool:
        """Look at a queue that somebody waits for; True if that asked the engine in earnest."""
        demux, own, watch = self.demux, self.demux.own.get(queue), self.watches.get(queue)
        if watch is not None and watch.waiters and (not looked or self._may_have(queue)):
            watch.armed = False
            watch.wake_one(self)
            return True
        if own is None or self not in own.waiting:
            return False
        with demux.exclusive():
            return self._fetch_own(own)

    def _may_have(self, queue: bytes) -> bool:
        try:
            return self.demux.engine.peek(queue)
        except Exception:
            return True  # Who looks gets to know.

    def _sweep(self) -> None:
        demux, most = self.demux, SLICE
        with demux.exclusive():
            for own in list(demux.own.values()):
                most -= own.sweep(most)
                own.forget_idle(_IDLE_ONES)
                if most <= 0:
                    break
            demux.forget_idle(_IDLE_ONES)
        if most <= 0:
            asyncio.get_running_loop().call_later(LINGER, self._sweep, context=Context())

    def _is_waited(self) -> bool:
        return any(watch.waiters for watch in list(self.watches.values())) or any(
            self in own.waiting for own in list(self.demux.own.values())
        )

    def _lost_bell(self) -> None:
        """The engine can't signal the bell any more. Install another."""
        bell = self.bell
        assert bell is not None
        self._uninstall_bell()
        self.bell = None
        for queue, watch in list(self.watches.items()):
            watch.armed = False
            if watch.touched:
                watch.touched = False
                self._engine_disarm(queue, bell)
        with self.demux.exclusive():
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

    # Leaving

    def _left(self, queue: bytes, watch: Watch, at_once: bool = False) -> None:
        """A receiver of an ordinary queue is done; see that no signal goes astray for it."""
        if watch.waiters:
            if not watch.armed:
                watch.wake_one()
        elif at_once or watch.armed:
            self._disarm(queue, watch)
        else:
            if not self._idle:
                loop = asyncio.get_running_loop()
                loop.call_later(LINGER, self._disarm_idle, context=Context())
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
            others = tuple(each for each in self._hinted.get(watch.hint, ()) if each != queue)
            if others:
                self._hinted[watch.hint] = others
            else:
                self._hinted.pop(watch.hint, None)
        if watch.touched and self.bell is not None:
            watch.touched = False
            self._engine_disarm(queue, self.bell)

    def _engine_disarm(self, queue: bytes, bell: Bell) -> None:
        try:
            self.demux.engine.disarm(queue, bell)
        except Reentered:
            # Else a signal would wake this loop, which does not want it, and nobody else.
            leave(lambda: self._engine_disarm(queue, bell))
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
    with demux.exclusive():
        gone = demux.clear_away()
        demux.loops[id(loop)] = made
    for each in gone:
        each.retire()
    return made


def _make(demux: Demultiplexer) -> type[LoopListener]:
    if not demux.blocking:
        return LoopListener
    # Imported late: most engines answer in microseconds.
    from .blocking_listener import OffloadingListener

    return OffloadingListener


__all__ = ["LoopListener", "listener_here"]
