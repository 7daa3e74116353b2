"""Terms, sequences and gaps of other machines: R5, R9."""

from __future__ import annotations

from msgpack import packb, unpackb

from asgi_ipc.relay.frames import ALL, LIMIT, Beat, Kind, RelayFrame, pack_beat, shard_topic
from asgi_ipc.relay.peers import (
    EXPECTED,
    LEFT,
    MOST,
    MOST_SEQUENCES_TOLD,
    MOST_TOLD,
    REMEMBERED,
    SILENT,
    UNPROVEN,
    UNPROVEN_REMEMBERED,
    Peers,
)

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


def all_told(sequence: int, told: dict[bytes, int], term: int = 1) -> RelayFrame:
    payload = pack_beat(Beat(sequences=told, is_all=True))
    return frame(sequence, term, Kind.BEAT)._replace(payload=payload)


def test_a_machine_that_tells_all_has_published_nothing_on_other_topics() -> None:
    """Also for the next relay of this machine, and in its own next terms."""
    other, later = b"g\x00\x02", b"g\x00\x03"
    hearing = Hearing(ALL, TOPIC, other)
    hearing.hear(ALL, all_told(7, {ALL: 7, other: 4}))
    hearing.peers.hears([later])
    heir = Hearing(ALL, TOPIC, other, later)
    heir.peers.learn(hearing.peers.to_report(), hearing.now)
    for each in (hearing, heir):
        each.hear(TOPIC, frame(3))
        assert each.gaps == 2
        each.hear(other, frame(6))
        assert each.gaps == 3
        each.hear(later, frame(9))
        assert each.gaps == 3, "it was not heard then"
    hearing = Hearing(ALL, TOPIC)
    hearing.hear(ALL, all_told(7, {ALL: 7}))
    hearing.hear(ALL, frame(8, term=2, kind=Kind.HELLO))
    hearing.hear(TOPIC, frame(3, term=2))
    assert hearing.gaps == 2
    hearing.now += 2 * EXPECTED
    hearing.hear(ALL, frame(9, term=1, kind=Kind.HELLO))
    hearing.hear(TOPIC, frame(4, term=1))
    assert hearing.gaps == 2, "another machine, or forged: its numbers mean nothing"


def test_the_next_relay_learns_at_once_that_a_machine_has_told_all() -> None:
    hearing = Hearing()
    hearing.hear(ALL, frame(6))
    for sequence, is_news in ((7, True), (8, False)):
        hearing.peers.has_news = False
        hearing.hear(ALL, all_told(sequence, {ALL: sequence}))
        assert hearing.peers.has_news is is_news


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


def test_a_topic_that_the_former_relay_heard_and_this_one_did_not_has_no_gap() -> None:
    former = Hearing(ALL, TOPIC)
    former.hear(ALL, all_told(7, {ALL: 7}))
    former.hear(TOPIC, frame(1, term=2))
    hearing = Hearing(ALL)
    hearing.peers.learn(former.peers.to_report(), hearing.now)
    hearing.peers.hears_only([ALL])
    hearing.hear(ALL, beat(9, {ALL: 9}, term=2))
    hearing.peers.hears([TOPIC])
    hearing.hear(TOPIC, frame(100, term=2))
    assert hearing.gaps == 0


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
    told = hearing.peers.to_report()
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
    told = former.peers.to_report()
    hearing.peers.learn([*told, {"node": b"x"}, {**told[0], "term": "x"}, {}], former.now + 1)
    assert hearing.peers.known.keys() == {NODE, OTHER}
    assert hearing.peers.known[NODE].since == former.peers.known[NODE].since
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
    hearing.peers.begin_flush({b"flush": OTHER}, hearing.now + 2 * SECOND)
    assert not hearing.peers.is_from_before_a_flush(OTHER, hearing.now), "it asked"
    assert hearing.peers.is_from_before_a_flush(NODE, hearing.now)
    hearing.peers.flushed(NODE, b"another")
    assert hearing.peers.is_from_before_a_flush(NODE, hearing.now)
    hearing.peers.flushed(NODE, b"flush")
    assert not hearing.peers.is_from_before_a_flush(NODE, hearing.now)
    hearing.peers.begin_flush({b"again": b""}, hearing.now + 2 * SECOND)
    assert hearing.peers.is_from_before_a_flush(NODE, hearing.now)
    assert not hearing.peers.is_from_before_a_flush(NODE, hearing.now + 2 * SECOND), "unanswered"


def test_what_a_silent_machine_owes_is_forgotten() -> None:
    hearing = Hearing()
    hearing.hear(ALL, frame(1, kind=Kind.HELLO))
    for number in range(20):
        hearing.peers.begin_flush({b"%d" % number: OTHER}, hearing.now + 2 * SECOND)
        hearing.now += SECOND
        hearing.peers.forget(hearing.now)
        hearing.hear(ALL, frame(number + 2, kind=Kind.BEAT))
    assert len(hearing.peers.known[NODE].owes) <= 3


class Proving(Hearing):
    """A relay of a site with keys, and what another machine seals."""

    def __init__(self, *topics: bytes) -> None:
        super().__init__(*topics)
        self.peers = Peers(proof=True)
        self.peers.hears(topics or (ALL, TOPIC))

    def answer(self, sequence: int, number: int, term: int = 1) -> str | None:
        beat = pack_beat(Beat(answers=(self.peers.nonce,)))
        return self.hear(
            ALL, frame(sequence, term, Kind.BEAT)._replace(payload=beat, number=number)
        )

    def group(self, sequence: int, number: int, term: int = 1) -> str | None:
        return self.hear(TOPIC, frame(sequence, term)._replace(number=number))


def test_with_keys_nothing_is_acted_on_before_an_answer_and_nothing_from_before_it_after() -> None:
    """R5: whatever was recorded."""
    hearing = Proving()
    for kind in (Kind.GROUP, Kind.CHANNEL, Kind.JOIN, Kind.LEAVE, Kind.FLUSH, Kind.WORK):
        topic = TOPIC if kind is Kind.GROUP else ALL
        assert hearing.hear(topic, frame(1 + kind, kind=kind)._replace(number=kind)) == "not proven"
    assert hearing.peers.asks == hearing.peers.nonce
    assert hearing.answer(20, 20) is None
    assert not hearing.peers.asks
    assert hearing.group(3, 19) == "late", "from before the answer, on another topic"
    assert hearing.group(3, 21) is None
    assert hearing.group(4, 21) == "late", "twice"
    # A topic that is left and heard again.
    hearing.peers.hears_no_more([TOPIC])
    hearing.peers.hears([TOPIC])
    assert hearing.group(3, 21) == "late"
    assert hearing.group(9, 22) is None
    # The machine's next term has to answer again.
    assert hearing.group(1, 1, term=2) == "not proven"
    assert hearing.answer(21, 2, term=2) is None
    assert hearing.group(2, 3, term=2) is None
    assert hearing.group(99, 99, term=1) == "late"


def test_an_answer_that_was_recorded_proves_nothing_to_another_relay_or_once_forgotten() -> None:
    hearing, heir = Proving(), Proving()
    answer = frame(2, kind=Kind.BEAT)._replace(
        payload=pack_beat(Beat(answers=(hearing.peers.nonce,))), number=2
    )
    assert hearing.hear(ALL, answer) is None
    assert hearing.group(1, 3) is None
    heir.peers.learn(hearing.peers.to_report(), hearing.now)
    assert heir.hear(ALL, answer) == "late"
    assert heir.group(2, 4) == "not proven"
    new = Proving()
    assert new.hear(ALL, answer) is None
    assert new.group(1, 3) == "not proven"
    hearing.now += REMEMBERED + 1
    hearing.peers.forget(hearing.now)
    assert not hearing.peers.known
    assert hearing.hear(ALL, answer) is None
    assert hearing.group(1, 3) == "not proven"


def test_a_question_is_answered_once_and_a_machine_is_back_once_both_have_answered() -> None:
    hearing = Proving()
    ask = frame(1, kind=Kind.HELLO)._replace(payload=pack_beat(Beat(b"question")), number=1)
    assert hearing.hear(ALL, ask) is None
    since = hearing.now
    assert not hearing.peers.are_back(since)
    assert hearing.answer(2, 2) is None
    assert not hearing.peers.are_back(since), "it has asked"
    assert hearing.peers.take_answers() == (b"question",)
    assert hearing.peers.take_answers() == ()
    assert hearing.peers.are_back(since)
    assert not hearing.peers.are_back(since + 1)


def test_a_recorded_frame_does_not_keep_a_machine_expected() -> None:
    hearing = Proving()
    hearing.hear(ALL, frame(1, kind=Kind.HELLO)._replace(number=1))
    hearing.now += UNPROVEN + 1
    hearing.hear(ALL, frame(2, kind=Kind.HELLO)._replace(number=2))
    hearing.peers.forget(hearing.now)
    assert hearing.peers.expected() == []


def test_a_far_term_that_is_silent_gives_way_to_one_that_is_heard() -> None:
    hearing = Hearing()
    hearing.hear(TOPIC, frame(7))
    assert hearing.hear(ALL, frame(1, term=LIMIT - 1, kind=Kind.BEAT)) is None, "forged"
    assert hearing.hear(TOPIC, frame(8)) == "late"
    assert hearing.peers.to_report()[0]["late_at"] == hearing.now
    hearing.now += EXPECTED + 1
    assert hearing.hear(TOPIC, frame(9)) is None
    assert hearing.hear(TOPIC, frame(9)) == "late"
    assert hearing.hear(TOPIC, frame(10)) is None
    assert hearing.gaps == 0


def test_a_machine_that_never_beats_is_soon_not_expected_and_then_forgotten() -> None:
    hearing = Hearing()
    hearing.hear(ALL, frame(1, kind=Kind.HELLO))
    hearing.hear(ALL, frame(1, kind=Kind.HELLO, node=OTHER))
    hearing.hear(ALL, frame(2, kind=Kind.BEAT, node=OTHER))
    hearing.now += UNPROVEN + 1
    hearing.peers.forget(hearing.now)
    assert [peer.node for peer in hearing.peers.expected()] == [OTHER]
    hearing.now += UNPROVEN_REMEMBERED
    hearing.peers.forget(hearing.now)
    assert hearing.peers.known.keys() == {OTHER}


def test_strangers_that_are_silent_make_room_for_a_machine_that_is_heard() -> None:
    hearing = Hearing()
    hearing.hear(ALL, frame(1, kind=Kind.BEAT, node=OTHER))
    for number in range(MOST - 1):
        hearing.hear(ALL, frame(1, node=number.to_bytes(5, "big")))
    assert hearing.hear(ALL, frame(1, kind=Kind.HELLO)) == "too many machines"
    hearing.now += SILENT + 1
    assert hearing.hear(ALL, frame(1, kind=Kind.HELLO)) is None
    assert hearing.peers.known.keys() >= {NODE, OTHER}, "the strangers go first"
    assert len(hearing.peers.known) == MOST


def test_what_is_counted_of_the_farthest_numbers_fits_the_report() -> None:
    hearing = Hearing()
    for term in range(1, 20):
        hearing.hear(ALL, frame(1, term, kind=Kind.HELLO))
        hearing.hear(TOPIC, frame(LIMIT - 1, term))
    told = hearing.peers.to_report()
    assert unpackb(packb(told))[0]["gaps"] == told[0]["gaps"]
    heir = Peers()
    heir.learn([*told, {**told[0], "node": OTHER, "bytes": 1 << 64}], hearing.now)
    assert heir.known.keys() == {NODE}


def test_of_many_sequences_those_are_told_for_which_there_is_room() -> None:
    hearing = Hearing(*(shard_topic(shard) for shard in range(1000)))
    for number in range(300):
        hearing.now += 1
        hearing.hear(ALL, frame(1, kind=Kind.HELLO, node=number.to_bytes(5, "big")))
    told = hearing.peers.to_report()
    assert len(told) == MOST_TOLD
    assert told[0]["node"] == (299).to_bytes(5, "big"), "heard last"
    assert 0 < sum(len(each["sequences"]) for each in told) <= MOST_SEQUENCES_TOLD


def test_where_nothing_was_published_is_told_in_the_room_that_all_else_leaves() -> None:
    topics = [shard_topic(shard) for shard in range(600)]
    hearing = Hearing(*topics)
    machines = [number.to_bytes(5, "big") for number in range(1, 5)]
    for node in machines:
        hearing.hear(ALL, frame(1, kind=Kind.HELLO, node=node))
        for topic in topics[:300]:
            hearing.hear(topic, frame(1, node=node))
    told = [each["sequences"] for each in hearing.peers.to_report()]
    assert [sum(map(bool, each.values())) for each in told] == [300] * 4
    assert sum(map(len, told)) == 4 * 300 + 300, "so one fits whole"
