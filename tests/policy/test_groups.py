"""How members are written, and which receive a broadcast; without any engine."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asgi_ipc import StoreCorrupt
from asgi_ipc.encoding.envelope import MAX_LOCALS, unpack
from asgi_ipc.encoding.names import channel_name
from asgi_ipc.engines.base import MAX_NAME, MAX_PAYLOAD
from asgi_ipc.policy import groups
from tests.tools.documents import rows
from tests.tools.limits import MESSAGE_LIMIT

_part = st.text("abcXYZ019-_.", min_size=1, max_size=20)
_hex = st.text("0123456789abcdef", min_size=32, max_size=32)
_names = (
    _part
    | st.builds("{}?{}".format, _part, _part)
    | st.builds("{}!{}".format, _part, st.just("") | _part)
    | st.builds("{}.{}!{}".format, _part, _hex, _hex | _hex.map(str.upper) | _part | st.just(""))
    | st.builds("{}!{}".format, _hex, _hex)
)
unhurried = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def owned(process: int, local: int, prefix: str = "specific") -> str:
    return f"{prefix}.{process:028x}0000!{local:032x}"


@unhurried
@given(_names)
def test_a_member_is_the_channel_again(name: str) -> None:
    member = groups.member(channel_name(name))
    assert groups.channel(member) == channel_name(name)
    assert len(member) <= MAX_NAME


@unhurried
@given(st.lists(_names, unique=True, max_size=20))
def test_different_channels_are_different_members(names: list[str]) -> None:
    assert len({groups.member(channel_name(name)) for name in names}) == len(names)


def test_the_usual_member_takes_little_more_than_half_its_name() -> None:
    name = owned(1, 2)
    assert len(name) == 74
    assert len(groups.member(channel_name(name))) == 41


@unhurried
@example(b"\x01" + bytes(32))
@given(st.binary(max_size=80) | st.binary(max_size=60).map(b"\x01".__add__))
def test_any_bytes_are_a_member_or_a_corrupt_store(member: bytes) -> None:
    try:
        assert groups.member(groups.channel(member)) == member
    except StoreCorrupt:
        pass


def plan(*names: str, capacity: int = 10) -> list[groups.Target]:
    members = [groups.member(channel_name(name)) for name in names]
    found = groups.plan(members, lambda _: capacity, by_queue=True)
    # Each name parsed for itself gives the same.
    assert found == groups.plan(members, lambda _: capacity, by_queue=False)
    return found


def test_channels_of_one_process_share_a_record() -> None:
    one, two, three = owned(1, 1), owned(1, 2), owned(2, 1)
    first, second = plan(one, three, two)
    assert first.channels == [one, two]
    assert first.queue == channel_name(one).queue
    assert first.owner == bytes(13) + b"\1"
    assert first.capacity == 10
    assert unpack(first.header + b"m") == ([channel_name(n).local for n in (one, two)], b"m")
    assert second.channels == [three]


def test_channels_with_different_prefixes_have_different_queues() -> None:
    assert len(plan(owned(1, 1), owned(1, 2, "other"))) == 2


@unhurried
@given(st.lists(_names, unique=True, max_size=20), st.booleans())
def test_a_broadcast_names_each_member_once(names: list[str], by_queue: bool) -> None:
    members = [groups.member(channel_name(name)) for name in names]
    targets = groups.plan(members, lambda _: 1, by_queue=by_queue)
    assert sorted(name for target in targets for name in target.channels) == sorted(names)


def test_ordinary_channels_get_the_message_as_it_is() -> None:
    (target,) = plan("a.b")
    assert target.channels == ["a.b"]
    assert target == groups.Target(b"a.b", b"", 10, b"", (b"",))


def test_channels_of_a_queue_that_nobody_owns_get_a_record_each() -> None:
    targets = plan("x!a", "x!b")
    assert [target.queue for target in targets] == [b"x!", b"x!"]
    assert [unpack(target.header + b"m")[0] for target in targets] == [[b"a"], [b"b"]]


def test_channels_that_differ_in_capacity_do_not_share_a_record() -> None:
    names = [owned(1, 1), owned(1, 2)]
    members = [groups.member(channel_name(name)) for name in names]
    targets = groups.plan(members, {names[0]: 1, names[1]: 2}.__getitem__, by_queue=False)
    assert [(target.capacity, target.channels) for target in targets] == [
        (1, [names[0]]),
        (2, [names[1]]),
    ]


def test_very_many_channels_of_a_process_still_fit_an_engine() -> None:
    count = MAX_LOCALS + 1
    targets = plan(*(owned(1, local) for local in range(count)))
    assert [len(target.channels) for target in targets] == [count - 1, 1]
    assert len(unpack(targets[0].header + b"m")[0]) == MAX_LOCALS
    assert 100 * MAX_LOCALS + 9 * MESSAGE_LIMIT // 4 < MAX_PAYLOAD


def test_a_group_without_members_needs_no_record() -> None:
    assert plan() == []


@pytest.mark.parametrize("by_queue", [False, True])
@pytest.mark.parametrize(
    "member",
    [b"", b"\x01", b"\x01" + bytes(31), b"\x01" + bytes(32), b"a b", b"\xff", b"a!b!c"],
)
def test_what_is_no_member_is_a_corrupt_store(member: bytes, by_queue: bool) -> None:
    good = groups.member(channel_name(owned(0, 0)))
    with pytest.raises(StoreCorrupt, match="member"):
        groups.plan([good, member], lambda _: 1, by_queue=by_queue)
    with pytest.raises(StoreCorrupt, match="member"):
        groups.plan([member], lambda _: 1, by_queue=by_queue)


def test_a_compact_member_is_as_documented() -> None:
    first, last = bytes(range(16)), bytes(range(16, 32))
    member = groups.member(channel_name(f"some.prefix.{first.hex()}!{last.hex()}"))
    fields = {}
    for start, size, name in (cells for cells in rows("Members of groups") if cells[0].isdigit()):
        stop = None if size == "rest" else int(start) + int(size)
        fields[name] = member[int(start) : stop]
    assert fields == {
        "0x01": b"\x01",
        "the first 32 digits, as bytes": first,
        "the last 32 digits, as bytes": last,
        "the prefix": b"some.prefix",
    }
    assert groups.member(channel_name("plain!x")) == b"plain!x"
