"""How many messages a channel may hold (S7, S8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import translate
from functools import lru_cache

from ..exceptions import OptionError

#: Names whose capacity is remembered.
_REMEMBERED = 4096


class Capacities:
    """The ``capacity`` of a layer, and its ``channel_capacity``: exceptions by pattern.

    ``exceptions`` maps patterns to capacities. A str is a glob for the whole name; a
    compiled regular expression is matched from the start of the name (``.match``). The
    first that fits wins, in the order of the mapping. Patterns are matched against full
    channel names, ``http.response!abc``, although the messages are counted per non-local
    part, ``http.response!``.

    Raises `OptionError` naming the value, the rule and the remedy.
    """

    def __init__(
        self, default: int, exceptions: Mapping[str | re.Pattern[str], int] | None = None
    ) -> None:
        _check("capacity", default)
        if exceptions is None:
            exceptions = {}
        if not isinstance(exceptions, Mapping):
            raise OptionError(
                f"channel_capacity is {exceptions!r}; it must be a dict from pattern to capacity,"
                " such as {'http.request': 200}"
            )
        self.default = default
        self.exceptions = dict(exceptions)
        self._patterns = [(_compiled(key), value) for key, value in self.exceptions.items()]
        for key, value in self.exceptions.items():
            _check(f"channel_capacity[{key!r}]", value)
        #: The capacity of the channel of that full name.
        self.of: Callable[[str], int] = lru_cache(_REMEMBERED)(self._find)

    def _find(self, channel: str) -> int:
        for pattern, capacity in self._patterns:
            if pattern.match(channel):
                return capacity
        return self.default


def _compiled(pattern: object) -> re.Pattern[str]:
    if isinstance(pattern, str):
        return re.compile(translate(pattern))
    if isinstance(pattern, re.Pattern):
        if isinstance(pattern.pattern, str):
            return pattern
        raise OptionError(
            f"channel_capacity has the pattern {pattern.pattern!r}, which matches bytes;"
            " channel names are str: compile it from a str"
        )
    raise OptionError(
        f"channel_capacity has the pattern {pattern!r}; a pattern is a str (a glob)"
        " or what re.compile() returns"
    )


def _check(option: str, capacity: object) -> None:
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
        raise OptionError(
            f"{option} is {capacity!r}; it must be an int of 1 or more:"
            " the number of messages a channel may hold"
        )


__all__ = ["Capacities"]
