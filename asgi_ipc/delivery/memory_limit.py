"""The limit in bytes of what a process holds unread, ``process_memory``, and what it drops beyond.

The messages of a process-specific channel are not counted unless the user gives a count: a reader
is slower than a sender, and a burst must be held somewhere. What is fetched and unread is bounded
in bytes instead, for all channels of a process together (O5).

Nothing is noted when a message is taken, so taking costs nothing. Each message that comes uses up
some of an allowance; once that is spent, all that is held is measured. Normally that is little, and
the allowance is renewed. If it is more than seven eighths of the bound, what has expired is
dropped, and then the oldest messages of the channels that hold most: a limit for each channel is
halved until what is held is half the bound. So a channel that holds little loses nothing, and the
bound is never exceeded.

All of it needs the demultiplexer's lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..encoding.codec import Body, SharedBody
from . import drop_lines
from .drop_log import DropLog
from .mailboxes import RECORD, REFERENCE, SHARED, Mailbox, OwnQueue

#: Everything is measured at most once in this part of the bound.
_STEPS = 8


class BufferOwner(Protocol):
    """What the limit uses of its `asgi_ipc.delivery.demultiplexer.Demultiplexer`."""

    own: dict[bytes, OwnQueue]
    allowance: int
    drops: DropLog

    def drop_expired(self, queues: Iterable[OwnQueue]) -> None:
        """Drop what has expired in the buffers of queues."""


class MemoryLimit:
    """The limit of what a process holds unread of one store."""

    def __init__(self, demux: BufferOwner) -> None:
        self._demux = demux
        #: The bounds of the layers attached, in bytes; the largest counts.
        self.bounds: list[int] = []

    def enforce(self, coming: int) -> None:
        """Measure all that is held; drop what is too much with ``coming`` bytes more."""
        bound = max(self.bounds, default=0)
        most = bound - bound // _STEPS - coming
        held = _Inventory(self._demux)
        if held.total > most:
            self._demux.drop_expired(self._demux.own.values())
            held = _Inventory(self._demux)
        if held.total > most:
            dropped = held.drop(max(0, bound // 2 - coming))
            for channel in dropped:
                if not channel.known:
                    channel.own.forget_if_idle(channel)
            by_name = {channel.name: count for channel, count in dropped.items()}
            drop_lines.dropped_for_memory(self._demux.drops, by_name, bound)
        self._demux.allowance = bound - held.total - coming


class _Inventory:
    """What all buffers together weigh, in bytes, and what each would weigh alone."""

    def __init__(self, demux: BufferOwner) -> None:
        self.total = 0
        self._weights: dict[Mailbox, int] = {}
        #: How many channels have each of the bodies that several share.
        self._holders: dict[SharedBody, int] = {}
        for own in demux.own.values():
            for channel in own.with_items():
                self._weights[channel] = self._add(channel)

    def _add(self, channel: Mailbox) -> int:
        holders, total = self._holders, 0
        for body, _, _ in channel.items:
            size = weight(body)
            total += size
            if type(body) is SharedBody:
                if body in holders:
                    holders[body] += 1
                    size = 0
                else:
                    holders[body] = 1
            self.total += size
        self.total += REFERENCE * len(channel.items)
        return total

    def drop(self, target: int) -> dict[Mailbox, int]:
        """Drop the oldest messages of the heaviest channels until the total is ``target`` at most.

        Return how many of which. Of equal channels those on which this process has not received
        come first, and then those with the oldest messages.
        """
        weights, dropped = self._weights, dict.fromkeys(self._weights, 0)
        order = sorted(weights, key=lambda channel: (channel.known, channel.items[0][2]))
        limit = max(weights.values())
        while self.total > target and limit:
            limit //= 2
            for channel in order:
                while weights[channel] > limit and self.total > target:
                    body = channel.own.drop_oldest(channel)
                    weights[channel] -= weight(body)
                    self.total -= REFERENCE + self._freed(body)
                    dropped[channel] += 1
        return {channel: count for channel, count in dropped.items() if count}

    def _freed(self, body: Body) -> int:
        """Return the bytes that are freed when a channel drops a body."""
        if type(body) is SharedBody:
            self._holders[body] -= 1
            if self._holders[body]:
                return 0
        return weight(body)


def weight(body: Body) -> int:
    """Return what one message takes, in bytes, without the references to it."""
    return SHARED + body.size if isinstance(body, SharedBody) else RECORD + len(body)


__all__ = ["MemoryLimit", "weight"]
