"""How members are written, and who gets a broadcast; without any engine."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asgi_ipc import StoreCorrupt
from asgi_ipc.encoding.codec import MESSAGE_LIMIT
from asgi_ipc.encoding.envelope import MAX_LOCALS, unpack
from asgi_ipc.encoding.names import channel_name
from asgi_ipc.engines.base import MAX_NAME, MAX_PAYLOAD
from asgi_ipc.policy import groups

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
    return groups.plan([groups.member(channel_name(name)) for name in names], lambda _: capacity)


def test_channels_of_one_process_share_a_record() -> None:
    one, two, three = owned(1, 1), owned(1, 2), owned(2, 1)
    first, second = plan(one, three, two)
    assert first.channels == (one, two)
    assert first.queue == channel_name(one).queue
    assert first.owner == bytes(13) + b"\1"
    assert first.capacity == 10
    assert unpack(first.header + b"m") == ([channel_name(n).local for n in (one, two)], b"m")
    assert second.channels == (three,)


def test_channels_with_different_prefixes_have_different_queues() -> None:
    assert len(plan(owned(1, 1), owned(1, 2, "other"))) == 2


def test_ordinary_channels_get_the_message_as_it_is() -> None:
    (target,) = plan("a.b")
    assert target == (b"a.b", b"", 10, b"", ("a.b",), (b"",))


def test_channels_of_a_queue_that_nobody_owns_get_a_record_each() -> None:
    targets = plan("x!a", "x!b")
    assert [target.queue for target in targets] == [b"x!", b"x!"]
    assert [unpack(target.header + b"m")[0] for target in targets] == [[b"a"], [b"b"]]


def test_channels_that_differ_in_capacity_do_not_share_a_record() -> None:
    names = [owned(1, 1), owned(1, 2)]
    members = [groups.member(channel_name(name)) for name in names]
    targets = groups.plan(members, {names[0]: 1, names[1]: 2}.__getitem__)
    assert [(target.capacity, target.channels) for target in targets] == [
        (1, (names[0],)),
        (2, (names[1],)),
    ]


def test_very_many_channels_of_a_process_still_fit_an_engine() -> None:
    count = MAX_LOCALS + 1
    targets = plan(*(owned(1, local) for local in range(count)))
    assert [len(target.channels) for target in targets] == [count - 1, 1]
    assert len(unpack(targets[0].header + b"m")[0]) == MAX_LOCALS
    assert 100 * MAX_LOCALS + 9 * MESSAGE_LIMIT // 4 < MAX_PAYLOAD


def test_a_group_without_members_needs_no_record() -> None:
    assert plan() == []


@pytest.mark.parametrize("member", [b"", b"\x01", b"\x01" + bytes(31), b"a b", b"\xff", b"a!b!c"])
def test_what_is_no_member_is_a_corrupt_store(member: bytes) -> None:
    with pytest.raises(StoreCorrupt, match="member"):
        groups.plan([member], lambda _: 1)
