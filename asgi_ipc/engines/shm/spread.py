"""Many signals at once: receivers that are woken wake further receivers (E26).

A signal wakes a process, which then competes with its waker for a processor: a broadcast to many
processes would hold its sender up until most of them had run. So a process with many bells to
signal writes them to its *list*, a FIFO beside its bells, and signals the first few. Their signals say
in whose list there is more: a process that clears such a signal takes bells from the list, one at
a time, and signals them, until there are none. Only these few do so, as what is done once in each
of many processes costs more than to go on with what one is at.

A bell is taken by a process that runs, and then signalled at once. So a process that is stopped or
busy keeps nothing from the others, and one that is killed loses the one signal that it had in hand:
that receiver finds its message at its regular look. If all of the few are stopped or killed, the
owner of the list signals the rest at its next look after the store, about once a second, or when it
closes; and all who wait look for themselves about as often.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable
from functools import partial
from struct import Struct

from ..bell import SIGNAL_BYTES, signal_for
from .bells import FifoBell
from .heap.layout import SLOT_MASK

#: So many bells, or fewer, are signalled by the process that has them to signal.
FEW = 8
#: Processes that are told of a list. One would do, if none was ever stopped or killed.
FIRST = 2
#: Which of a process's bells is its list; those that are waited for are numbered from 1.
LIST = 0
#: An entry: a bell, and the queue that it is to be signalled for, with the length of its name.
_entry = Struct("=Q56p")
_LONGEST = 55
#: Entries that are written in one piece; POSIX grants 512 bytes.
_PIECE = getattr(select, "PIPE_BUF", 512) // _entry.size
#: Bells that one process signals in one go; as many as a list holds on Linux.
_MOST = 1024
#: The upper half of a word among signals that tells of a list; the lower half is the slot of the
#: process whose list it is. The hint of a queue may look like it: then nothing is found there.
_TOLD, _TOLD_SHIFT = 0xFFFF, 16
_word = Struct("=I").pack

#: Signals a bell, taken off a queue, with these bytes; returns whether a process heard it.
Ring = Callable[[bytes, int, bytes], bool]


def slots_in(signals: bytes) -> set[int]:
    """Return the slots of the processes of whose lists these signals tell."""
    words = memoryview(signals[: len(signals) // SIGNAL_BYTES * SIGNAL_BYTES]).cast("I")
    return {word & SLOT_MASK for word in words if word >> _TOLD_SHIFT == _TOLD}


def enlist(owned: FifoBell, bells: Iterable[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    """Write queues and bells to a list; return those that did not fit."""
    left: list[tuple[bytes, int]] = []
    fitting: list[tuple[bytes, int]] = []
    for each in bells:
        (fitting if len(each[0]) <= _LONGEST else left).append(each)
    for at in range(0, len(fitting), _PIECE):
        piece = b"".join(_entry.pack(bell, name) for name, bell in fitting[at : at + _PIECE])
        if not owned.use(partial(_write, piece), False):
            return left + fitting[at:]
    return left


def _write(piece: bytes, _: int, writer: int) -> bool:
    try:
        return os.write(writer, piece) > 0
    except OSError:  # It is full.
        return False


def ring_first(slot: int, signal: Ring, reader: int, _: int = -1) -> None:
    """Ring the first bells of this process's own list, and tell their processes of it."""
    tells = _word(_TOLD << _TOLD_SHIFT | slot)
    told: set[int] = set()
    while len(told) < FIRST and (entry := _take(reader)):
        bell, queue = entry
        if signal(queue, bell, signal_for(queue) + tells):
            told.add(bell & SLOT_MASK)


def ring_rest(signal: Ring, reader: int, _: int = -1) -> None:
    """Ring the bells of a list."""
    for _ in range(_MOST):
        entry = _take(reader)
        if entry is None:
            return
        bell, queue = entry
        signal(queue, bell, signal_for(queue))


def _take(reader: int) -> tuple[int, bytes] | None:
    """Take a bell from a list; None if it is empty. Never waits."""
    try:
        entry = os.read(reader, _entry.size)
    except OSError:
        return None
    # A member of the group may have written anything: the bell is looked up, as any other.
    return _entry.unpack(entry) if len(entry) == _entry.size else None


__all__ = ["FEW", "FIRST", "LIST", "Ring", "enlist", "ring_first", "ring_rest", "slots_in"]
