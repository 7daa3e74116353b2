"""Flushes of all machines: which of them have still to confirm (R9)."""

from __future__ import annotations

import time
from collections.abc import Callable

from .peers import Peers

#: Seconds for which other machines are waited for.
PATIENCE = 5.0
#: Nanoseconds for which what may have been sent before another machine's flush is dropped.
BARRIER = 2 * 1_000_000_000
#: Flushes whose outcome is remembered, as a process asks again if the answer was flushed.
_REMEMBERED = 64
#: Machines that are named.
_NAMED = 20


class _Flush:
    def __init__(self, names: dict[bytes, str]) -> None:
        self.until = time.monotonic() + PATIENCE
        self.waits_for = dict(names)


class Flushes:
    """The flushes that processes of this machine have asked for.

    ``answer`` is called with the number of a flush and the names of the machines that did not
    confirm it.
    """

    def __init__(self, peers: Peers, answer: Callable[[bytes, list[str]], None]) -> None:
        self._peers, self._answer = peers, answer
        self._open: dict[bytes, _Flush | None] = {}
        self._answered: dict[bytes, list[str]] = {}

    def is_new(self, number: bytes) -> bool:
        """Note that a flush is asked for; answer again if it was answered before."""
        if number in self._answered:
            self._answer(number, self._answered[number])
            return False
        if number in self._open:
            return False
        self._open[number] = None
        return True

    def begin(self, number: bytes) -> None:
        """Wait for all machines that should be there."""
        names = {peer.node: peer.shown() for peer in self._peers.expected()}
        self._open[number] = _Flush(names)

    def fail(self, number: bytes, why: str) -> None:
        """End a flush that could not be published."""
        names = [peer.shown() for peer in self._peers.expected()]
        self._end(number, [*names, why])

    def confirmed(self, number: bytes, node: bytes) -> None:
        """Note that a machine has flushed."""
        self._peers.flushed(node, number)
        flush = self._open.get(number)
        if flush is not None:
            flush.waits_for.pop(node, None)
            self.look()

    def look(self) -> None:
        """End the flushes that all machines have confirmed, or whose time is over."""
        for number, flush in list(self._open.items()):
            if flush is not None and (not flush.waits_for or time.monotonic() >= flush.until):
                self._end(number, sorted(flush.waits_for.values()))

    def _end(self, number: bytes, missing: list[str]) -> None:
        del self._open[number]
        while len(self._answered) >= _REMEMBERED:
            del self._answered[next(iter(self._answered))]
        if len(missing) > _NAMED + 1:
            missing = [*missing[:_NAMED], f"{len(missing) - _NAMED} more"]
        self._answered[number] = missing
        self._answer(number, missing)


__all__ = ["BARRIER", "PATIENCE", "Flushes"]
