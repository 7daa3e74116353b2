"""Terms, sequences and gaps of other machines: R5, R9."""

from __future__ import annotations

from asgi_ipc.relay.frames import ALL, Beat, Kind, RelayFrame, pack_beat
from asgi_ipc.relay.peers import EXPECTED, LEFT, MOST, REMEMBERED, Peers

NODE, OTHER = b"node1", b"node2"
TOPIC = b"g\x00\x01"
SECOND = 1_000_000_000


def frame(sequence: int, term: int = 1, kind: Kind = Kind.GROUP, node: bytes = NODE) -> RelayFrame:
    return RelayFrame(kind, node, term, sequence, SECOND, b"host", b"")


def beat(sequence: int, told: dict[bytes, int], term: int = 1) -> RelayFrame:
    return frame(sequence, term, Kind.BEAT)._replace(payload=pack_beat(Beat(sequences=told)))


class Hearing:
    """A relay that hears some topics, and the time."""

    def __init__(self, *topics: bytes) -> None:
        self.peers, self.now = Peers(), SECOND
        self.peers.hears(topics or (ALL, TOPIC))

    def hear(self, topic: bytes, heard: RelayFrame) -> str | None:
        return self.peers.accept(topic, heard, 100, self.now)

    @property
    def gaps(self) -> int:
        return self.peers.gaps


def test_a_sequence_left_out_is_a_gap_and_an_old_one_is_not_delivered() -> None:
    hearing = Hearing()
    assert hearing.hear(TOPIC, frame(5)) is None
    assert hearing.gaps == 0, "it may have begun before this machine listened"
    assert hearing.hear(TOPIC, frame(6)) is None
    assert hearing.hear(TOPIC, frame(6)) == "late", "twice"
    assert hearing.hear(TOPIC, frame(2)) == "late"
    assert hearing.hear(TOPIC, frame(10)) is None
    assert hearing.gaps == 3


def test_topics_are_counted_apart() -> None:
    hearing = Hearing()
    assert hearing.hear(TOPIC, frame(1)) is None
    assert hearing.hear(ALL, frame(1)) is None
    assert hearing.hear(TOPIC, frame(2)) is None
    assert hearing.gaps == 0


def test_a_beat_ends_the_tail() -> None:
    hearing = Hearing()
    hearing.hear(TOPIC, frame(1))
    assert hearing.hear(ALL, beat(1, {TOPIC: 3, ALL: 1})) is None
    assert hearing.gaps == 2
    hearing.hear(ALL, beat(2, {TOPIC: 3, ALL: 2}))
    assert hearing.gaps == 2, "told once"
    assert hearing.hear(TOPIC, frame(4)) is None
    assert hearing.gaps == 2


def test_a_machine_that_says_hello_has_nothing_published_before() -> None:
    hearing = Hearing()
    hearing.hear(ALL, frame(1, kind=Kind.HELLO))
    hearing.hear(TOPIC, frame(3))
    assert hearing.gaps == 2


def test_a_topic_that_was_not_heard_has_no_gap() -> None:
    hearing = Hearing(ALL)
    hearing.hear(ALL, frame(1, kind=Kind.HELLO))
    hearing.hear(ALL, beat(2, {TOPIC: 9, ALL: 2}))
    hearing.peers.hears([TOPIC])
    hearing.hear(ALL, beat(3, {TOPIC: 12, ALL: 3}))
    assert hearing.gaps == 0, "of what was published before is nothing known"
    hearing.hear(TOPIC, frame(14))
    assert hearing.gaps == 1
    hearing.peers.hears_no_more([TOPIC])
    hearing.peers.hears([TOPIC])
    hearing.hear(TOPIC, frame(100))
    assert hearing.gaps == 1


def test_what_comes_late_from_before_a_takeover_is_not_delivered() -> None:
    hearing = Hearing()
    hearing.hear(TOPIC, frame(1, term=1))
    assert hearing.hear(TOPIC, frame(2, term=2)) is None
    assert hearing.hear(TOPIC, frame(2, term=1)) == "late"
    assert hearing.hear(ALL, frame(50, term=1)) == "late"
    assert hearing.hear(TOPIC, frame(3, term=2)) is None
    assert hearing.gaps == 0


def test_what_was_missed_before_a_takeover_is_a_gap_by_a_frame_or_a_beat() -> None:
    """Sequences go on from term to term."""
    other = b"g\x00\x02"
    hearing = Hearing(ALL, TOPIC, other)
    for topic in (TOPIC, other):
        hearing.hear(topic, frame(5, term=1))
    assert hearing.hear(ALL, frame(7, term=2, kind=Kind.HELLO)) is None
    assert hearing.gaps == 0
    assert hearing.hear(TOPIC, frame(9, term=2)) is None
    assert hearing.gaps == 3
    hearing.hear(ALL, beat(8, {TOPIC: 9, other: 6}, term=2))
    assert hearing.gaps == 4
    # The next relay of this machine goes on in the middle of that.
    hearing.hear(ALL, frame(9, term=3, kind=Kind.HELLO))
    told = hearing.peers.told()
    heir = Hearing(ALL, TOPIC, other)
    heir.peers.learn(told, hearing.now)
    heir.hear(TOPIC, frame(11, term=3))
    heir.hear(other, frame(7, term=3))
    assert heir.gaps == 1


def test_a_term_may_use_the_last_sequences_of_a_killed_relay_again() -> None:
    """It does not know of the last ones, and has counted them itself."""
    hearing = Hearing()
    hearing.hear(TOPIC, frame(8, term=1))
    assert hearing.hear(TOPIC, frame(6, term=2)) is None
    assert hearing.hear(TOPIC, frame(6, term=2)) == "late", "twice"
    assert hearing.hear(TOPIC, frame(9, term=2)) is None
    assert hearing.gaps == 2


def test_the_next_relay_goes_on_with_what_the_former_told() -> None:
    former = Hearing()
    former.hear(TOPIC, frame(5))
    former.hear(ALL, frame(1, kind=Kind.HELLO, node=OTHER))
    hearing = Hearing()
    told = former.peers.told()
    hearing.peers.learn([*told, {"node": b"x"}, {**told[0], "term": "x"}, {}], former.now)
    assert hearing.peers.known.keys() == {NODE, OTHER}
    assert hearing.hear(TOPIC, frame(5)) == "late", "delivered by the former"
    assert hearing.hear(TOPIC, frame(8)) is None
    assert hearing.gaps == 2


def test_machines_are_expected_until_they_leave_or_are_silent_and_remembered_for_a_day() -> None:
    hearing = Hearing()
    hearing.hear(ALL, frame(1, kind=Kind.HELLO))
    hearing.hear(ALL, frame(2, kind=Kind.BEAT))
    hearing.hear(ALL, frame(1, kind=Kind.HELLO, node=OTHER))
    hearing.hear(ALL, frame(2, kind=Kind.BEAT, node=OTHER))
    hearing.hear(ALL, frame(3, kind=Kind.BYE, node=OTHER))

    def expected() -> set[bytes]:
        hearing.peers.forget(hearing.now)
        return {peer.node for peer in hearing.peers.expected()}

    assert expected() == {NODE, OTHER}, "another process there may take over"
    hearing.now += LEFT + 1
    assert expected() == {NODE}
    hearing.now += EXPECTED
    assert expected() == set()
    assert hearing.hear(ALL, frame(1, kind=Kind.HELLO)) == "late", "replayed"
    hearing.now += REMEMBERED
    assert expected() == set()
    assert not hearing.peers.known


def test_strangers_do_not_fill_the_memory() -> None:
    hearing = Hearing()
    for number in range(MOST):
        assert hearing.hear(ALL, frame(1, node=number.to_bytes(5, "big"))) is None
    assert hearing.hear(ALL, frame(1, node=b"other")) == "too many machines"
    assert hearing.hear(b"strange", frame(1, node=bytes(5))) is None
    assert b"strange" not in hearing.peers.known[bytes(5)].sequences


def test_what_was_sent_before_a_machine_flushed_is_dropped() -> None:
    hearing = Hearing()
    hearing.hear(ALL, frame(1, kind=Kind.HELLO))
    hearing.hear(ALL, frame(1, kind=Kind.HELLO, node=OTHER))
    hearing.peers.begin_flush(b"flush", hearing.now + 2 * SECOND, but=OTHER)
    assert not hearing.peers.is_from_before_a_flush(OTHER, hearing.now), "it asked"
    assert hearing.peers.is_from_before_a_flush(NODE, hearing.now)
    hearing.peers.flushed(NODE, b"another")
    assert hearing.peers.is_from_before_a_flush(NODE, hearing.now)
    hearing.peers.flushed(NODE, b"flush")
    assert not hearing.peers.is_from_before_a_flush(NODE, hearing.now)
    hearing.peers.begin_flush(b"again", hearing.now + 2 * SECOND)
    assert hearing.peers.is_from_before_a_flush(NODE, hearing.now)
    assert not hearing.peers.is_from_before_a_flush(NODE, hearing.now + 2 * SECOND), "unanswered"
