"""The direct way: a message from a process to itself, without the store.

Most sites have few processes, and many messages are for channels of the very process that
sends them. Nobody else may read those, and they end with it: the store has nothing to add but
its lock, two copies, and a bell that the process rings for itself.

The direct way is open only while it makes no difference but in time:

* Nothing may be overtaken (S6): there is nothing in the buffer, and nothing on the queue.
* Every channel has somebody who waits. A message for a single channel may also lie there
  unread, but only one on a queue, and whoever sends from here counts it as on the queue (S8);
  who sends from elsewhere can't, so the reader makes room for one more.
* A flush is noticed before, so that it takes away what was sent before it, and no more (S17).

What went this way is counted by its process alone, as the store never heard of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .buffers import OwnQueue
from .demux import Demultiplexer


def pass_directly(
    demux: Demultiplexer, own: OwnQueue, local_names: Sequence[bytes], body: bytes, deadline: int
) -> bool:
    """Put a message into the buffers it is for and wake who waits; False: the way is not open.

    Called without the lock. Never waits for another process.
    """
    if demux.blocking or demux.lock.locked():
        # By a thread that fetches, or by this one, if we are in a signal handler.
        return False
    with demux.lock:
        for listener in demux.loops.values():
            if listener.is_interrupted():
                return False  # Only a bell would wake it.
            break  # Each speaks for all: it is this thread that is asked about.
        demux.notice_flush()
        channel, waited_for = None, True
        for local in local_names:
            channel = own.locals.get(local)
            if channel is None or channel.items:
                return False
            if not channel.waiters:
                waited_for = False
        if not waited_for and (len(local_names) > 1 or own.held(demux.engine.clock())):
            return False
        if demux.closed or demux.engine.peek(own.name):
            return False
        here = None
        if len(local_names) > 1:
            here = next((each for each in demux.loops.values() if each.runs_here()), None)
        demux.put(own, local_names, body, deadline, here)
        if channel is not None and not waited_for:
            own.hold(channel)
        own.passed_directly += 1
    return True


__all__ = ["pass_directly"]
