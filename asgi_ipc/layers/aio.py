"""`IPCChannelLayer`: the channel layer of Django Channels, for any asyncio program.

Checks names and messages in `asgi_ipc.layers.core`, and waits in `asgi_ipc.delivery.loop_listener`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from ..delivery.demultiplexer import Demultiplexer
from ..delivery.loop_listener import LoopListener
from ..delivery.loop_queues import running_loop
from ..delivery.running_loop import listener_here
from ..delivery.workers import Workers
from ..encoding.codec import SharedBody
from ..encoding.names import ChannelName, channel_name
from ..engines.deferred import pending, run_deferred
from ..exceptions import ChannelFull, RecordCorrupt, UnreadableMessage
from .core import LayerCore
from .options import pauses
from .surface import LayerSurface
from .sync import SyncIPCChannelLayer

_Result = TypeVar("_Result")
_Self = TypeVar("_Self", bound="IPCChannelLayer")

#: Seconds between two looks whether other machines have flushed.
_FLUSH_POLL = 0.01


class IPCChannelLayer(LayerSurface):
    """Messages between processes of one machine, and within one.

    Options, all by keyword but the first:

    * ``prefix``: layers with the same prefix share one store.
    * ``engine``, ``engine_options``: where the store lies (`asgi_ipc.engines`).
    * ``channel_memory``, ``group_memory``: nominal sizes in bytes, for messages and for
      memberships.
    * ``process_memory``: bytes of messages that one process may hold fetched and unread; beyond it
      the oldest of the channels that hold most are dropped (`asgi_ipc.delivery.memory_limit`).
    * ``expiry``, ``group_expiry``: seconds until an unread message or a membership ends.
    * ``capacity``, ``channel_capacity``: unread messages a channel may hold, and a dict of
      exceptions by pattern. With None for ``capacity`` an ordinary channel has the default, and the
      messages of a process-specific one are not counted (`asgi_ipc.policy.capacity`).
    * ``suspend_silent_channels``: whether a channel leaves its groups, until the next receive on
      it, after five times ``expiry`` without one while messages expire
      (`asgi_ipc.delivery.suspension`).
    * ``serializer``: what turns messages into bytes: ``"msgpack"``, ``"extended"``, which carries
      more types, or one of your own (`asgi_ipc.encoding.serializers`).
    * ``relay``, ``relay_options``, ``relay_channels``: the server that joins the stores of several
      machines, how, and the ordinary channels that they share (`asgi_ipc.relay`).

    Constructing it opens the store, which may block briefly, and raises `OptionError`,
    `EngineUnavailable`, `StoreUnavailable` or `StoreFull` if that can't be done. Other methods
    block only while another process holds a lock of the store, normally for microseconds; in the
    process that relays, `close` and `destroy` block until its relay has ended, for two seconds at
    most. A layer may be used by any number of event loops and threads, and in forked children.

    Every method may raise `StoreCorrupt` and `StoreUnavailable`. If code that Python runs in the
    middle of another call (a finalizer, a signal handler) calls a method that returns something,
    the method raises `Reentered`, a `StoreUnavailable`; another method is carried out after the
    interrupted call.
    """

    def _attach(self, core: LayerCore) -> None:
        super()._attach(core)
        self._lease = core.lease
        self._send = core.send
        self._decode, self._decode_shared = core.options.codec[2:]
        self._sync: SyncIPCChannelLayer | None = None
        if core.shares_channels:
            self.receive = self._receive_shared  # type: ignore[method-assign]

    # Channels

    async def send(self, channel: str, message: Mapping[str, Any], *, wait: float = 0) -> None:
        """Send a message to a channel; does not wait for room unless asked to (S7).

        Raises `TypeError` for a bad name, `TypeError` or `ValueError` for a message that
        can't be carried (O1), `MessageTooLarge`, `ChannelFull` over capacity, and
        `StoreFull`, a `ChannelFull`, if the store has no room.

        With ``wait``, tries again for so many seconds before it raises `ChannelFull` or
        `StoreFull`. Messages of several waiting senders may then overtake one another.
        """
        if wait:
            await self._send_within(wait, channel, message)
            return
        demux = self._lease.demux
        if demux is not None and not demux.blocking:
            self._send(channel, message)
        else:
            await self._call(self._send, channel, message)

    async def _send_within(self, seconds: float, channel: str, message: Mapping[str, Any]) -> None:
        for pause in pauses(seconds):
            try:
                await self.send(channel, message)
                break
            except ChannelFull:
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def receive(self, channel: str) -> dict[str, Any]:
        """Receive the next message on a channel, waiting until one arrives (S5, S6, S10).

        A cancelled receive loses no message. Raises `TypeError` for a bad name, and
        `ForeignChannel`, a `ValueError` and `AssertionError`, for a process-specific channel that
        this process did not make. A message of another serializer is logged and counted, and the
        next one returned.
        """
        while True:
            demux = self._lease.demux or await self._opened()
            try:
                known = demux.channels.get(channel)
                body = None
                if known is not None:
                    if known.items:
                        body = demux.take_fetched(known)
                    elif isinstance(listener := known.own.armed_by, LoopListener) and (
                        waiter := listener.expect(known)
                    ):
                        try:
                            await waiter.future
                        except BaseException as error:
                            listener.give_up(known, waiter)
                            if not isinstance(error, RuntimeError) or listener.runs_here():
                                raise
                        else:
                            body = listener.take_expected(known, waiter)
                if body is None:
                    name = channel_name(channel)
                    if not name.specific:
                        encoded = await listener_here(demux).receive_ordinary(name)
                        if pending:
                            run_deferred()
                        # Loaded and called in two steps, which is what CPython does fast where an
                        # attribute of the instance is no method.
                        decode = self._decode
                        return decode(encoded)
                    if known is not None or name.owner == demux.engine.identity:
                        if known is None:
                            await self._begin_to_receive(demux, name)
                        body = await listener_here(demux).receive_own(name)
                    else:
                        raise self._core.not_ours(name)
                if pending:
                    run_deferred()
                if isinstance(body, SharedBody):
                    decode_shared = self._decode_shared
                    return decode_shared(body)
                decode = self._decode
                return decode(body)
            except TypeError:
                channel_name(channel)  # Says what is wrong with a name that has no hash.
                raise
            except RecordCorrupt as error:
                raise self._core.corrupt(error) from error
            except UnreadableMessage as error:
                self._core.unreadable(error, channel)

    async def _receive_shared(self, channel: str) -> dict[str, Any]:
        """Receive where some channels are shared: their messages lie on the server."""
        with self._core.waiting((channel,)):
            return await IPCChannelLayer.receive(self, channel)

    async def _begin_to_receive(self, demux: Demultiplexer, name: ChannelName) -> None:
        """Put a channel back into its groups if it is suspended from them (O6)."""
        member = demux.memberships.note_receive(name.full, name.queue)
        if member is not None:
            listener_here(demux).start_periodic_check()
            if member.suspended:
                await self._call(demux.memberships.restore, member)
                if pending:
                    run_deferred()

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return a new channel name, ``<prefix>.<client_prefix>!<random>`` (S11).

        Only this process can receive on it. Raises `TypeError` for a prefix that makes no
        valid name.
        """
        return self._core.new_channel(prefix)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group, or renew its membership (S13, S15).

        Raises `TypeError` for bad names, `StoreFull` if there is no room.
        """
        if await self._call(self._core.group_add, group, channel):
            demux = self._lease.demux
            if demux is not None:
                listener_here(demux).start_periodic_check()

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group; does nothing if it is not in it (S13)."""
        await self._call(self._core.group_discard, group, channel)

    async def group_send(
        self, group: str, message: Mapping[str, Any], *, exclude: str | Collection[str] = ()
    ) -> Sequence[str]:
        """Send a message to each channel of a group; never waits for room (S14).

        ``exclude``: the name of a channel, or several, that the message is not for. For channels
        over capacity the message is dropped, counted and logged; they are returned. Raises
        `TypeError`, `ValueError` and `MessageTooLarge` as `send` does.
        """
        return await self._call(self._core.group_send, group, message, exclude)

    async def group_count(self, group: str) -> int:
        """Return the number of channels in a group. Raises `TypeError` for a bad name."""
        return await self._call(self._core.group_count, group)

    async def group_channels(self, group: str) -> list[str]:
        """Return the full names of the channels in a group. Raises `TypeError` for a bad name."""
        return await self._call(self._core.group_channels, group)

    async def group_changes(
        self, group: str, interval: float = 1.0
    ) -> AsyncGenerator[tuple[set[str], set[str]], None]:
        """Yield which channels have joined a group and which have left it, as they do.

        The first pair has all that are in it. Looks each ``interval`` seconds: a channel that
        leaves and joins in between is not noticed. The channels of a process that was killed leave
        within seconds, and a channel that is suspended (``suspend_silent_channels``) leaves too.
        """
        known_to: Demultiplexer | None = None
        members, names = None, None
        before: set[str] = set()
        while True:
            if self._lease.demux is not known_to:
                # What one engine gave as `Members` says nothing to another.
                known_to, members = self._lease.demux, None
            members, found = await self._call(self._core.group_members, group, members, names)
            if found is not names:
                now = set(found)
                if names is None or now != before:
                    yield now - before, before - now
                names, before = found, now
            await asyncio.sleep(interval)

    # Upkeep

    async def flush(self) -> None:
        """Remove all messages and memberships, for all processes (S17).

        With the option ``relay`` also on all other machines: then it waits for them, for some
        seconds at most, and raises `FlushIncomplete` if some did not confirm it.
        """
        pending_flush = await self._call(self._core.begin_flush)
        while pending_flush is not None and not pending_flush.is_done():  # noqa: ASYNC110
            await asyncio.sleep(_FLUSH_POLL)

    def on_store_lost(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call a function whenever the store has lost what it held; return what stops that.

        The store loses what it holds if a process calls `flush` or `destroy`, or if it is removed
        otherwise and made anew. Memberships are gone then, and this is the moment to add channels
        to their groups again. The callback takes no argument. It is called once for each event
        that this process notices, normally within a second; not if this process itself destroys
        the store, which ends its receivers.

        It may be a coroutine function, and runs in the event loop that runs now; if there is none,
        it is a plain function, and runs in the thread that notices the event. A bound method does
        not keep its object alive, so a consumer that ends needs no clean-up. Errors are logged.
        Never waits. Raises `TypeError` for what can't be called so.
        """
        loop = running_loop()
        remove = self._core.on_store_lost(callback, loop)
        demux = self._lease.demux
        if demux is not None and loop is not None:
            listener_here(demux).start_periodic_check()
        return remove

    async def global_statistics(self) -> dict[str, float]:
        """Return counts for the whole store, since it was made, by all processes (A5, O3).

        ``messages_count`` (sent), ``received_count``, ``messages_pending``,
        ``messages_max_age`` (seconds; of those not fetched yet), ``messages_high_water``
        (most ever pending); what was dropped: ``channel_full_count`` (refused),
        ``store_full_count`` (those of them for which the memory had no room), ``expired_count``,
        ``orphaned_count`` (their reader died) and ``overflow_count`` (fetched by this process, but
        not read in time to stay within capacity or ``process_memory``), ``unreadable_count`` (of
        another serializer, met by this process); ``channels_count`` (in use),
        ``memberships_count``, ``processes_count``, ``recoveries`` (of the lock from a killed
        process).

        In bytes, of each of the two memories: ``channel_bytes_used``, ``channel_bytes_reserved``
        (what the system has given for it), ``channel_bytes_total`` (its limit), and the same of
        ``group_``; ``bytes_used`` and ``bytes_total`` are both together.

        What processes count themselves, summed over all of them, as each noted it about a second
        ago: ``passed_directly_count`` (messages to channels of the same process that bypassed the
        store), ``buffer_overflow_count`` and ``buffer_expired_count`` (dropped after they were
        fetched), ``held_count`` and ``held_bytes`` (fetched and unread). All are 0 on an engine
        that does not keep them.

        A message to a group counts once for each process and prefix that it goes to. What
        other processes have fetched, but not given to a receiver yet, counts as received;
        what they passed to channels of their own without the store counts only there.
        """
        return await self._call(self._core.global_statistics)

    async def channel_statistics(self, channel: str) -> dict[str, float]:
        """Return the counts up to ``unreadable_count`` for one channel; the others are the store's.

        A process-specific channel is counted with all others that are alike up to the ``!``.
        """
        return await self._call(self._core.channel_statistics, channel)

    async def close(self) -> None:
        """Release the store, which stays for others. The next call opens it again.

        Unless another layer of this process is on the same store, waiting receivers raise
        `StoreUnavailable`, and names from `new_channel` become invalid. An engine passed in as an
        instance stays open.
        """
        await self._call_apart(self._core.close)

    async def destroy(self) -> None:
        """Remove the store, for all processes, and close.

        Receivers that wait in this process raise `StoreUnavailable`. Other processes, and the next
        call here, go on with a new, empty store.
        """
        await self._call_apart(self._core.destroy)

    async def close_pools(self) -> None:
        """Do nothing: there are no connections. Called by code written for channels_redis."""

    async def __aenter__(self: _Self) -> _Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    @property
    def sync(self) -> SyncIPCChannelLayer:
        """This layer for callers without an event loop. Closing either closes both."""
        if self._sync is None:
            self._sync = SyncIPCChannelLayer._of(self._core)
        return self._sync

    # Calls of the engine

    async def _opened(self) -> Demultiplexer:
        """Return the demultiplexer, opened again if the layer was closed."""
        if not self._core.blocking:
            return self._core.demux
        return await self._call(lambda: self._core.demux)

    async def _call(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Call a function that uses the engine: here, or in a thread if the engine blocks."""
        core = self._core
        demux = self._lease.demux
        if demux is None and not core.blocking:
            demux = core.demux
        if demux is not None and not demux.blocking:
            return function(*arguments)
        loop = asyncio.get_running_loop()
        if demux is not None:
            return await demux.workers().result(loop, function, *arguments)
        return await self._call_apart(function, *arguments)

    async def _call_apart(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Call a function that opens or closes the store; if the engine blocks, in its own thread.

        Before the store is open there are no other threads, and when it is closed they may all be
        waiting for a server that is gone.
        """
        if not self._core.blocking:
            return function(*arguments)
        apart = Workers()
        try:
            return await apart.result(asyncio.get_running_loop(), function, *arguments)
        finally:
            apart.stop()


__all__ = ["IPCChannelLayer"]
