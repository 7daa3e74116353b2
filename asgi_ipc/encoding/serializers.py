"""Choose what turns messages into bytes: the option ``serializer`` of a layer.

Messages of one store may be of several serializers, so the bytes tell which one wrote them: those
of a serializer of the user's begin with a tag (`asgi_ipc.encoding.codec.TAG`) and its name. A layer
that meets a message of another serializer raises `UnreadableMessage` inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from ..exceptions import OptionError, UnreadableMessage
from .carried import type_name
from .codec import (
    EXTENDED,
    MESSAGE_LIMIT,
    TAG,
    SharedBody,
    check_is_dict,
    decode,
    encode,
    too_large,
)

#: The name of the default serializer.
MSGPACK = "msgpack"
#: Longest name of a serializer, in characters.
_NAME_LIMIT = 200


class Serializer(Protocol):
    """What a user's serializer offers. Any thread may call it, several at a time.

    An attribute ``name``, a str, names it in the store; without one it is the path of its class or
    module. Layers read each other's messages if their serializers have the same name.
    """

    def serialize(self, message: dict[str, Any]) -> bytes:
        """Return a message as bytes; `send` raises what this raises."""

    def deserialize(self, data: bytes) -> dict[str, Any]:
        """Return the message that `serialize` made these bytes of, a new dict at each call.

        `ValueError` means that it can't be read: the layer logs and counts it, and receives the
        next. `receive` raises any other exception, and the message is lost.
        """


class Codec(NamedTuple):
    """A serializer as a layer uses it."""

    name: str
    encode: Callable[[Mapping[str, Any]], bytes]
    #: Raises `UnreadableMessage` for a message of another serializer, `RecordCorrupt` for none.
    decode: Callable[[bytes], dict[str, Any]]
    #: The same for a message that several receivers of this process share.
    decode_shared: Callable[[SharedBody], dict[str, Any]]


#: The default.
PLAIN_MSGPACK = Codec(MSGPACK, encode, decode, SharedBody.decode)


def choose(serializer: str | type | Serializer) -> Codec:
    """Return the codec of a serializer given by name, dotted path, class or object.

    Raises `OptionError` if there is none, or if it lacks a method.
    """
    if isinstance(serializer, str):
        if serializer == MSGPACK:
            return PLAIN_MSGPACK
        if serializer == EXTENDED:
            # Imported late, as few layers need its types.
            from . import extended

            def decode_shared(shared: SharedBody) -> dict[str, Any]:
                return shared.decode_by(extended.decode)

            return Codec(EXTENDED, extended.encode, extended.decode, decode_shared)
        found = _imported(serializer)
    else:
        found = serializer
    if isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise OptionError(
                f"serializer {serializer!r} can't be made without arguments: {error}; pass an"
                " object of it"
            ) from error
    custom = _Custom(serializer, found)
    return Codec(custom.name, custom.encode, custom.decode, custom.decode_shared)


def _imported(path: str) -> Any:
    module, separator, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not separator:
        raise OptionError(
            f"serializer is {path!r}; it must be {MSGPACK!r}, {EXTENDED!r}, a path such as"
            " 'package.module.Class', or an object with methods serialize and deserialize"
        )
    try:
        found: Any = import_module(module)
        for each in name.split("."):
            found = getattr(found, each)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(
            f"serializer {path!r} can't be imported: {type(error).__name__}: {error}"
        ) from error
    return found


class _Custom:
    """A serializer of the user's."""

    def __init__(self, given: object, serializer: Any) -> None:
        for method in ("serialize", "deserialize"):
            if not callable(getattr(serializer, method, None)):
                raise OptionError(
                    f"serializer is {given!r}, which has no method {method}; it must have"
                    " serialize(message), which returns bytes, and deserialize(data)"
                )
        self.name = _name(serializer)
        self._serialize, self._deserialize = serializer.serialize, serializer.deserialize
        self._header = TAG + bytes([len(self.name)]) + self.name.encode()

    def encode(self, message: Mapping[str, Any]) -> bytes:
        check_is_dict(message)
        data = self._serialize(message)
        if not isinstance(data, bytes):
            raise TypeError(
                f"serializer {self.name!r} made a {type_name(data)} of a message; serialize must"
                " return bytes"
            )
        if len(data) > MESSAGE_LIMIT:
            raise too_large(len(data))
        return self._header + data

    def decode(self, body: bytes) -> dict[str, Any]:
        if not body.startswith(self._header):
            decode(body)  # Raises the error of bytes that it can't read either.
            raise UnreadableMessage(MSGPACK)
        try:
            message = self._deserialize(body[len(self._header) :])
        except ValueError as error:
            raise UnreadableMessage(self.name, f"deserialize raised {error!r}") from error
        if not isinstance(message, dict):
            raise UnreadableMessage(
                self.name, f"deserialize returned a {type_name(message)}, not a dict"
            )
        return message

    def decode_shared(self, shared: SharedBody) -> dict[str, Any]:
        body = shared.encoded()
        if body is None:
            raise UnreadableMessage(MSGPACK)
        return self.decode(body)


def _name(serializer: Any) -> str:
    name = getattr(serializer, "name", None)
    if name is None:
        named = serializer if hasattr(serializer, "__qualname__") else type(serializer)
        name = getattr(serializer, "__name__", None) or f"{named.__module__}.{named.__qualname__}"
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= _NAME_LIMIT
        or not (name.isascii() and name.isprintable())
        or name in (MSGPACK, EXTENDED)
    ):
        raise OptionError(
            f"a serializer has the name {name!r}; it must be a str of 1 to {_NAME_LIMIT} printable"
            f" ASCII characters, and not {MSGPACK!r} or {EXTENDED!r}: set its attribute name"
        )
    return name


__all__ = ["EXTENDED", "MSGPACK", "PLAIN_MSGPACK", "Codec", "Serializer", "choose"]
