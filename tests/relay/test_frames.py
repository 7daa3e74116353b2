"""Frames as bytes, and the version that relays write: R4, R10, R11."""

from __future__ import annotations

import random

import pytest

from asgi_ipc.relay.frames import (
    ALL,
    LIMIT,
    LONGEST_LIFE,
    MOST_EXCLUDED,
    SHARDS,
    Beat,
    Kind,
    NoFrame,
    RelayFrame,
    machine_topic,
    pack,
    pack_beat,
    pack_beats,
    pack_excluded,
    pack_join,
    pack_sequences,
    shard_of,
    shard_topic,
    unpack,
    unpack_beat,
    unpack_excluded,
    unpack_join,
    unpack_sequences,
    version_for,
)
from asgi_ipc.relay.sealing import Sealer

NODE = b"nodes"
FRAME = RelayFrame(Kind.GROUP, NODE, 7, 3, 60_000_000_000, b"room", b"\x80", 1)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("name", [b"", b"room", b"n" * 255])
@pytest.mark.parametrize("payload", [b"", b"\x00\xff" * 5000])
def test_a_frame_comes_back_as_it_was(kind: Kind, name: bytes, payload: bytes) -> None:
    frame = FRAME._replace(kind=kind, name=name, payload=payload, sequence=LIMIT - 1)
    assert unpack(pack(frame)) == frame


def test_excluded_channels_come_back_as_they_were() -> None:
    names = frozenset(f"name{number}!a" for number in range(MOST_EXCLUDED))
    for some in (frozenset({"a!b"}), names):
        assert unpack_excluded(pack_excluded(some) + b"\x81") == (some, b"\x81")
    assert unpack_excluded(b"\x81") == (frozenset(), b"\x81")
    with pytest.raises(ValueError, match="at most"):
        pack_excluded({*names, "more"})
    whole = pack_excluded({"a", "b"})
    many = b"\n".join(b"%d" % number for number in range(MOST_EXCLUDED + 1))
    for bad in (b"\xc0\0\0\0\1\xff", b"\xc0" + len(many).to_bytes(4, "big") + many):
        with pytest.raises(ValueError):  # noqa: PT011
            unpack_excluded(bad)
    # What is cut short is left to those who look at the names and the message.
    for cut in range(len(whole)):
        names_left, left = unpack_excluded(whole[:cut])
        assert left == b"" or not cut
        assert names_left <= {"a", "b", ""}
    # MessagePack's nil, with which no message begins.
    assert whole.startswith(b"\xc0")


def test_any_bytes_are_a_frame_or_no_frame() -> None:
    random.seed(1)
    whole = pack(FRAME)
    for cut in range(len(whole) - 1):  # The last byte is the payload.
        with pytest.raises(NoFrame):
            unpack(whole[:cut])
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(random.randint(1, 4)):
            data[random.randrange(len(data))] = random.randrange(256)
        try:
            found = unpack(bytes(data))
        except NoFrame:
            continue
        assert 0 <= found.lifetime <= LONGEST_LIFE
        assert found.sequence > 0
        assert found.term > 0
    for size in (0, 1, 34, 35, 36, 1000):
        with pytest.raises(NoFrame):
            unpack(random.randbytes(size))
    # Numbers of which sums would not fit 64 bits.
    for far in (FRAME._replace(term=LIMIT), FRAME._replace(sequence=(1 << 64) - 1)):
        with pytest.raises(NoFrame):
            unpack(pack(far))
    with pytest.raises(NoFrame):
        unpack_sequences(pack_sequences({ALL: LIMIT}))


def test_a_beat_comes_back_whole_or_in_pieces_that_fit() -> None:
    asks, answers = b"asksasks", tuple(b"answer%02d" % n for n in range(20))
    beat = Beat(asks, answers, {shard_topic(n): n for n in range(300)})
    assert unpack_beat(pack_beat(beat)) == beat
    assert pack_beats(beat, 10_000) == [pack_beat(beat)]
    assert unpack_beat(b"") == Beat()
    for room in (40, 100, 333):
        pieces = pack_beats(beat, room)
        assert max(map(len, pieces)) <= room
        found = [unpack_beat(piece) for piece in pieces]
        assert {each.ask for each in found} == {asks}
        assert tuple(answer for each in found for answer in each.answers) == answers
        told = [pair for each in found for pair in each.sequences.items()]
        assert told == list(beat.sequences.items())
    assert pack_beats(beat, 15) == [pack_beat(beat)], "no room at all"
    # Only a whole one tells that it is all; one that was cut must not seem so.
    beat = beat._replace(is_all=True)
    assert [unpack_beat(each) for each in pack_beats(beat, 10_000)] == [beat]
    assert not any(unpack_beat(each).is_all for each in pack_beats(beat, 333))
    whole = pack_beat(beat)
    for cut in range(1, len(whole)):
        try:
            found_cut = unpack_beat(whole[:cut])
        except NoFrame:
            continue
        assert found_cut.sequences.items() <= beat.sequences.items()
    for wrong in (b"\0\x01", b"\2\0\0\0", b"\0\x08asksasks\xff\xff", b"\xff", b"\0\0\0\1short"):
        with pytest.raises(NoFrame):
            unpack_beat(wrong)


def test_a_frame_of_another_version_is_refused_as_such() -> None:
    """R11."""
    data = pack(FRAME._replace(reads=2), version=2)
    with pytest.raises(NoFrame) as caught:
        unpack(data)
    assert caught.value.reason == "version"
    assert unpack(data, oldest=1, newest=2).name == b"room"
    unknown = bytearray(pack(FRAME))
    unknown[4] = 200
    with pytest.raises(NoFrame) as caught:
        unpack(bytes(unknown))
    assert caught.value.reason == "version"


@pytest.mark.parametrize(
    ("announced", "version"), [([], 3), ([3, 3], 3), ([3, 2, 4], 2), ([1], 2), ([9], 3)]
)
def test_the_version_written_is_the_newest_that_all_read(
    announced: list[int], version: int
) -> None:
    """R11."""
    assert version_for(announced, oldest=2, newest=3) == version


def test_a_sealed_frame_opens_only_where_it_was_sealed() -> None:
    sealer = Sealer([bytes(range(32))])
    data = pack(FRAME, sealer=sealer, bound_to=b"site\0room")
    assert unpack(data, sealer=sealer, bound_to=b"site\0room") == FRAME
    assert b"room" not in data
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(NoFrame):
            unpack(bytes(changed), sealer=sealer, bound_to=b"site\0room")
    for wrong in (b"site\0other", b"other\0room"):
        with pytest.raises(NoFrame, match="seal"):
            unpack(data, sealer=sealer, bound_to=wrong)
    with pytest.raises(NoFrame, match="not sealed"):
        unpack(pack(FRAME), sealer=sealer)
    with pytest.raises(NoFrame, match="sealed"):
        unpack(data)


def test_sequences_come_back_and_other_bytes_do_not() -> None:
    told = {ALL: 1, shard_topic(0): 2, shard_topic(SHARDS - 1): LIMIT - 1,
            machine_topic(NODE): 4}  # fmt: skip
    packed = pack_sequences(told)
    assert unpack_sequences(packed) == told
    assert unpack_sequences(b"") == {}
    for cut in range(1, len(packed)):
        try:
            assert unpack_sequences(packed[:cut]).items() <= told.items()
        except NoFrame:
            pass
    for wrong in (b"\x00", b"\x05", b"\xff" * 300, pack_sequences({b"strange": 1}),
                  pack_sequences({shard_topic(SHARDS): 1})):  # fmt: skip
        with pytest.raises(NoFrame):
            unpack_sequences(wrong)
    with pytest.raises(NoFrame):
        unpack_sequences(pack_sequences(told) * 1000 + pack_sequences({
            machine_topic(n.to_bytes(5, "big")): 1 for n in range(5000)}))  # fmt: skip


def test_a_join_comes_back_with_a_bounded_lifetime() -> None:
    assert unpack_join(pack_join(b"room", 5)) == (b"room", 5)
    assert unpack_join(pack_join(b"room", (1 << 64) - 1)) == (b"room", LONGEST_LIFE)
    for wrong in (b"", b"1234567", b"12345678"):
        with pytest.raises(NoFrame):
            unpack_join(wrong)


def test_groups_spread_over_all_shards_and_keep_theirs() -> None:
    assert len({shard_of(b"room-%d" % n) for n in range(20_000)}) == SHARDS
    # Other numbers would part machines of two versions.
    assert [shard_of(name) for name in (b"chat", b"room-1", b"x")] == [682, 6, 643]
