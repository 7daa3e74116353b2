"""How many messages a channel may hold (S7, S8)."""

from __future__ import annotations

import re
from collections.abc import ItemsView, Mapping
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from ..exceptions import OptionError

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper

#: Unread messages that an ordinary channel may hold if no ``capacity`` is given.
DEFAULT_CAPACITY = 100
#: The capacity of a channel whose messages are not counted. A number, as engines compare with it.
UNCOUNTED = (1 << 63) - 1
#: Names whose capacity is remembered.
_REMEMBERED = 4096
#: Names of process-specific queues and channels look like this behind their first dot.
_DIGITS = "0123456789abcdef"
#: The characters of ordinary names, and those of all.
_ORDINARY = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_NAMED = _ORDINARY | {"!"}
#: The beginning of the names that `new_channel` makes by default.
_USUAL = "specific"


class CapacityExceptions(Protocol):
    """Capacities by pattern, a Mapping, for type checkers.

    They would take no ``dict[str, int]`` for a Mapping from str or patterns, as its keys are
    invariant; what `items` returns is not.
    """

    def items(self) -> ItemsView[str | re.Pattern[str], int]:
        """Return pairs of pattern and capacity."""


class Capacities:
    """The ``capacity`` of a layer, and its ``channel_capacity``: exceptions by pattern.

    With None for ``default`` an ordinary channel may hold `DEFAULT_CAPACITY` messages, and those of
    a process-specific one are not counted: what bounds them is the share of the store that a queue
    may take, and once they are fetched `asgi_ipc.delivery.memory_limit`.

    ``exceptions`` maps patterns to capacities. A str is a glob for the whole name; a
    compiled regular expression is matched from the start of the name (``.match``). The
    first that fits wins, in the order of the mapping. Patterns are matched against full
    channel names, ``http.response!abc``, although the messages are counted per non-local
    part, ``http.response!``.

    Raises `OptionError` naming the value, the rule and the remedy.
    """

    def __init__(self, default: int | None, exceptions: CapacityExceptions | None = None) -> None:
        if default is not None:
            _check(
                "capacity",
                default,
                f", or None: {DEFAULT_CAPACITY}, and no count on process-specific channels",
            )
        if exceptions is None:
            exceptions = {}
        if not isinstance(exceptions, Mapping):
            raise OptionError(
                f"channel_capacity is {exceptions!r}; it must be a dict from pattern to capacity,"
                " such as {'thumbnails': 200}"
            )
        #: Of an ordinary channel.
        self.default: int = DEFAULT_CAPACITY if default is None else default
        #: As it was given.
        self.given = default
        self._specific = UNCOUNTED if default is None else default
        self.exceptions: dict[str | re.Pattern[str], int] = dict(exceptions.items())
        #: The exceptions, each pattern compiled.
        self.patterns = [(_compiled(key), value) for key, value in self.exceptions.items()]
        for key, value in self.exceptions.items():
            _check(f"channel_capacity[{key!r}]", value)
        #: The capacity of the channel of that full name.
        self.of: _lru_cache_wrapper[int] = lru_cache(_REMEMBERED)(self._find)

    @property
    def by_queue(self) -> bool:
        """Whether all channels of a queue have the same capacity: no pattern tells them apart."""
        return not self.exceptions

    def become(self, other: Capacities) -> None:
        """Take over what another has; `of` stays the same function."""
        self.default, self.given, self._specific = other.default, other.given, other._specific
        self.exceptions, self.patterns = other.exceptions, other.patterns
        self.of.cache_clear()

    def _find(self, channel: str) -> int:
        for pattern, capacity in self.patterns:
            if pattern.match(channel):
                return capacity
        return self._specific if "!" in channel else self.default

    def counts_consumers(self) -> bool:
        """Whether messages to the channels that consumers have by default are counted."""
        return self._find(f"{_USUAL}.{2 * _DIGITS}!{2 * _DIGITS}") != UNCOUNTED

    def mixed(self) -> tuple[str, str] | None:
        """Return a counted and an uncounted channel of one process-specific queue, if the patterns
        make such a queue: the count of the first includes the messages of the second.

        Names are tried that the patterns suggest. A regular expression is tried on the names that
        `new_channel` makes by default.
        """
        if self._specific != UNCOUNTED:
            return None
        tried = [f"{_USUAL}.{2 * _DIGITS}!{2 * _DIGITS}"]
        tried += [_suggested(pattern) for pattern in self.exceptions if isinstance(pattern, str)]
        for name in tried:
            queue = name[: name.index("!") + 1]
            # With each digit in front, and at the end.
            local_names = [2 * (_DIGITS[at:] + _DIGITS[:at]) for at in range(len(_DIGITS))]
            names = [name, *(queue + local for local in local_names)]
            counted = [each for each in names if self._find(each) != UNCOUNTED]
            uncounted = [each for each in names if self._find(each) == UNCOUNTED]
            if counted and uncounted:
                return counted[0], uncounted[0]
        return None


def can_match(glob: str) -> bool:
    """Return whether a glob matches the name of any channel.

    Such a name is an ordinary one, or one that `new_channel` makes: a prefix, a dot, 32 hexadecimal
    digits, ``!`` and 32 of them.
    """
    tokens = _tokens(glob)
    any_length = [(_ORDINARY, False), (_ORDINARY, True)]
    digits = [(frozenset(_DIGITS), False)] * (2 * len(_DIGITS))
    made = [*any_length, (frozenset("."), False), *digits, (frozenset("!"), False), *digits]
    return _meet(tokens, any_length) or _meet(tokens, made)


def can_match_shared(glob: str) -> bool:
    """Return whether a glob matches the name of an ordinary channel.

    Not of those that begin as the channels of consumers do, which are never ordinary.
    """
    return not glob.startswith(f"{_USUAL}.") and _meet(
        _tokens(glob), [(_ORDINARY, False), (_ORDINARY, True)]
    )


#: Characters, and whether any number of them may stand there.
_Token = tuple[frozenset[str], bool]


def _tokens(glob: str) -> list[_Token]:
    """What a glob allows at each place."""
    found: list[_Token] = []
    rest = glob
    while rest:
        size = 1
        if rest[0] == "[" and (end := rest.find("]", 3 if rest[1:2] == "!" else 2)) > 0:
            size = end + 1
        matches = _compiled("?" if rest[0] == "*" else rest[:size]).match
        found.append((frozenset(filter(matches, _NAMED)), rest[0] == "*"))
        rest = rest[size:]
    return found


def _meet(first: list[_Token], second: list[_Token]) -> bool:
    """Return whether there is a text that both allow."""
    pending, seen = [(0, 0)], {(0, 0)}
    while pending:
        one, two = pending.pop()
        if one == len(first) and two == len(second):
            return True
        follow = []
        if one < len(first) and first[one][1]:
            follow.append((one + 1, two))
        if two < len(second) and second[two][1]:
            follow.append((one, two + 1))
        if one < len(first) and two < len(second) and first[one][0] & second[two][0]:
            follow.append((one + (not first[one][1]), two + (not second[two][1])))
        new = set(follow) - seen
        seen |= new
        pending += new
    return False


def _suggested(glob: str) -> str:
    """A name of a process-specific channel that a glob matches, or one of a queue that it may."""
    if "!" not in glob.replace("[!", "["):
        prefix = re.split(r"[*?[]", glob, maxsplit=1)[0].rpartition(".")[0]
        return f"{prefix or _USUAL}.{2 * _DIGITS}!{2 * _DIGITS}"
    name = re.sub(r"\[!.[^]]*\]|\?", "0", glob)
    return re.sub(r"\[(.)[^]]*\]", r"\1", name).replace("*", 2 * _DIGITS)


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


def _check(option: str, capacity: object, alternative: str = "") -> None:
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
        raise OptionError(
            f"{option} is {capacity!r}; it must be an int of 1 or more:"
            f" the number of messages a channel may hold{alternative}"
        )


__all__ = ["DEFAULT_CAPACITY", "UNCOUNTED", "Capacities", "can_match", "can_match_shared"]
