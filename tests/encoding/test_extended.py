"""The serializer ``"extended"``: more types, none changed on the way (S1-S3, O1)."""

from __future__ import annotations

import datetime as dt
import itertools
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_ipc.encoding import codec
from asgi_ipc.encoding.codec import SharedBody
from asgi_ipc.encoding.extended import decode, encode
from asgi_ipc.exceptions import MessageTooLarge, RecordCorrupt, UnreadableMessage
from tests.tools.hostile_records import BODIES

try:
    _ZONE = ZoneInfo("Europe/Zurich")
except ZoneInfoNotFoundError:
    pytest.skip("this machine has no time zones", allow_module_level=True)
_zones = st.one_of(
    st.none(),
    st.just(_ZONE),
    st.just(dt.timezone.utc),
    st.builds(
        dt.timezone,
        st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)),
    ),
    st.builds(
        dt.timezone,
        st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)),
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
)
_fixed = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
    st.decimals(allow_nan=False),
    st.dates(),
    st.times(timezones=_zones),
    st.datetimes(timezones=_zones, allow_imaginary=True),
    st.timedeltas(),
    st.uuids(),
)
_hashable = _fixed | st.frozensets(_fixed, max_size=3) | st.tuples(_fixed, st.just((1, "x")))
_some = _fixed | st.sets(_hashable, max_size=3) | st.frozensets(_hashable, max_size=3)
_values = _some | st.lists(_some, max_size=3) | st.dictionaries(st.text(max_size=5), _some)


def _everything(value: Any) -> str:
    """All that a value consists of, with its types, in one order."""
    if isinstance(value, dict):
        return repr({key: _everything(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return repr((type(value), [_everything(item) for item in value]))
    if isinstance(value, (set, frozenset)):
        return repr((type(value), sorted(_everything(item) for item in value)))
    if isinstance(value, (dt.time, dt.datetime)):
        return f"{value!r} {value.fold} {value.tzinfo!r}"
    return repr(value)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), _values))
def test_a_message_comes_back_as_it_went(message: dict[str, Any]) -> None:
    back = decode(encode(message))
    assert back == message
    assert _everything(back) == _everything(message)


@pytest.mark.parametrize("text", ["NaN", "-sNaN12", "-0", "Infinity", "1E+999999", "1.10"])
def test_a_decimal_keeps_its_digits_and_its_kind(text: str) -> None:
    back = decode(encode({"n": [Decimal(text)]}))["n"][0]
    assert type(back) is Decimal
    assert str(back) == text


def test_an_hour_that_comes_twice_stays_the_one_that_it_was() -> None:
    second = dt.datetime(2024, 10, 27, 2, 30, tzinfo=_ZONE, fold=1)
    back = decode(encode({"at": second}))["at"]
    assert back.tzinfo is _ZONE
    assert (back.fold, back.utcoffset()) == (1, dt.timedelta(hours=1))


def test_a_time_zone_of_its_own_name_keeps_it() -> None:
    offset = dt.timedelta(hours=1, microseconds=5)
    for zone in (dt.timezone(offset, ""), dt.timezone(offset, "Köln"), dt.timezone.utc):
        back = decode(encode({"at": dt.time(1, tzinfo=zone)}))["at"]
        assert (back.tzinfo, back.tzname()) == (zone, zone.tzname(None))


def test_subclasses_travel_as_what_they_extend() -> None:
    class Many(set[int]):
        pass

    class Price(Decimal):
        def __str__(self) -> str:
            return "dear"

    back = decode(encode({"set": Many({1}), "price": Price(3)}))
    assert back == {"set": {1}, "price": Decimal(3)}
    assert (type(back["set"]), type(back["price"])) == (set, Decimal)


def test_lazy_strings_of_django_arrive_as_the_text_that_they_were() -> None:
    pytest.importorskip("django")
    from django.utils.functional import lazy
    from django.utils.safestring import SafeString, mark_safe

    said: list[str] = ["first"]
    text, marked = lazy(lambda: said[-1], str)(), lazy(lambda: mark_safe("<b>"), SafeString)()
    body = encode({"text": text, "all": [text, marked]})
    said.append("later")
    back = decode(body)
    assert back == {"text": "first", "all": ["first", "<b>"]}
    assert {type(each) for each in (back["text"], *back["all"])} == {str}
    with pytest.raises(TypeError, match=r"message\['n'\]\[0\] is of type .*__proxy__"):
        encode({"n": [lazy(lambda: 5, int)()]})
    with pytest.raises(ValueError, match=r"message\['n'\] has a lone surrogate"):
        encode({"n": lazy(lambda: "\ud800", str)()})


class _Nowhere(dt.tzinfo):
    def utcoffset(self, when: object) -> None:
        return None

    dst = tzname = utcoffset


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"a": [object()]}, r"message\['a'\]\[0\] is of type object"),
        ({"a": {1, 2j}}, r"message\['a'\]\{2j\} is of type complex"),
        ({"a": {(1, frozenset([2j]))}}, r"\{.*\}\[1\]\{2j\} is of type complex"),
        ({"a": {"\ud800"}}, r"message\['a'\]\['.ud800'\] has a lone surrogate"),
        ({"a": {2**70}}, r"message\['a'\]\{\d+\} is an int beyond"),
        ({"a": [dt.time(1, tzinfo=_Nowhere())]}, r"message\['a'\]\[0\] has a time zone of type"),
        ({"a": dt.datetime.now(dt.timezone(dt.timedelta(0), "\ud800"))}, "name is no text"),
        ({"a": {5: 1}}, "keys must be str"),
        ({"a": msgpack.ExtType(7, b"\x90")}, "ExtType, which can't be sent"),
        ({"a": {each * (2**61 - 1) for each in range(-4, 4)} | {Decimal(1)}}, None),
        ({"a": {UUID(int=1 + each * (2**61 - 1)) for each in range(65)}}, "items of one hash"),
    ],
    ids=itertools.count(),
)
def test_what_cannot_be_carried_is_refused_with_its_path(
    message: dict[str, Any], said: str | None
) -> None:
    if said is None:
        assert decode(encode(message)) == message
        return
    with pytest.raises((TypeError, ValueError), match=said):
        encode(message)


def test_a_zone_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Keyless(ZoneInfo):
        key = ""

    with pytest.raises(TypeError, match="ZoneInfo that has a key"):
        encode({"at": dt.time(tzinfo=Keyless("Europe/Zurich"))})


def test_sets_contain_sets_to_a_limit() -> None:
    def nested(depth: int) -> Any:
        value: Any = frozenset()
        for _ in range(depth - 1):
            value = frozenset([value])
        return value

    fits = {"a": [nested(8), (nested(8),)], "b": {(nested(7), "x")}}
    assert decode(encode(fits)) == {**fits, "a": [nested(8), [nested(8)]]}
    for deeper in (nested(9), {(nested(8), "x")}):
        with pytest.raises(ValueError, match="a set within more than 7 sets"):
            encode({"a": deeper})


def test_a_large_message_is_refused() -> None:
    with pytest.raises(MessageTooLarge):
        encode({"a": {uuid4() for _ in range(60_000)}})


def test_each_layer_reads_what_needs_no_other_types() -> None:
    plain = {"a": [1, "x", b"y", {"b": None}], "c": 0.5}
    assert codec.decode(encode(plain)) == plain == decode(codec.encode(plain))
    assert encode(plain) == codec.encode(plain)


def test_the_default_serializer_says_whose_a_message_is() -> None:
    for message in ({"a": Decimal(1)}, {"a": [{"b": {1}}]}):
        with pytest.raises(UnreadableMessage, match="'extended'"):
            codec.decode(encode(message))
        with pytest.raises(UnreadableMessage, match="'extended'"):
            SharedBody(encode(message)).decode()


def test_a_message_of_several_receivers_is_each_ones_own() -> None:
    shared = SharedBody(encode({"a": Decimal(1), "b": {2}}))
    first, second = shared.decode_by(decode), shared.decode_by(decode)
    first["b"].add(3)
    assert second == {"a": Decimal(1), "b": {2}}


def _of(code: int, data: bytes) -> bytes:
    packed: bytes = msgpack.packb({"a": msgpack.ExtType(code, data)})
    return packed


def _sets(depth: int) -> bytes:
    data = b"\x90"
    for _ in range(depth):
        data = msgpack.packb([msgpack.ExtType(8, data)])
    return data


_WRONG = {
    "no number": _of(1, b"one"),
    "a number that is no ascii": _of(1, "\u0661".encode()),
    "an empty number": _of(1, b""),
    "a date of no month": _of(3, b"\x07\xe8\x0d\x01"),
    "a date that goes on": _of(3, b"\x07\xe8\x01\x01\x00"),
    "half a date": _of(3, b"\x07"),
    "half a datetime": _of(2, b"\x07\xe8\x01\x01\x00"),
    "a time of a third fold": _of(4, b"\x01\x01\x01\x00\x00\x00\x00\x02"),
    "a zone of no kind": _of(4, b"\x01\x01\x01\x00\x00\x00\x00\x00?"),
    "a zone a day away": _of(
        4, b"\x01\x01\x01\x00\x00\x00\x00\x00o" + (86400 * 10**6).to_bytes(8, "big")
    ),
    "a zone outside": _of(4, b"\x01\x01\x01\x00\x00\x00\x00\x00z../../etc/passwd"),
    "an absolute zone": _of(4, b"\x01\x01\x01\x00\x00\x00\x00\x00z/etc/passwd"),
    "a span too long": _of(5, b"\x7f\xff\xff\xff" + bytes(8)),
    "half a span": _of(5, b"\x00"),
    "a UUID too short": _of(6, b"\x00" * 15),
    "a set of nothing": _of(7, b""),
    "a set that is a dict": _of(7, b"\x80"),
    "a set of lists": _of(7, msgpack.packb([msgpack.ExtType(7, b"\x90")])),
    "a set of an extension": _of(7, msgpack.packb([msgpack.ExtType(9, b"")])),
    "a set of uint64": _of(7, b"\x91\xcf" + b"\xff" * 8),
    "sets within sets": _of(7, _sets(8)),
    "sets without end": _of(7, _sets(1000)),
    "a set of one hash": _of(
        7,
        msgpack.packb(
            [msgpack.ExtType(6, (1 + n * (2**61 - 1)).to_bytes(16, "big")) for n in range(30_000)]
        ),
    ),
    "an extension as a key": msgpack.packb({msgpack.ExtType(1, b"1"): 1}),
    "bytes as a key in a list": _of(7, b"\x91\x91\x81\xc4\x01a\x01"),
}


@pytest.mark.parametrize("name", [*_WRONG, *BODIES])
def test_bytes_that_no_sender_makes_are_corrupt(name: str) -> None:
    if "promise" in name:
        pytest.skip("it sets much memory aside, which the test of all serializers limits")
    body = _WRONG.get(name) or BODIES[name]
    # Such a set is refused before its items are compared, each with all others.
    said = "items of one hash" if name == "a set of one hash" else "can't be decoded"
    with pytest.raises(RecordCorrupt, match=said):
        decode(body)


def test_a_zone_that_is_not_installed_here_is_said_to_be() -> None:
    body = _of(4, b"\x01\x01\x01\x00\x00\x00\x00\x00zNowhere/Else")
    with pytest.raises(UnreadableMessage, match="tzdata"):
        decode(body)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 8), st.binary(max_size=30))
def test_any_bytes_are_a_value_or_corrupt(code: int, data: bytes) -> None:
    try:
        message = decode(_of(code, data))
    except (RecordCorrupt, UnreadableMessage):
        return
    assert _everything(decode(encode(message))) == _everything(message)
