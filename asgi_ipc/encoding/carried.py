"""What a message may carry: checked before it is encoded, with the path to what it can't (O1).

The real type of a value counts, not its ``__class__``: a lazy object may claim to be anything, and
msgpack does not believe it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgpack

#: Largest encoded message, in bytes. See `asgi_ipc.encoding.codec.encode` for the one exception.
MESSAGE_LIMIT = 1024 * 1024
#: How deep a message may be nested, the message itself included.
DEPTH_LIMIT = 256

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
#: Types that need no look at the value.
PLAIN = frozenset((str, bytes, float, bool, type(None)))

_TYPES = (
    "a message carries bytes, str, int, float, bool, None, list, tuple and dict, and with"
    ' serializer="extended" Decimal, datetime, date, time, timedelta, UUID, set, frozenset and'
    " lazy strings of Django"
)

#: Given a value of no type in `_TYPES`' first half, and its depth: returns whether a serializer
#: carries it, and raises `Bad` if it would but for something in the value.
Carries = Callable[[Any, int], bool]


class Bad(Exception):
    """A value that can't be carried, and on the way up the path to it."""

    def __init__(self, error: type[Exception], reason: str) -> None:
        self.error, self.reason = error, reason
        self.path: list[str] = []

    def explain(self) -> NoReturn:
        """Raise it as what the caller is to see."""
        steps = self.path[::-1]
        if len(steps) > 12:
            steps = [*steps[:6], "...", *steps[-3:]]
        raise self.error(f"message{''.join(steps)} {self.reason}") from None


def check(value: Any, depth: int, carries: Carries | None = None) -> None:
    """Raise `Bad` for a value, at a depth of a message, that can't be carried."""
    kind = type(value)
    if kind in PLAIN:
        return
    if issubclass(kind, int):
        if not INT_MIN <= value <= INT_MAX:
            raise Bad(
                ValueError, f"is an int beyond signed 64 bits: {brief(value)}; send it as a str"
            )
    elif issubclass(kind, dict):
        check_depth(depth)
        for key, item in value.items():
            if not issubclass(type(key), str):
                raise Bad(
                    TypeError,
                    f"has the key {brief(key)} of type {type_name(key)}; keys must be str",
                )
            if type(item) in PLAIN:
                continue
            try:
                check(item, depth + 1, carries)
            except Bad as bad:
                bad.path.append(f"[{brief(key)}]")
                raise
    elif issubclass(kind, (list, tuple)) and not issubclass(kind, msgpack.ExtType):
        check_depth(depth)
        for index, item in enumerate(value):
            if type(item) in PLAIN:
                continue
            try:
                check(item, depth + 1, carries)
            except Bad as bad:
                bad.path.append(f"[{index}]")
                raise
    elif not issubclass(kind, (str, bytes, float)) and not (carries and carries(value, depth)):
        raise Bad(
            TypeError,
            f"is of type {type_name(value)}{_claim(value)}, which can't be sent: {brief(value)};"
            f" {_TYPES}",
        )


def check_depth(depth: int) -> None:
    """Raise `Bad` for a container at a depth beyond `DEPTH_LIMIT`."""
    if depth > DEPTH_LIMIT:
        raise Bad(
            ValueError,
            f"is nested more than {DEPTH_LIMIT} deep, or contains itself; send flatter data",
        )


def find_surrogate(message: Mapping[str, Any]) -> None:
    """Raise `ValueError` with the path to the str that has no UTF-8 form."""

    def search(value: Any) -> None:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise Bad(
                    ValueError,
                    f"has a lone surrogate, which is no text: {brief(value)}; send it as bytes",
                ) from None
            return
        steps: Any = ()
        if isinstance(value, dict):
            for key in value:
                search(key)
            steps = value.items()
        elif isinstance(value, (list, tuple)):
            steps = enumerate(value)
        elif isinstance(value, (set, frozenset)):
            steps = ((item, item) for item in value)
        for step, item in steps:
            try:
                search(item)
            except Bad as bad:
                bad.path.append(f"[{brief(step)}]")
                raise

    try:
        search(message)
    except Bad as bad:
        bad.explain()


def count_floats(value: Any) -> int:
    """Return how many floats a message has."""
    if isinstance(value, float):
        return 1
    if isinstance(value, dict):
        return sum(count_floats(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(count_floats(item) for item in value)
    return 0


def type_name(value: object) -> str:
    """Return the name of a value's type, with its module."""
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def brief(value: object) -> str:
    """Describe a value for an error message, shortly and without raising."""
    try:
        shown = repr(value)
    except Exception:
        return f"<{type_name(value)}>"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _claim(value: object) -> str:
    """Say what a value claims to be, if that is not what it is."""
    try:
        claimed = value.__class__.__name__
    except Exception:  # Such an object may run any code to answer, as it does for its repr.
        return ""
    if claimed == type(value).__name__:
        return ""
    return f" (it claims to be a {claimed}: send what it stands for, such as {claimed}(...) of it)"


__all__ = [
    "DEPTH_LIMIT",
    "INT_MAX",
    "INT_MIN",
    "MESSAGE_LIMIT",
    "PLAIN",
    "Bad",
    "Carries",
    "brief",
    "check",
    "check_depth",
    "count_floats",
    "find_surrogate",
    "type_name",
]
