"""Waiting in a thread, without any event loop: what the synchronous layer receives with.

A thread has one bell and waits for it with `select.poll`, never longer than
`asgi_ipc.demux.LOOK_AGAIN` at a time. When it stops waiting it disarms the bell, since
nobody would hear it any more.
"""

from __future__ import annotations

import os
import select
import threading
import time
import weakref
from collections.abc import Sequence

from .buffers import Listener, OwnQueue, Waiter
from .demux import Demultiplexer
from .engines.base import Bell
from .exceptions import StoreCorrupt, StoreUnavailable
from .local_channels import BATCH
from .messages import Body
from .names import ChannelName
from .spinning import LIMIT, Spinner


class ThreadListener(Listener):
    """A thread that waits."""

    bell: Bell

    def __init__(self, demux: Demultiplexer) -> None:
        super().__init__(demux)
        self.bell = demux.engine.bell()
        self.spinner = Spinner()
        self._thread = weakref.ref(threading.current_thread())

    def alive(self) -> bool:
        """Whether the thread still runs."""
        thread = self._thread()
        return thread is not None and thread.is_alive()

    def retire(self) -> None:
        """Close the bell; whoever waits for it wakes up to that."""
        self.bell.ring()
        self.bell.close()

    def wait(self, seconds: float) -> None:
        """Wait for a ring, and clear it. A closed bell counts as rung."""
        descriptor = self.bell.fileno()
        if descriptor < 0:
            return
        # Not select(), which fails on descriptors of 1024 and above.
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(max(0.0, seconds) * 1000)
        self.bell.clear()


class ThreadWaiter(Waiter):
    """A receive in a thread. One waits for several queues, so being woken twice is usual."""

    __slots__ = ()
    listener: ThreadListener

    def wake(self, here: Listener | None = None) -> bool:
        """Ring its thread's bell."""
        self.woken = True
        self.listener.bell.ring()
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
        with demux.lock:
            own = _queue(demux, name)
            found = demux.look_any(own, listener)
        if found is None and demux.blocking:
            demux.fetch_blocking(own, listener)
            with demux.lock:
                found = demux.take_any(own)
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
        found = _look_out(demux, names, listener.spinner, end)
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
                # On an engine that can't ring, whoever has the bell armed is no help.
                _unsettle(demux, names)
            finally:
                _dismiss(demux, waiters)
            for _, waiter in waiters:
                if waiter.error is not None:
                    raise waiter.error
    finally:
        _disarm(demux, names, listener)


def _look_out(
    demux: Demultiplexer, names: Sequence[ChannelName], spinner: Spinner, end: float | None
) -> tuple[str, Body] | None:
    """As `receive_now`, but look out for a message for a while (`asgi_ipc.spinning`)."""
    until = time.monotonic() + LIMIT
    if end is not None:
        until = min(until, end)
    peek, has_fetched = demux.engine.peek, demux.has_fetched
    let_threads_run = select.poll().poll
    found = None
    while not any(peek(name.queue) or has_fetched(name) for name in names):
        if time.monotonic() >= until or demux.closed:
            break
        let_threads_run(0)  # time.sleep(0) may sleep much longer.
        os.sched_yield()
    else:
        found = receive_now(demux, names)
    if found is None or time.monotonic() >= until:
        spinner.in_vain()
    return found


def _queue(demux: Demultiplexer, name: ChannelName) -> OwnQueue:
    # What nobody owns other processes read too, so we take no more than we return.
    return demux.queue(name.queue, BATCH if name.owner else 1)


def _this_thread(demux: Demultiplexer) -> ThreadListener:
    """The listener of the thread that calls, made when it first has to wait."""
    listener: ThreadListener | None = getattr(demux.this_thread, "listener", None)
    if listener is None or listener.bell.fileno() < 0:
        old, listener = listener, ThreadListener(demux)
        with demux.lock:
            gone = demux.clear_away()
            if old in demux.threads:
                # The engine can't ring its bell any more.
                demux.threads.remove(old)
                gone.append(old)
            demux.threads.append(listener)
        demux.this_thread.listener = listener
        weakref.finalize(threading.current_thread(), demux.dead.append, listener).atexit = False
        for each in gone:
            each.retire()
    return listener


def _enlist(
    demux: Demultiplexer, names: Sequence[ChannelName], listener: ThreadListener
) -> list[tuple[OwnQueue, ThreadWaiter]]:
    """Be woken, too, when another thread or loop fetches something for us."""
    waiters = []
    with demux.lock:
        for name in names:
            if name.specific:
                own, waiter = _queue(demux, name), ThreadWaiter(listener)
                own.wait(None, waiter)
                waiters.append((own, waiter))
    return waiters


def _dismiss(demux: Demultiplexer, waiters: list[tuple[OwnQueue, ThreadWaiter]]) -> None:
    if waiters:
        with demux.lock:
            for own, waiter in waiters:
                demux.leave(own, None, waiter)


def _unsettle(demux: Demultiplexer, names: Sequence[ChannelName]) -> None:
    with demux.lock:
        for name in names:
            if name.specific:
                _queue(demux, name).certain = False


def _disarm(demux: Demultiplexer, names: Sequence[ChannelName], listener: ThreadListener) -> None:
    for name in names:
        if name.specific:
            with demux.lock:
                own = _queue(demux, name)
                if own.armed_by is listener:
                    own.armed_by, own.certain = None, False
        try:
            demux.engine.disarm(name.queue, listener.bell)
        except (StoreCorrupt, StoreUnavailable):
            return  # Who looks next gets to know.


__all__ = ["ThreadListener", "ThreadWaiter", "receive_now", "receive_waiting"]
