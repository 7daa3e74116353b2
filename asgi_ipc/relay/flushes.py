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
    def __init__(self, names: dict[bytes, str], clears: bool) -> None:
        self.until = time.monotonic() + PATIENCE
        self.waits_for = dict(names)
        #: Whether the server is clearing the shared channels; why it could not.
        self.clears, self.failure = clears, ""


class Flushes:
    """The flushes that processes of this machine have asked for.

    ``answer`` is called with the number of a flush and what was not done: the end of the sentence
    "This machine's store was flushed, but ..."; with nothing if all was done.
    """

    def __init__(self, peers: Peers, answer: Callable[[bytes, str], None]) -> None:
        self._peers, self._answer = peers, answer
        #: None: it is still to begin.
        self._open: dict[bytes, _Flush | None] = {}
        self._answered: dict[bytes, str] = {}

    def is_new(self, number: bytes) -> bool:
        """Note that a flush is asked for; answer again if it was answered before."""
        if number in self._answered:
            self._answer(number, self._answered[number])
            return False
        if number in self._open:
            return False
        self._open[number] = None
        return True

    def begin(self, number: bytes, clears: bool = False) -> None:
        """Wait for all machines that should be there, and if it ``clears`` for `cleared`."""
        names = {peer.node: peer.shown() for peer in self._peers.expected()}
        self._open[number] = _Flush(names, clears)

    def fail(self, number: bytes, why: str) -> None:
        """End a flush that could not be published. Does nothing if it has ended."""
        self._end(
            number,
            f"not those of other machines, as that was not published ({why}); flush again when it"
            " can be",
        )

    def cleared(self, number: bytes, failure: str = "") -> None:
        """Note that the server has cleared the shared channels, or why it could not."""
        flush = self._open.get(number)
        if flush is not None:
            flush.clears, flush.failure = False, failure
            self.look()

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
            if flush is None:
                continue
            waits = flush.clears or flush.waits_for
            if not waits or time.monotonic() >= flush.until:
                self._end(number, _not_done(flush))

    def _end(self, number: bytes, missing: str) -> None:
        if number not in self._open:
            return
        del self._open[number]
        while len(self._answered) >= _REMEMBERED:
            del self._answered[next(iter(self._answered))]
        self._answered[number] = missing
        self._answer(number, missing)


def _not_done(flush: _Flush) -> str:
    parts = []
    if flush.waits_for:
        names = sorted(flush.waits_for.values())
        if len(names) > _NAMED + 1:
            names = [*names[:_NAMED], f"{len(names) - _NAMED} more"]
        parts.append(
            f"not those of other machines, which did not confirm it ({', '.join(names)}); when they"
            " are back, flush again"
        )
    failure = "it did not answer in time" if flush.clears else flush.failure
    if failure:
        parts.append(
            f"the server did not empty the shared channels: {failure}; when it can, flush again"
        )
    return "; and ".join(parts)


__all__ = ["BARRIER", "PATIENCE", "Flushes"]
