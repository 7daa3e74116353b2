"""What a relay knows of the other machines: terms, sequences, gaps, and what it must not deliver.

No input or output happens here; the caller passes the time in. A frame is delivered only if
`Peers.accept` says so:

* not if it comes from before a takeover (a lower term than one heard already), or again (a sequence
  that is not above the last one of its topic): so nothing is delivered twice or out of order (R5);
* not while its machine has still to answer a flush that this machine has carried out (R9).

A sequence that is not the next one is a gap: frames that were published and not heard. The beat of
a machine says the last sequence of each topic, so a gap at the end is found a beat later. Where
counting begins is known if the machine began its first term, or was known, while the topic was
heard; otherwise the first sequence heard is the beginning.

Sequences go on from term to term, so what is missed around a takeover is a gap as well. A relay
that was killed has not told the next one of the last frames it published; that one counts them
itself (`relay.Relay`), and uses their sequences again. So the first sequence of a term may be lower
than the last one of the term before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..engines.base import NODE_BYTES
from .frames import ALL, Kind, RelayFrame, unpack_sequences

#: Nanoseconds after its last frame until which a machine that did not say goodbye is expected to be
#: there, and until which it is remembered: its frames can't be replayed so long.
EXPECTED, REMEMBERED = 60 * 1_000_000_000, 86400 * 1_000_000_000
#: The same after a goodbye: by then another process of the machine has begun to relay, if any is
#: left there.
LEFT = 5 * 1_000_000_000
#: Machines that are remembered. A server on which anything is published must not fill the memory.
MOST = 1000


class Peer:
    """One other machine."""

    def __init__(self, node: bytes, now: int) -> None:
        self.node = node
        self.host = ""
        self.term = 0
        #: Newest version of the format that it reads.
        self.reads = 0
        #: When it was last heard, on the clock of the own engine.
        self.heard_at = now
        #: The last sequence of each topic that is heard.
        self.sequences: dict[bytes, int] = {}
        #: The same of former terms, for topics on which this term has still to be heard.
        self.before: dict[bytes, int] = {}
        self.frames = self.bytes = self.gaps = 0
        #: It said goodbye: nothing is expected from it.
        self.has_left = False
        #: Flushes that it has still to answer, with the times from which that is not waited for.
        self.owes: dict[bytes, int] = {}

    def shown(self) -> str:
        """Return its name for people."""
        return f"{self.host or 'unknown host'} ({self.node.hex()})"


class Peers:
    """All other machines, by their nodes."""

    def __init__(self) -> None:
        self.known: dict[bytes, Peer] = {}
        #: Topics that are heard, or will be as soon as the server has confirmed it.
        self.topics: set[bytes] = set()
        #: Frames that were published and not heard, of all machines since this was made.
        self.gaps = 0
        #: A machine, a term or a topic has come since this was last reset: what the next relay has
        #: to know, or it would not notice what it missed.
        self.has_news = False
        self._now = 0

    def hears(self, topics: Iterable[bytes]) -> None:
        """Note that topics are heard from now on."""
        self.topics.update(topics)

    def hears_no_more(self, topics: Iterable[bytes]) -> None:
        """Note that topics are not heard; their sequences mean nothing from now on."""
        for topic in topics:
            self.topics.discard(topic)
            for peer in self.known.values():
                peer.sequences.pop(topic, None)
                peer.before.pop(topic, None)

    def accept(self, topic: bytes, frame: RelayFrame, size: int, now: int) -> str | None:
        """Note a frame; return None if it is to be acted on, and otherwise why not.

        Raises `NoFrame` for a beat that is none.
        """
        self._now = now
        sequences = unpack_sequences(frame.payload) if frame.kind is Kind.BEAT else {}
        peer = self.known.get(frame.node)
        if peer is None:
            if len(self.known) >= MOST:
                return "too many machines"
            peer = self.known[frame.node] = Peer(frame.node, now)
        if frame.term < peer.term:
            return "late"
        if frame.term > peer.term:
            self._begin_term(peer, frame)
        last = peer.sequences.get(topic)
        if last is not None and frame.sequence <= last:
            return "late"
        self._reached(peer, topic, frame.sequence - 1)
        if topic in self.topics:
            peer.sequences[topic] = frame.sequence
            self.has_news |= last is None
        peer.heard_at, peer.reads = now, frame.reads
        peer.frames += 1
        peer.bytes += size
        peer.has_left = frame.kind is Kind.BYE
        if frame.kind in (Kind.HELLO, Kind.BEAT, Kind.BYE):
            peer.host = frame.name.decode("ascii", "replace")
        for each, number in sequences.items():
            self._told(peer, each, number)
        return None

    def _begin_term(self, peer: Peer, frame: RelayFrame) -> None:
        """Begin with another term: from 0 if nothing can have been missed unheard."""
        self.has_news = True
        peer.term = frame.term
        peer.before = {**peer.before, **peer.sequences}
        peer.sequences = {}
        if frame.kind is Kind.HELLO and frame.sequence == 1:
            peer.before = {}
            peer.sequences = dict.fromkeys(self.topics, 0)

    def _reached(self, peer: Peer, topic: bytes, number: int) -> None:
        """Count what was missed if all up to this sequence has been published."""
        last = peer.sequences.get(topic)
        if last is None:
            last = peer.before.pop(topic, number)
        # On the topic of all there are no messages of users.
        if number > last and topic != ALL:
            peer.gaps += number - last
            self.gaps += number - last

    def _told(self, peer: Peer, topic: bytes, number: int) -> None:
        """Note the last sequence of a topic as a beat tells it."""
        if topic not in self.topics:
            return
        self._reached(peer, topic, number)
        last = peer.sequences.get(topic)
        if last is None or number > last:
            peer.sequences[topic] = number
            self.has_news |= last is None

    def forget(self, now: int) -> None:
        """Note the time, and forget machines that have not been heard for long."""
        self._now = now
        for node, peer in list(self.known.items()):
            if now - peer.heard_at > REMEMBERED:
                del self.known[node]

    def expected(self) -> list[Peer]:
        """Return the machines that should be there, as they were heard lately."""
        return [
            peer
            for peer in self.known.values()
            if self._now - peer.heard_at <= (LEFT if peer.has_left else EXPECTED)
        ]

    # Flushes

    def begin_flush(self, flush: bytes, until: int, but: bytes = b"") -> None:
        """Note that this machine has flushed: what others sent before they do is to be dropped."""
        for peer in self.expected():
            if peer.node != but:
                peer.owes[flush] = until

    def flushed(self, node: bytes, flush: bytes) -> None:
        """Note that a machine has flushed."""
        peer = self.known.get(node)
        if peer is not None:
            peer.owes.pop(flush, None)

    def is_from_before_a_flush(self, node: bytes, now: int) -> bool:
        """Whether what comes from a machine now was sent before it flushed its store."""
        peer = self.known.get(node)
        if peer is None or not peer.owes:
            return False
        peer.owes = {flush: until for flush, until in peer.owes.items() if now < until}
        return bool(peer.owes)

    # What the next relay of this machine gets to know

    def told(self) -> list[dict[str, Any]]:
        """Return all that a former relay should tell the next one, of plain values."""
        return [
            {
                "node": peer.node,
                "host": peer.host,
                "term": peer.term,
                "reads": peer.reads,
                "heard_at": peer.heard_at,
                "frames": peer.frames,
                "bytes": peer.bytes,
                "gaps": peer.gaps,
                "left": peer.has_left,
                "sequences": dict(peer.sequences),
                "before": dict(peer.before),
            }
            for peer in self.known.values()
        ]

    def learn(self, told: Iterable[Mapping[str, Any]], now: int) -> None:
        """Take over what `told` returned; leaves out what can't be so."""
        for each in told:
            node = each.get("node")
            numbers = [each.get(key) for key in ("term", "reads", "heard_at", "frames", "bytes")]
            gaps, sequences, host = each.get("gaps"), each.get("sequences"), each.get("host")
            if (
                not isinstance(node, bytes)
                or len(node) != NODE_BYTES
                or not all(isinstance(number, int) for number in (*numbers, gaps))
                or not isinstance(sequences, Mapping)
                or not isinstance(host, str)
            ):
                continue
            peer = self.known[node] = Peer(node, now)
            peer.host, peer.has_left = host, each.get("left") is True
            peer.term, peer.reads, peer.heard_at, peer.frames, peer.bytes = numbers  # type: ignore[assignment]
            peer.heard_at = min(peer.heard_at, now)
            peer.gaps = gaps  # type: ignore[assignment]
            peer.sequences = checked_sequences(sequences)
            peer.before = checked_sequences(each.get("before"))


def checked_sequences(told: object) -> dict[bytes, int]:
    """Return the sequences by topic that a former relay told; leaves out what can't be so."""
    if not isinstance(told, Mapping):
        return {}
    return {
        topic: number
        for topic, number in told.items()
        if isinstance(topic, bytes) and isinstance(number, int)
    }


__all__ = ["EXPECTED", "LEFT", "MOST", "REMEMBERED", "Peer", "Peers", "checked_sequences"]
