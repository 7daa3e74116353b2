"""Receive in an event loop: for the asynchronous layer.

Each loop has one bell, which it polls. A signal says which queue it is for: the loop fetches the
records of a process-specific queue, and wakes a receiver of an ordinary one. When a receiver stops
waiting, a signal that it waited for wakes another receiver, here or in another process.

About once a second a loop with waiting receivers checks their queues without a signal, as a signal
is lost if the process that was about to send it is killed. That periodic check proceeds in slices,
so that it costs next to nothing however many queues and receivers there are.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections import deque
from collections.abc import Collection, Sequence
from contextvars import Context

from ..encoding.codec import Body
from ..encoding.names import ChannelName
from ..engines.base import Bell
from ..engines.deferred import defer, exclusive, pending, run_all_deferred, run_deferred
from ..exceptions import Reentered, StoreCorrupt, StoreUnavailable
from .demultiplexer import TURNS, Demultiplexer, closed
from .loop_queues import WakeQueue, Watch, running_loop
from .mailboxes import Mailbox, OwnQueue
from .receivers import Listener, Waiter
from .spinning import LIMIT, Spinner

#: Seconds for which a bell stays armed on a queue whose receiver has got its message. Most
#: receivers come back for the next one at once, and disarming costs as much as receiving.
DISARM_DELAY = 0.05
#: Queues that are checked, and channels with unread messages that are swept, in one callback: less
#: than a millisecond's work.
SLICE = 256
#: Channels that each periodic check visits, to forget those that no receiver uses.
_IDLE_ONES = 32
#: Turns of the loop in which a receiver that gave up may come back: one that waits for a limited
#: time, again and again, has not left.
_GRACE = 8
#: A message counts once more for each 2 to the power of this bytes, where the loop must run.
_HEAVY = 13


class LoopWaiter(Waiter):
    """A receive that waits in an event loop."""

    __slots__ = ("future",)
    listener: LoopListener

    def __init__(self, listener: LoopListener, loop: asyncio.AbstractEventLoop) -> None:
        # Not through super(), as one is made for each wait.
        self.listener = listener
        self.woken = False
        self.error = None
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self, here: Listener | None = None) -> bool:
        """Resume the receiver in its loop; return False if it was woken or cancelled already."""
        awake = not (self.woken or self.future.done())
        try:
            self.listener.wake_queue.put(self.future, here is self.listener)
        except RuntimeError:
            awake = False  # The loop is closed, so the receiver never resumes.
        self.woken = True
        return awake

    def wake_in(self, turn: deque[asyncio.Future[None]]) -> bool:
        """Add the receiver's future to the queue that `WakeQueue.scheduled` returned."""
        # In this order: a waiter that is marked as woken and is not queued would never resume.
        turn.append(self.future)
        awake = not (self.woken or self.future.done())
        self.woken = True
        return awake


class LoopListener(Listener):
    """An event loop in which receivers wait."""

    def __init__(self, demux: Demultiplexer, loop: asyncio.AbstractEventLoop) -> None:
        self.demux = demux
        # Weak, so that the demultiplexer does not keep alive a loop that was dropped unclosed.
        self.loop = weakref.ref(loop)
        #: Ordinary queues with waiting receivers; then their names by the hints of signals.
        self.watches: dict[bytes, Watch] = {}
        self._hinted: dict[int, tuple[bytes, ...]] = {}
        self.wake_queue = WakeQueue(loop)
        self._timer: asyncio.TimerHandle | None = None
        #: Whether all companions have been called since a receiver began to wait; and their call
        #: before the next periodic check, if they want one.
        self._is_told = not demux.companions
        self._early: asyncio.TimerHandle | None = None
        #: `Demultiplexer.turns` when `_serves` was last asked; -1 if they have been set since.
        self._turns = demux.turns
        self._idle: set[bytes] = set()
        #: Queues still to check after a signal that was for any queue, and those that the periodic
        #: check has yet to reach.
        self._due: deque[bytes] = deque()
        self._round: deque[bytes] = deque()
        #: A duplicate of the bell's descriptor, which the loop polls and alone closes: a number
        #: that another thread closed could become another program's socket while the loop polls it.
        self._descriptor = -1
        self._spinner = Spinner()
        #: Whether `_sum_up` is about to be called.
        self._summing = False
        # Called when the loop is collected. `retire` detaches it, as it keeps this listener alive.
        self._end = weakref.finalize(loop, demux.dead.append, self)
        self._end.atexit = False

    def alive(self) -> bool:
        """Return whether the loop exists and is not closed."""
        loop = self.loop()
        return loop is not None and not loop.is_closed()

    def runs_here(self) -> bool:
        """Return whether this is the loop of the task that runs in this thread."""
        loop = self.loop()
        return (
            loop is not None and loop is running_loop() and asyncio.current_task(loop) is not None
        )

    def next_turn(self) -> deque[asyncio.Future[None]]:
        """Return the futures that the loop resolves next, for `LoopWaiter.wake_in`."""
        return self.wake_queue.scheduled()

    def retire(self) -> None:
        """Stop listening; if the loop runs in another thread, in that loop."""
        self.cancel_finalizer()
        bell, self.bell = self.bell, None
        loop = self.loop()
        if loop is not None and loop.is_running() and running_loop() is not loop:
            try:
                loop.call_soon_threadsafe(self._stop, bell)
                return
            except RuntimeError:
                pass  # The loop was closed meanwhile.
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
        if self._early is not None:
            self._early.cancel()
            self._early = None
        self._uninstall_bell()
        if bell is not None:
            bell.close()

    def open(self) -> Bell:
        """Return the bell, installed when a receiver first has to wait here."""
        if self.bell is None:
            self.install_bell(asyncio.get_running_loop(), self.demux.engine.bell())
        assert self.bell is not None
        return self.bell

    def install_bell(self, loop: asyncio.AbstractEventLoop, bell: Bell) -> None:
        """Poll a bell in the loop. Raises `StoreUnavailable` if descriptors run out."""
        try:
            self._descriptor = os.dup(bell.fileno())
        except OSError as error:
            bell.close()
            raise StoreUnavailable(
                f"can't poll a wake-up bell ({error.strerror}); raise this process's limit of open"
                " files (ulimit -n), or open the layer again if it was closed"
            ) from error
        try:
            # In a new context, as the caller's would live as long as the loop polls.
            Context().run(loop.add_reader, self._descriptor, self._signalled)
            self.bell = bell
        finally:
            # The loop is closed or out of memory, or a signal handler has raised.
            if self.bell is not bell:
                self._uninstall_bell()
                bell.close()

    def _uninstall_bell(self) -> None:
        """Stop polling. Call in the loop, or when it does not run."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            loop = self.loop()
            if loop is not None and not loop.is_closed():
                loop.remove_reader(descriptor)
            os.close(descriptor)

    # Receiving

    async def receive_own(self, name: ChannelName) -> Body:
        """Receive the next message on a process-specific channel of this process."""
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
                # Usually the queue is known to be empty and the bell armed: wait without a look.
                if channel.items or not own.known_empty or own.armed_by is not self:
                    body = demux.take(channel, self)
                    if body is None and self.bell is None:
                        self.open()
                        body = demux.take(channel, self)
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
                    # Receivers do not spin while others wait, so such a wait teaches nothing.
                    since = time.monotonic()
            finally:
                # Without asking whether it was taken, as a handler may raise after the answer.
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
        """Yield to the loop, after `TURNS` messages that no receiver had to wait for."""
        self.demux.turns, self._turns = TURNS, -1
        if self.demux.companions:
            self.start_periodic_check()  # Where no receiver ever has to wait, nothing else does.
        await asyncio.sleep(0)

    def expect(self, channel: Mailbox) -> LoopWaiter | None:
        """Wait for a channel's next message as one of many; None: use `receive_own`.

        For the usual case that other receivers wait already, so that the bell is armed and none
        spins: it saves a coroutine. The caller awaits the waiter's future. If another loop runs
        here, that raises RuntimeError, which is cheaper than asking each time.
        """
        demux, own, loop = self.demux, channel.own, self.loop()
        if demux.lock._is_owned():
            return None
        with demux.lock:
            mine = own.waiting.get(self)
            if (
                channel.items
                or not own.known_empty
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

    def give_up(self, channel: Mailbox, waiter: LoopWaiter) -> None:
        """Forget a waiter whose receiver was cancelled or collected."""
        self.demux.tidy(self.demux.leave, channel.own, channel, waiter)
        self._sum_up_soon()
        if pending:
            run_deferred()

    def take_expected(self, channel: Mailbox, waiter: LoopWaiter) -> Body | None:
        """Return the message that a waiter was woken for, or None if it is gone."""
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
        """Receive the next message on an ordinary queue.

        There is no await between taking the message off the queue and returning it, so a cancelled
        receiver loses none.
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
            # If another receiver waits for the armed bell, the queue is empty.
            if watch is None or not watch.waiters or not watch.armed:
                try:
                    records = pop(queue, 1, self.bell)
                    if not records and self.bell is None:
                        records = pop(queue, 1, self.open())
                except BaseException:
                    if watch is not None:
                        watch.wake_one()  # It meets the same error, or gets on.
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
                self._sum_up_soon()
                raise
            if waiter.error is not None:
                raise waiter.failure()
            watch = watches.get(queue)

    def _watch(self, queue: bytes) -> Watch:
        """Return the watch of a queue, made if need be."""
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
            return  # Which of these receivers gets the next message can't be told.
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
            own.known_empty = False  # A bell armed before may be about to signal for this.

    def _waiter(self) -> LoopWaiter:
        loop = self.loop()
        assert loop is not None
        if not self._is_told:
            self._is_told = True
            loop.call_soon(self._call_companions, context=Context())
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
        """Handle a signal of the bell."""
        bell = self.bell
        if bell is None or bell.fileno() < 0:
            # Closed by its engine, or lost: it would stay readable.
            self._uninstall_bell()
            return
        hints, demux = bell.clear(), self.demux
        if hints is None:
            self._due.extend(self._queues())
            self._check_due()
        else:
            for each in hints:
                if each in self._hinted:
                    self._wake(self._hinted[each])
                if each in demux.hinted:
                    self._fetch_for(demux.hinted[each])
            if pending:
                run_deferred()
        if demux.companions and not self._is_for_receivers(hints):
            self._call_companions()

    def _is_for_receivers(self, hints: Collection[int] | None) -> bool:
        return hints is not None and all(
            each in self._hinted or each in self.demux.hinted for each in hints
        )

    def _queues(self) -> list[bytes]:
        """Return all queues that receivers wait for here, and those that others may wait for."""
        return [*self.demux.own, *self.watches]

    def _check_due(self) -> None:
        """Check the queues that are due, a slice in each iteration of the loop."""
        due, demux = self._due, self.demux
        names = [due.popleft() for _ in range(min(SLICE, len(due)))]
        self._wake(names)
        self._fetch_for([demux.own[name] for name in names if name in demux.own])
        if due:
            asyncio.get_running_loop().call_soon(self._check_due)
        if pending:
            run_deferred()

    def _wake(self, queues: Sequence[bytes]) -> None:
        """Wake a receiver of each of these ordinary queues, for which the bell was signalled."""
        for queue in queues:
            watch = self.watches.get(queue)
            if watch is not None:
                watch.armed = False
                if not watch.wake_one(self) and watch.touched:
                    # No receiver here wants it; if it was for this queue, pass the signal on.
                    self._disarm(queue, watch)

    def _fetch_for(self, own_queues: Sequence[OwnQueue]) -> None:
        """Fetch what is on these process-specific queues, for which the bell was signalled."""
        if self.demux.lock._is_owned():
            # The loop runs in the middle of another call. The periodic check retries.
            self._due.extend(own.name for own in own_queues)
            return
        with self.demux.lock:
            for own in own_queues:
                self._fetch_own(own)

    def _fetch_own(self, own: OwnQueue) -> bool:
        """Fetch what is on a process-specific queue, if a receiver here waits for it.

        Returns whether one does. Call with the lock held.
        """
        here = self in own.waiting
        if own.armed_by is self or here:
            own.known_empty = False
        # Without a receiver the records stay on the queue, where capacity counts them.
        if not (here or (own.waiting and own.armed_by is self)):
            return False
        try:
            self._fetch(own)
        except Reentered:
            pass  # The loop runs in the middle of another call; the periodic check retries.
        except (StoreCorrupt, StoreUnavailable) as error:
            # Raised here it would end in the loop's log; raise it in the waiting receivers.
            self.demux.fail(own, error)
        except Exception as error:
            # A signal handler may have raised it, for this thread alone: others fetch themselves.
            self.demux.fail(own, error, self)
            own.known_empty = False
            own.wake_any()
            if not here:
                raise
        return True

    def _fetch(self, own: OwnQueue) -> None:
        self.demux.notice_flush()
        self.demux.fetch(own, self, None)

    # The periodic check

    def _tick(self) -> None:
        """Check the queues without a signal, as a killed sender may have sent none."""
        loop, demux = asyncio.get_running_loop(), self.demux
        # First, as a signal handler may raise in what follows.
        self._set_timer(loop)
        timer, waited = self._timer, self._serves()
        self.wake_queue.resolve()
        if self.bell is not None and self.bell.fileno() < 0:
            self._lost_bell()
            self._round.clear()
            self._due.extend(self._queues())
        if self._due:
            self._check_due()
        looked = False
        if not self._round:
            self._round.extend(self._queues())
        for _ in range(min(SLICE, len(self._round))):
            # At least one real pop, which is when an engine does its maintenance. A receiver whose
            # bell is no longer armed gets its message here too.
            looked = self._check_queue(self._round.popleft(), looked) or looked
        self._sweep()
        if demux.is_watched():
            self._watch_store(looked)
        self._sweep_memberships()
        self._write_notes()
        self._is_told = waited or not demux.companions
        if demux.companions:
            self._call_companions(waited)
        demux.drops.sum_up()
        if pending:
            run_all_deferred()
        if not waited and not demux.is_due() and timer is not None and self._timer is timer:
            timer.cancel()
            self._timer = None

    def _call_companions(self, waited: bool | None = None) -> None:
        """Call the companions of the demultiplexer, and again after the pause that they ask for."""
        if self.demux.closed:
            return
        early, self._early = self._early, None
        if early is not None:
            early.cancel()
        bell = self.bell if self.bell is not None and self.bell.fileno() >= 0 else None
        waited = self._serves() if waited is None else waited
        pauses = []
        for companion in list(self.demux.companions.values()):
            pause = companion.tick(waited, bell)
            if pause is not None:
                pauses.append(pause)
        if pauses:
            loop = asyncio.get_running_loop()
            self._early = loop.call_later(min(pauses), self._call_companions, context=Context())
        if pending:
            run_deferred()

    def _check_queue(self, queue: bytes, looked: bool) -> bool:
        """Check a queue that receivers wait for; return whether that popped from the engine."""
        demux, own, watch = self.demux, self.demux.own.get(queue), self.watches.get(queue)
        if watch is not None and watch.waiters and (not looked or self._may_have(queue)):
            watch.armed = False
            watch.wake_one(self)
            return True
        if own is None or self not in own.waiting:
            return False
        with exclusive(demux.lock):
            return self._fetch_own(own)

    def _may_have(self, queue: bytes) -> bool:
        try:
            return self.demux.engine.peek(queue)
        except Exception:
            return True  # The receiver meets the error itself.

    def _sweep(self) -> None:
        demux, most = self.demux, SLICE
        with exclusive(demux.lock):
            for own in list(demux.own.values()):
                most -= own.sweep(most)
                own.forget_idle(_IDLE_ONES)
                if most <= 0:
                    break
            demux.forget_idle(_IDLE_ONES)
        if most <= 0:
            asyncio.get_running_loop().call_later(DISARM_DELAY, self._sweep, context=Context())

    def _watch_store(self, looked: bool) -> None:
        self.demux.watch(looked)

    def start_periodic_check(self) -> None:
        """Start the periodic check, which goes on as long as it has something to do."""
        loop = self.loop()
        if self._timer is None and loop is not None:
            self._set_timer(loop)

    def _sweep_memberships(self) -> None:
        if self.demux.memberships.sweep():
            loop = asyncio.get_running_loop()
            loop.call_later(DISARM_DELAY, self._sweep_memberships, context=Context())
        if pending:
            run_deferred()

    def _write_notes(self) -> None:
        self.demux.notes.write()

    def _sum_up_soon(self) -> None:
        """Log what was dropped since the last warning if the last receiver here has left.

        A server that ends has its consumers leave. What follows may be a signal that ends the
        process on the spot, as uvicorn raises SIGTERM again: nothing else would log the sum.
        """
        if self.demux.drops and not self._summing:
            loop = running_loop()
            if loop is not None and loop is self.loop():
                self._summing = True
                loop.call_soon(self._sum_up, loop, _GRACE, context=Context())

    def _sum_up(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        if turns and not loop.is_closed():
            loop.call_soon(self._sum_up, loop, turns - 1)
            return
        self._summing = False
        if not self._is_waited():
            self.demux.drops.sum_up_now()
            if pending:
                run_all_deferred()

    def _serves(self) -> bool:
        """Whether a receiver waits here, or some have found messages since this was last asked."""
        before, self._turns = self._turns, self.demux.turns
        return before != self._turns or self._is_waited()

    def _is_waited(self) -> bool:
        return any(watch.waiters for watch in list(self.watches.values())) or any(
            self in own.waiting for own in list(self.demux.own.values())
        )

    def _lost_bell(self) -> None:
        """Replace a bell that the engine can't signal any more."""
        bell = self.bell
        assert bell is not None
        self._uninstall_bell()
        self.bell = None
        for queue, watch in list(self.watches.items()):
            watch.armed = False
            if watch.touched:
                watch.touched = False
                self._engine_disarm(queue, bell)
        with exclusive(self.demux.lock):
            for own in self.demux.own.values():
                if own.armed_by is self:
                    own.armed_by, own.known_empty = None, False
                    self._engine_disarm(own.name, bell)
        bell.close()
        if not self.demux.blocking:
            try:
                self.open()
            except (StoreCorrupt, StoreUnavailable):
                pass  # The next receiver tries again, and meets the error itself.

    # The end of a wait

    def _left(self, queue: bytes, watch: Watch, at_once: bool = False) -> None:
        """Note that a receiver of an ordinary queue is done; pass a signal for it to another."""
        if watch.waiters:
            if not watch.armed:
                watch.wake_one()
        elif at_once or watch.armed:
            self._disarm(queue, watch)
        else:
            if not self._idle:
                loop = asyncio.get_running_loop()
                loop.call_later(DISARM_DELAY, self._disarm_idle, context=Context())
            self._idle.add(queue)

    def _disarm_idle(self) -> None:
        idle, self._idle = self._idle, set()
        for queue in idle:
            watch = self.watches.get(queue)
            if watch is not None and not watch.waiters:
                self._disarm(queue, watch)

    def _disarm(self, queue: bytes, watch: Watch) -> None:
        """Forget a queue that no receiver here waits for."""
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
            # Else a signal would wake this loop, which does not want it, and no other.
            defer(lambda: self._engine_disarm(queue, bell))
        except (StoreCorrupt, StoreUnavailable):
            pass  # The next receiver meets the error itself.


__all__ = ["LoopListener"]
