"""`SyncIPCChannelLayer`: the channel layer for code without an event loop (A1-A5).

The surface of ASGI channel layers 1.x, on the same stores as `asgi_ipc.IPCChannelLayer`.
"""

from __future__ import annotations

import itertools
import secrets
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from ..delivery.outages import ride_out_in_thread
from ..delivery.thread_listener import receive_now, receive_waiting
from ..encoding.codec import SharedBody, decode
from ..encoding.names import ChannelName, channel_name
from ..engines.deferred import pending, run_deferred
from ..exceptions import RecordCorrupt
from .core import LayerCore
from .options import seconds_or_none
from .surface import LayerSurface


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
        self._turns = itertools.count()
        if core.shares_channels:
            self.receive = self._receive_shared  # type: ignore[method-assign]

    # Channels

    def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Send a message to a channel; never waits for room (S7).

        Raises `TypeError` for a bad name, `TypeError` or `ValueError` for a message that
        can't be carried (O1), `MessageTooLarge`, `ChannelFull` over capacity, and
        `StoreFull`, a `ChannelFull`, if the store has no room.
        """
        self._core.send(channel, message)

    def receive(
        self, channels: Iterable[str], block: bool = False, timeout: float | None = None
    ) -> tuple[str, dict[str, Any]] | tuple[None, None]:
        """Receive the next message on any of the channels; return its channel and it (A1, A2).

        Without a message, returns ``(None, None)`` at once; with ``block``, waits for one for
        ``timeout`` seconds, or without end if that is None. An empty list of channels always
        returns at once. Each call begins with the next channel of the list, so that a busy channel
        does not starve the others (S12). A name that ends in ``!`` stands for all channels that
        begin with it.

        Raises `TypeError` for bad names, and `ValueError` for a process-specific channel that
        goes on after the ``!``, or that belongs to another process, and for a timeout that is
        no number of seconds.
        """
        if timeout is not None:
            timeout = seconds_or_none("timeout", timeout)
        demux = self._core.demux
        demux.memberships.look_if_due()
        names = [self._readable(name) for name in _as_list(channels)]
        if len(names) > 1:
            first = next(self._turns) % len(names)
            names = names[first:] + names[:first]
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
            return channel, body.decode() if isinstance(body, SharedBody) else decode(body)
        except RecordCorrupt as error:
            raise self._core.corrupt(error) from error

    def _receive_shared(
        self, channels: Iterable[str], block: bool = False, timeout: float | None = None
    ) -> tuple[str, dict[str, Any]] | tuple[None, None]:
        """Receive where some channels are shared: their messages lie on the server."""
        names = _as_list(channels)
        with self._core.waiting(names if block else ()):
            return SyncIPCChannelLayer.receive(self, names, block, timeout)

    def receive_many(
        self, channels: Iterable[str], block: bool = False, timeout: float | None = None
    ) -> tuple[str, dict[str, Any]] | tuple[None, None]:
        """Receive as `receive` does. Deprecated: use `receive`."""
        warnings.warn("receive_many is now called receive", DeprecationWarning, stacklevel=2)
        return self.receive(channels, block, timeout)

    def new_channel(self, pattern: str | None = None) -> str:
        """Return a new channel name that begins with the pattern, which ends in ``?`` (A3).

        Raises `TypeError` for any other pattern, and without one, as Channels calls it.
        """
        if pattern is None:
            raise TypeError(
                "None can't be the pattern of a new channel: it must be a str that ends in '?',"
                " such as 'http.response?'. If Django Channels called this SyncIPCChannelLayer,"
                " which is for code without an event loop: set BACKEND to"
                " 'asgi_ipc.IPCChannelLayer'"
            )
        if not isinstance(pattern, str) or not pattern.endswith("?"):
            raise TypeError(
                f"{pattern!r} can't be the pattern of a new channel: it must be a str that ends"
                " in '?', such as 'http.response?'"
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

    def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Send a message to each channel of a group; never waits for room (S14).

        For channels over capacity it is dropped, counted and logged. Raises `TypeError`,
        `ValueError` and `MessageTooLarge` as `send` does.
        """
        self._core.group_send(group, message)

    #: Its name in ASGI 1.x (A4).
    send_group = group_send

    def group_channels(self, group: str) -> list[str]:
        """Return the channels in a group."""
        return self._core.group_channels(group)

    # Upkeep

    def flush(self) -> None:
        """Remove all messages and memberships, for all processes (S17).

        With the option ``relay`` as `asgi_ipc.layers.aio.IPCChannelLayer.flush`.
        """
        self._core.flush()

    def global_statistics(self) -> dict[str, float]:
        """Return counts for the whole store; see `.aio.IPCChannelLayer.global_statistics`."""
        return self._core.global_statistics()

    def channel_statistics(self, channel: str) -> dict[str, float]:
        """Return counts for one channel; see `.aio.IPCChannelLayer.channel_statistics`."""
        return self._core.channel_statistics(channel)

    def close(self) -> None:
        """Release the store, which stays for others. The next call opens it again."""
        self._core.close()

    def destroy(self) -> None:
        """Remove the store, for all processes, and close."""
        self._core.destroy()

    def _readable(self, channel: str) -> ChannelName:
        name = channel_name(channel)
        if name.local:
            raise ValueError(
                f"can't receive on channel {channel}: a name with '!' must end there,"
                f" as {name.queue.decode('ascii')}, and gets the messages of all that begin so"
            )
        if name.owner and name.owner != self._core.demux.engine.identity:
            raise self._core.not_ours(name)
        return name


def _as_list(channels: Iterable[str]) -> list[str]:
    if isinstance(channels, (str, bytes)):
        raise TypeError(f"channels is {channels!r}; it must be a list of channel names")
    return list(channels)


__all__ = ["SyncIPCChannelLayer"]
