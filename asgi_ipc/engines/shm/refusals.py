"""Why a record or a member was refused, and what to do about it: for people."""

from __future__ import annotations

from ..base import READER_GONE, SHARE, Record
from .errors import remedy_for_memory
from .heap.heap import NoRoom, OverShare
from .heap.layout import CHANNELS
from .session import Session

#: Opening it with another size changes nothing while the store is there.
_ENLARGE = "to enlarge {0}, destroy() the store, which loses what it holds, and open it larger"


def at_capacity(session: Session, record: Record) -> str:
    """Return why a queue at capacity refuses a record."""
    processes, owner = session.processes, record.owner
    if owner and not processes.owner_alive(processes.owner_word(owner)):
        return READER_GONE
    if record.capacity < 1:
        return f"its capacity is {record.capacity}, so that the queue takes no message"
    return f"the queue holds its capacity of {record.capacity}"


def no_room(session: Session, kind: int, full: NoRoom, size: int) -> str:
    """Return why a segment of that kind has no room for ``size`` bytes."""
    option = "channel_memory" if kind == CHANNELS else "group_memory"
    if isinstance(full, OverShare):
        held, free = full.args
        return (
            f"the queue would take {held:,} bytes of {option} and leave {max(free, 0):,}; a "
            f"queue may take {SHARE} times what it leaves free; read it faster, send it less, "
            f"or {_ENLARGE.format(option)}"
        )
    cause = full.args[0]
    if cause is not None:
        space = session.options.segment.space(session.location.directory)
        usual = (
            f"free some, use a smaller {option}, another engine, or more shared memory "
            "(--shm-size for a container)"
        )
        return (
            f"the system gives the store no more memory ({cause.strerror}): {space}; "
            f"{remedy_for_memory(cause, usual)}"
        )
    heap = (session.channels if kind == CHANNELS else session.groups).heap
    total = heap.geometry.size
    used = min(heap.usage()[0], total)
    return (
        f"{used:,} of {total:,} bytes of {option} are in use, and the rest has no room for "
        f"{size:,} more with what goes along; {_ENLARGE.format(option)}"
    )
