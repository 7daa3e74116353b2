"""Suspension: a channel without receives leaves its groups until the next receive (O6).

Channels does not call `disconnect()` when a handler raises, so the channel of a consumer that
failed stays in its groups and makes each broadcast dearer. But silence is not death: Channels runs
one handler of a consumer at a time, and a handler may await a model for minutes. So a channel of
this process is *suspended* only after `PATIENCE` times ``expiry`` without a receive, if a message
to it went unread past its deadline meanwhile; and the next receive on it restores its memberships
before it waits.

`Memberships` remembers the memberships that layers of this process add for this process's
channels, at most `MOST`. Memberships beyond that, and those that another process adds for a channel
of ours, stay in their groups until they are discarded or end.

Suspending moves a membership from the table of its group to one beside it
(`asgi_ipc.policy.groups.suspended`), which no broadcast reads. Every layer discards from both, so a
channel that another process takes out of a group while it is suspended does not come back.

`Memberships.sweep` decides. It is called about once a second: by an event loop's periodic check,
and in a process without one by the next `group_add`, `group_send` or synchronous `receive`.
Receiving costs nothing for it: a visit takes a channel on which no receive waits off
`Demultiplexer.channels`. The next receive, which does not find it there, notes that it is back.

`Memberships.lock` guards all that is here, but for marks that are one assignment each. It is taken
before the demultiplexer's lock and the engine's, so it is never waited for with one of those in
hand. On an engine that blocks no event loop takes it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterable
from functools import partial
from typing import Protocol, cast

from ..encoding.names import ChannelName, channel_name
from ..engines.base import Engine, LeasedEngine
from ..engines.deferred import defer, exclusive, is_inside, tell
from ..engines.guards import OwnLock, own_lock
from ..exceptions import Reentered, StoreCorrupt, StoreFull, StoreUnavailable
from ..policy import groups
from .drop_log import DropLog, counted
from .mailboxes import Mailbox, OwnQueue

_log = logging.getLogger("asgi_ipc")

#: A channel may be silent for so many times ``expiry``.
PATIENCE = 5
#: Memberships that a process remembers: some 30 MB.
MOST = 50_000
#: Nanoseconds between two looks.
INTERVAL = 1_000_000_000
#: Channels visited, and memberships moved, in one look: less than two milliseconds' work each.
VISITS, MOVES = 256, 32
#: Groups of a channel that a log line names.
_SHOWN = 3
#: A time that no clock reaches.
NEVER = 1 << 63


class GroupedChannel:
    """A channel of this process that is in groups."""

    __slots__ = (
        "adding",
        "aside",
        "ends",
        "expiry",
        "groups",
        "missed",
        "name",
        "patience",
        "queue",
        "received",
        "receives",
        "since",
        "stays",
        "suspended",
    )

    def __init__(self, name: ChannelName, now: int, expiry: int) -> None:
        self.name = name.full
        self.queue = name.queue
        #: The shortest expiry of messages, of the layers that have added it to groups; and how long
        #: it may be silent, by the longest. In nanoseconds.
        self.expiry = expiry
        self.patience = PATIENCE * expiry
        #: It is never suspended.
        self.stays = False
        #: When each membership ends: of those in their groups, and of those that are suspended.
        self.groups: dict[bytes, int] = {}
        self.aside: dict[bytes, int] = {}
        #: No membership in `groups` ends before.
        self.ends = NEVER
        #: Calls that add one just now.
        self.adding = 0
        #: It is suspended, or about to be.
        self.suspended = False
        #: It was received on at this time or later.
        self.since = now
        #: The first deadline of a message that went unread since then.
        self.missed = NEVER
        #: A receive has begun since the last visit that found none waiting, or the channel is new.
        #: Set without the lock.
        self.received = True
        #: `OwnQueue.receives` at the last visit.
        self.receives = 0


class Process(Protocol):
    """What suspension uses of its `asgi_ipc.delivery.demultiplexer.Demultiplexer`."""

    engine: Engine
    name: str
    blocking: bool
    lock: OwnLock
    own: dict[bytes, OwnQueue]
    channels: dict[str, Mailbox]
    drops: DropLog

    def queue(self, name: bytes) -> OwnQueue:
        """Return the queue of that name, made if need be."""

    def notice_flush(self) -> None:
        """Empty the buffers if the store was flushed."""

    def fetch(self, own: OwnQueue, listener: None, wanted: None) -> None:
        """Move records from the engine to the buffers; the lock is held."""

    def fetch_blocking(self, own: OwnQueue, listener: None) -> None:
        """As `fetch`, for an engine that blocks; the lock is not held."""

    def fail(self, own: OwnQueue, error: Exception) -> None:
        """Let the receivers that wait for the queue raise an error."""


class Memberships:
    """The memberships of this process's channels; see the module."""

    def __init__(self, demux: Process) -> None:
        self._demux = demux
        self._reset()

    def after_fork_in_child(self) -> None:
        """Forget everything in a forked child, whose channels have other names."""
        self._reset()

    def _reset(self) -> None:
        self.lock = own_lock()
        self._flushes = -1
        self._lapses = self._read_lapses()
        self.forget()

    def forget(self) -> None:
        """Forget everything: the store was flushed, or is closed here."""
        #: Those that may have to be suspended; the next to visit first.
        self.awake: OrderedDict[str, GroupedChannel] = OrderedDict()
        #: Suspended ones by queue; the longest suspended first.
        self.asleep: dict[bytes, OrderedDict[str, GroupedChannel]] = {}
        #: Those whose memberships the engine has removed by mistake (E34).
        self._to_put: deque[GroupedChannel] = deque()
        self._count = 0
        #: When to look next, on the engine's clock.
        self.due = NEVER

    def _find(self, name: str, queue: bytes) -> GroupedChannel | None:
        return self.awake.get(name) or self.asleep.get(queue, _NONE).get(name)

    # Adding and discarding

    def add(
        self, table: bytes, name: ChannelName, deadline: int, expiry: int, may_suspend: bool
    ) -> bool:
        """Add a channel of this process to a group, or renew its membership (S13, S15).

        ``expiry``: that of messages, in nanoseconds. ``may_suspend``: False keeps the channel in
        all its groups from now on. While it is suspended, the new membership is too; with False
        that one is not, and the others stay so. Return whether the channel is watched from now on,
        and was not before. Raises `StoreFull` and `Reentered`.
        """
        engine, key = self._demux.engine, groups.member(name)
        with exclusive(self.lock):
            self._notice_flush(engine)
            if self._count >= MOST and self.asleep:
                self._forget_longest_suspended(engine)
            member = self._find(name.full, name.queue)
            known = member is not None and (table in member.groups or table in member.aside)
            made = False
            if member is not None and member.suspended:
                if known or (may_suspend and self._count < MOST):
                    self._add_aside(member, table, key, deadline)
                    return False
                member = None
            elif not known and self._count >= MOST:
                member = None
            elif member is None:
                member, made = self._watch(name, engine.clock(), expiry), True
            if member is not None:
                # Not suspended as long as that takes. Without the lock, as an engine that blocks
                # may do many at a time.
                member.adding += 1
        if member is None:
            engine.put(table, key, deadline, name.owner)
            return False
        done = False
        try:
            engine.put(table, key, deadline, name.owner)
            done = True
        finally:
            with self.lock:
                member.adding -= 1
                if done and self._find(name.full, name.queue) is member:
                    self._count += table not in member.groups
                    member.groups[table] = deadline
                    member.ends = min(member.ends, deadline)
                    member.expiry = min(member.expiry, expiry)
                    member.patience = max(member.patience, PATIENCE * expiry)
                    member.stays = member.stays or not may_suspend
                self._drop_if_alone(member)
        return made

    def _add_aside(self, member: GroupedChannel, table: bytes, key: bytes, deadline: int) -> None:
        """Add a membership of a suspended channel."""
        engine = self._demux.engine
        engine.put(groups.suspended(table), key, deadline, engine.identity)
        self._count += table not in member.groups and table not in member.aside
        member.aside[table] = deadline
        if table in member.groups:
            engine.remove(table, key)
            del member.groups[table]

    def _watch(self, name: ChannelName, now: int, expiry: int) -> GroupedChannel:
        member = self.awake[name.full] = GroupedChannel(name, now, expiry)
        own = self._demux.own.get(name.queue)
        if own is not None:
            member.receives = own.receives
        self.due = min(self.due, now + INTERVAL)
        return member

    def discard(self, table: bytes, name: ChannelName) -> None:
        """Take a channel of this process out of a group (S13). Raises `Reentered`."""
        engine, key = self._demux.engine, groups.member(name)
        aside = True  # Unless it is known not to be.
        with exclusive(self.lock):
            member = self._find(name.full, name.queue)
            if member is not None:
                known = member.groups.pop(table, None) is not None
                aside = member.aside.pop(table, None) is not None
                self._count -= known or aside
                aside = aside or not known
                self._drop_if_alone(member)
        engine.remove(table, key)
        if aside:
            engine.remove(groups.suspended(table), key)

    def _drop_if_alone(self, member: GroupedChannel) -> None:
        """Forget a channel that is in no group."""
        if not (member.groups or member.aside or member.adding):
            if self.awake.get(member.name) is member:
                del self.awake[member.name]
            self._not_asleep(member)

    def _not_asleep(self, member: GroupedChannel) -> None:
        member.suspended = False
        asleep = self.asleep.get(member.queue, _NONE)
        if asleep.get(member.name) is member:
            del asleep[member.name]
            if not asleep:
                del self.asleep[member.queue]

    def _forget_longest_suspended(self, engine: Engine) -> None:
        """Make room: the consumer that has been silent longest is the least likely to come back."""
        member = next(iter(next(iter(self.asleep.values())).values()))
        key = groups.member(channel_name(member.name))
        for table in list(member.aside):
            engine.remove(groups.suspended(table), key)
            del member.aside[table]
            self._count -= 1
        self._count -= len(member.groups)
        member.groups.clear()
        self._drop_if_alone(member)
        self._tell(
            "forgot",
            member,
            f"{{channels}} forgotten while suspended (such as {member.name}), as this process"
            f" remembers {MOST} memberships: a receive there does not restore them any more",
        )

    def _notice_flush(self, engine: Engine) -> None:
        """Forget everything if the store was flushed (S17)."""
        flushes = engine.flushes
        if flushes != self._flushes:
            self._flushes = flushes
            self.forget()

    def _read_lapses(self) -> int:
        engine = self._demux.engine
        return cast(LeasedEngine, engine).lapses if engine.capabilities.lease else 0

    def _put_again(self, engine: Engine, most: int, now: int) -> int:
        """Put memberships again after a lapse (E34); return how many of ``most`` are left to do."""
        lapses = self._read_lapses()
        if lapses != self._lapses:
            self._lapses = lapses
            # A suspended channel's are put when it is received on.
            self._to_put.extend(self.awake.values())
            text = "store %s: this process was silent for long and counted as dead; its %d channels"
            tell(_log.warning, text + " join their groups again", self._demux.name, len(self.awake))
        for _ in range(len(self._to_put)):
            if most <= 0:
                break
            member = self._to_put.popleft()
            if member.adding:
                self._to_put.append(member)  # Or an older deadline might replace a newer one.
                continue
            key = groups.member(channel_name(member.name))
            try:
                for table, end in list(member.groups.items()):
                    if now < end:
                        engine.put(table, key, end, engine.identity)
                        most -= 1
            except BaseException:
                self._to_put.append(member)
                raise
        return most

    # Receives

    def note_missed(self, channel: str, deadline: int) -> None:
        """Note that a message to a channel is dropped unread. Needs no lock."""
        member = self.awake.get(channel)
        if member is not None and deadline < member.missed:
            member.missed = deadline

    def note_receive(self, name: str, queue: bytes) -> GroupedChannel | None:
        """Note that a receive has begun on a channel; return what is known of it. Needs no lock.

        Before the caller asks whether it is suspended, as `_suspend` asks the other way round: at
        least one of the two sees the other.
        """
        member = self._find(name, queue)
        if member is not None:
            member.received = True
        return member

    def restore(self, member: GroupedChannel) -> None:
        """Put a suspended channel back into its groups. May raise `Reentered`."""
        with exclusive(self.lock):
            self._notice_flush(self._demux.engine)
            if member.suspended and self._find(member.name, member.queue) is member:
                self._restore(member)

    def restore_queue(self, queue: bytes) -> None:
        """Restore all suspended channels of a queue, on which a receive has begun."""
        with exclusive(self.lock):
            self._notice_flush(self._demux.engine)
            for member in list(self.asleep.get(queue, _NONE).values()):
                self._restore(member)

    def _restore(self, member: GroupedChannel) -> None:
        now = self._demux.engine.clock()
        seen: dict[bytes, tuple[bytes, ...]] = {}
        restored = 0
        for table, ends in list(member.aside.items()):
            if ends <= now:
                del member.aside[table]
                self._count -= 1
                self._tell_ended(member, table, seen)
                continue
            begun = table in member.groups
            member.groups[table], member.ends = ends, min(member.ends, ends)
            if self._move(member, groups.suspended(table), table, ends, begun):
                restored += 1
            else:
                del member.groups[table]
                self._count -= 1
            del member.aside[table]
        self._not_asleep(member)
        member.since, member.missed = now, NEVER
        if member.groups:
            self.awake[member.name] = member
            self.due = min(self.due, now + INTERVAL)
        else:
            self.awake.pop(member.name, None)
        if restored:
            self._tell(
                "restored",
                member,
                f"after a suspension {{channels}} back in the groups they left (such as"
                f" {member.name}, in {_named(member.groups)}), as a consumer receives again; what"
                " was sent to the groups meanwhile did not arrive",
            )

    def _move(
        self, member: GroupedChannel, source: bytes, target: bytes, ends: int, begun: bool
    ) -> bool:
        """Move a membership; False: it was discarded meanwhile, or there is no room for it.

        It is in both `groups` and `aside` meanwhile. ``begun``: it was before, as a signal's
        handler raised in the middle, so it may have been moved already.
        """
        engine, name = self._demux.engine, channel_name(member.name)
        key = groups.member(name)
        try:
            # It is in one of the two at any time, so a process that discards it finds it.
            engine.put(target, key, ends, name.owner)
            if engine.remove(source, key) or begun:
                return True
            engine.remove(target, key)
        except StoreFull as full:
            # There is no room for two. It leaves as much as it takes.
            if engine.remove(source, key):
                try:
                    engine.put(target, key, ends, name.owner)
                    return True
                except StoreFull:
                    text = "a membership of channel %s ended: %s"
                    defer(partial(tell, _log.error, text, member.name, full))
        return False

    # The sweep

    def sweep_if_due(self) -> None:
        """Sweep, if it is time for that. For callers without an event loop that does."""
        if self.due != NEVER and self._demux.engine.clock() >= self.due:
            self.sweep()

    def sweep(self) -> bool:
        """Visit some channels, and suspend those whose time has come.

        Return whether there is more to do at once. Does not block: if another thread sweeps, this
        one returns. Drops `StoreCorrupt` and `StoreUnavailable`: the next caller meets them.
        """
        if is_inside():
            return False
        more, silent, lock = False, dict[bytes, int](), self.lock
        try:
            if lock.acquire(False):
                more = self._sweep(silent)
        except (StoreCorrupt, StoreUnavailable):
            pass
        finally:
            # Not asked whether it was taken: a signal's handler may raise after the answer.
            try:
                lock.release()
            except RuntimeError:
                pass
        for queue, expiry in silent.items():
            self._fetch(queue, expiry)
        return more

    def _sweep(self, silent: dict[bytes, int]) -> bool:
        """Sweep with the lock held. Adds the queues of silent channels, and their shortest expiry,
        to ``silent``."""
        now, moves = self._demux.engine.clock(), MOVES
        if now < self.due:
            return False
        self._notice_flush(self._demux.engine)
        if self._demux.engine.capabilities.lease:
            moves = self._put_again(self._demux.engine, moves, now)
        self.due = now + INTERVAL
        seen: dict[bytes, tuple[bytes, ...]] = {}
        channels = self._demux.channels
        for _ in range(min(VISITS, len(self.awake))):
            member = next(iter(self.awake.values()))
            channel = channels.get(member.name)
            if (channel is not None and channel.waiters) or self._came(member):
                member.since, member.missed = now, NEVER
                if member.suspended:
                    moves -= len(member.aside)
                    self._restore(member)
                if member.ends <= now:
                    moves -= self._end(member, now, seen)
            elif member.suspended:
                moves -= self._suspend(member, moves, now)
            else:
                silence, expiry = now - member.since, member.expiry
                if 2 * silence >= expiry and not member.stays:
                    silent[member.queue] = min(expiry, silent.get(member.queue, NEVER))
                if silence >= member.patience and not member.adding:
                    if member.missed <= now and not member.stays:
                        moves -= self._suspend(member, moves, now)
                    elif member.ends <= now:
                        moves -= self._end(member, now, None)
            if moves <= 0:
                break
            if member.name in self.awake:
                self.awake.move_to_end(member.name)
        if moves <= 0:
            self.due = now
        if not self.awake:
            self.due = NEVER
        return moves <= 0

    def _came(self, member: GroupedChannel) -> bool:
        """Return whether a receive on a channel has begun since the last visit."""
        demux = self._demux
        with demux.lock:
            channel = demux.channels.get(member.name)
            if channel is None and not self._was_received(member):
                return False
            if channel is not None and not channel.waiters:
                # The next receive puts it on again.
                channel.known = False
                del demux.channels[member.name]
            own = demux.own.get(member.queue)
            # A mark that is set just now counts too: the receive that sets it is not suspended.
            member.received, member.receives = False, own.receives if own is not None else 0
            return True

    def _was_received(self, member: GroupedChannel) -> bool:
        own = self._demux.own.get(member.queue)
        return member.received or (own is not None and own.receives != member.receives)

    def _fetch(self, queue: bytes, expiry: int) -> None:
        """Drop what has expired in the buffers, and fetch what no receiver waits for.

        If that expired in the engine, this process would not learn for which channels it was.
        """
        demux = self._demux
        engine = demux.engine
        try:
            with exclusive(demux.lock):
                own = demux.queue(queue)
                own.sweep(VISITS)
                waited = bool(own.waiting)
            if waited or not engine.peek(queue):
                return
            # Until then it stays where capacity counts it.
            if engine.statistics(queue)["oldest_age"] < min(expiry * 3 // 4, expiry - 2 * INTERVAL):
                return
            if demux.blocking:
                demux.fetch_blocking(own, None)
                return
            with exclusive(demux.lock):
                demux.notice_flush()
                demux.fetch(own, None, None)
        except Reentered:
            pass  # Another look follows.
        except (StoreCorrupt, StoreUnavailable) as error:
            with demux.lock:
                demux.fail(own, error)

    def _suspend(self, member: GroupedChannel, most: int, now: int) -> int:
        """Take a channel out of so many of its groups; return out of how many."""
        member.suspended = True
        self.asleep.setdefault(member.queue, OrderedDict())[member.name] = member
        if self._was_received(member):
            if not member.aside:
                self._not_asleep(member)
            return 0
        tables = list(member.groups)[:most]
        for table in tables:
            ends, begun = member.groups[table], table in member.aside
            if ends > now:
                member.aside[table] = ends
                if not self._move(member, table, groups.suspended(table), ends, begun):
                    del member.aside[table]
            del member.groups[table]
            self._count -= table not in member.aside
        if not member.groups:
            self.awake.pop(member.name, None)
            if member.aside:
                self._tell_suspended(member, now)
            else:
                self._not_asleep(member)
        return len(tables)

    def _end(
        self, member: GroupedChannel, now: int, seen: dict[bytes, tuple[bytes, ...]] | None
    ) -> int:
        """Forget the memberships of a channel that have ended, and log them, unless ``seen`` is
        None; return how many."""
        ended = [table for table, ends in member.groups.items() if ends <= now]
        for table in ended:
            del member.groups[table]
            self._count -= 1
            if seen is not None:
                self._tell_ended(member, table, seen)
        member.ends = min(member.groups.values(), default=NEVER)
        self._drop_if_alone(member)
        return len(ended)

    # Log lines

    def _tell_ended(
        self, member: GroupedChannel, table: bytes, seen: dict[bytes, tuple[bytes, ...]]
    ) -> None:
        if table not in seen:
            seen[table] = self._demux.engine.members(table).names
        if groups.member(channel_name(member.name)) in seen[table]:
            return  # Another process has added it again.
        group = table.decode("ascii")
        self._tell(
            f"ended {group}",
            member,
            f"group {group}: {{memberships}} ended, group_expiry after the last group_add,"
            f" although the channel is still received on (such as {member.name}); raise"
            " group_expiry, or add a channel again before that",
        )

    def _tell_suspended(self, member: GroupedChannel, now: int) -> None:
        self._tell(
            "suspended",
            member,
            f"{{channels}} suspended from the groups (such as {member.name},"
            f" from {_named(member.aside)}): no receive for {(now - member.since) / 1e9:.0f}"
            " seconds while messages went unread (a consumer stays in its groups if its handler"
            " raised, or its client left while it was sent to); the next receive on such a channel"
            " restores its memberships; option suspend_silent_channels=False keeps them all",
        )

    def _tell(self, what: str, member: GroupedChannel, text: str) -> None:
        self._demux.drops.dropped(
            f"{what} {member.queue.decode('ascii')}",
            1,
            lambda count: text.format(
                channels=_were(count, "channel"), memberships=counted(count, "membership")
            ),
        )


def _were(count: int, noun: str) -> str:
    return f"{counted(count, noun)} {'was' if count == 1 else 'were'}"


def _named(tables: Iterable[bytes]) -> str:
    """Name some groups, for a log line."""
    names = [table.decode("ascii", "replace") for table in tables]
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"group{'s' if len(names) > 1 else ''} {shown}"


_NONE: OrderedDict[str, GroupedChannel] = OrderedDict()

__all__ = ["MOST", "NEVER", "PATIENCE", "GroupedChannel", "Memberships"]
