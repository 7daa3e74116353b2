"""Flushes of all machines (R9): those of this machine's processes, and those that others ask for.

`OwnFlushes` knows which machines have still to confirm a flush that a process here has asked for,
and answers that process. `FlushesFromAfar` bounds what other machines can have this one do. `Relay`
empties the store, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from .frames import FLUSH_BYTES, NoFrame
from .peers import Peers

#: Seconds for which other machines are waited for.
PATIENCE = 5.0
#: Nanoseconds for which what may have been sent before another machine's flush is dropped.
BARRIER = 2 * 1_000_000_000
#: Flushes whose outcome is remembered, as a process asks again if the answer was flushed.
_REMEMBERED = 64
#: Machines that are named.
_NAMED = 20
#: Flushes that other machines may ask for at once, and seconds until they may ask for one more.
_BURST, _EVERY = 4, 1.0
#: Flushes that are carried out together, at most: of one machine, and of all. Each is noted of each
#: machine.
_MOST_OF_ONE, _MOST_OF_ALL = 8, 64


class _Flush:
    def __init__(self, names: dict[bytes, str], clears: bool) -> None:
        self.until = time.monotonic() + PATIENCE
        self.waits_for = dict(names)
        #: Whether the server is clearing the shared channels; why it could not.
        self.clears, self.failure = clears, ""


class OwnFlushes:
    """The flushes that processes of this machine have asked for.

    ``answer`` is called with the number of a flush and what was not done: the end of the sentence
    "This machine's store was flushed, but ..."; with nothing if all was done.
    """

    def __init__(self, peers: Peers, answer: Callable[[bytes, str], None]) -> None:
        self._peers, self._answer = peers, answer
        #: None: it is still to begin.
        self._open: dict[bytes, _Flush | None] = {}
        self._answered: dict[bytes, str] = {}

    def ask(self, number: bytes) -> bool:
        """Note that a flush is asked for; return whether it is to begin.

        One that was answered before is answered again.
        """
        if number in self._answered:
            self._answer(number, self._answered[number])
            return False
        if number in self._open:
            return False
        self._open[number] = None
        return True

    def begin(self, number: bytes, clears: bool = False) -> None:
        """Wait for all machines that should be there, and if it ``clears`` for `cleared`.

        Does not block: `end_finished` ends it.
        """
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
            self.end_finished()

    def confirmed(self, number: bytes, node: bytes) -> None:
        """Note that a machine has flushed."""
        self._peers.flushed(node, number)
        flush = self._open.get(number)
        if flush is not None:
            flush.waits_for.pop(node, None)
            self.end_finished()

    def end_finished(self) -> None:
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


class FlushesFromAfar:
    """The flushes that other machines ask for, and when they are carried out.

    `_BURST` of them are carried out at once, and then one in `_EVERY` seconds: anything may be
    published on the server. Those that come meanwhile are carried out together with it.
    """

    def __init__(self) -> None:
        #: Those still to be carried out, by number, with the machine that has asked for each.
        self._asked: dict[bytes, bytes] = {}
        #: How many may be carried out at once, and as of when.
        self._allowed, self._as_of = float(_BURST), time.monotonic()

    def ask(self, number: bytes, node: bytes) -> float | None:
        """Note a flush; return in how many seconds to `take` it, or None if others do that already.

        Raises `NoFrame` if that is no number, or the machine has asked for too many.
        """
        if len(number) != FLUSH_BYTES:
            raise NoFrame("no frame")
        asked_by = list(self._asked.values())
        if len(asked_by) >= _MOST_OF_ALL or asked_by.count(node) >= _MOST_OF_ONE:
            raise NoFrame("too many flushes")
        self._asked[number] = node
        if len(self._asked) > 1:
            return None
        now = time.monotonic()
        more = (now - self._as_of) / _EVERY
        self._allowed, self._as_of = min(float(_BURST), self._allowed + more), now
        wait = max(0.0, 1.0 - self._allowed) * _EVERY
        self._allowed -= 1
        return wait

    def take(self) -> Mapping[bytes, bytes]:
        """Return the flushes to carry out now, by number, with the machine that asked for each."""
        asked, self._asked = self._asked, {}
        return asked


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


__all__ = ["BARRIER", "PATIENCE", "FlushesFromAfar", "OwnFlushes"]
