"""The option ``serializer``: which may be chosen, and what the bytes say of their serializer."""

from __future__ import annotations

import itertools
import json
import pickle
import types
from decimal import Decimal
from typing import Any

import pytest

from asgi_ipc import MessageTooLarge, OptionError
from asgi_ipc.encoding.codec import MESSAGE_LIMIT, SharedBody
from asgi_ipc.encoding.serializers import choose
from asgi_ipc.exceptions import RecordCorrupt, UnreadableMessage


class Json:
    """A serializer as a user writes it."""

    def serialize(self, message: dict[str, Any]) -> bytes:
        return json.dumps(message).encode()

    def deserialize(self, data: bytes) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(data)
        return found


class Named(Json):
    name = "json, version 2"


class Needy(Json):
    def __init__(self, key: str) -> None:
        self.key = key


class Half:
    def serialize(self, message: dict[str, Any]) -> bytes:
        return b""


MODULE = types.ModuleType("a_module")
MODULE.serialize = pickle.dumps  # type: ignore[attr-defined]
MODULE.deserialize = pickle.loads  # type: ignore[attr-defined]
INSTANCE = Json()
PATH = "tests.encoding.test_serializers"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("msgpack", "msgpack"),
        ("extended", "extended"),
        (f"{PATH}.Json", f"{PATH}.Json"),
        (f"{PATH}:Json", f"{PATH}.Json"),
        (f"{PATH}.INSTANCE", f"{PATH}.Json"),
        (Json, f"{PATH}.Json"),
        (Json(), f"{PATH}.Json"),
        (Named(), "json, version 2"),
        (MODULE, "a_module"),
        (Needy("k"), f"{PATH}.Needy"),
    ],
)
def test_each_way_to_name_a_serializer(given: Any, name: str) -> None:
    codec = choose(given)
    assert codec.name == name
    body = codec.encode({"a": [1, {"b": "x"}]})
    assert codec.decode(body) == {"a": [1, {"b": "x"}]}
    shared = SharedBody(body)
    first, second = codec.decode_shared(shared), codec.decode_shared(shared)
    assert first == second == {"a": [1, {"b": "x"}]}
    first["a"].append(2)
    assert second == {"a": [1, {"b": "x"}]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("json", "'msgpack', 'extended', a path such as"),
        ("", "a path such as"),
        ("no_such_package.Json", "can't be imported: ModuleNotFoundError"),
        (f"{PATH}.Nothing", "can't be imported: AttributeError"),
        (".Json", "can't be imported: ValueError"),
        (f"{PATH}.Half", "no method deserialize"),
        (Needy, "can't be made without arguments"),
        (5, "no method serialize"),
        (None, "no method serialize"),
        (type("Bad", (Json,), {"name": "msgpack"}), "name 'msgpack'"),
        (type("Bad", (Json,), {"name": "ü"}), "set its attribute name"),
        (type("Bad", (Json,), {"name": "x" * 201}), "set its attribute name"),
        (type("Bad", (Json,), {"name": 5}), "set its attribute name"),
    ],
    ids=itertools.count(),
)
def test_anything_else_is_refused_with_advice(given: Any, said: str) -> None:
    with pytest.raises(OptionError, match="serializer") as caught:
        choose(given)
    assert said in str(caught.value)


def test_each_serializer_says_whose_another_message_is() -> None:
    codecs = [choose(each) for each in ("msgpack", "extended", Json, Named)]
    for writer in codecs:
        message = {"a": Decimal(1)} if writer.name == "extended" else {"a": 1}
        for reader in codecs:
            body = writer.encode(message)
            shared = SharedBody(body)
            # All that the default writes the extended one reads.
            if reader is writer or (writer.name, reader.name) == ("msgpack", "extended"):
                assert reader.decode(body) == message == reader.decode_shared(shared)
                continue
            for decode in (reader.decode, lambda _: reader.decode_shared(shared)):  # noqa: B023
                with pytest.raises(UnreadableMessage) as caught:
                    decode(body)
                assert caught.value.by == writer.name


def test_a_message_that_is_kept_decoded_stays_its_serializers() -> None:
    shared = SharedBody(choose("msgpack").encode({"a": 1}))
    assert shared.decode() == {"a": 1}
    with pytest.raises(UnreadableMessage, match="'msgpack'"):
        choose(Json).decode_shared(shared)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\xc1\x00", b"\xc1\x05\xff\xff\xff", b"\x90", b"x"]
)
def test_bytes_of_no_serializer_are_corrupt_for_each(body: bytes) -> None:
    for each in ("msgpack", "extended", Json):
        with pytest.raises(RecordCorrupt):
            choose(each).decode(body)


def test_what_a_serializer_does_wrong_is_said() -> None:
    class Wrong(Json):
        name = "wrong"

        def serialize(self, message: dict[str, Any]) -> Any:
            return message["bytes"]

    codec = choose(Wrong)
    with pytest.raises(TypeError, match="'wrong' made a str of a message"):
        codec.encode({"bytes": "text"})
    with pytest.raises(TypeError, match="a message must be a dict"):
        codec.encode([])  # type: ignore[arg-type]
    with pytest.raises(MessageTooLarge):
        codec.encode({"bytes": b"x" * (MESSAGE_LIMIT + 1)})
    with pytest.raises(KeyError):
        codec.encode({})
    for data, said in [(b"{", "JSONDecodeError"), (b"[]", "returned a list")]:
        with pytest.raises(UnreadableMessage, match=said):
            codec.decode(codec.encode({"bytes": data}))


def test_an_exception_that_is_no_value_error_is_the_receivers() -> None:
    class Broken(Json):
        def deserialize(self, data: bytes) -> dict[str, Any]:
            raise KeyError("k")

    codec = choose(Broken)
    with pytest.raises(KeyError):
        codec.decode(codec.encode({}))
