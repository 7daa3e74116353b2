"""`SyncIPCChannelLayer`: the channel layer for code without an event loop (A1-A5).

The surface of ASGI channel layers 1.x, on the same stores as `asgi_ipc.IPCChannelLayer`.
"""

from __future__ import annotations

import itertools
import secrets
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, overload

from ..delivery.outages import ride_out_in_thread
from ..delivery.thread_listener import receive_now, receive_waiting
from ..encoding.codec import SharedBody
from ..encoding.names import ChannelName, channel_name
from ..engines.deferred import pending, run_deferred
from ..exceptions import ChannelFull, ForeignChannel, RecordCorrupt, UnreadableMessage
from .core import LayerCore
from .options import pauses, seconds_or_none
from .surface import LayerSurface

_Self = TypeVar("_Self", bound="SyncIPCChannelLayer")


class SyncIPCChannelLayer(LayerSurface):
    """Messages between processes of one machine, for plain synchronous Python.

    Takes the options of `asgi_ipc.layers.aio.IPCChannelLayer`. For any number of threads, and
    forked children. Only `receive` with ``block=True`` waits for a message; any call blocks while
    another process holds a lock of the store, normally for microseconds. For calls in the middle of
    calls see `asgi_ipc.layers.aio.IPCChannelLayer`.
    """

    @classmethod
    def _of(cls, core: LayerCore) -> SyncIPCChannelLayer:
        """Return a layer that uses the core of an existing one."""
        layer = cls.__new__(cls)
        layer._attach(core)
        return layer

    def _attach(self, core: LayerCore) -> None:
        super()._attach(core)
        self._decode, self._decode_shared = core.options.codec[2:]
        self._turns = itertools.count()
        if core.shares_channels:
            self.receive = self._receive_shared  # type: ignore[assignment, method-assign]

    # Channels

    def send(self, channel: str, message: Mapping[str, Any], *, wait: float = 0) -> None:
        """Send a message to a channel; does not wait for room unless asked to (S7).

        Raises `TypeError` for a bad name, `TypeError` or `ValueError` for a message that
        can't be carried (O1), `MessageTooLarge`, `ChannelFull` over capacity, and
        `StoreFull`, a `ChannelFull`, if the store has no room.

        With ``wait``, tries again for so many seconds before it raises `ChannelFull` or
        `StoreFull`. Messages of several waiting senders may then overtake one another.
        """
        if not wait:
            self._core.send(channel, message)
            return
        for pause in pauses(wait):
            try:
                self._core.send(channel, message)
                break
            except ChannelFull:
                if pause is None:
                    raise
            time.sleep(pause)

    @overload
    def receive(
        self, channels: Iterable[str], block: Literal[True], timeout: None = None
    ) -> tuple[str, dict[str, Any]]: ...
    @overload
    def receive(
        self, channels: Iterable[str], block: bool = False, timeout: float | None = None
    ) -> tuple[str, dict[str, Any]] | tuple[None, None]: ...
    def receive(
        self, channels: Iterable[str], block: bool = False, timeout: float | None = None
    ) -> tuple[str, dict[str, Any]] | tuple[None, None]:
        """Receive the next message on any of the channels (A1, A2).

        Return the name of its channel and the message. Without a message, return ``(None, None)``
        at once; with ``block``, wait for one for ``timeout`` seconds, or without end if that is
        None: type checkers then expect a message. For an empty list of channels return
        ``(None, None)`` at once in any case.
        Each call begins with the next channel of the list, so that a busy channel does not starve
        the others (S12). A name that ends in ``!`` stands for all channels that begin
        with it; a name from `new_channel` of either layer stands for that channel alone.

        Raises `TypeError` for bad names, `ForeignChannel`, a `ValueError`, for a process-specific
        channel that this process did not make, `ValueError` for a timeout that is no number of
        seconds, and `StoreUnavailable` if the layer is closed meanwhile. A message of another
        serializer is logged and counted, and the next one returned.
        """
        end = None
        if timeout is not None:
            timeout = seconds_or_none("timeout", timeout) or 0.0
            end = time.monotonic() + timeout
        demux = self._core.demux
        demux.memberships.sweep_if_due()
        names = [self._readable(name) for name in _as_list(channels)]
        if len(names) > 1:
            first = next(self._turns) % len(names)
            names = names[first:] + names[:first]
        while True:
            try:
                if block and names:
                    if demux.outage:
                        attempt = partial(receive_waiting, demux, names)
                        found = ride_out_in_thread(demux, attempt, timeout)
                    else:
                        found = receive_waiting(demux, names, timeout)
                else:
                    found = receive_now(demux, names)
                if pending:
                    run_deferred()
                if found is None:
                    return None, None
                channel, body = found
                if isinstance(body, SharedBody):
                    return channel, self._decode_shared(body)
                return channel, self._decode(body)
            except RecordCorrupt as error:
                raise self._core.corrupt(error) from error
            except UnreadableMessage as error:
                self._core.unreadable(error, channel)
                if end is not None:
                    timeout = max(0.0, end - time.monotonic())

    def _receive_shared(
        self, channels: Iterable[str], block: bool = False, timeout: float | None = None
    ) -> tuple[str, dict[str, Any]] | tuple[None, None]:
        """Receive where some channels are shared: their messages lie on the server."""
        names = _as_list(channels)
        with self._core.waiting(names if block else ()):
            return SyncIPCChannelLayer.receive(self, names, block, timeout)

    @overload
    def receive_many(
        self, channels: Iterable[str], block: Literal[True], timeout: None = None
    ) -> tuple[str, dict[str, Any]]: ...
    @overload
    def receive_many(
        self, channels: Iterable[str], block: bool = False, timeout: float | None = None
    ) -> tuple[str, dict[str, Any]] | tuple[None, None]: ...
    def receive_many(
        self, channels: Iterable[str], block: bool = False, timeout: float | None = None
    ) -> tuple[str, dict[str, Any]] | tuple[None, None]:
        """Receive as `receive` does. Deprecated: use `receive`."""
        warnings.warn("receive_many is now called receive", DeprecationWarning, stacklevel=2)
        return self.receive(channels, block, timeout)

    def new_channel(self, pattern: str | None = None, *, prefix: str = "specific") -> str:
        """Return a new channel name that begins with the pattern, which ends in ``?`` (A3).

        Without a pattern, return the name of a process-specific channel,
        ``<prefix>.<client_prefix>!<random>``, as `IPCChannelLayer.new_channel` does. Raises
        `TypeError` for any other pattern, and for a prefix that makes no valid name.
        """
        if pattern is None:
            return self._core.new_channel(prefix)
        if not isinstance(pattern, str) or not pattern.endswith("?"):
            raise TypeError(
                f"{pattern!r} can't be the pattern of a new channel: it must be a str that ends"
                " in '?', such as 'http.response?'; for a process-specific channel give no pattern"
            )
        try:
            return channel_name(pattern + secrets.token_hex(16)).full
        except TypeError as error:
            raise TypeError(f"{pattern!r} can't be the pattern of a new channel: {error}") from None

    # Groups

    def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group, or renew its membership (S13, S15).

        Raises `TypeError` for bad names, `StoreFull` if there is no room.
        """
        self._core.group_add(group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group; does nothing if it is not in it (S13)."""
        self._core.group_discard(group, channel)

    def group_send(
        self, group: str, message: Mapping[str, Any], *, exclude: str | Collection[str] = ()
    ) -> Sequence[str]:
        """Send a message to each channel of a group; never waits for room (S14).

        ``exclude``: the name of a channel, or several, that the message is not for. For channels
        over capacity the message is dropped, counted and logged; they are returned. Raises
        `TypeError`, `ValueError` and `MessageTooLarge` as `send` does.
        """
        return self._core.group_send(group, message, exclude)

    #: Its name in ASGI 1.x (A4).
    send_group = group_send

    def group_count(self, group: str) -> int:
        """Return the number of channels in a group. Raises `TypeError` for a bad name."""
        return self._core.group_count(group)

    def group_channels(self, group: str) -> list[str]:
        """Return the full names of the channels in a group. Raises `TypeError` for a bad name."""
        return self._core.group_channels(group)

    # Upkeep

    def flush(self) -> None:
        """Remove all messages and memberships, for all processes (S17).

        With the option ``relay`` as `asgi_ipc.layers.aio.IPCChannelLayer.flush`.
        """
        self._core.flush()

    def on_store_lost(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call a function whenever the store has lost what it held; return what stops that.

        The store loses what it holds if a process calls `flush` or `destroy`, or if it is removed
        otherwise and made anew. Memberships are gone then, and this is the moment to add channels
        to their groups again. The callback takes no argument. It is called once for each event
        that this process notices, normally within a second; not if this process itself destroys
        the store, which ends its receivers.

        It runs in the thread that notices the event: normally one that is in `receive`, after it
        has released its locks. A bound method does not keep its object alive. Errors are logged.
        Raises `TypeError` for what can't be called so.
        """
        return self._core.on_store_lost(callback, None)

    def global_statistics(self) -> dict[str, float]:
        """Return counts for the whole store; see `.aio.IPCChannelLayer.global_statistics`."""
        return self._core.global_statistics()

    def channel_statistics(self, channel: str) -> dict[str, float]:
        """Return counts for one channel; see `.aio.IPCChannelLayer.channel_statistics`."""
        return self._core.channel_statistics(channel)

    def close(self) -> None:
        """Release the store, which stays for others. The next call opens it again.

        Blocks as `asgi_ipc.layers.aio.IPCChannelLayer.close`, where this process relays.
        """
        self._core.close()

    def destroy(self) -> None:
        """Remove the store, for all processes, and close.

        Receivers that wait in this process raise `StoreUnavailable`. Other processes, and the next
        call here, go on with a new, empty store.
        """
        self._core.destroy()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _readable(self, channel: str) -> ChannelName:
        name = channel_name(channel)
        if name.local and not name.owner:
            raise ForeignChannel(
                f"can't receive on channel {channel}: unless new_channel() made it, a name with '!'"
                f" must end there, as {name.queue.decode('ascii')}, and gets the messages of all"
                " that begin so"
            )
        if name.owner and name.owner != self._core.demux.engine.identity:
            raise self._core.not_ours(name)
        return name


def _as_list(channels: Iterable[str]) -> list[str]:
    if isinstance(channels, (str, bytes)):
        raise TypeError(f"channels is {channels!r}; it must be a list of channel names")
    return list(channels)


__all__ = ["SyncIPCChannelLayer"]
