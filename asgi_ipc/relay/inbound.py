"""Deliver what other machines publish, and drop whatever is no frame or message (R10)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..encoding.names import channel_name, group_name
from ..engines.base import NODE_BYTES
from ..exceptions import ChannelFull, StoreCorrupt, StoreUnavailable
from .counts import Counts
from .frames import (
    ALL,
    MESSAGES,
    Kind,
    NoFrame,
    RelayFrame,
    binding,
    unpack,
    unpack_excluded,
    unpack_join,
)
from .machine import Machine
from .options import RelayOptions
from .peers import Peers

_log = logging.getLogger("asgi_ipc")

#: Nanoseconds for which frames of a machine's former relay may still be on their way to it.
FORMER = 10 * 1_000_000_000


class Inbound:
    """Hears frames, and delivers what they carry to this machine.

    Calls ``act`` with each frame that another relay publishes for relays; ``joined`` with the group
    that another machine has added a channel of this one to; ``learned`` once something is known of
    another machine that the next relay must know; and ``heard_copy`` if another machine has the
    same identity. ``is_settled`` tells whether all machines that are there have had the time to
    prove it.
    """

    def __init__(
        self,
        machine: Machine,
        options: RelayOptions,
        term: int,
        peers: Peers,
        counts: Counts,
        act: Callable[[RelayFrame], None],
        joined: Callable[[bytes], None],
        learned: Callable[[], None],
        heard_copy: Callable[[], None],
        is_settled: Callable[[], bool],
    ) -> None:
        self._machine, self._options, self._term = machine, options, term
        self._engine, self._node = machine.engine, machine.engine.identity[:NODE_BYTES]
        self._peers, self._counts, self._act, self._joined = peers, counts, act, joined
        self._learned, self._heard_copy, self._is_settled = learned, heard_copy, is_settled
        self._began, self._has_failed = self._engine.clock(), False

    def hear(self, topic: bytes, data: bytes) -> None:
        """Act on what was published on a topic; drop and count what is no frame or message."""
        try:
            self._hear(topic, data)
        except NoFrame as error:
            self._counts.dropped(error.reason)
        except ChannelFull:
            self._counts.dropped("no room in the store")
        except StoreUnavailable:
            self._counts.dropped("store unavailable")
        except Exception as error:
            # From the store, or an error of this package: neither may end the relay.
            self._counts.dropped("failed")
            if not self._has_failed:
                self._has_failed = True
                _log.exception(
                    "relay %s: a frame could not be handled: %s", self._options.shown, error
                )

    def _hear(self, topic: bytes, data: bytes) -> None:
        options = self._options
        frame = unpack(data, *options.formats, options.sealer, binding(options.prefix, topic))
        if frame.node == self._node:
            self._hear_own(topic, frame)
            return
        now, gaps = self._engine.clock(), self._peers.gaps
        refused = self._peers.accept(topic, frame, len(data), now)
        self._counts.add("gaps", self._peers.gaps - gaps)
        if self._peers.has_news:
            self._peers.has_news = False
            self._learned()
        if refused == "not proven" and not self._is_settled():
            refused = "not yet proven"
        if refused is not None:
            self._counts.dropped(refused)
            return
        self._counts.add("frames_in")
        self._counts.add("bytes_in", len(data))
        if frame.kind not in MESSAGES:
            self._act(frame)
        elif self._peers.is_from_before_a_flush(frame.node, now):
            self._counts.dropped("flushed")
        elif frame.lifetime <= 0:
            self._counts.dropped("expired")
        else:
            self._deliver(frame, now + frame.lifetime)

    def _hear_own(self, topic: bytes, frame: RelayFrame) -> None:
        """Hear what this machine has published itself."""
        is_copy = frame.term > self._term
        if frame.term < self._term:
            # What the machine's former relay has published is heard soon, or never.
            is_copy = self._engine.clock() - self._began > FORMER
        if is_copy:
            # Another machine's store has the same bytes: a copy of this one's files.
            self._counts.dropped("from a copy of this store")
            self._heard_copy()
        elif frame.term == self._term and topic == ALL and frame.kind is Kind.BEAT:
            self._act(frame)

    def _deliver(self, frame: RelayFrame, deadline: int) -> None:
        """Deliver a message. Raises `NoFrame` if it is none, or is not for this machine."""
        try:
            name = frame.name.decode("ascii")
            if frame.kind is Kind.GROUP:
                group_name(name)
            elif channel_name(name).owner[:NODE_BYTES] != self._node:
                raise NoFrame("not for this machine")
            group, lifetime = frame.payload, 0
            excluded, body = frozenset[str](), frame.payload
            if frame.kind in (Kind.GROUP, Kind.CHANNEL):
                if frame.kind is Kind.GROUP:
                    excluded, body = unpack_excluded(body)
                    excluded = frozenset(channel_name(each).full for each in excluded)
                # Receivers decode it, and must not meet anything but a message.
                self._machine.check(body)
            else:
                if frame.kind is Kind.JOIN:
                    group, lifetime = unpack_join(frame.payload)
                group_name(group.decode("ascii"))
        except NoFrame:
            raise
        except (TypeError, ValueError, StoreCorrupt) as error:
            raise NoFrame("no message") from error
        if frame.kind is Kind.GROUP:
            self._machine.deliver_group(name, body, deadline, excluded)
        elif frame.kind is Kind.CHANNEL:
            self._machine.deliver(name, frame.payload, deadline)
        elif frame.kind is Kind.JOIN:
            self._machine.join(group.decode("ascii"), name, lifetime)
            self._joined(group)
        else:
            self._machine.leave(group.decode("ascii"), name)


__all__ = ["Inbound"]
