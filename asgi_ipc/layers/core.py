"""What both layers do alike: sending, groups, statistics, and closing. Synchronous.

A call may block while another process holds a lock of the store, normally for microseconds; on an
engine that declares ``blocking`` it may take as long as the engine's server does.

A call that Python runs in the middle of another call is deferred until that call leaves the store
(`asgi_ipc.engines.deferred`), if it returns nothing; otherwise it raises `Reentered`.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..delivery import leases
from ..delivery.demultiplexer import Demultiplexer
from ..delivery.drop_log import NAMED
from ..delivery.loopback import loop_back
from ..encoding.names import RELAY_ROLE, ChannelName, channel_name, group_name
from ..engines.base import READER_GONE, Members, Record, Refused
from ..engines.choice import EngineChoice
from ..engines.deferred import defer, exclusive, is_waiting, pending, run_deferred, tell_outside
from ..exceptions import (
    ChannelFull,
    ForeignChannel,
    RecordCorrupt,
    Reentered,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
    UnreadableMessage,
)
from ..policy import groups
from . import counts as counts_of
from . import options as layer_options
from .inspection import internal_members, statistics
from .options import Options, changed

if TYPE_CHECKING:
    import asyncio

    from ..delivery.store_lost import Callback

_log = logging.getLogger("asgi_ipc")

#: Groups whose broadcast plan is remembered.
_REMEMBERED = 1024
_Plan = tuple[Members, list[groups.Target]]


def _what_is_full(queue: bytes, capacity: int, refused: Refused) -> str:
    """Return why a message was refused: its channel, its process's queue or the store is full."""
    name = queue.decode("ascii")
    if refused.detail == READER_GONE:
        return READER_GONE
    if refused.over_share:
        return f"queue {name} has its share of the store: {refused.detail}"
    if refused.no_room:
        return f"the store is full: {refused.detail}"
    which = "queue" if name.endswith("!") else "channel"
    together = ", those of all its channels together" if name.endswith("!") else ""
    return (
        f"{which} {name} is at its capacity of {capacity} unread messages{together} (options"
        " capacity and channel_capacity)"
    )


class PendingFlush(Protocol):
    """A flush that other machines have still to confirm."""

    def is_done(self) -> bool:
        """Return whether all have. Raises `FlushIncomplete` if some did not in time."""


class LayerCore:
    """One layer: its options, its broadcast plans, and its lease of the store.

    The constructor opens the store, so that errors come early; after `close` the next call opens it
    again. A core that ``borrows`` an open demultiplexer opens and closes nothing.
    """

    #: Whether some ordinary channels are shared with other machines; then `waiting` tells the relay
    #: of receivers that wait on them.
    shares_channels = False

    def __init__(self, options: Options, borrows: Demultiplexer | None = None) -> None:
        self.options = options
        self._choice = EngineChoice(
            options.engine,
            options.prefix,
            options.channel_memory,
            options.group_memory,
            options.engine_options,
        )
        self.capacity_of = options.capacities.of
        self._encode = options.codec.encode
        self.lease = leases.Lease(self.capacity_of, options.process_memory)
        self._message_lifetime = options.message_lifetime
        #: Broadcast plans by group, with the demultiplexer on which they were made. One assignment
        #: replaces both: another thread may broadcast while this one opens the layer again.
        self._plans: tuple[Demultiplexer | None, dict[bytes, _Plan]] = None, {}
        # Keeps the names of two layers of a process apart. Each layer may read the other's.
        self._number = (next(_numbers) % 65536).to_bytes(2, "big")
        #: Whether the engine may wait on a network, so that it is not called in an event loop.
        demux = borrows or leases.acquire(self.lease, self._choice)
        self.blocking = demux.blocking
        if borrows is not None:
            self.lease.demux = borrows
            return
        for option, asked in self._choice.sizes.items():
            size = demux.sizes_asked.get(option, asked)
            if size != asked:
                tell_outside(_log.warning, _OTHER_SIZE, demux.name, option, size, asked, option)
        if mixed := options.capacities.mixed():
            tell_outside(_log.warning, _MIXED, *mixed)
        if options.relay is None:
            self._warn_if_relayed(demux)
        # The last layer that is collected closes the store as if it had been closed.
        weakref.finalize(self, leases.abandon, self.lease).atexit = False

    @staticmethod
    def _warn_if_relayed(demux: Demultiplexer) -> None:
        """Log once in a process if a relay joins the store to others, and no layer here has one."""
        engine = demux.engine
        if demux.told_of_relay or not layer_options.may_relay or not engine.capabilities.roles:
            return
        with suppress(StoreCorrupt, StoreUnavailable):
            if engine.is_held(RELAY_ROLE):
                demux.told_of_relay = True
                tell_outside(_log.warning, _NO_RELAY, demux.name)

    @property
    def demux(self) -> Demultiplexer:
        """The demultiplexer, opened again if the layer was closed."""
        return self.lease.demux or leases.acquire(self.lease, self._choice)

    @property
    def client_prefix(self) -> str:
        """Return this process's identity and the layer's number, as in process-specific names."""
        return (self.demux.engine.identity + self._number).hex()

    def change(self, name: str, value: Any) -> None:
        """Change an option, for the calls after it. Raises `OptionError`."""
        self.options = changed(self.options, name, value)
        self._message_lifetime = self.options.message_lifetime
        self._plans = None, {}  # They hold capacities.

    def new_channel(self, prefix: str) -> str:
        """Return a new name of a process-specific channel (S11). Raises `TypeError`."""
        if not isinstance(prefix, str):
            raise TypeError(f"the prefix of a new channel is {prefix!r}, not a str")
        name = f"{prefix}.{self.client_prefix}!{secrets.token_hex(16)}"
        try:
            return channel_name(name).full
        except TypeError as error:
            raise TypeError(f"{prefix!r} can't be the prefix of a new channel: {error}") from None

    # Errors

    def not_ours(self, name: ChannelName) -> ForeignChannel:
        """Return the error for a receive on a process-specific channel of another process."""
        if name.owner:
            mine = self.demux.engine.identity
            whose = f"it belongs to process {name.owner.hex()}, and this is {mine.hex()}"
        else:
            whose = "it was not made by new_channel()"
        return ForeignChannel(
            f"can't receive on process-specific channel {name.full}: {whose};"
            " only the process that made such a channel receives on it, until it closes the layer"
        )

    def corrupt(self, error: RecordCorrupt) -> StoreCorrupt:
        """Return the error for a record that is none, with the store's name and the remedy."""
        options = self.options
        directory = options.engine_options.get("directory")
        where = "" if directory is None else f" in {str(directory)!r}"
        return StoreCorrupt(
            f"the store of prefix {options.prefix!r} on engine {options.engine!r}{where} holds what"
            f" no layer has put there ({error}); to start afresh remove it with destroy()"
        )

    def unreadable(self, error: UnreadableMessage, channel: str) -> None:
        """Count and log a message of another serializer; the receiver takes the next."""
        mine, prefix = self.options.codec.name, self.options.prefix

        def describe(count: int) -> str:
            if error.by != mine:
                why = (
                    f"this layer has serializer {mine!r}; give all layers of prefix {prefix!r} the"
                    " same one"
                )
            else:
                why = f"it can't be read here: {error.why}"
            return (
                f"dropped a message on channel {channel} that was written with serializer"
                f" {error.by!r}: {why}; {count} dropped since the last warning"
            )

        demux = self.lease.demux
        if demux is not None:
            demux.tidy(demux.count_unreadable)
            demux.drops.dropped(f"serializer {error.by} {mine}", 1, describe)
        if pending:
            run_deferred()

    # Sending

    def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Send to one channel (S7).

        Raises `TypeError`, `ValueError` and `MessageTooLarge` for what can't be sent,
        `ChannelFull` over capacity, `StoreFull` if the store has no room.
        """
        full, queue, local, _, owner, header = channel_name(channel)
        encode = self._encode
        body = encode(message)
        demux = self.lease.demux or self.demux
        try:
            engine = demux.engine
            capacity = room = self.capacity_of(full)
            deadline = engine.clock() + self._message_lifetime
            if pending and is_waiting():
                record = Record(queue, header + body, deadline, capacity, owner)
                defer(partial(self._push_late, {full: record}))
                return
            own = demux.own.get(queue)
            if own is not None and owner:
                if loop_back(demux, own, (local,), body, deadline):
                    return
                if own.held(engine.clock()):
                    room -= 1
            try:
                refused = engine.push((Record(queue, header + body, deadline, room, owner),))
            except Reentered:
                record = Record(queue, header + body, deadline, capacity, owner)
                defer(partial(self._push_late, {full: record}))
                return
            if own is not None:
                # The bell was signalled, but a receiver with no time to wait may look before its
                # loop handles that. The next look must ask the engine.
                own.known_empty = False
        finally:
            if pending:
                run_deferred()
        if refused:
            self._refuse(full, queue, capacity, refused[0])

    def _push_late(self, records: dict[str, Record]) -> None:
        """Push deferred records, by the channel or group of each; log those that are refused."""
        demux = self.demux
        refused = demux.engine.push(list(records.values()))
        for record in records.values():
            own = demux.own.get(record.queue)
            if own is not None:
                own.known_empty = False
        names = list(records)
        for each in refused:
            name, detail = names[each.position], each.detail

            def describe(count: int, name: str = name, detail: str = detail) -> str:
                return (
                    f"dropped a message for {name} that was sent from a finalizer or a signal"
                    f" handler in the middle of another call: {detail}; {count} dropped since"
                    " the last warning"
                )

            demux.drops.dropped(f"late {name}", 1, describe)

    def _refuse(self, channel: str, queue: bytes, capacity: int, refused: Refused) -> None:
        why = _what_is_full(queue, capacity, refused)
        if refused.no_room:
            raise StoreFull(f"no room for a message to channel {channel}: {why}")
        raise ChannelFull(
            why if why.startswith(f"channel {channel} ") else f"channel {channel} is full: {why}"
        )

    # Groups

    def group_add(self, group: str, channel: str) -> bool:
        """Add a channel, or renew its membership (S13, S15). May raise `StoreFull`.

        Return whether it is a channel of this process that is watched from now on (O6).
        """
        table, name = group_name(group), channel_name(channel)
        demux = self.demux
        engine = demux.engine
        demux.memberships.sweep_if_due()
        deadline = engine.clock() + self.options.membership_lifetime
        if not name.owner or name.owner != engine.identity:
            self._now_or_later(engine.put, table, groups.member(name), deadline, name.owner)
            return False
        add, options = demux.memberships.add, self.options
        expiry, may_suspend = options.message_lifetime, options.suspend_silent_channels
        return bool(self._now_or_later(add, table, name, deadline, expiry, may_suspend))

    def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out, if it is in (S13)."""
        table, name = group_name(group), channel_name(channel)
        demux = self.demux
        engine = demux.engine
        if name.owner and name.owner == engine.identity:
            self._now_or_later(demux.memberships.discard, table, name)
            return
        self._now_or_later(engine.remove, table, groups.member(name))
        if name.owner:
            # Its process may have suspended it.
            self._now_or_later(engine.remove, groups.suspended(table), groups.member(name))

    def _now_or_later(self, action: Callable[..., object], *arguments: Any) -> object:
        try:
            if pending and is_waiting():
                raise Reentered
            return action(*arguments)
        except Reentered:
            defer(partial(action, *arguments))
            return None
        finally:
            if pending:
                run_deferred()

    def group_count(self, group: str) -> int:
        """Return the number of channels in a group. Raises `TypeError`."""
        table = group_name(group)
        demux = self.demux
        planned_on, plans = self._plans
        known, _ = plans.get(table, _NO_PLAN) if planned_on is demux else _NO_PLAN
        try:
            return len(demux.engine.members(table, known).names)
        finally:
            if pending:
                run_deferred()

    def group_channels(self, group: str) -> list[str]:
        """Return the full names of the channels in a group. Raises `TypeError`."""
        return self.group_members(group)[1]

    def group_members(
        self, group: str, known: Members | None = None, names: list[str] | None = None
    ) -> tuple[Members, list[str]]:
        """Return the engine's members of a group, and the names of their channels.

        Takes both as an earlier call returned them, and returns the same objects if they are
        unchanged. Raises `TypeError`, and `StoreCorrupt` for a member that no layer has added.
        """
        try:
            members = self.demux.engine.members(group_name(group), known)
            if names is None or members is not known:
                names = [groups.channel(member).full for member in members.names]
            return members, names
        except RecordCorrupt as error:
            raise self.corrupt(error) from error
        finally:
            if pending:
                run_deferred()

    def group_send(
        self, group: str, message: Mapping[str, Any], exclude: str | Collection[str] = ()
    ) -> Sequence[str]:
        """Send to all channels of a group, but for those excluded (S14).

        Drops, counts and logs the message for channels that have no room, and returns these; never
        raises `ChannelFull`. Otherwise raises as `send`.
        """
        table = group_name(group)
        if exclude != ():
            exclude = _excluded(exclude)
        encode = self._encode
        body = encode(message)
        demux = self.lease.demux or self.demux
        now = demux.engine.clock()
        deadline = now + self._message_lifetime
        try:
            if pending and is_waiting():
                raise Reentered
            if now >= demux.memberships.due:
                demux.memberships.sweep()
            return self._broadcast(demux, group, table, body, deadline, exclude)
        except Reentered:
            defer(lambda: self._broadcast(self.demux, group, table, body, deadline, exclude))
            return ()
        finally:
            if pending:
                run_deferred()

    def _broadcast(
        self,
        demux: Demultiplexer,
        group: str,
        table: bytes,
        body: bytes,
        deadline: int,
        exclude: Collection[str],
    ) -> Sequence[str]:
        """Send to all channels of a group; return those for which the message was dropped.

        Raises `Reentered` only if nothing was sent yet.
        """
        engine = demux.engine
        planned_on, plans = self._plans
        if planned_on is not demux:
            # What one engine gave as `Members` says nothing to another.
            plans = {}
            self._plans = demux, plans
        known, plan = plans.get(table, _NO_PLAN)
        members = engine.members(table, known)
        if members is not known:
            try:
                plan = self._plan(table, members)
            except RecordCorrupt as error:
                raise self.corrupt(error) from error
            if len(plans) >= _REMEMBERED:
                plans.clear()
            plans[table] = members, plan
        if exclude:
            plan = self._without(plan, exclude)
        if not plan:
            return ()
        mine = demux.own
        pushed: list[groups.Target] = []
        records: list[Record] = []
        for target in plan:
            queue, header, room, owner, local_names = target
            own = mine.get(queue) if owner else None
            if own is not None:
                if loop_back(demux, own, local_names, body, deadline):
                    continue
                if own.held(engine.clock()):
                    room -= 1
            pushed.append(target)
            records.append(Record(queue, header + body, deadline, room, owner))
        if not records:
            return ()
        try:
            refused = engine.push(records)
        except Reentered:
            # Channels of this process may have it already, so the caller must not send again.
            named = {f"group {group} ({n})": record for n, record in enumerate(records)}
            defer(partial(self._push_late, named))
            return ()
        for target in pushed if mine else ():
            own = mine.get(target.queue)
            if own is not None:
                own.known_empty = False
        return self._dropped(demux, group, plan, pushed, records, refused) if refused else ()

    def _plan(self, table: bytes, members: Members) -> list[groups.Target]:
        """Plan a broadcast to these members of a group."""
        by_queue = self.options.capacities.by_queue
        return groups.plan(members.names, self.capacity_of, by_queue=by_queue)

    def _without(self, plan: list[groups.Target], exclude: Collection[str]) -> list[groups.Target]:
        """Return the plan of a broadcast without the channels that are excluded."""
        return groups.without(plan, exclude)

    def _dropped(
        self,
        demux: Demultiplexer,
        group: str,
        plan: list[groups.Target],
        pushed: list[groups.Target],
        records: list[Record],
        refused: list[Refused],
    ) -> list[str]:
        """Log the records of a broadcast that were refused; return the channels they were for."""
        total = sum(len(target.channels) for target in plan)
        # By what is full: the store, a process's queue, or else channels of this group.
        dropped: dict[str, list[str]] = {}
        reasons: dict[str, str] = {}
        for each in refused:
            target = pushed[each.position]
            full = f"group {group}"
            if each.no_room and not each.over_share:
                full = "store"
            elif target.owner or each.over_share:
                full = f"queue {target.queue.decode('ascii')}"
            dropped.setdefault(full, []).extend(target.channels)
            if full not in reasons:
                reasons[full] = _what_is_full(target.queue, target.capacity, each)

        for full, channels in dropped.items():
            shown = ", ".join(channels[:NAMED]) + (", ..." if len(channels) > NAMED else "")
            told = (
                f"group {group}: dropped a message for {len(channels)} of {total} channels"
                f" ({shown}): {reasons[full]}"
            )

            def describe(count: int, told: str = told) -> str:
                return f"{told}; {count} dropped since the last warning"

            demux.drops.dropped(full, len(channels), describe)
        return [channel for channels in dropped.values() for channel in channels]

    # Upkeep

    def flush(self) -> None:
        """Remove all messages and memberships, for all processes (S17)."""
        self._now_or_later(self.demux.engine.flush)

    def on_store_lost(
        self, callback: Callback, loop: asyncio.AbstractEventLoop | None
    ) -> Callable[[], None]:
        """Add a callback; return a function that removes it.

        The loop calls it, or if that is None, the thread that notices the loss. Raises `TypeError`
        for what can't be called so.
        """
        if not callable(callback):
            raise TypeError(f"the callback is {callback!r}; pass a function or a bound method")
        if loop is None:
            # Imported late, as few programs call this.
            from inspect import iscoroutinefunction

            if iscoroutinefunction(callback):
                raise TypeError(
                    f"{callback!r} is a coroutine function, and no event loop runs here to call it;"
                    " pass a plain function, or call on_store_lost() of the asynchronous layer in"
                    " the event loop"
                )
        demux = self.lease.demux
        if demux is not None:
            # What was lost before is no event for this callback.
            with exclusive(demux.lock):
                demux.notice_flush()
        remove = self.lease.callbacks.add(callback, loop)
        if pending:
            run_deferred()
        return remove

    def waiting(self, channels: Iterable[object]) -> AbstractContextManager[None]:
        """Return a context in which a receiver waits on channels; `RelayedCore` tells its relay."""
        return nullcontext()

    def begin_flush(self) -> PendingFlush | None:
        """Flush; return what other machines have still to do, or None without the option relay."""
        self.flush()
        return None

    def global_statistics(self) -> dict[str, float]:
        """Return counts for the whole store (A5, O3); see `IPCChannelLayer.global_statistics`."""
        demux = self.demux
        try:
            demux.notes.write()  # So that the sums have this process's counts of now.
            engine = demux.engine
            counts = engine.statistics()
            result = self._statistics(demux, counts, None)
            internal = min(internal_members(engine), counts["members"])
        finally:
            if pending:
                run_deferred()
        result["overflow_count"] += self.lease.lost
        result["unreadable_count"] = demux.unreadable
        result.update({ours: counts.get(theirs, 0) for ours, theirs in counts_of.OF_STORE.items()})
        result["memberships_count"] -= internal
        return result

    def store_statistics(self) -> dict[str, float]:
        """Return the counts of the whole store that all processes see (`.inspection.statistics`).

        Unlike `global_statistics` they are the same in each process, once each has noted its own.
        """
        demux = self.demux
        try:
            demux.notes.write()  # So that the sums have this process's counts of now.
            return statistics(demux.engine)
        finally:
            if pending:
                run_deferred()

    def channel_statistics(self, channel: str) -> dict[str, float]:
        """Return counts for a channel's non-local part (A5, O3). Raises `TypeError`."""
        demux, queue = self.demux, channel_name(channel).queue
        try:
            return self._statistics(demux, demux.engine.statistics(queue), queue)
        finally:
            if pending:
                run_deferred()

    def _statistics(
        self, demux: Demultiplexer, counts: Mapping[str, int], queue: bytes | None
    ) -> dict[str, float]:
        result: dict[str, float] = {
            ours: counts.get(theirs, 0) for ours, theirs in counts_of.OF_BOTH.items()
        }
        result["messages_max_age"] = counts.get("oldest_age", 0) / 1e9
        with exclusive(demux.lock):
            here = demux.counts(queue)
        result["messages_count"] += here["passed directly"]
        result["received_count"] += here["passed directly"]
        # The engine counts as received what this process has fetched, and still holds or dropped.
        # A message that several channels here share was fetched once, so copies don't count.
        fetched_only = here["pending"] + here["expired"] + here["overflowed"] - here["copies"]
        result["received_count"] = max(0, result["received_count"] - fetched_only)
        result["messages_pending"] += here["pending"]
        result["expired_count"] += here["expired"]
        result["overflow_count"] = here["overflowed"]
        return result

    def close(self) -> None:
        """Release the store, which stays. The next call opens it again. May be called twice."""
        self._now_or_later(leases.release, self.lease)

    def destroy(self) -> None:
        """Remove the store, for all processes, and close."""
        self._now_or_later(self._destroy)

    def _destroy(self) -> None:
        leases.acquire(self.lease, self._choice)
        leases.destroy(self.lease)


def _excluded(exclude: str | Collection[str]) -> frozenset[str]:
    """Return the channels that a broadcast excludes. Raises `TypeError` for bad names."""
    if isinstance(exclude, (bytes, bytearray)) or not isinstance(exclude, Iterable):
        raise TypeError(
            f"exclude is {exclude!r}; it must be the name of a channel, a str, or a list or another"
            " collection of such names"
        )
    names = (exclude,) if isinstance(exclude, str) else exclude
    try:
        return frozenset(channel_name(name).full for name in names)
    except TypeError as error:
        raise TypeError(f"exclude is {exclude!r}: {error}") from error


_MIXED = (
    "channel_capacity counts the messages of channel %s but not those of %s, and both lie on one"
    " queue: a message to the first is refused when the queue holds that many messages for"
    " whichever of its channels; choose patterns that match all names of the queue or none"
)
_OTHER_SIZE = (
    "another layer of this process has opened the store of %s with %s=%d, so %d is ignored; give"
    " both layers the same %s, or each its own prefix"
)
_NO_RELAY = (
    "a relay joins the store of %s to those of other machines, and this process has no option"
    " relay: what it sends stays on this machine; give all processes of the site the same relay and"
    " relay_channels"
)
_numbers = itertools.count()
_NO_PLAN: tuple[None, list[groups.Target]] = (None, [])

__all__ = ["LayerCore", "PendingFlush"]
