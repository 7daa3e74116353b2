"""Faults of relays for the torture to find."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from asgi_ipc.engines.base import Popped
from asgi_ipc.relay import relay, report
from asgi_ipc.relay.frames import RelayFrame
from asgi_ipc.relay.outbound import Outbound
from asgi_ipc.relay.peers import Peer, Peers
from asgi_ipc.relay.relay import Relay
from asgi_ipc.relay.way_out import OUT, is_work
from asgi_ipc.relay.wire import Wire
from asgi_ipc.relay.work import Work

from . import site

Patch = pytest.MonkeyPatch


class Plant(NamedTuple):
    """A fault, the trouble in which it shows, and what is then found."""

    plant: Callable[[Patch], None]
    trouble: str
    found: str


def _as_of_now(peer: Peer | None, frame: RelayFrame) -> RelayFrame:
    return frame if peer is None else frame._replace(term=max(frame.term, peer.term))


def ignore_terms(patch: Patch) -> None:
    """Take a frame of a former term for one of this; each term counts from 1."""
    count_from_none(patch)
    accept = Peers.accept

    def accepted(self: Peers, topic: bytes, frame: RelayFrame, size: int, now: int) -> str | None:
        return accept(self, topic, _as_of_now(self.known.get(frame.node), frame), size, now)

    patch.setattr(Peers, "accept", accepted)


def ignore_sequences(patch: Patch) -> None:
    """Deliver a frame with a sequence that was heard before."""
    accept = Peers.accept

    def accepted(self: Peers, topic: bytes, frame: RelayFrame, size: int, now: int) -> str | None:
        why = accept(self, topic, frame, size, now)
        peer = self.known.get(frame.node)
        return None if why == "late" and peer and frame.term == peer.term else why

    patch.setattr(Peers, "accept", accepted)


def send_again(patch: Patch) -> None:
    """Publish what was published last once more, on each new connection."""
    publish, begin = Outbound._publish, Outbound.begin
    last: deque[Popped] = deque(maxlen=20)

    async def noted(self: Outbound, wire: Wire, records: Sequence[Popped]) -> None:
        last.extend(each for each in records if not is_work(each.payload))
        await publish(self, wire, records)

    def begun_again(self: Outbound) -> None:
        begin(self)
        while last:
            self._engine.restore(OUT, last.pop())

    patch.setattr(Outbound, "_publish", noted)
    patch.setattr(Outbound, "begin", begun_again)


def direct_ones_first(patch: Patch) -> None:
    """Publish messages to channels before those to groups."""
    publish = Outbound._publish

    async def sorted_first(self: Outbound, wire: Wire, records: Sequence[Popped]) -> None:
        await publish(self, wire, sorted(records, key=lambda each: -each.payload[0]))

    patch.setattr(Outbound, "_publish", sorted_first)


def count_no_gaps(patch: Patch) -> None:
    """Do not count what was missed."""
    patch.setattr(Peers, "_count_gap", lambda *args: None)


def count_from_none(patch: Patch) -> None:
    """Begin anew with each term, for sender and hearer, as if nothing had been before."""
    patch.setattr(relay, "checked_sequences", lambda told: {})


def connect_once(patch: Patch) -> None:
    """Wait too long before a connection is made again."""
    patch.setattr(relay, "SHORTEST_PAUSE", 3600.0)
    patch.setattr(site, "JOINED", 10.0)


def take_over_everything(patch: Patch) -> None:
    """Empty the store when a relay begins."""
    take_over = Relay._take_over

    def taken(self: Relay) -> tuple[int, dict[bytes, int]]:
        if report.read(self.engine) is not None:
            self.machine.flush()
        return take_over(self)

    patch.setattr(Relay, "_take_over", taken)
    patch.setattr(site, "JOINED", 20.0)


def deliver_work_twice(patch: Patch) -> None:
    """Deliver each message to a shared channel twice."""
    deliver = Work._deliver

    def twice(self: Work, name: bytes, data: bytes) -> None:
        deliver(self, name, data)
        deliver(self, name, data)

    patch.setattr(Work, "_deliver", twice)


def lose_work(patch: Patch) -> None:
    """Lose every fifth message that was taken off the server."""
    deliver, count = Work._deliver, [0]

    def most(self: Work, name: bytes, data: bytes) -> None:
        count[0] += 1
        if count[0] % 5:
            deliver(self, name, data)

    patch.setattr(Work, "_deliver", most)


PLANTS = (
    Plant(ignore_terms, "kill-in-cut", " after "),
    Plant(ignore_sequences, "cut", " after "),
    Plant(send_again, "connections", "twice"),
    Plant(direct_ones_first, "stop-server", " after "),
    Plant(count_no_gaps, "cut", "nobody counted"),
    Plant(count_from_none, "down", "nobody counted"),
    Plant(connect_once, "connections", "nothing has passed"),
    Plant(take_over_everything, "kill", "lost on one machine"),
    Plant(deliver_work_twice, "nothing", "twice"),
    Plant(lose_work, "nothing", "shared channels were lost"),
)
