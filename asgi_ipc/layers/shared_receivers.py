"""The receivers of this process that wait on shared channels, told to the machine's relay (R12)."""

from __future__ import annotations

from ..delivery.demultiplexer import Demultiplexer
from ..engines.base import Bell
from ..exceptions import StoreCorrupt, StoreFull, StoreUnavailable
from ..policy.expiry import LONGEST
from ..relay import way_out
from ..relay.way_out import RELAY, WAITING, WAITS

#: Nanoseconds that a receiver may wait.
_FOREVER = LONGEST * 1_000_000_000


class SharedReceivers:
    """One member of the table `WAITING` for each receiver. A companion of a demultiplexer.

    The relay takes as many messages from the server as there are members, whichever process it is
    in. Any thread may call any method.
    """

    def __init__(self, demux: Demultiplexer) -> None:
        self._demux = demux
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Forget the parent's receivers."""
        self._members: dict[bytes, None] = {}
        #: How often the store had been flushed when all members were last put.
        self._flushes = -1

    def add(self, member: bytes) -> None:
        """Tell the relay of a receiver (`way_out.receiver`). Raises `StoreFull`."""
        self._members[member] = None
        self._put(member)

    def remove(self, member: bytes) -> None:
        """Tell the relay that a receiver does not wait any more."""
        self._members.pop(member, None)
        self._demux.engine.remove(WAITING, member)

    def _put(self, member: bytes) -> None:
        engine = self._demux.engine
        engine.put(WAITING, member, engine.clock() + _FOREVER, engine.identity)
        # A relay that has not begun will find it by itself.
        if engine.is_held(RELAY):
            way_out.notice(engine, WAITS, way_out.receiver_channel(member))

    def tick(self, waited: bool, bell: Bell | None = None) -> None:
        """Put the members again that a flush has taken out of the store."""
        if not self._members:
            return
        engine = self._demux.engine
        try:
            flushes = engine.flushes
            if flushes == self._flushes:
                return
            for member in list(self._members):
                self._put(member)
                if member not in self._members:
                    # Its receiver has left meanwhile, in another thread, which may have removed it
                    # before it was put.
                    engine.remove(WAITING, member)
            self._flushes = flushes
        except (StoreUnavailable, StoreCorrupt, StoreFull):
            pass  # The receivers meet the error themselves, or the next tick puts the rest.

    def stop(self) -> None:
        """Do nothing: members are removed with their receivers, or with this process."""


__all__ = ["SharedReceivers"]
