"""Waiting in a thread, without any event loop: what the synchronous layer receives with.

A thread has one bell and waits for it with `select.poll`, never longer than
`asgi_ipc.delivery.demultiplexer.LOOK_AGAIN` at a time. When it stops waiting it disarms the bell, since
nobody would hear it any more.
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
from ..engines.deferred import carry_out, leave, left
from ..exceptions import Reentered, StoreCorrupt, StoreUnavailable
from .demultiplexer import Demultiplexer
from .mailboxes import BATCH, OwnQueue
from .receivers import Listener, Waiter
from .spinning import LIMIT, Spinner


class _Here:
    """Something that lives as long as a thread. Kept in its `threading.local`."""

    def __init__(self, listener: ThreadListener) -> None:
        self.listener = listener


class ThreadListener(Listener):
    """A thread that waits."""

    bell: Bell

    def __init__(self, demux: Demultiplexer) -> None:
        super().__init__(demux)
        self.bell = demux.engine.bell()
        self.spinner = Spinner()
        # Not the thread object: for threads that Python did not start that may never end.
        here = demux.this_thread.here = _Here(self)
        self._here = weakref.ref(here)
        self._end = weakref.finalize(here, demux.dead.append, self)
        self._end.atexit = False

    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._here() is not None

    def forget(self) -> None:
        """Be told of nothing any more. In a forked child: what is here is the parent's."""
        self._end.detach()

    def retire(self) -> None:
        """Close the bell; whoever waits for it wakes up to that."""
        self._end.detach()
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
    """Return when a descriptor is readable, or the time is over; negative: none, at once."""
    # Asked each time: gevent puts another in its place, and eventlet takes it away. It is better
    # than select(), which fails on descriptors of 1024 and above; not on eventlet's, though.
    make = getattr(select, "poll", None)
    if make is None:
        select.select([descriptor] if descriptor >= 0 else [], [], [], seconds)
        return
    poll = make()
    if descriptor >= 0:
        poll.register(descriptor, select.POLLIN)
    poll.poll(seconds * 1000)


class ThreadWaiter(Waiter):
    """A receive in a thread. One waits for several queues, so being woken twice is usual."""

    __slots__ = ()
    listener: ThreadListener

    def wake(self, here: Listener | None = None) -> bool:
        """Ring its thread's bell."""
        self.woken = True
        self.listener.bell.signal()
        return True


def receive_now(
    demux: Demultiplexer, names: Sequence[ChannelName], listener: ThreadListener | None = None
) -> tuple[str, Body] | None:
    """The next message of the first channel that has one: its full name and the encoding.

    A name that ends in ``!`` stands for all channels that begin with it. With a listener,
    its bell is armed on every queue that was found empty.
    """
    bell = listener.bell if listener is not None else None
    for name in names:
        if not name.specific:
            records = demux.engine.pop(name.queue, 1, bell)
            if records:
                return name.full, records[0].payload
            continue
        with demux.exclusive():
            own = _queue(demux, name)
            found = demux.look_any(own, listener)
        if found is None and demux.blocking:
            demux.fetch_blocking(own, listener)
            with demux.lock:
                found = own.take_any()
        if found is not None:
            local, body = found
            return (own.name + local).decode("ascii"), body
    return None


def receive_waiting(
    demux: Demultiplexer, names: Sequence[ChannelName], timeout: float | None
) -> tuple[str, Body] | None:
    """As `receive_now`, but wait for a message: ``timeout`` seconds, or for ever if None.

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
            if listener.bell.fileno() < 0:
                _disarm(demux, names, listener)
                listener = _this_thread(demux)
            waiters = _enlist(demux, names, listener)
            try:
                found = receive_now(demux, names, listener)
                if found is not None:
                    listener.spinner.waited(began)
                    return found
                left = demux.look_again if end is None else end - time.monotonic()
                if left <= 0:
                    return None
                listener.wait(min(left, demux.look_again))
                # On an engine that can't signal, whoever has the bell armed is no help.
                _unsettle(demux, names)
            finally:
                _dismiss(demux, waiters)
            for _, waiter in waiters:
                if waiter.error is not None:
                    raise waiter.failure()
    finally:
        _disarm(demux, names, listener)


def _spin(
    demux: Demultiplexer, names: Sequence[ChannelName], spinner: Spinner, end: float | None
) -> tuple[str, Body] | None:
    """As `receive_now`, but spin for a message for a while (`asgi_ipc.delivery.spinning`)."""
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
    # What nobody owns other processes read too, so we take no more than we return.
    return demux.queue(name.queue, BATCH if name.owner else 1)


def _this_thread(demux: Demultiplexer) -> ThreadListener:
    """The listener of the thread that calls, made when it first has to wait."""
    here: _Here | None = getattr(demux.this_thread, "here", None)
    listener = here.listener if here is not None else None
    if listener is None or listener.bell.fileno() < 0:
        old, listener = listener, ThreadListener(demux)
        with demux.exclusive():
            gone = demux.clear_away()
            if old in demux.threads:
                # The engine can't signal its bell any more.
                demux.threads.remove(old)
                gone.append(old)
            demux.threads.append(listener)
        for each in gone:
            each.retire()
    return listener


def _enlist(
    demux: Demultiplexer, names: Sequence[ChannelName], listener: ThreadListener
) -> list[tuple[OwnQueue, ThreadWaiter]]:
    """Be woken, too, when another thread or loop fetches something for us."""
    waiters = []
    with demux.exclusive():
        demux.check_open()
        for name in names:
            if name.specific:
                own, waiter = _queue(demux, name), ThreadWaiter(listener)
                own.wait(None, waiter)
                waiters.append((own, waiter))
    return waiters


def _dismiss(demux: Demultiplexer, waiters: list[tuple[OwnQueue, ThreadWaiter]]) -> None:
    for own, waiter in waiters:
        demux.tidy(demux.leave, own, None, waiter)
    if left:
        carry_out()


def _unsettle(demux: Demultiplexer, names: Sequence[ChannelName]) -> None:
    for name in names:
        own = demux.own.get(name.queue) if name.specific else None
        if own is not None:
            own.certain = False


def _disarm(demux: Demultiplexer, names: Sequence[ChannelName], listener: ThreadListener) -> None:
    for name in names:
        if name.specific:
            demux.tidy(_give_up_bell, demux, name.queue, listener)
        try:
            demux.engine.disarm(name.queue, listener.bell)
        except Reentered:
            leave(partial(_disarm, demux, [name], listener))
        except (StoreCorrupt, StoreUnavailable):
            return  # Who looks next gets to know.


def _give_up_bell(demux: Demultiplexer, queue: bytes, listener: ThreadListener) -> None:
    own = demux.own.get(queue)
    if own is not None and own.armed_by is listener:
        own.armed_by, own.certain = None, False


__all__ = ["ThreadListener", "ThreadWaiter", "receive_now", "receive_waiting"]
