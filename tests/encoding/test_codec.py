"""What a message may carry, and that it arrives as it was sent (S1-S3, O1)."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import os
import subprocess
import sys
from collections import OrderedDict, namedtuple
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_ipc import MessageTooLarge, StoreCorrupt
from asgi_ipc.encoding import codec, envelope
from asgi_ipc.encoding.codec import DEPTH_LIMIT, MESSAGE_LIMIT, SharedBody, decode, encode
from asgi_ipc.encoding.envelope import MAX_LOCALS, address, unpack
from asgi_ipc.encoding.names import channel_name, group_name

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


class Text(str):
    __slots__ = ()


class Number(enum.IntEnum):
    ONE = 1


Point = namedtuple("Point", "x y")


# The first draw builds hypothesis' tables of characters, which takes a while.
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), _values))
def test_a_message_comes_back_as_it_went(message: dict[str, Any]) -> None:
    back = decode(encode(message))
    assert back == message
    assert repr(back) == repr(message)  # True is not 1, 1 is not 1.0, b"" is not "".


def test_tuples_arrive_as_lists() -> None:
    assert decode(encode({"a": (1, (2,))})) == {"a": [1, [2]]}


def test_subclasses_travel_as_what_they_extend() -> None:
    message = OrderedDict(
        [(Text("k"), Text("v")), ("n", Number.ONE), ("p", Point(1, 2)), ("d", OrderedDict(x=1))]
    )
    back = decode(encode(message))
    assert back == {"k": "v", "n": 1, "p": [1, 2], "d": {"x": 1}}
    assert {type(back), type(back["k"]), type(back["n"]), type(back["d"])} == {dict, str, int}


def test_the_ends_of_64_bit_are_carried_and_nan_too() -> None:
    assert decode(encode({"a": -(2**63), "b": 2**63 - 1})) == {"a": -(2**63), "b": 2**63 - 1}
    assert math.isnan(decode(encode({"a": float("nan")}))["a"])


@pytest.mark.parametrize("message", [None, [], "a", b"a", 1, [("a", 1)], {1, 2}])
def test_what_is_no_dict_is_refused(message: Any) -> None:
    with pytest.raises(TypeError, match="a message must be a dict"):
        encode(message)


@pytest.mark.parametrize(
    "value",
    [
        {1},
        frozenset(),
        datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
        decimal.Decimal(1),
        bytearray(b"a"),
        memoryview(b"a"),
        object(),
        1j,
        msgpack.Timestamp(1),
        msgpack.ExtType(1, b"a"),
        ...,
    ],
)
def test_a_type_that_cannot_be_carried_is_refused_with_its_path(value: Any) -> None:
    for message, path in [
        ({"a": value}, r"message\[\'a\'\] is"),
        ({"a": [1, {"b": (0, 0, value)}]}, r"message\['a'\]\[1\]\['b'\]\[2\] is"),
    ]:
        with pytest.raises(TypeError, match=f"{path} of type [A-Za-z.]+, which can't be sent"):
            encode(message)


class Liar:
    """Claims to be what it stands for, as lazy objects do."""

    def __init__(self, value: Any) -> None:
        self._value = value

    __class__ = property(lambda self: type(self._value))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value, name)

    def __hash__(self) -> int:
        return hash(self._value)

    def __eq__(self, other: object) -> bool:
        return bool(self._value == other)

    def __len__(self) -> int:
        return len(self._value)


class Unbound:
    """Can't say what it stands for, as outside of a request."""

    def _nothing(self) -> type:
        raise RuntimeError("outside of a request")

    __class__ = property(_nothing)

    def __repr__(self) -> str:
        raise RuntimeError("outside of a request")


@pytest.mark.parametrize("value", ["text", 5, 1.5, [1], {"a": 1}, b"x"])
def test_what_only_claims_to_be_carried_is_refused_with_its_path(value: Any) -> None:
    said = rf"of type \S*Liar \(it claims to be a {type(value).__name__}: send what it stands for"
    message: Any
    for message, path in [
        ({"a": Liar(value)}, r"\['a'\]"),
        ({"a": [(Liar(value),)]}, r"\['a'\]\[0\]\[0\]"),
    ]:
        with pytest.raises(TypeError, match=f"message{path} is {said}"):
            encode(message)


def test_a_liar_is_no_message_and_no_key_and_no_name() -> None:
    message: Any = Liar({"a": 1})
    with pytest.raises(TypeError, match=r"a message must be a dict, not .*Liar"):
        encode(message)
    with pytest.raises(TypeError, match=r"of type .*Liar; keys must be str"):
        encode({"b": {Liar("a"): 1}})
    for parse, what in ((channel_name, "channel"), (group_name, "group")):
        parse("text")
        with pytest.raises(TypeError, match=f"{what} name .* is not a str but of type Liar"):
            parse(Liar("text"))


def test_what_cannot_even_be_asked_is_refused_with_its_path() -> None:
    with pytest.raises(
        TypeError, match=r"message\['a'\] is of type .*Unbound, which can't be sent"
    ):
        encode({"a": Unbound()})


def test_a_lazy_string_of_django_is_refused_with_its_path_and_the_remedy() -> None:
    pytest.importorskip("django")
    from django.utils.functional import SimpleLazyObject, lazystr

    with pytest.raises(TypeError, match=r"message\['a'\] is .*__proxy__.*serializer=.extended"):
        encode({"a": lazystr("text")})
    with pytest.raises(TypeError, match=r"message\['a'\] is of type .*it claims to be a str"):
        encode({"a": SimpleLazyObject(lambda: "text")})


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**100])
def test_an_int_beyond_64_bit_is_refused_with_its_path(value: int) -> None:
    with pytest.raises(ValueError, match=r"message\['a'\]\[1\] is an int beyond"):
        encode({"a": [1, value]})
    with pytest.raises(ValueError, match=r"message\['a'\] is an int beyond"):
        encode({"a": value})


@pytest.mark.parametrize("key", [1, b"a", None, ("a",), True])
def test_a_key_that_is_no_str_is_refused_with_its_path(key: Any) -> None:
    with pytest.raises(TypeError, match=r"message has the key .* of type \w+; keys must be str"):
        encode({key: 1})
    with pytest.raises(TypeError, match=r"message\['a'\]\[0\] has the key"):
        encode({"a": [{key: 1}]})


def test_a_lone_surrogate_is_refused_with_its_path() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"a": ["", "\ud800"]}, r"message\['a'\]\[1\] has a lone surrogate"),
        ({"a": {"\ud800": 1}}, r"message\['a'\] has a lone surrogate"),
    ]
    for message, path in cases:
        with pytest.raises(ValueError, match=path) as caught:
            encode(message)
        str(caught.value).encode()  # It can be printed.


def test_deep_messages_travel_and_deeper_ones_are_refused() -> None:
    def nested(depth: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(depth - 1):
            value = [value]
        return {"a": value}

    assert decode(encode(nested(DEPTH_LIMIT))) == nested(DEPTH_LIMIT)
    with pytest.raises(ValueError, match="nested more than"):
        encode(nested(DEPTH_LIMIT + 1))


def test_a_message_that_contains_itself_is_refused() -> None:
    message: dict[str, Any] = {}
    message["a"] = [message]
    with pytest.raises(ValueError, match="contains itself"):
        encode(message)


def test_the_limit_is_exact_and_named() -> None:
    fits = {"a": b"x" * (MESSAGE_LIMIT - len(encode({"a": b"x" * 70000})) + 70000)}
    assert len(encode(fits)) == MESSAGE_LIMIT
    fits["a"] += b"x"
    with pytest.raises(MessageTooLarge, match=f"{MESSAGE_LIMIT + 1} bytes.*{MESSAGE_LIMIT}"):
        encode(fits)


@pytest.mark.parametrize("value", [0.5, 65536, "x", "", None, {}, [], True, -1, 1e300, "ä", 10**18])
def test_one_megabyte_of_json_always_fits(value: Any) -> None:
    length = len(json.dumps(value, ensure_ascii=False).encode())
    message = {"a": [value] * ((1_000_000 - 8) // (length + 1))}
    size = len(json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode())
    assert 999_000 < size <= 1_000_000
    assert decode(encode(message)) == message


def test_floats_are_forgiven_only_what_they_take_beyond_json() -> None:
    with pytest.raises(MessageTooLarge):
        encode({"a": [0.5] * 300_000})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x01",
        b"\x80\x80",
        b"\x81\x01\x01",
        b"\xdf\xff\xff\xff\xff",
        b"\xa1\xff",
        b"\x81\xa1\xff\x01",
        b"\x91" * 5000,
        b"\x81\xa1a" * 5000,
        b"\xc7\x01",
    ],
)
def test_bytes_that_are_no_message_are_a_corrupt_store(body: bytes) -> None:
    with pytest.raises(StoreCorrupt):
        decode(body)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_corrupt_store(body: bytes) -> None:
    try:
        assert type(decode(body)) is dict
    except StoreCorrupt:
        pass


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=30))
def test_any_bytes_are_an_envelope_or_a_corrupt_store(payload: bytes) -> None:
    try:
        names, body = unpack(payload)
    except StoreCorrupt:
        return
    assert address(names) + body == payload


def test_a_record_for_more_channels_than_there_can_be_is_a_corrupt_store() -> None:
    names = [b""] * MAX_LOCALS
    assert unpack(address(names) + b"body") == (names, b"body")
    with pytest.raises(StoreCorrupt, match="names channels"):
        unpack(address([*names, b""]) + b"body")


@pytest.mark.parametrize("count", [1, 40, 100, 3000, 20_000])
def test_what_is_remembered_of_names_is_never_taken_for_others(count: int) -> None:
    names = [b"%032x" % number for number in range(count)]
    # As long, and all but one the same; the last, the first and one in the middle.
    others = []
    for location in {count - 1, 0, count // 2}:
        others.append(list(names))
        others[-1][location] = b"%032x" % (count + 1)
    for number in range(3):
        for each in (names, *others, names[:-1]):
            if each:
                assert unpack(address(each) + b"body %d" % number) == (each, b"body %d" % number)


def test_few_long_names_are_remembered_and_the_longest_are_not() -> None:
    for number in range(20):
        unpack(address([b"%032x" % (number * 1000 + each) for each in range(500)]) + b"body")
    assert 1 <= len(envelope._long) <= envelope._FEW
    envelope._long.clear()
    longest = [b"%032x" % number for number in range(MAX_LOCALS)]
    assert unpack(address(longest) + b"body") == (longest, b"body")
    assert not envelope._long
    usual = address(longest[:500])
    assert unpack(usual + b"one")[0] is unpack(usual + b"two")[0]


def test_an_envelope_gives_back_names_and_message() -> None:
    assert unpack(address([b"a", b"", b"b"]) + b"body") == ([b"a", b"", b"b"], b"body")
    assert unpack(address([b""]) + b"body") == ([b""], b"body")


@pytest.mark.parametrize(
    "message", [{}, {"a": 1, "b": "x", "c": b"y", "d": None, "e": 0.5, "f": True}, {"a": [1, {}]}]
)
def test_a_message_that_several_get_is_each_ones_own(message: dict[str, Any]) -> None:
    shared = SharedBody(encode(message))
    for _ in range(3):
        mine = shared.decode()
        assert mine == message
        mine["new"] = 1
        for value in mine.values():
            if isinstance(value, list):
                value[1]["changed"] = True


def test_bytes_that_are_no_message_stay_so_for_all_who_get_them() -> None:
    shared = SharedBody(b"\xc1")
    for _ in range(3):
        with pytest.raises(StoreCorrupt):
            shared.decode()


def test_the_packer_of_a_large_message_is_not_kept() -> None:
    """It would keep as large a buffer, and what the allocator learns when that is freed matters."""
    encode({"text": "x"})
    small = codec._pack_flat
    encode({"text": "y" * 60_000})
    assert codec._pack_flat is small
    encode({"text": "y" * 1_000_000})
    assert codec._pack_flat is not small


def test_messages_of_many_threads_do_not_mix_in_a_packer_written_in_python() -> None:
    script = (
        "import sys, threading; from asgi_ipc.encoding.codec import decode, encode\n"
        "sys.setswitchinterval(1e-6)\n"
        "def use(me):\n"
        "    for n in range(200):\n"
        "        message = {f'{me}.{k}': str(me) * 9 for k in range(50)}\n"
        "        assert decode(encode(message)) == message, message\n"
        "    done.append(me)\n"
        "done = []\n"
        "threads = [threading.Thread(target=use, args=(me,)) for me in range(4)]\n"
        "[each.start() for each in threads]; [each.join() for each in threads]\n"
        "assert sorted(done) == [0, 1, 2, 3]\n"
    )
    environment = {**os.environ, "MSGPACK_PUREPYTHON": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300, env=environment)
