"""This machine as its relay sees it: what other machines send is delivered to its own members."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection

from ..delivery.demultiplexer import Demultiplexer
from ..delivery.loopback import loop_back
from ..encoding.names import channel_name, group_name
from ..engines.base import Record
from ..engines.deferred import pending, run_deferred
from ..exceptions import (
    StoreFull,
    UnreadableMessage,
)
from ..policy import groups
from ..policy.capacity import UNCOUNTED
from .core import LayerCore
from .options import Options

#: The part of group_memory that may be in use when other machines add memberships; the rest is for
#: this machine's processes. Seconds between two looks at that.
_FROM_AFAR, _LOOK_AT_ROOM = 0.75, 0.02
#: Nanoseconds for which messages from afar may lie here unread, unless its own live longer;
#: and seconds between two looks which processes are there.
_LONGEST, _LOOK_FOR_PROCESSES = 3600 * 1_000_000_000, 1.0


class LocalMachine:
    """This machine, as `asgi_ipc.relay.relay.Machine`: what is delivered stays on it."""

    def __init__(self, demux: Demultiplexer, options: Options) -> None:
        self.engine = demux.engine
        self._demux = demux
        self._core = LayerCore(options, borrows=demux)
        self._lifetime, self._membership = options.message_lifetime, options.membership_lifetime
        #: When to look at group_memory next, and whether other machines may take more of it.
        self._look_at, self._has_room = 0.0, True
        #: When to look for processes next, and the identities of those that were there.
        self._look_for, self._there = 0.0, frozenset[bytes]()

    def check(self, body: bytes) -> None:
        """Raise `RecordCorrupt` for what would disturb receivers.

        They pass over the messages of another serializer; a relay of its own may not know theirs.
        """
        with contextlib.suppress(UnreadableMessage):
            self._core.options.codec.decode(body)

    def deliver_group(
        self, group: str, body: bytes, deadline: int, exclude: Collection[str]
    ) -> None:
        """Deliver to the members on this machine, but for some (R1)."""
        deadline = self._bounded(deadline)
        try:
            self._core._broadcast(self._demux, group, group_name(group), body, deadline, exclude)
        finally:
            if pending:
                run_deferred()

    def deliver(self, channel: str, body: bytes, deadline: int) -> None:
        """Deliver to a process-specific channel; what it has no room for is dropped."""
        demux, name = self._demux, channel_name(channel)
        deadline = self._bounded(deadline, name.owner)
        try:
            own = demux.own.get(name.queue)
            if own is not None and loop_back(demux, own, (name.local,), body, deadline):
                return
            capacity = self._core.capacity_of(channel)
            record = Record(name.queue, name.header + body, deadline, capacity, name.owner)
            refused = self.engine.push((record,))
            if own is not None:
                own.known_empty = False
            if refused:
                detail = refused[0].detail

                def describe(count: int) -> str:
                    return (
                        f"dropped {count} messages from other machines since the last warning, the"
                        f" last one for channel {channel}: {detail}"
                    )

                # As one subject: any names may come from afar, and each would be logged.
                demux.drops.dropped("from afar", 1, describe)
        finally:
            if pending:
                run_deferred()

    def _bounded(self, deadline: int, owner: bytes = b"") -> int:
        """Return the deadline for a message of another machine, which may be forged.

        Forged ones must not fill the store for good. Those for a process that is not here expire as
        this machine's own: the engine may not know that it is gone.
        """
        now = time.monotonic()
        if owner and owner not in self._there and now >= self._look_for:
            self._look_for = now + _LOOK_FOR_PROCESSES
            self._there = frozenset(each.identity for each in self.engine.processes())
        is_here = not owner or owner in self._there
        longest = max(self._lifetime, _LONGEST) if is_here else self._lifetime
        return min(deadline, self.engine.clock() + longest)

    def join(self, group: str, channel: str, lifetime: int) -> None:
        """Add a channel of this machine to a group. Raises `StoreFull`.

        The membership lasts no longer than those of this machine's own processes.
        """
        table, name = group_name(group), channel_name(channel)
        deadline = self.engine.clock() + min(lifetime, self._membership)
        self._look_at_room(group)
        try:
            if name.owner == self.engine.identity:
                expiry, suspends = self._lifetime, self._core.options.suspend_silent_channels
                self._demux.memberships.add(table, name, deadline, expiry, suspends)
            else:
                self.engine.put(table, groups.member(name), deadline, name.owner)
        finally:
            if pending:
                run_deferred()

    def _look_at_room(self, group: str) -> None:
        """Raise `StoreFull` if what is left of group_memory is kept for this machine's own."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_AT_ROOM
            counts = self.engine.statistics()
            used, total = (counts.get(f"group_bytes_{which}", 0) for which in ("used", "total"))
            self._has_room = used <= _FROM_AFAR * total
        if not self._has_room:
            raise StoreFull(
                f"no room for a membership in group {group} that another machine asks for:"
                " group_memory is nearly full; destroy() the store, and open it larger"
            )

    def leave(self, group: str, channel: str) -> None:
        """Take a channel of this machine out of a group."""
        self._core.group_discard(group, channel)

    def deliver_work(self, channel: bytes, body: bytes, deadline: int) -> None:
        """Deliver to an ordinary channel. Raises `StoreFull`."""
        try:
            if self.engine.push((Record(channel, body, deadline, UNCOUNTED),)):
                raise StoreFull(f"no room for a message to channel {channel.decode('ascii')}")
        finally:
            if pending:
                run_deferred()

    def flush(self) -> None:
        """Empty the store."""
        self._core.flush()


__all__ = ["LocalMachine"]
