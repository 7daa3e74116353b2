"""`IPCChannelLayer`: the channel layer of Django Channels, for any asyncio program.

Checks names and messages in `asgi_ipc.layers.core`, and waits in `asgi_ipc.delivery.loop_listener`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..delivery.demultiplexer import Demultiplexer
from ..delivery.loop_listener import LoopListener
from ..delivery.running_loop import listener_here
from ..delivery.workers import Workers
from ..encoding.codec import SharedBody, decode
from ..encoding.names import ChannelName, channel_name, group_name
from ..engines.deferred import pending, run_deferred
from ..exceptions import RecordCorrupt
from .core import LayerCore
from .surface import LayerSurface
from .sync import SyncIPCChannelLayer

_Result = TypeVar("_Result")
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

    Constructing it opens the store, which may block briefly, and raises `OptionError`,
    `EngineUnavailable`, `StoreUnavailable` or `StoreFull` if that can't be done. Other methods
    block only while another process holds a lock of the store, normally for microseconds. A layer
    may be used by any number of event loops and threads, and in forked children.

    Every method may raise `StoreCorrupt` and `StoreUnavailable`. If code that Python runs in the
    middle of another call (a finalizer, a signal handler) calls a method that returns something,
    the method raises `Reentered`, a `StoreUnavailable`; another method is carried out after the
    interrupted call.
    """

    def _attach(self, core: LayerCore) -> None:
        super()._attach(core)
        self._lease = core.lease
        self._send = core.send
        self._sync: SyncIPCChannelLayer | None = None
        if core.shares_channels:
            self.receive = self._receive_shared  # type: ignore[method-assign]

    # Channels

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Send a message to a channel; never waits for room (S7).

        Raises `TypeError` for a bad name, `TypeError` or `ValueError` for a message that
        can't be carried (O1), `MessageTooLarge`, `ChannelFull` over capacity, and
        `StoreFull`, a `ChannelFull`, if the store has no room.
        """
        demux = self._lease.demux
        if demux is not None and not demux.blocking:
            self._send(channel, message)
        else:
            await self._call(self._send, channel, message)

    async def receive(self, channel: str) -> dict[str, Any]:
        """Receive the next message on a channel, waiting until one arrives (S5, S6, S10).

        A cancelled receive loses no message. Raises `TypeError` for a bad name, and `ValueError`
        for a process-specific channel that this process did not make.
        """
        demux = self._lease.demux or await self._opened()
        try:
            known = demux.channels.get(channel) if isinstance(channel, str) else None
            body = None
            if known is not None:
                if known.items:
                    body = demux.fetched(known)
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
                    body = await listener_here(demux).receive_ordinary(name)
                elif known is not None or name.owner == demux.engine.identity:
                    if known is None:
                        await self._begin_to_receive(demux, name)
                    body = await listener_here(demux).receive_own(name)
                else:
                    raise self._core.not_ours(name)
            if pending:
                run_deferred()
            return body.decode() if isinstance(body, SharedBody) else decode(body)
        except RecordCorrupt as error:
            raise self._core.corrupt(error) from error

    async def _receive_shared(self, channel: str) -> dict[str, Any]:
        """Receive where some channels are shared: their messages lie on the server."""
        with self._core.waiting((channel,)):
            return await IPCChannelLayer.receive(self, channel)

    async def _begin_to_receive(self, demux: Demultiplexer, name: ChannelName) -> None:
        """Put a channel back into its groups if it is suspended from them (O6)."""
        member = demux.memberships.heard(name.full, name.queue)
        if member is not None:
            listener_here(demux).look_regularly()
            if member.suspended:
                await self._call(demux.memberships.restore, member)
                if pending:
                    run_deferred()

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return a new channel name, ``<prefix>.<client_prefix>!<random>`` (S11).

        Only this process can receive on it. Raises `TypeError` for a prefix that makes no
        valid name.
        """
        if not isinstance(prefix, str):
            raise TypeError(f"the prefix of a new channel is {prefix!r}, not a str")
        name = f"{prefix}.{self._core.client_prefix}!{secrets.token_hex(16)}"
        try:
            return channel_name(name).full
        except TypeError as error:
            raise TypeError(f"{prefix!r} can't be the prefix of a new channel: {error}") from None

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group, or renew its membership (S13, S15).

        Raises `TypeError` for bad names, `StoreFull` if there is no room.
        """
        if await self._call(self._core.group_add, group, channel):
            demux = self._lease.demux
            if demux is not None:
                listener_here(demux).look_regularly()

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group; does nothing if it is not in it (S13)."""
        await self._call(self._core.group_discard, group, channel)

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Send a message to each channel of a group; never waits for room (S14).

        For channels over capacity it is dropped, counted and logged. Raises `TypeError`,
        `ValueError` and `MessageTooLarge` as `send` does.
        """
        await self._call(self._core.group_send, group, message)

    async def group_channels(self, group: str) -> list[str]:
        """Return the channels in a group."""
        return await self._call(self._core.group_channels, group)

    # Upkeep

    async def flush(self) -> None:
        """Remove all messages and memberships, for all processes (S17).

        With the option ``relay`` also on all other machines: then it waits for them, for some
        seconds at most, and raises `FlushIncomplete` if some did not confirm it.
        """
        pending_flush = await self._call(self._core.begin_flush)
        while pending_flush is not None and not pending_flush.is_done():  # noqa: ASYNC110
            await asyncio.sleep(_FLUSH_POLL)

    async def global_statistics(self) -> dict[str, float]:
        """Return counts for the whole store, since it was made, by all processes (A5, O3).

        ``messages_count`` (sent), ``received_count``, ``messages_pending``,
        ``messages_max_age`` (seconds; of those not fetched yet), ``messages_high_water``
        (most ever pending); what was dropped: ``channel_full_count`` (refused),
        ``store_full_count`` (those of them for which the memory had no room), ``expired_count``,
        ``orphaned_count`` (their reader died) and ``overflow_count`` (fetched by this process, but
        not read in time to stay within capacity or ``process_memory``); ``channels_count`` (in
        use), ``memberships_count``, ``processes_count``, ``recoveries`` (of the lock from a killed
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
        """Return the counts up to ``overflow_count`` for one channel; the others are the store's.

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
        """Remove the store, for all processes, and close."""
        await self._call_apart(self._core.destroy)

    @property
    def sync(self) -> SyncIPCChannelLayer:
        """This layer for callers without an event loop. Closing either closes both."""
        if self._sync is None:
            self._sync = SyncIPCChannelLayer._of(self._core)
        return self._sync

    # Called by code that was written for other channel layers

    def get_capacity(self, channel: str) -> int:
        """The capacity of the channel of that full name; 2**63 - 1 if its messages are not
        counted."""
        return self._core.capacity_of(channel)

    def require_valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """Return True; raise `TypeError` for a bad name.

        With ``receive``, a name with ``!`` must end there.
        """
        parsed = channel_name(name)
        if receive and parsed.local:
            raise TypeError(f"channel name {name!r} must end at the '!' to be received from")
        return True

    def require_valid_group_name(self, name: str) -> bool:
        """Return True; raise `TypeError` for a bad name."""
        group_name(name)
        return True

    def non_local_name(self, name: str) -> str:
        """Return the part of a channel's name up to and including the ``!``, or all of it."""
        return channel_name(name).queue.decode("ascii")

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
