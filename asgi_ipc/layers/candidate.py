"""A process that may relay for its machine, in a thread, if no other process does (R7)."""

from __future__ import annotations

import contextlib
import logging
import threading
import time

from ..delivery.demultiplexer import LOOK_AGAIN, Demultiplexer
from ..engines.base import Bell
from ..exceptions import (
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
)
from ..policy.expiry import LONGEST
from ..relay import agreement, report, way_out
from ..relay.failures import Failures
from ..relay.options import RelayOptions
from ..relay.thread import RelayThread
from ..relay.way_out import (
    DEDICATED,
    MOST_VACANT,
    RELAY,
    VACANT,
    WAITING,
    WAITS,
)
from . import options as layer_options
from .local_machine import LocalMachine
from .options import Options

_log = logging.getLogger("asgi_ipc")

#: Seconds for which receivers must have waited in an event loop before its process may relay. One
#: that waits tells a process that serves from one that only preloads, and this long one that only
#: asks something in passing.
SERVES = 0.25
#: Seconds without a receiver after which that begins anew, and between two relays of one process,
#: the first of which has failed.
_LAPSE, _REST = 2.5, 1.0
#: Seconds between two looks for the role while another process has it. A relay that is killed, as
#: some servers end their workers, wakes no other process.
_LOOK = 0.5
#: Seconds for which receivers may be away until their process is looked at less often, and between
#: two looks meanwhile.
_AWAY, _MOMENT = 0.5, 0.05
#: Nanoseconds that a receiver may wait.
_FOREVER = LONGEST * 1_000_000_000


class Candidate:
    """This process as one that may relay for its machine (R7). A companion of a demultiplexer.

    It also tells the relay, whichever process that is, of the receivers that wait here on shared
    channels (R12).
    """

    def __init__(self, demux: Demultiplexer, options: Options, relay: RelayOptions) -> None:
        self._demux, self.options, self.relay = demux, options, relay
        self.after_fork_in_child()
        self._note()
        self._compare()

    def after_fork_in_child(self) -> None:
        """Begin as a process that does not serve yet."""
        #: The relay, if it runs here or did.
        self.thread: RelayThread | None = None
        #: Since when, and when last, receivers have waited in an event loop here; and when a relay
        #: last began here.
        self._serves_since = self._served = self._began = float("-inf")
        #: Bells, by id, that are armed for the end of another process's relay.
        self._heeds: dict[int, Bell] = {}
        self._stopped = False
        self._failures = Failures()
        self._lock = threading.Lock()
        #: The members of `WAITING` for receivers in this process; and how often the store had been
        #: flushed when they were last put.
        self._receivers: dict[bytes, None] = {}
        self._flushes = -1
        #: The same for what this process uses; and whether it was said that it would leak.
        self._noted = -1
        self._leaks = False

    def _note(self) -> None:
        """Tell what this process uses, again after a flush. What it sends says so itself."""
        engine = self._demux.engine
        flushes = engine.flushes
        if flushes != self._noted:
            with contextlib.suppress(StoreFull):
                agreement.note(engine, self.relay.used)
                self._noted = flushes

    def _compare(self) -> None:
        """Log how this process differs from the relay that runs."""
        engine = self._demux.engine
        running = report.read(engine)
        if running is None or running.state in ("none", "stopped"):
            return
        other = agreement.of_report(running.content)
        mine = agreement.told(self.relay.used)
        for each in agreement.differences(mine, other) if other is not None else ():
            _log.warning(
                "this process has other options than the relay of this machine: %s; 'asgi-ipc"
                " relays' shows the relay",
                each,
            )

    def tick(self, waited: bool, bell: Bell | None = None) -> float | None:
        """Begin to relay if this process serves and no other relays (R7)."""
        self._put_again()
        with contextlib.suppress(StoreUnavailable, StoreCorrupt):
            self._note()
        if not layer_options.may_relay:
            return None
        now = time.monotonic()
        if not waited or self._stopped:
            if bell is not None:
                self._heed_no_more(bell)
            # A receiver that just gets a message waits again in a moment.
            return _MOMENT if now - self._served < _AWAY and not self._stopped else None
        if now - self._served > _LAPSE:
            self._serves_since = now
        self._served = now
        wait = max(self._serves_since + SERVES - now, self._began + _REST - now)
        wait = max(wait, self._failures.pause)
        if wait > 0:
            return wait if wait < LOOK_AGAIN else None
        if self._lock.acquire(False):
            try:
                if not self._stopped and (self.thread is None or not self.thread.is_alive()):
                    self._begin(bell)
                    return _LOOK
            except (StoreUnavailable, StoreCorrupt):
                pass  # The receivers that wait here meet the error themselves.
            finally:
                self._lock.release()
        return None

    def _heed(self, bell: Bell) -> None:
        """Have a bell of this process rung when another relay ends."""
        self._heeds = {key: each for key, each in self._heeds.items() if each.fileno() >= 0}
        while len(self._demux.engine.pop(VACANT, MOST_VACANT, bell)) == MOST_VACANT:
            pass
        self._heeds[id(bell)] = bell

    def _heed_no_more(self, bell: Bell) -> None:
        """Have another process's bell rung instead, if this one was rung and is not needed."""
        if self._heeds.pop(id(bell), None) is not None:
            with contextlib.suppress(StoreUnavailable, StoreCorrupt):
                self._demux.engine.disarm(VACANT, bell)

    def wait(self, member: bytes) -> None:
        """Tell the relay of a receiver. Raises `StoreFull`."""
        self._receivers[member] = None
        self._put(member)

    def wait_no_more(self, member: bytes) -> None:
        """Tell the relay that a receiver is gone."""
        self._receivers.pop(member, None)
        self._demux.engine.remove(WAITING, member)

    def _put(self, member: bytes) -> None:
        engine = self._demux.engine
        engine.put(WAITING, member, engine.clock() + _FOREVER, engine.identity)
        way_out.notice(engine, WAITS, way_out.receiver_channel(member))

    def _put_again(self) -> None:
        """Put the receivers that a flush has taken out of the store."""
        if not self._receivers:
            return
        engine = self._demux.engine
        try:
            flushes = engine.flushes
            if flushes == self._flushes:
                return
            for member in list(self._receivers):
                self._put(member)
                if member not in self._receivers:
                    # It has gone meanwhile, in another thread, which may have removed it before.
                    engine.remove(WAITING, member)
            self._flushes = flushes
        except (StoreUnavailable, StoreCorrupt, StoreFull):
            pass  # The receivers meet the error themselves, or it is done at the next look.

    def _begin(self, bell: Bell | None = None) -> None:
        engine = self._demux.engine
        if bell is not None:
            # First, so that no end is missed between the look and the arming.
            self._heed(bell)
        if engine.is_held(DEDICATED) or engine.is_held(RELAY):
            return
        if agreement.would_leak(self.relay.used, agreement.noted(engine)):
            if not self._leaks:
                _log.warning(
                    "this process does not relay: it has no relay_options['keys'], and another"
                    " process of the site has"
                )
            self._leaks = True
            if bell is not None:
                self._heed_no_more(bell)
            return
        if engine.hold(RELAY):
            self._began = time.monotonic()
            for each in list(self._heeds.values()):
                self._heed_no_more(each)
            machine = LocalMachine(self._demux, self.options)
            thread = RelayThread(machine, self.relay, self._failures)
            try:
                thread.start()
            except BaseException:  # There can't be more threads.
                engine.release(RELAY)
                raise
            self.thread = thread

    def stop(self) -> None:
        """Relay no more."""
        with self._lock:
            self._stopped = True
            thread, self.thread = self.thread, None
            bells, self._heeds = list(self._heeds.values()), {}
        # Before the relay wakes another process.
        with contextlib.suppress(StoreUnavailable, StoreCorrupt):
            for bell in bells:
                self._demux.engine.disarm(VACANT, bell)
        if thread is not None:
            thread.stop()


__all__ = ["SERVES", "Candidate"]
