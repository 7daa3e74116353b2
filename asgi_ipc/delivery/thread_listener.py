"""Receive in a thread, without any event loop: for the synchronous layer.

A thread has one bell and waits for it with `select.poll`, at most `LOOK_AGAIN` seconds at a time
(`asgi_ipc.delivery.demultiplexer`). When the thread stops waiting it disarms the bell, as no
receiver would respond to it.
"""

from __future__ import annotations

import os
import select
import time
import weakref
from collections.abc import Sequence
from functools import partial

from ..encoding.codec import Body
from ..encoding.names import ChannelName
from ..engines.base import Bell
from ..engines.deferred import defer, exclusive, pending, run_deferred
from ..exceptions import Reentered, StoreCorrupt, StoreUnavailable
from .demultiplexer import Demultiplexer
from .mailboxes import BATCH, Mailbox, OwnQueue
from .receivers import Listener, Waiter
from .spinning import LIMIT, Spinner


class _ThreadLifetime:
    """Lives as long as a thread, in its `threading.local`."""

    def __init__(self, listener: ThreadListener) -> None:
        self.listener = listener


class ThreadListener(Listener):
    """A thread in which receivers wait."""

    bell: Bell

    def __init__(self, demux: Demultiplexer) -> None:
        self.demux = demux
        self.bell = demux.engine.bell()
        self.spinner = Spinner()
        # Not the thread object, which for a thread that Python did not start may never end.
        here = demux.this_thread.here = _ThreadLifetime(self)
        self._here = weakref.ref(here)
        # A handler may raise once it is registered, and before it is noted here.
        self._end: weakref.finalize[..., object] | None = None
        self._end = weakref.finalize(here, demux.dead.append, self)
        self._end.atexit = False

    def alive(self) -> bool:
        """Return whether the thread still runs."""
        return self._here() is not None

    def retire(self) -> None:
        """Close the bell, and wake the receiver that waits for it."""
        self.cancel_finalizer()
        self.bell.signal()
        self.bell.close()

    def wait(self, seconds: float) -> None:
        """Wait for a signal, and clear it. A closed bell counts as signalled."""
        descriptor = self.bell.fileno()
        if descriptor < 0:
            return
        _poll(descriptor, max(0.0, seconds))
        self.bell.clear()


def _poll(descriptor: int, seconds: float) -> None:
    """Wait until a descriptor is readable or the time is over; a negative one is not waited for."""
    # Looked up each time, as gevent replaces poll() and eventlet removes it. poll() is better than
    # select(), which fails on descriptors of 1024 and above; eventlet's select() does not.
    make = getattr(select, "poll", None)
    if make is None:
        select.select([descriptor] if descriptor >= 0 else [], [], [], seconds)
        return
    poll = make()
    if descriptor >= 0:
        poll.register(descriptor, select.POLLIN)
    poll.poll(seconds * 1000)


class ThreadWaiter(Waiter):
    """A receive that waits in a thread. It waits for several queues, so it may be woken twice."""

    __slots__ = ()
    listener: ThreadListener

    def wake(self, here: Listener | None = None) -> bool:
        """Signal the thread's bell."""
        self.woken = True
        self.listener.bell.signal()
        return True


def receive_now(
    demux: Demultiplexer, names: Sequence[ChannelName], listener: ThreadListener | None = None
) -> tuple[str, Body] | None:
    """Receive from the first channel that has a message; return its full name and the encoding.

    A name that ends in ``!`` stands for all channels that begin with it; one that goes on must be
    of this process. If a listener is given, its bell is armed on every queue that was found empty.
    """
    bell = listener.bell if listener is not None else None
    for name in names:
        if not name.specific:
            records = demux.engine.pop(name.queue, 1, bell)
            if records:
                return name.full, records[0].payload
            continue
        if name.local:
            body = _receive_own(demux, name, listener)
            if body is not None:
                return name.full, body
            continue
        with exclusive(demux.lock):
            own = _queue(demux, name)
            own.receives += 1
            found = demux.take_any(own, listener)
        if own.name in demux.memberships.asleep:
            demux.memberships.restore_queue(own.name)
        if found is None and demux.blocking:
            demux.fetch_blocking(own, listener)
            with demux.lock:
                found = own.take_any()
        if found is not None:
            local, body = found
            return (own.name + local).decode("ascii"), body
    return None


def _receive_own(
    demux: Demultiplexer, name: ChannelName, listener: ThreadListener | None
) -> Body | None:
    """Receive from one process-specific channel of this process, as `receive_now`."""
    member = demux.memberships.note_receive(name.full, name.queue)
    if member is not None and member.suspended:
        demux.memberships.restore(member)
    with exclusive(demux.lock):
        channel = demux.channel(name)
        if not demux.blocking:
            return demux.take(channel, listener)
        demux.notice_flush()
        body = channel.own.take(channel)
    if body is None:
        demux.fetch_blocking(channel.own, listener)
        with demux.lock:
            body = channel.own.take(demux.channel(name))
    return body


def receive_waiting(
    demux: Demultiplexer, names: Sequence[ChannelName], timeout: float | None
) -> tuple[str, Body] | None:
    """Receive as `receive_now`, waiting for a message: ``timeout`` seconds, or without end if None.

    Raises `StoreUnavailable` if the layer is closed meanwhile.
    """
    found = receive_now(demux, names)
    if found is not None:
        return found
    end = None if timeout is None else time.monotonic() + timeout
    listener = _this_thread(demux)
    if listener.spinner.worth_it():
        found = _spin(demux, names, listener.spinner, end)
        if found is not None:
            return found
    began = time.monotonic()
    try:
        while True:
            demux.check_open()
            demux.memberships.sweep_if_due()
            demux.notes.write_if_due()
            if demux.is_watched():
                demux.watch(looked=True)  # By this loop's last turn.
            for companion in list(demux.companions.values()):
                companion.tick(False)
            if listener.bell.fileno() < 0:
                _disarm(demux, names, listener)
                listener = _this_thread(demux)
            waiters = _add_waiters(demux, names, listener)
            try:
                found = receive_now(demux, names, listener)
                if found is not None:
                    listener.spinner.waited(began)
                    return found
                remaining = demux.look_again if end is None else end - time.monotonic()
                if remaining <= 0:
                    return None
                listener.wait(min(remaining, demux.look_again))
                # On an engine that can't signal, another listener's armed bell means nothing.
                _mark_uncertain(demux, names)
            finally:
                _remove_waiters(demux, waiters)
            for _, _, waiter in waiters:
                if waiter.error is not None:
                    raise waiter.failure()
    finally:
        _disarm(demux, names, listener)


def _spin(
    demux: Demultiplexer, names: Sequence[ChannelName], spinner: Spinner, end: float | None
) -> tuple[str, Body] | None:
    """Receive as `receive_now`, spinning for a while (`asgi_ipc.delivery.spinning`)."""
    until = time.monotonic() + LIMIT
    if end is not None:
        until = min(until, end)
    peek, has_fetched = demux.engine.peek, demux.has_fetched
    found = None
    while not any(peek(name.queue) or has_fetched(name) for name in names):
        if time.monotonic() >= until or demux.closed:
            break
        _poll(-1, 0)  # Let threads run. time.sleep(0) may sleep much longer.
        os.sched_yield()
    else:
        found = receive_now(demux, names)
    if found is None or time.monotonic() >= until:
        spinner.wasted()
    return found


def _queue(demux: Demultiplexer, name: ChannelName) -> OwnQueue:
    # Other processes read a queue without an owner too, so take no more than is returned.
    return demux.queue(name.queue, BATCH if name.owner else 1)


def _this_thread(demux: Demultiplexer) -> ThreadListener:
    """Return the listener of the calling thread, made when the thread first has to wait."""
    here: _ThreadLifetime | None = getattr(demux.this_thread, "here", None)
    listener = here.listener if here is not None else None
    if listener is None or listener.bell.fileno() < 0:
        old, listener = listener, ThreadListener(demux)
        with exclusive(demux.lock):
            gone = demux.clear_away()
            if old in demux.threads:
                # The engine can't signal its bell any more.
                demux.threads.remove(old)
                gone.append(old)
            demux.threads.append(listener)
        for each in gone:
            each.retire()
    return listener


def _add_waiters(
    demux: Demultiplexer, names: Sequence[ChannelName], listener: ThreadListener
) -> list[tuple[OwnQueue, Mailbox | None, ThreadWaiter]]:
    """Have other threads and loops wake this thread when they fetch a message for it."""
    waiters = []
    with exclusive(demux.lock):
        demux.check_open()
        for name in names:
            if name.specific:
                own, waiter = _queue(demux, name), ThreadWaiter(listener)
                channel = demux.channel(name) if name.local else None
                own.wait(channel, waiter)
                waiters.append((own, channel, waiter))
    return waiters


def _remove_waiters(
    demux: Demultiplexer, waiters: list[tuple[OwnQueue, Mailbox | None, ThreadWaiter]]
) -> None:
    for own, channel, waiter in waiters:
        demux.tidy(demux.leave, own, channel, waiter)
    if pending:
        run_deferred()


def _mark_uncertain(demux: Demultiplexer, names: Sequence[ChannelName]) -> None:
    for name in names:
        own = demux.own.get(name.queue) if name.specific else None
        if own is not None:
            own.known_empty = False


def _disarm(demux: Demultiplexer, names: Sequence[ChannelName], listener: ThreadListener) -> None:
    for name in names:
        if name.specific:
            demux.tidy(_forget_armed, demux, name.queue, listener)
        try:
            demux.engine.disarm(name.queue, listener.bell)
        except Reentered:
            defer(partial(_disarm, demux, [name], listener))
        except (StoreCorrupt, StoreUnavailable):
            return  # The next receiver meets the error itself.


def _forget_armed(demux: Demultiplexer, queue: bytes, listener: ThreadListener) -> None:
    own = demux.own.get(queue)
    if own is not None and own.armed_by is listener:
        own.armed_by, own.known_empty = None, False


__all__ = ["ThreadListener", "ThreadWaiter", "receive_now", "receive_waiting"]
