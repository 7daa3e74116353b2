"""This process as a candidate for relaying: it decides which process relays for a machine (R7)."""

from __future__ import annotations

import contextlib
import logging
import time

from ..delivery.demultiplexer import LOOK_AGAIN, Demultiplexer
from ..engines.base import Bell
from ..engines.deferred import register
from ..engines.guards import items_of, own_lock
from ..exceptions import (
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
)
from ..relay import agreement, report
from ..relay.failures import Failures
from ..relay.options import RelayOptions
from ..relay.thread import RelayThread
from ..relay.way_out import (
    DEDICATED,
    MOST_VACANT,
    RELAY,
    VACANT,
)
from . import options as layer_options
from .local_machine import LocalMachine
from .options import Options

_log = logging.getLogger("asgi_ipc")

#: Seconds for which receivers must have waited in an event loop before its process may relay. One
#: that waits tells a process that serves from one that only preloads, and this long one that only
#: asks something in passing.
SERVES = 0.25
#: Seconds without a receiver after which that begins anew, unless a loop just looked late, as one
#: that is overloaded does; and between two relays of one process, the first of which has failed.
_LAPSE, _REST = 2.5, 1.0
#: Seconds between two looks for the role while another process has it. A relay that is killed, as
#: some servers end their workers, wakes no other process.
_LOOK = 0.5
#: Seconds for which receivers may be away until their process is looked at less often, and between
#: two looks meanwhile.
_AWAY, _MOMENT = 0.5, 0.05


class Candidate:
    """Begins to relay, in a thread, if this process serves and no other process relays (R7).

    A companion of a demultiplexer. Receivers that wait in an event loop show that a process serves.
    """

    def __init__(self, demux: Demultiplexer, options: Options, relay: RelayOptions) -> None:
        self._demux, self.options, self.relay = demux, options, relay
        self.after_fork_in_child()
        register(self)
        self._note_options()
        self._warn_if_relay_differs()

    def after_fork_in_child(self) -> None:
        """Begin as a process that does not serve yet."""
        #: The relay, if it runs here or did.
        self.thread: RelayThread | None = None
        #: Since when, and when last, receivers have waited in an event loop here; and when a relay
        #: last began here.
        self._serves_since = self._served = self._began = float("-inf")
        #: The bell of the loop in which that was, if they were not away at a look since.
        self._bell: Bell | None = None
        #: Bells, by id, that are armed for the end of another process's relay.
        self._armed: dict[int, Bell] = {}
        self._stopped = False
        self._failures = Failures()
        self._lock = own_lock()
        #: How often the store had been flushed when this process last noted its options.
        self._noted = -1
        #: It was logged that this process would publish in the clear.
        self._leaks = False

    def is_inside(self) -> bool:
        """Return whether the calling thread holds the lock; closing a layer is then deferred."""
        return self._lock._is_owned()

    def _note_options(self) -> None:
        """Note the options of this process for the relay in the store, again after a flush."""
        engine = self._demux.engine
        flushes = engine.flushes
        if flushes != self._noted:
            with contextlib.suppress(StoreFull):
                agreement.note(engine, self.relay.used)
                self._noted = flushes

    def _warn_if_relay_differs(self) -> None:
        """Log how the options of this process differ from those of the relay that runs."""
        engine = self._demux.engine
        running = report.read(engine)
        if running is None or running.state in ("none", "stopped"):
            return
        other = agreement.of_report(running.content)
        mine = agreement.as_noted(self.relay.used)
        for each in agreement.differences(mine, other) if other is not None else ():
            _log.warning(
                "this process has other options than the relay of this machine: %s; 'asgi-ipc"
                " relays' shows the relay",
                each,
            )

    def tick(self, waited: bool, bell: Bell | None = None) -> float | None:
        """Begin to relay if this process serves and no other relays (R7).

        Return the seconds until the next look, if that is to be earlier than usual.
        """
        with contextlib.suppress(StoreUnavailable, StoreCorrupt):
            self._note_options()
        if not layer_options.may_relay:
            return None
        now = time.monotonic()
        if not waited or self._stopped:
            if bell is not None:
                self._disarm(bell)
            # A receiver that just gets a message waits again in a moment.
            if now - self._served < _AWAY and not self._stopped:
                return _MOMENT
            self._bell = None
            return None
        if now - self._served > _LAPSE and (bell is None or bell is not self._bell):
            self._serves_since = now
        self._served, self._bell = now, bell
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
            except RuntimeError as error:  # There can't be one more thread.
                self._failures.failed(error, self.relay.shown)
            finally:
                self._lock.release()
        return None

    def _arm(self, bell: Bell) -> None:
        """Arm a loop's bell on `VACANT`, to be signalled when another process's relay ends."""
        for key, each in items_of(self._armed):
            if each.fileno() < 0:
                self._armed.pop(key, None)
        while len(self._demux.engine.pop(VACANT, MOST_VACANT, bell)) == MOST_VACANT:
            pass
        self._armed[id(bell)] = bell

    def _disarm(self, bell: Bell) -> None:
        """Disarm a loop's bell; if it was signalled, the engine signals another candidate's."""
        if self._armed.pop(id(bell), None) is not None:
            with contextlib.suppress(StoreUnavailable, StoreCorrupt):
                self._demux.engine.disarm(VACANT, bell)

    def _begin(self, bell: Bell | None = None) -> None:
        """Begin to relay, unless another process does. The lock is held."""
        engine = self._demux.engine
        if bell is not None:
            # Armed before it asks for the role, so that no end is missed in between.
            self._arm(bell)
        if engine.is_held(DEDICATED) or engine.is_held(RELAY):
            return
        if agreement.would_leak(self.relay.used, agreement.noted_by_others(engine)):
            if not self._leaks:
                _log.warning(
                    "this process does not relay: it has no relay_options['keys'], and another"
                    " process of the site has"
                )
            self._leaks = True
            if bell is not None:
                self._disarm(bell)
            return
        if not engine.hold(RELAY):
            return
        try:
            self._began = time.monotonic()
            for each in list(self._armed.values()):
                self._disarm(each)
            machine = LocalMachine(self._demux, self.options)
            self.thread = RelayThread(machine, self.relay, self._failures)
            self.thread.start()
        except BaseException:  # There can't be more threads, or a signal's handler raises.
            if self.thread is None or not self.thread.is_alive():
                self.thread = None
                engine.release(RELAY)
            raise

    def stop(self) -> None:
        """Relay no more; blocks for a short time while the relay says goodbye."""
        with self._lock:
            self._stopped = True
            thread, self.thread = self.thread, None
            bells, self._armed = list(self._armed.values()), {}
        # Before the relay wakes another process.
        with contextlib.suppress(StoreUnavailable, StoreCorrupt):
            for bell in bells:
                self._demux.engine.disarm(VACANT, bell)
        if thread is not None:
            thread.stop()


__all__ = ["SERVES", "Candidate"]
