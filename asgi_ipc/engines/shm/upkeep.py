"""Upkeep of a store: free what dead processes left, drop what expired, follow a removed store.

Every process that waits or asks comes by about once a second. For what is the store's, the first
of them does it for all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from asgi_ipc.exceptions import Reentered, StoreCorrupt, StoreUnavailable

from ..deferred import tell_outside
from .heap.heap import Pause
from .heap.incremental_sweep import IncrementalSweep
from .heap.layout import CHANNELS, GROUPS, NEXT_SWEEP
from .operation import step
from .session import Session

_log = logging.getLogger("asgi_ipc")

#: Nanoseconds between two looks after the store.
_LOOK_EVERY = 1_000_000_000
#: Nanoseconds after which the same failure is logged again.
_TELL_EVERY = 60_000_000_000
#: How many holds of a lock a look goes on sweeping for; and how many if a process has gone: enough
#: for some 700 of its memberships, which no reader sees any more. More would hold up the caller.
_SWEEP_HOLDS, _SWEEP_HOLDS_AFTER_DEATH = 8, 40
#: Nanoseconds until that is gone on with if it was not enough.
_GO_ON_AFTER = 50_000_000
#: How often a look takes the lock to see which processes have died (`Processes.reap`).
_REAPS = 8


class _Swept(Protocol):
    """What is swept in a segment."""

    incremental_sweep: IncrementalSweep

    def sweep(self, now: int) -> None:
        """Go on with the round; may `Pause`."""


class Upkeep:
    """The upkeep that one session does."""

    def __init__(self, session: Session) -> None:
        self.session = session
        #: When this process looks after the store next, in nanoseconds.
        self.due = 0
        #: The failure that was logged last, and when the same is logged again.
        self._told, self._told_until = "", 0
        #: Called with a queue and how many of its messages expired; see `Engine`.
        self.on_expired: Callable[[bytes, int], object] | None = None

    def maintain(self, now: int) -> None:
        """Do the upkeep that is due. If it fails, it is logged, and tried again in a second.

        A failure that lasts is logged once a minute.

        It comes before the caller's own work, or when that found nothing, and its errors are not
        the caller's: a record that is taken off a queue must reach its receiver.
        """
        try:
            self._look(now)
            self._tell_expired()
        except Reentered:
            pass  # In the middle of another call, which may be at it.
        except Exception as error:
            if str(error) == self._told and now < self._told_until:
                return
            self._told, self._told_until = str(error), now + _TELL_EVERY
            tell_outside(
                _log.error,
                "upkeep of the store at %r failed, and is tried again: %s",
                self.session.location.directory,
                error,
                exc_info=None if isinstance(error, (StoreCorrupt, StoreUnavailable)) else error,
            )

    def _look(self, now: int) -> None:
        """See that the store still is the store, free what the dead left, drop what expired."""
        self.due = now + _LOOK_EVERY
        session = self.session
        store = session.joined()
        current = store.is_current() and not (session.options.make and store.leave_if_lost())
        if not current:
            session.reopen(store)
        session.bells.look()
        session.signal_own_list()
        session.see()
        if not current:
            return
        try:
            is_due = now >= session.words[NEXT_SWEEP]
        except ValueError:  # another thread is just letting go of the memory
            return
        if is_due:
            session.remove_bells(self.reap())
            # A process that only looks leaves what expired to those that log it.
            if session.options.make:
                self.sweep(now)

    def _tell_expired(self) -> None:
        """Tell the layers which messages calls of this process dropped as expired."""
        tell = self.on_expired
        if tell is not None and self.session.queues.expirations.noted:
            for queue, count in self._take_expired().items():
                tell(queue, count)

    @step
    def _take_expired(self) -> dict[bytes, int]:
        with self.session.channels:
            return self.session.queues.expirations.take()

    def reap(self) -> list[bytes]:
        """Free the slots of processes that have died, some at a time; their identities."""
        dead: list[bytes] = []
        for _ in range(_REAPS):
            found, last = self._reap_some()
            dead += found
            if last:
                break
        return dead

    @step
    def _reap_some(self) -> tuple[list[bytes], bool]:
        return self.session.reap_some()

    def sweep(self, now: int) -> None:
        """Drop what expired, and what the dead left, for some holds of each lock."""
        if not self._begin_sweep(now):
            return
        done = self._sweep_segment(CHANNELS, now)
        done &= self._sweep_segment(GROUPS, now)
        self._give_back(CHANNELS)
        self._give_back(GROUPS)
        if not done:
            self.due = now + _GO_ON_AFTER
            self._sweep_again(self.due)

    @step
    def _begin_sweep(self, now: int) -> bool:
        """Note when the next sweep is due; False if another process has begun this one."""
        with self.session.channels as heap:
            if now < heap.words[NEXT_SWEEP]:
                return False
            heap.commit({NEXT_SWEEP: now + _LOOK_EVERY})
        return True

    @step
    def _sweep_again(self, when: int) -> None:
        with self.session.channels as heap:
            heap.commit({NEXT_SWEEP: when})

    @step
    def _give_back(self, kind: int) -> None:
        """Give some memory back that is not needed, see `heap.returns`."""
        session = self.session
        locked_segment = session.channels if kind == CHANNELS else session.groups
        give_back = locked_segment.segment.give_back
        if not give_back(0, 0):
            return  # Here it can't be done.
        with locked_segment as heap:
            if kind == GROUPS:
                session.follow_flush()
            # No process reads the groups without their lock.
            seen = kind == GROUPS or session.processes.all_have_seen()
            heap.returns.step(seen, give_back)

    def _sweep_segment(self, kind: int, now: int) -> bool:
        """Sweep a segment for a while; False if there is left what a dead process had."""
        session = self.session
        holds = 0
        while True:
            holds += 1
            is_complete, is_due = self._sweep_hold(kind, now)
            if is_complete and not is_due:
                return True
            if holds >= (_SWEEP_HOLDS_AFTER_DEATH if is_due else _SWEEP_HOLDS):
                return not is_due
            session.pause(session.channels.heap, holds)

    @step
    def _sweep_hold(self, kind: int, now: int) -> tuple[bool, bool]:
        """Sweep for one hold; whether the round is complete, and whether one is due for a death."""
        session = self.session
        swept: _Swept = session.queues.sweeper if kind == CHANNELS else session.tables
        with session.channels if kind == CHANNELS else session.groups:
            if kind == GROUPS:
                session.follow_flush()
            is_due = swept.incremental_sweep.is_due()
            try:
                swept.sweep(now)
            except Pause:
                return False, is_due
            return True, swept.incremental_sweep.is_due()
