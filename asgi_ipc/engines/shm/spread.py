"""Many signals at once: processes that are signalled first help to signal the others (E26).

A signal wakes a process, which then competes with the sender for a processor: a broadcast to many
processes would hold its sender up until most of them had run. So a sender with many bells to signal
writes them to its *list*, a FIFO beside its bells, and signals a few bells itself. To these signals
it adds a request for help. A process that clears such a signal takes bells from the list, one at a
time, and signals them, until the list is empty. Only a few processes help: code that runs once in
each of many processes costs more than a loop in one.

A helper takes a bell only while it runs, and signals it at once. So a helper that is stopped or
busy withholds nothing from the others, and one that is killed loses at most one signal: that
receiver finds its message when it polls. If all helpers are stopped or killed, the sender signals
what is left in its list at its next upkeep, about once a second, or when it closes; and all
receivers poll about as often.
"""

from __future__ import annotations

import posix
import select
from collections.abc import Iterable
from functools import partial
from struct import Struct
from typing import Protocol

from ..bell import SIGNAL_BYTES
from .bells import FifoBell
from .heap.layout import SLOT_MASK

#: Up to so many bells, the sender signals all itself.
DIRECT = 8
#: Processes that are asked for help. One would do, if none were ever stopped or killed.
HELPERS = 2
#: An entry of a list: a bell, and the queue that it was armed on, behind the length of its name.
_entry = Struct("=Q56p")
_LONGEST = 55
#: Entries that are written in one piece; POSIX grants 512 bytes.
_PIECE = getattr(select, "PIPE_BUF", 512) // _entry.size
#: Bells that one process signals in one go; as many as a list holds on Linux.
_MOST = 1024
#: The upper half of a request among signals; the lower half is the slot of the process that has the
#: list. A queue's hint may look like a request: then no list is found, or one without a bell.
_REQUEST, _REQUEST_SHIFT = 0xFFFF, 16
_request = Struct("=I").pack


class Signal(Protocol):
    """Signals a bell that was taken off a queue, see `Session.signal`."""

    def __call__(self, queue: bytes, bell: int, request: bytes = b"") -> bool:
        """Return whether a process heard it."""


def requests_in(signals: bytes) -> set[int]:
    """Return the slots of the processes that request help among these signals."""
    words = memoryview(signals[: len(signals) // SIGNAL_BYTES * SIGNAL_BYTES]).cast("I")
    return {word & SLOT_MASK for word in words if word >> _REQUEST_SHIFT == _REQUEST}


def enlist(own: FifoBell, bells: Iterable[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    """Write queues and bells to this process's list; return those that do not fit."""
    left: list[tuple[bytes, int]] = []
    fitting: list[tuple[bytes, int]] = []
    for each in bells:
        (fitting if len(each[0]) <= _LONGEST else left).append(each)
    for at in range(0, len(fitting), _PIECE):
        piece = b"".join(_entry.pack(bell, queue) for queue, bell in fitting[at : at + _PIECE])
        if not own.use(partial(_write, piece), False):
            return left + fitting[at:]
    return left


def _write(piece: bytes, _: int, writer: int) -> bool:
    try:
        return posix.write(writer, piece) > 0
    except OSError:  # The list is full.
        return False


def ask_helpers(slot: int, signal: Signal, reader: int, _: int = -1) -> None:
    """Signal the first bells of this process's list, and request help of their processes."""
    request = _request(_REQUEST << _REQUEST_SHIFT | slot)
    helpers: set[int] = set()
    while len(helpers) < HELPERS and (entry := _take(reader)):
        bell, queue = entry
        if signal(queue, bell, request):
            helpers.add(bell & SLOT_MASK)


def signal_listed(signal: Signal, reader: int, _: int = -1) -> None:
    """Signal the bells of a list."""
    for _ in range(_MOST):
        entry = _take(reader)
        if entry is None:
            return
        bell, queue = entry
        signal(queue, bell)


def _take(reader: int) -> tuple[int, bytes] | None:
    """Take a bell from a list; None if it is empty. Never waits."""
    try:
        entry = posix.read(reader, _entry.size)
    except OSError:
        return None
    # A member of the group may have written anything: the bell is checked as any other.
    return _entry.unpack(entry) if len(entry) == _entry.size else None
