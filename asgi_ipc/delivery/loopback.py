"""The loopback: a message from a process to itself, without the store.

Most sites have few processes, and many messages are for channels of the very process that
sends them. Nobody else may read those, and they end with it: the store has nothing to add but
its lock, two copies, and a bell that the process signals for itself.

A message bypasses the store only where that makes no difference but in time:

* Nothing may be overtaken (S6): there is nothing in the buffer, and nothing on the queue.
* Every channel has a waiting receiver. A message for a single channel may also lie in the buffer
  unread, but only one on a queue, and a sender in this process counts it as on the queue (S8);
  senders elsewhere can't, so the buffer has room for one more.
* A flush is noticed before, so that it takes away what was sent before it, and no more (S17).

The process alone counts what went this way, as the store never heard of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..exceptions import Reentered, StoreCorrupt, StoreUnavailable
from .demultiplexer import Demultiplexer
from .mailboxes import OwnQueue


def loop_back(
    demux: Demultiplexer, own: OwnQueue, local_names: Sequence[bytes], body: bytes, deadline: int
) -> bool:
    """Put a message into the buffers it is for and wake the receivers; False: it must go by the
    store.

    Called without the lock. Never waits for another process: if another thread has the lock, or
    this one, in whose middle Python runs other code, the message goes by the store.
    """
    lock = demux.lock
    if demux.blocking or lock._is_owned():
        return False
    try:
        if not lock.acquire(False):
            return False
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
        if demux.closed:
            return False
        if demux.engine.peek(own.name) and not (
            waited_for and _is_drained(demux, own, local_names)
        ):
            return False
        here = None
        if len(local_names) > 1:
            here = next((each for each in demux.loops.values() if each.runs_here()), None)
        own.put(local_names, body, deadline, here)
        if channel is not None and not waited_for:
            own.hold(channel)
        own.looped_back += 1
    finally:
        # Not asked whether it was taken: a signal's handler may raise after the answer.
        try:
            lock.release()
        except RuntimeError:
            pass
    return True


def _is_drained(demux: Demultiplexer, own: OwnQueue, local_names: Sequence[bytes]) -> bool:
    """Fetch what is on the queue, for `peek` only says that there may be something; return
    whether the message overtakes nothing now, and still is waited for.

    An engine may not know before it is asked in earnest: what goes directly must not depend on
    whether somebody has asked before.
    """
    try:
        demux.fetch(own, None, None)
    except Reentered:
        return False  # In the middle of another call, which may be at it.
    except (StoreCorrupt, StoreUnavailable) as error:
        demux.fail(own, error)  # The receivers have to know; the sender meets it, if it lasts.
        return False
    channels = [own.locals.get(local) for local in local_names]
    return not demux.engine.peek(own.name) and all(
        channel is not None and channel.waiters and not channel.items for channel in channels
    )


__all__ = ["loop_back"]
