"""A layer whose store is joined to those of other machines (`asgi_ipc.relay.relay`).

Loaded only with the option ``relay``. Does what `core` does, and leaves what is for other machines
on the way out of the store (`asgi_ipc.relay.way_out`), from which the machine's relay takes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..delivery.demultiplexer import Demultiplexer
from ..encoding.names import channel_name, group_name
from ..engines.base import NODE_BYTES, Engine, Members, Record, Refused
from ..exceptions import (
    ChannelFull,
    FlushIncomplete,
    OptionError,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
)
from ..policy import groups
from ..relay import agreement, way_out
from ..relay.flushes import PATIENCE
from ..relay.frames import FLUSH_BYTES, Kind, pack_excluded, pack_join, shard_of
from ..relay.options import RelayOptions, check_engine
from ..relay.way_out import (
    ANSWER,
    DROPPED,
    FLUSH_ALL,
    FULL,
    HEARD,
    MOST_RECORDS,
    NEW_GROUP,
    NO_ROOM,
    OUT,
    RELAY,
    Backlog,
)
from .candidate import Candidate
from .core import LayerCore, PendingFlush
from .options import Options
from .shared_receivers import SharedReceivers

_log = logging.getLogger("asgi_ipc")

#: Seconds between two notices of one flush, as a flush may take them out of the store.
_ASK_AGAIN = 1.0
#: Seconds within which a machine has a relay, if any process may be it.
_RELAYED = 2.5
#: Names whose machine is remembered.
_REMEMBERED = 4096
#: Where a channel is: on this machine, on another, or on the server for all.
_HERE, _FAR, _SHARED = 0, 1, 2
#: Bytes of a record on the way out beside the message, on average.
_EXTRA = 64


class RelayedCore(LayerCore):
    """A layer that sends to other machines too."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        assert options.relay is not None
        self._relay: RelayOptions = options.relay
        self._seals = self._relay.sealer is not None
        #: Records for which there was no room, and of which the relay has not heard yet.
        self._untold = 0
        self.shares_channels = self._relay.shares is not None
        #: Where a channel is. Cached: as long as channels have this machine's node in their names,
        #: it has that node.
        self._where = lru_cache(_REMEMBERED)(self._find_where)
        self._known_full: tuple[Demultiplexer, Members] | None = None
        #: With the demultiplexer that they belong to.
        self._backlog: tuple[Demultiplexer, Backlog] | None = None
        self._heard: tuple[Demultiplexer, Members | None] | None = None
        try:
            demux = super().demux
            check_engine(demux.engine, options.engine)
            self._become_candidate(demux)
        except BaseException:
            self.close()
            raise

    @property
    def demux(self) -> Demultiplexer:
        """The demultiplexer, opened again if the layer was closed."""
        demux = super().demux
        if Candidate not in demux.companions:
            self._become_candidate(demux)
        return demux

    def _become_candidate(self, demux: Demultiplexer) -> None:
        """Let this process relay for the demultiplexer's store, if no other does (R7).

        Raises `OptionError` if another layer of this process has other options for the relay.
        """
        candidate = demux.companion(Candidate, lambda: Candidate(demux, self.options, self._relay))
        if candidate.relay.used != self._relay.used:
            what = agreement.differences(
                agreement.as_noted(self._relay.used), agreement.as_noted(candidate.relay.used)
            )
            raise OptionError(
                "this layer and another of this process on the same store have different options"
                f" for the relay: {'; '.join(what)}; give both the same, as a store has one relay"
            )

    def _find_where(self, channel: str) -> int:
        owner = channel_name(channel).owner
        if owner:
            is_here = owner[:NODE_BYTES] == self.demux.engine.identity[:NODE_BYTES]
            return _HERE if is_here else _FAR
        shares = self._relay.shares
        return _SHARED if shares is not None and shares(channel) else _HERE

    def where(self, channel: str) -> int:
        """Return whether a channel is `_HERE`, on a `_FAR` machine, or `_SHARED` by all."""
        try:
            return self._where(channel)
        except TypeError:
            return _HERE  # No channel; the caller's next step says so.

    # Sending

    def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Send to one channel (S7, R2), on whichever machine it is."""
        where = self.where(channel)
        if where == _HERE:
            super().send(channel, message)
            return
        body = self._encode(message)
        if where == _SHARED:
            capacity = self.capacity_of(channel)
            self._now_or_later(self._check_room, channel, capacity, len(body))
            payload = way_out.pack_work(capacity, body)
            self._now_or_later(self._send_out, Kind.WORK, channel, payload)
        else:
            self._now_or_later(self._send_out, Kind.CHANNEL, channel, body)

    def _check_room(self, channel: str, capacity: int, size: int) -> None:
        """Raise `ChannelFull` if a shared channel, or the way to it, is known to be full (R12)."""
        demux = self.demux
        engine = demux.engine
        before = self._known_full
        known = before[1] if before is not None and before[0] is demux else None
        full = engine.members(FULL, known)
        self._known_full = demux, full
        if channel.encode("ascii") in full.names:
            raise ChannelFull(
                f"channel {channel} is full: at the last look it held its capacity of {capacity}"
                " messages on the server (options capacity and channel_capacity), or the server was"
                " out of memory ('asgi-ipc relays' tells)"
            )
        if engine.statistics(OUT)["bytes"] + size > self._relay.backlog:
            raise ChannelFull(
                f"channel {channel} is full: the messages that wait for the server take all of the"
                f" relay's backlog of {self._relay.backlog} bytes (relay_options['backlog'])"
            )

    @contextlib.contextmanager
    def waiting(self, channels: Iterable[object]) -> Iterator[None]:
        """Tell the relay of a receiver that waits on channels, as far as they are shared (R12)."""
        demux = self.demux
        names = [name for name in channels if isinstance(name, str)]
        shared = [name.encode("ascii") for name in names if self.where(name) == _SHARED]
        if not shared:
            yield
            return
        receivers = demux.companion(SharedReceivers, lambda: SharedReceivers(demux))
        identity = demux.engine.identity
        members = [way_out.receiver(name, identity) for name in shared]
        try:
            for member in members:
                receivers.add(member)
            yield
        finally:
            for member in members:
                with contextlib.suppress(StoreUnavailable, StoreCorrupt):
                    self._now_or_later(receivers.remove, member)

    def _send_out(self, kind: Kind, channel: str, payload: bytes) -> None:
        """Push what is for a channel of another machine on the way out. Raises `StoreFull`."""
        demux = self.demux
        deadline = demux.engine.clock() + self.options.message_lifetime
        head = way_out.header(kind, channel.encode("ascii"), self._seals)
        record = Record(OUT, head + payload, deadline, MOST_RECORDS)
        refused = self._push_out(demux, record)
        if refused is not None:
            raise StoreFull(f"no room for a message to another machine: {refused.detail}")
        self._trim_if_due(demux, len(record.payload))

    def _push_out(self, demux: Demultiplexer, record: Record) -> Refused | None:
        """Push a record, dropping the oldest for it if need be; return why that could not be."""
        refused = demux.engine.push((record,))
        if not refused:
            return None
        # The way out may have outgrown its bound between two looks.
        dropped = self._backlog_in(demux).make_room()
        again = demux.engine.push((record,))
        self._count_refused(demux, dropped, refused[0])
        return again[0] if again else None

    def _backlog_in(self, demux: Demultiplexer) -> Backlog:
        if self._backlog is None or self._backlog[0] is not demux:
            self._backlog = demux, Backlog(demux.engine, self._relay.backlog)
        return self._backlog[1]

    def _trim_if_due(self, demux: Demultiplexer, size: int) -> None:
        """Keep the way out within its bound, after a record of ``size`` bytes was pushed (R8)."""
        self._count_dropped(demux, self._backlog_in(demux).pushed(size))

    def _count_dropped(self, demux: Demultiplexer, dropped: int) -> None:
        """Count and log what was dropped from the way out (R8)."""
        if not dropped:
            return
        way_out.notice(demux.engine, DROPPED, way_out.pack_count(dropped))
        bound, url = self._relay.backlog, self._relay.shown

        def describe(count: int) -> str:
            return (
                f"relay {url}: the messages that wait for it take all of its backlog ({bound:,}"
                f" bytes), so the oldest were dropped; {count} dropped since the last warning"
            )

        demux.drops.dropped("way out", dropped, describe)

    def _count_refused(self, demux: Demultiplexer, dropped: int, why: Refused) -> None:
        """Count and log what was dropped as the store refused a record for the way out.

        While the store has no room the relay can't be told; it is told later.
        """
        if not why.no_room or why.over_share:
            self._count_dropped(demux, dropped)
            return
        self._untold += dropped
        if self._untold and way_out.notice(demux.engine, NO_ROOM, way_out.pack_count(self._untold)):
            self._untold = 0
        if not dropped:
            return
        url = self._relay.shown

        def describe(count: int) -> str:
            return (
                f"relay {url}: dropped messages to other machines, as the store has no room for"
                f" them: {why.detail}; {count} dropped since the last warning"
            )

        demux.drops.dropped("way out, no room", dropped, describe)

    # Groups

    def _plan(self, table: bytes, members: Members) -> list[groups.Target]:
        """Plan a broadcast to the members here, and to the relay."""
        header = way_out.header(Kind.GROUP, table, self._seals)
        out = groups.Target(OUT, header, MOST_RECORDS, b"", ())
        return [*super()._plan(table, members), out]

    def _without(self, plan: list[groups.Target], exclude: Collection[str]) -> list[groups.Target]:
        """Exclude channels here, and have the relays of other machines exclude theirs.

        An ordinary channel may be a member on each machine.
        """
        left = super()._without(plan, exclude)
        far = [
            name for name in exclude if self.where(name) != _HERE or not channel_name(name).owner
        ]
        if far:
            left[-1] = left[-1]._replace(header=left[-1].header + pack_excluded(far))
        return left

    def _broadcast(
        self,
        demux: Demultiplexer,
        group: str,
        table: bytes,
        body: bytes,
        deadline: int,
        exclude: Collection[str],
    ) -> Sequence[str]:
        dropped = super()._broadcast(demux, group, table, body, deadline, exclude)
        # Later, where this is the middle of another call: the message must not be sent again.
        self._now_or_later(self._trim_if_due, demux, len(body) + _EXTRA)
        return dropped

    def _dropped(
        self,
        demux: Demultiplexer,
        group: str,
        plan: list[groups.Target],
        pushed: list[groups.Target],
        records: list[Record],
        refused: list[Refused],
    ) -> list[str]:
        here = [each for each in refused if pushed[each.position].queue != OUT]
        if len(here) < len(refused):
            why = self._push_out(demux, records[-1])
            if why is not None:
                self._count_refused(demux, 1, why)
        return super()._dropped(demux, group, plan, pushed, records, here) if here else []

    def group_add(self, group: str, channel: str) -> bool:
        """Add a channel, or renew its membership, on the channel's machine (S13, S15, R2)."""
        where = self.where(channel)
        if where == _SHARED:
            raise ValueError(
                f"channel {channel} can't be in group {group}: relay_channels shares it with all"
                " machines, and memberships stay on one; send to it directly"
            )
        if where == _FAR:
            payload = pack_join(group_name(group), self.options.membership_lifetime)
            self._now_or_later(self._send_out, Kind.JOIN, channel, payload)
            return False
        watched = super().group_add(group, channel)
        self._now_or_later(self._announce, group_name(group))
        return watched

    def _announce(self, table: bytes) -> None:
        """Tell the relay of a group, unless it hears the group's shard already (R6).

        A relay that has not begun will find the group by itself.
        """
        demux = self.demux
        known = self._heard[1] if self._heard is not None and self._heard[0] is demux else None
        heard = demux.engine.members(HEARD, known)
        self._heard = demux, heard
        if not way_out.is_heard(heard.names, shard_of(table)) and demux.engine.is_held(RELAY):
            way_out.notice(demux.engine, NEW_GROUP, table)

    def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out, on its machine (S13, R2)."""
        if self.where(channel) == _FAR:
            self._now_or_later(self._send_out, Kind.LEAVE, channel, group_name(group))
            return
        super().group_discard(group, channel)

    # Flush

    def flush(self) -> None:
        """Flush all machines, and wait for that (S17, R9). Raises `FlushIncomplete`."""
        flush = self.begin_flush()
        while not flush.is_done():
            time.sleep(0.01)

    def begin_flush(self) -> PendingFlush:
        """Flush this machine's store, and have the relay flush those of the others."""
        super().flush()
        return _FarFlush(self.demux.engine, self._relay.shown)


class _FarFlush:
    """A flush of all machines, seen from the process that asks the relay for it."""

    def __init__(self, engine: Engine, url: str) -> None:
        self._engine, self._url = engine, url
        self._number = os.urandom(FLUSH_BYTES)
        #: When the flush began, when this process last asked, and when a relay was last there.
        self._began = self._held = time.monotonic()
        self._asked = self._began - _ASK_AGAIN

    def is_done(self) -> bool:
        engine, now = self._engine, time.monotonic()
        answers = engine.pop(ANSWER + self._number)
        if answers:
            missing = answers[0].payload[1:].decode("utf-8", "replace")
            if not missing:
                return True
            raise self._incomplete(missing)
        if now - self._asked >= _ASK_AGAIN:
            self._asked = now
            if engine.is_held(RELAY):
                self._held = now
                way_out.notice(engine, FLUSH_ALL, self._number)
        if now - self._held > _RELAYED:
            raise self._incomplete(
                "not those of other machines, as no process of this machine relays; start the site"
                " or 'asgi-ipc relay', and flush again"
            )
        if now - self._began > 2 * PATIENCE + _RELAYED:
            raise self._incomplete(
                "not those of other machines, as the relay of this machine does not answer; flush"
                " again"
            )
        return False

    def _incomplete(self, why: str) -> FlushIncomplete:
        return FlushIncomplete(f"relay {self._url}: this machine's store was flushed, but {why}")


__all__ = ["RelayedCore"]
