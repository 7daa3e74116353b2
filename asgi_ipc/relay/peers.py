"""What a relay knows of the other machines: terms, sequences, gaps, and what it must not deliver.

No input or output happens here; the caller passes the time in. A frame is delivered only if
`Peers.accept` says so:

* not if it comes from before a takeover (a lower term than one heard already), or again (a sequence
  that is not above the last one of its topic): so nothing is delivered twice or out of order (R5);
* not while its machine has still to answer a flush that this machine has carried out (R9);
* with ``keys``, not before its machine has proven that it is there (R5).

A sequence that is not the next one is a gap: frames that were published and not heard. The beat of
a machine says the last sequence of each topic, so a gap at the end is found a beat later. If it has
heard a hello, of a machine that has begun to listen, a beat soon says those of all topics. So it is
known where counting begins on the topics that were heard then, or as the machine began its first
term; on others the first sequence heard is the beginning.

Sequences go on from term to term, so what is missed around a takeover is a gap as well. A relay
that was killed has not told the next one of the last frames it published; that one counts them
itself (`relay.Relay`), and uses their sequences again. So the first sequence of a term may be lower
than the last one of the term before.

Proof. A client that may read and publish on the server can replay sealed frames. So a machine asks
with a nonce, in its hello and in its beats, and acts on the messages and flushes of another
machine's term only once a beat of that term has answered with the nonce; from then on, only on
frames with a higher number than that beat. The numbers rise on all topics together, so this holds
for topics that were not heard for a while, too. If a machine is forgotten, the nonce is replaced:
an answer that was recorded proves nothing afterwards. What can still be done is to withhold frames,
and to hand the last ones over later, as long as this machine has heard none that came after them
and its relay goes on.

Without ``keys`` frames can be forged, and there is nothing to prove. Two rules keep single forged
frames from doing lasting harm: a machine that never beats is soon not expected any more, and a term
that has been silent for as long as `EXPECTED` gives way to a lower one that is heard.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..engines.base import NODE_BYTES
from .counts import MOST as MOST_COUNTED
from .frames import ALL, LIMIT, MESSAGES, NONCE, Beat, Kind, RelayFrame, unpack_beat
from .texts import printable

#: Nanoseconds after its last frame until which a machine that did not say goodbye is expected to be
#: there, and until which it is remembered.
EXPECTED, REMEMBERED = 60 * 1_000_000_000, 86400 * 1_000_000_000
#: The same after a goodbye: by then another process of the machine has begun to relay, if any is
#: left there.
LEFT = 5 * 1_000_000_000
#: The same of a machine that has never beaten, or proven that it is there.
UNPROVEN, UNPROVEN_REMEMBERED = LEFT, EXPECTED
#: Machines that are remembered. A server on which anything is published must not fill the memory.
MOST = 1000
#: Nanoseconds of silence after which a machine is forgotten if another needs its place.
SILENT = 5 * 1_000_000_000
#: Machines, and sequences of all of them together, that the next relay gets to know.
MOST_TOLD, MOST_SEQUENCES_TOLD = 200, 1500
#: Characters of a host's name.
_HOST = 100
#: What a machine does only for another that has proven that it is there.
_NEEDS_PROOF = MESSAGES | {Kind.FLUSH, Kind.FLUSHED, Kind.WORK}


#: What the next relay gets to know of a machine, in numbers.
_NUMBERS = ("term", "reads", "heard_at", "frames", "bytes", "gaps", "number")


class Peer:
    """One other machine."""

    def __init__(self, node: bytes, now: int) -> None:
        self.node = node
        self.host = ""
        self.term = 0
        #: Newest version of the format that it reads.
        self.reads = 0
        #: When it was heard first, and last, on the clock of the own engine.
        self.since = self.heard_at = now
        #: The last sequence of each topic that is heard.
        self.sequences: dict[bytes, int] = {}
        #: The same of former terms, for topics on which this term has still to be heard.
        self.before: dict[bytes, int] = {}
        #: On topics that were heard before this and are in neither, it had published nothing
        #: (`Peers.topics`).
        self.told_all = 0
        self.frames = self.bytes = self.gaps = 0
        #: It said goodbye: nothing is expected from it.
        self.has_left = False
        #: The number of its last sealed frame, in this term.
        self.number = -1
        #: With keys: whether this term has answered the nonce; since when it has done so last.
        self.has_answered, self.answered_at = False, 0
        #: Whether any of its terms has beaten; with keys, has answered.
        self.is_proven = False
        #: Whether this relay has heard it.
        self.was_heard = False
        #: When its last frame came that was of another term, or had been heard before; 0 if none.
        self.late_at = 0
        #: Flushes that it has still to answer, with the times from which that is not waited for.
        self.owes: dict[bytes, int] = {}

    def owed(self, now: int) -> dict[bytes, int]:
        """Return the flushes that it has still to answer now."""
        return {flush: until for flush, until in self.owes.items() if now < until}

    def shown(self) -> str:
        """Return its name for people."""
        return f"{self.host or 'unknown host'} ({self.node.hex()})"


class Peers:
    """All other machines, by their nodes. With ``proof`` they have to prove that they are there."""

    def __init__(self, proof: bool = False) -> None:
        #: With which this machine asks.
        self.nonce = os.urandom(NONCE) if proof else b""
        #: The nonces that the next beat has to answer.
        self.to_answer: dict[bytes, None] = {}
        self.known: dict[bytes, Peer] = {}
        #: Topics that are heard, or on a new connection will be once the server confirms; with
        #: numbers that rise in the order in which that began.
        self.topics: dict[bytes, int] = {}
        self._last_topic = 0
        #: Frames that were published and not heard, of all machines since this was made.
        self.gaps = 0
        #: A machine, a term, a topic or a message has come since this was last reset: what the next
        #: relay has to know, or it would not notice what it missed, or take it for missed.
        self.has_news = False
        self._now = self._full_until = 0

    def hears(self, topics: Iterable[bytes]) -> None:
        """Note that topics are heard from now on."""
        for topic in topics:
            if topic not in self.topics:
                self._last_topic += 1
                self.topics[topic] = self._last_topic

    def hears_only(self, topics: Collection[bytes]) -> None:
        """Note that these are heard from now on, and no others.

        A former relay may have told sequences of others.
        """
        known = set(self.topics).union(
            *(each for peer in self.known.values() for each in (peer.sequences, peer.before))
        )
        self.hears_no_more(known.difference(topics))
        self.hears(topics)

    def hears_no_more(self, topics: Iterable[bytes]) -> None:
        """Note that topics are not heard; their sequences mean nothing from now on."""
        for topic in topics:
            self.topics.pop(topic, None)
            for peer in self.known.values():
                peer.sequences.pop(topic, None)
                peer.before.pop(topic, None)

    def accept(self, topic: bytes, frame: RelayFrame, size: int, now: int) -> str | None:
        """Note a frame of ``size`` bytes; return None if it is to be acted on, or else why not.

        Raises `NoFrame` for a hello or beat that is none.
        """
        self._now = now
        beat = unpack_beat(frame.payload) if frame.kind in (Kind.HELLO, Kind.BEAT) else Beat()
        peer = self.known.get(frame.node) or self._meet(frame.node, now)
        if peer is None:
            return "too many machines"
        if frame.term < peer.term and (self.nonce or now - peer.heard_at <= EXPECTED):
            peer.late_at = now
            return "late"
        if frame.term != peer.term:
            self._begin_term(peer, frame)
        last = peer.sequences.get(topic)
        if (last is not None and frame.sequence <= last) or self._is_replayed(peer, frame):
            peer.late_at = now
            return "late"
        self._count_gap(peer, topic, frame.sequence - 1)
        if topic in self.topics:
            peer.sequences[topic] = frame.sequence
            self.has_news |= last is None or frame.kind in MESSAGES
        peer.reads, peer.number, peer.was_heard = frame.reads, frame.number, True
        peer.frames += 1
        peer.bytes = min(MOST_COUNTED, peer.bytes + size)
        peer.has_left = frame.kind is Kind.BYE
        if frame.kind in (Kind.HELLO, Kind.BEAT, Kind.BYE):
            peer.host = printable(frame.name.decode("ascii", "replace"), _HOST)
        for each, number in beat.sequences.items():
            self._note_published(peer, each, number)
        if beat.is_all:
            self.has_news |= peer.told_all != self._last_topic
            peer.told_all = self._last_topic
        return self._look_for_proof(peer, frame.kind, beat, now)

    def _meet(self, node: bytes, now: int) -> Peer | None:
        """Return a new machine; None if there are too many."""
        if len(self.known) >= MOST:
            silent = []
            if now >= self._full_until:
                silent = [each for each in self.known.values() if now - each.heard_at > SILENT]
            if not silent:
                # A flood must not cost a look at all of them for each frame.
                if now >= self._full_until:
                    self._full_until = now + SILENT // 10
                return None
            self._forget(min(silent, key=lambda each: (each.is_proven, each.heard_at)))
        peer = self.known[node] = Peer(node, now)
        return peer

    def _is_replayed(self, peer: Peer, frame: RelayFrame) -> bool:
        return bool(self.nonce) and frame.number <= peer.number

    def _look_for_proof(self, peer: Peer, kind: Kind, beat: Beat, now: int) -> str | None:
        """Note questions and answers; return whether a frame is to be acted on, as `accept`."""
        if not self.nonce:
            peer.is_proven |= kind is Kind.BEAT
        else:
            if beat.ask and len(self.to_answer) < MOST:
                self.to_answer[beat.ask] = None
            if self.nonce in beat.answers:
                self.has_news |= not peer.has_answered
                peer.has_answered = peer.is_proven = True
                peer.answered_at = now
            if not peer.has_answered:
                return "not proven" if kind in _NEEDS_PROOF else None
        peer.heard_at = now
        return None

    @property
    def asks(self) -> bytes:
        """Return the nonce with which the next beat is to ask; empty if it need not."""
        is_asking = any(
            peer.was_heard and not (peer.has_answered or peer.has_left)
            for peer in self.known.values()
        )
        return self.nonce if is_asking else b""

    def take_answers(self) -> tuple[bytes, ...]:
        """Return the nonces that the next beat answers, and forget them."""
        answers, self.to_answer = tuple(self.to_answer), {}
        return answers

    def are_back(self, since: int) -> bool:
        """Return whether all machines that are expected, one at least, have been heard since.

        With keys they must have answered, and nothing is left that they have asked.
        """
        expected = self.expected()
        if self.nonce:
            is_back = all(peer.answered_at >= since for peer in expected) and not self.to_answer
        else:
            is_back = all(peer.heard_at >= since for peer in expected)
        return bool(expected) and is_back

    def _begin_term(self, peer: Peer, frame: RelayFrame) -> None:
        """Begin with another term: from 0 if nothing can have been missed unheard."""
        self.has_news = True
        is_later = frame.term > peer.term
        peer.term, peer.number, peer.has_answered = frame.term, -1, False
        # Of a lower one, which was forged or is another machine's, the numbers mean nothing.
        peer.before = {**peer.before, **peer.sequences} if is_later else {}
        peer.sequences = {}
        if not is_later:
            peer.told_all = 0
        if frame.kind is Kind.HELLO and frame.sequence == 1:
            peer.before, peer.told_all = {}, self._last_topic

    def _count_gap(self, peer: Peer, topic: bytes, number: int) -> None:
        """Count as a gap what was missed, if all up to this sequence has been published."""
        last = peer.sequences.get(topic)
        if last is None:
            is_known = self.topics.get(topic, LIMIT) <= peer.told_all
            last = peer.before.pop(topic, 0 if is_known else number)
        # On the topic of all there are no messages of users.
        if number > last and topic != ALL:
            peer.gaps = min(MOST_COUNTED, peer.gaps + number - last)
            self.gaps += number - last

    def _zeros(self, peer: Peer) -> dict[bytes, int]:
        """Return the topics on which a machine is known to have published nothing."""
        return {
            topic: 0
            for topic, number in self.topics.items()
            if number <= peer.told_all and topic not in peer.before
        }

    def _note_published(self, peer: Peer, topic: bytes, number: int) -> None:
        """Note the last sequence that a beat says was published on a topic."""
        if topic not in self.topics:
            return
        self._count_gap(peer, topic, number)
        last = peer.sequences.get(topic)
        if last is None or number > last:
            peer.sequences[topic] = number
            self.has_news |= last is None

    def forget(self, now: int) -> None:
        """Note the time, and forget machines that have not been heard for long."""
        self._now = now
        for peer in list(self.known.values()):
            remembered = REMEMBERED if peer.is_proven else UNPROVEN_REMEMBERED
            if now - peer.heard_at > remembered:
                self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        del self.known[peer.node]
        if self.nonce:
            # It may have answered the old one, and that may have been recorded.
            self.nonce = os.urandom(NONCE)

    def expected(self) -> list[Peer]:
        """Return the machines that should be there, as they were heard lately."""
        return [peer for peer in self.known.values() if self._is_expected(peer)]

    def _is_expected(self, peer: Peer) -> bool:
        silence = self._now - peer.heard_at
        if peer.has_left:
            return silence <= LEFT
        return silence <= (EXPECTED if peer.is_proven else UNPROVEN)

    # Flushes

    def begin_flush(self, flushes: Mapping[bytes, bytes], until: int) -> None:
        """Note that this machine has flushed: what others sent before they do is to be dropped.

        ``flushes`` has for each number the machine that has asked for it, and has flushed itself.
        """
        for peer in self.expected():
            # Of one that sends no messages nothing else forgets what it owed.
            peer.owes = peer.owed(self._now)
            peer.owes.update((flush, until) for flush in flushes if flushes[flush] != peer.node)

    def flushed(self, node: bytes, flush: bytes) -> None:
        """Note that a machine has flushed."""
        peer = self.known.get(node)
        if peer is not None:
            peer.owes.pop(flush, None)

    def is_from_before_a_flush(self, node: bytes, now: int) -> bool:
        """Return whether what comes from a machine now was sent before it flushed its store."""
        peer = self.known.get(node)
        if peer is None or not peer.owes:
            return False
        peer.owes = peer.owed(now)
        return bool(peer.owes)

    # What the next relay of this machine gets to know

    def to_report(self) -> list[dict[str, Any]]:
        """Return what the next relay of this machine is to know, as plain values for the report.

        Of more than `MOST_TOLD` machines, those that were proven or heard last.
        """
        peers = sorted(self.known.values(), key=lambda peer: (not peer.is_proven, -peer.heard_at))
        told = []
        sequences = self._sequences_to_tell(peers[:MOST_TOLD])
        for peer in peers[:MOST_TOLD]:
            fits = peer.node in sequences
            told.append(
                {
                    "node": peer.node,
                    "host": peer.host,
                    "term": peer.term,
                    "reads": peer.reads,
                    "since": peer.since,
                    "heard_at": peer.heard_at,
                    "frames": peer.frames,
                    "bytes": peer.bytes,
                    "gaps": peer.gaps,
                    "left": peer.has_left,
                    "number": peer.number,
                    "proven": peer.is_proven,
                    "late_at": peer.late_at,
                    "sequences": sequences.get(peer.node, {}),
                    "before": dict(peer.before) if fits else {},
                }
            )
        return told

    def _sequences_to_tell(self, peers: Iterable[Peer]) -> dict[bytes, dict[bytes, int]]:
        """Return the sequences, by node, of the machines for which there is room.

        Where a machine has published nothing is told in the room that all others leave.
        """
        left, found = MOST_SEQUENCES_TOLD, {}
        for peer in peers:
            published = {topic: number for topic, number in peer.sequences.items() if number}
            size = len(published) + len(peer.before)
            if size <= left:
                found[peer.node] = published
            left -= min(size, left)
        for peer in peers:
            most = max(len(self.topics), len(peer.sequences))
            if peer.node in found and most - len(found[peer.node]) <= left:
                left += len(found[peer.node])
                found[peer.node] = {**self._zeros(peer), **peer.sequences}
                left -= len(found[peer.node])
        return found

    def learn(self, told: Iterable[Mapping[str, Any]], now: int) -> None:
        """Take over what a former relay's `to_report` returned, leaving out what can't be so."""
        for each in told:
            node = each.get("node")
            numbers = [each.get(key) for key in _NUMBERS]
            sequences, host = each.get("sequences"), each.get("host")
            if (
                not isinstance(node, bytes)
                or len(node) != NODE_BYTES
                or not all(isinstance(number, int) and number >= 0 for number in numbers)
                or not all(number <= MOST_COUNTED for number in numbers)  # type: ignore[operator]
                or not isinstance(sequences, Mapping)
                or not isinstance(host, str)
            ):
                continue
            peer = self.known[node] = Peer(node, now)
            peer.host, peer.has_left = printable(host, _HOST), each.get("left") is True
            peer.is_proven = each.get("proven") is True
            for key, number in zip(_NUMBERS, numbers, strict=True):
                setattr(peer, key, number)
            peer.heard_at = min(peer.heard_at, now)
            since = each.get("since")
            peer.since = since if isinstance(since, int) and 0 <= since <= now else 0
            peer.sequences = checked_sequences(sequences)
            peer.before = checked_sequences(each.get("before"))


def checked_sequences(told: object) -> dict[bytes, int]:
    """Return the sequences by topic that a former relay told; leaves out what can't be so."""
    if not isinstance(told, Mapping):
        return {}
    return {
        topic: number
        for topic, number in told.items()
        if isinstance(topic, bytes) and isinstance(number, int) and 0 <= number < LIMIT
    }


__all__ = [
    "EXPECTED",
    "LEFT",
    "MOST",
    "MOST_SEQUENCES_TOLD",
    "MOST_TOLD",
    "REMEMBERED",
    "SILENT",
    "UNPROVEN",
    "UNPROVEN_REMEMBERED",
    "Peer",
    "Peers",
    "checked_sequences",
]
