"""A layer whose store is joined to those of other machines (`asgi_ipc.relay.relay`).

Loaded only with the option ``relay``. `RelayedCore` sends what is for other machines to the relay
as well, by the way out of the store. `Candidate` runs the relay in a thread of this process, if no
other process does. `LocalMachine` is this machine as the relay sees it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..delivery.demultiplexer import LOOK_AGAIN, Demultiplexer
from ..delivery.loopback import loop_back
from ..encoding.names import channel_name, group_name
from ..engines.base import NODE_BYTES, Bell, Engine, Members, Record, Refused
from ..engines.deferred import pending, run_deferred
from ..exceptions import (
    ChannelFull,
    FlushIncomplete,
    OptionError,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
    UnreadableMessage,
)
from ..policy import groups
from ..policy.capacity import UNCOUNTED
from ..policy.expiry import LONGEST
from ..relay import agreement, report, way_out
from ..relay.failures import Failures
from ..relay.flushes import PATIENCE
from ..relay.frames import Kind, pack_excluded, pack_join, shard_of
from ..relay.machine import RelayOptions
from ..relay.options import check_engine
from ..relay.thread import RelayThread
from ..relay.way_out import (
    ANSWER,
    DEDICATED,
    DROPPED,
    FLUSH_ALL,
    FULL,
    HEARD,
    MOST_RECORDS,
    MOST_VACANT,
    NEW_GROUP,
    NO_ROOM,
    OUT,
    RELAY,
    VACANT,
    WAITING,
    WAITS,
    WayOut,
)
from . import options as layer_options
from .core import LayerCore, PendingFlush
from .options import Options

_log = logging.getLogger("asgi_ipc")

#: Seconds for which receivers must have waited in an event loop before its process may relay. One
#: that waits tells a process that serves from one that only preloads, and this long one that only
#: asks something in passing.
SERVES = 0.25
#: Seconds without a receiver after which that begins anew, and between two relays of one process,
#: the first of which has failed.
_LAPSE, _REST = 2.5, 1.0
#: Seconds between two looks for the role while another process has it: one that is killed, as some
#: servers end their workers, wakes nobody.
_LOOK = 0.5
#: Seconds for which receivers may be away until their process is looked at less often, and between
#: two looks meanwhile.
_AWAY, _MOMENT = 0.5, 0.05
#: Seconds between two notices of one flush, as a flush may take them out of the store.
_ASK_AGAIN = 1.0
#: Seconds within which a machine has a relay, if any process may be it.
_RELAYED = 2.5
#: Names whose machine is remembered.
_REMEMBERED = 4096
#: Where a channel is: on this machine, on another, or on the server for all.
_HERE, _FAR, _SHARED = 0, 1, 2
#: Nanoseconds that a receiver may wait.
_FOREVER = LONGEST * 1_000_000_000
#: The part of group_memory that may be in use when other machines add memberships; the rest is for
#: this machine's processes. Seconds between two looks at that.
_FROM_AFAR, _LOOK_AT_ROOM = 0.75, 0.02
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
        #: Where a channel is. Names of this machine stay so, as it has the same bytes as long as it
        #: has the names.
        self._place = lru_cache(_REMEMBERED)(self._find_out)
        self._known_full: tuple[Demultiplexer, Members] | None = None
        #: With the demultiplexer that they belong to.
        self._way_out: tuple[Demultiplexer, WayOut] | None = None
        self._heard: tuple[Demultiplexer, Members | None] | None = None
        try:
            check_engine(self.demux.engine, options.engine)
            self._accompany(self.demux)
        except BaseException:
            self.close()
            raise

    @property
    def demux(self) -> Demultiplexer:
        """The demultiplexer, opened again if the layer was closed."""
        demux = super().demux
        if Candidate not in demux.companions and hasattr(self, "_heard"):
            self._accompany(demux)
        return demux

    def _accompany(self, demux: Demultiplexer) -> None:
        """Let this process relay for the demultiplexer's store. Raises `OptionError`."""
        there = demux.companions.get(Candidate)
        if there is None:
            # In one step: another thread may be about to do the same.
            made = Candidate(demux, self.options, self._relay)
            there = demux.companions.setdefault(Candidate, made)
        if isinstance(there, Candidate) and there.relay.used != self._relay.used:
            what = agreement.differences(
                agreement.told(self._relay.used), agreement.told(there.relay.used)
            )
            raise OptionError(
                "this layer and another of this process on the same store have different options"
                f" for the relay: {'; '.join(what)}; give both the same, as a store has one relay"
            )

    def _find_out(self, channel: str) -> int:
        owner = channel_name(channel).owner
        if owner:
            is_here = owner[:NODE_BYTES] == self.demux.engine.identity[:NODE_BYTES]
            return _HERE if is_here else _FAR
        shares = self._relay.shares
        return _SHARED if shares is not None and shares(channel) else _HERE

    def place(self, channel: str) -> int:
        """Return whether a channel is `_HERE`, on a `_FAR` machine, or `_SHARED` by all."""
        try:
            return self._place(channel)
        except TypeError:
            return _HERE  # No channel; the caller's next step says so.

    # Sending

    def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Send to one channel (S7, R2), on whichever machine it is."""
        place = self.place(channel)
        if place == _HERE:
            super().send(channel, message)
            return
        body = self._encode(message)
        if place == _SHARED:
            capacity = self.capacity_of(channel)
            self._now_or_later(self._check_room, channel, capacity, len(body))
            self._now_or_later(self._leave, Kind.WORK, channel, way_out.pack_work(capacity, body))
        else:
            self._now_or_later(self._leave, Kind.CHANNEL, channel, body)

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
                " messages on the server (options capacity and channel_capacity)"
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
        shared = [name.encode("ascii") for name in names if self.place(name) == _SHARED]
        receivers = demux.companions.get(Candidate)
        identity = demux.engine.identity
        members = [way_out.receiver(name, identity) for name in shared]
        if not members or not isinstance(receivers, Candidate):
            yield
            return
        try:
            for member in members:
                receivers.wait(member)
            yield
        finally:
            for member in members:
                with contextlib.suppress(StoreUnavailable, StoreCorrupt):
                    self._now_or_later(receivers.wait_no_more, member)

    def _leave(self, kind: Kind, channel: str, payload: bytes) -> None:
        """Put something for a channel of another machine on the way out. Raises `StoreFull`."""
        demux = self.demux
        deadline = demux.engine.clock() + self.options.message_lifetime
        head = way_out.header(kind, channel.encode("ascii"), self._seals)
        record = Record(OUT, head + payload, deadline, MOST_RECORDS)
        self._push_out(demux, record)
        self._pushed(demux, len(record.payload))

    def _push_out(self, demux: Demultiplexer, record: Record) -> None:
        refused = self._try_push_out(demux, record)
        if refused is not None:
            raise StoreFull(f"no room for a message to another machine: {refused.detail}")

    def _try_push_out(self, demux: Demultiplexer, record: Record) -> Refused | None:
        """Push a record, dropping the oldest for it if need be; return why that could not be."""
        refused = demux.engine.push((record,))
        if not refused:
            return None
        # Not within its bound, as nobody looked: the oldest go.
        dropped = self._bounds(demux).make_room()
        again = demux.engine.push((record,))
        self._count_refused(demux, dropped, refused[0])
        return again[0] if again else None

    def _bounds(self, demux: Demultiplexer) -> WayOut:
        if self._way_out is None or self._way_out[0] is not demux:
            self._way_out = demux, WayOut(demux.engine, self._relay.backlog)
        return self._way_out[1]

    def _pushed(self, demux: Demultiplexer, size: int) -> None:
        self._count(demux, self._bounds(demux).pushed(size))

    def _count(self, demux: Demultiplexer, dropped: int) -> None:
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
            self._count(demux, dropped)
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
            name for name in exclude if self.place(name) != _HERE or not channel_name(name).owner
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
        self._pushed(demux, len(body) + _EXTRA)
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
            why = self._try_push_out(demux, records[-1])
            if why is not None:
                self._count_refused(demux, 1, why)
        return super()._dropped(demux, group, plan, pushed, records, here) if here else []

    def group_add(self, group: str, channel: str) -> bool:
        """Add a channel, or renew its membership, on the channel's machine (S13, S15, R2)."""
        place = self.place(channel)
        if place == _SHARED:
            raise ValueError(
                f"channel {channel} can't be in group {group}: relay_channels shares it with all"
                " machines, and memberships stay on one; send to it directly"
            )
        if place == _FAR:
            payload = pack_join(group_name(group), self.options.membership_lifetime)
            self._now_or_later(self._leave, Kind.JOIN, channel, payload)
            return False
        watched = super().group_add(group, channel)
        self._now_or_later(self._announce, group_name(group))
        return watched

    def _announce(self, table: bytes) -> None:
        """Tell the relay of a group, unless it hears the group's shard already (R6)."""
        demux = self.demux
        known = self._heard[1] if self._heard is not None and self._heard[0] is demux else None
        heard = demux.engine.members(HEARD, known)
        self._heard = demux, heard
        if not way_out.is_heard(heard.names, shard_of(table)):
            way_out.notice(demux.engine, NEW_GROUP, table)

    def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out, on its machine (S13, R2)."""
        if self.place(channel) == _FAR:
            self._now_or_later(self._leave, Kind.LEAVE, channel, group_name(group))
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
    """A flush of all machines, as the process that asked for it waits for the answer."""

    def __init__(self, engine: Engine, url: str) -> None:
        self._engine, self._url = engine, url
        self._number = os.urandom(16)
        self._began = time.monotonic()
        self._asked = self._held = self._began - _ASK_AGAIN
        self._held += _ASK_AGAIN

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
            way_out.notice(engine, FLUSH_ALL, self._number)
            if engine.is_held(RELAY):
                self._held = now
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


class LocalMachine:
    """This machine, as `asgi_ipc.relay.relay.Machine`: what is delivered stays on it."""

    def __init__(self, demux: Demultiplexer, options: Options) -> None:
        self.engine = demux.engine
        self._demux = demux
        self._core = LayerCore(options, borrows=demux)
        self._lifetime, self._membership = options.message_lifetime, options.membership_lifetime
        #: When to look at group_memory next, and whether other machines may take more of it.
        self._look_at, self._has_room = 0.0, True

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
        try:
            self._core._broadcast(self._demux, group, group_name(group), body, deadline, exclude)
        finally:
            if pending:
                run_deferred()

    def deliver(self, channel: str, body: bytes, deadline: int) -> None:
        """Deliver to a process-specific channel; what it has no room for is dropped."""
        demux, name = self._demux, channel_name(channel)
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
        used = running.content.get("used")
        other = agreement.unpacked(used) if isinstance(used, bytes) else None
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


__all__ = ["SERVES", "Candidate", "LocalMachine", "RelayedCore"]
