"""The loopback: a message from a process to itself, without the store.

Most sites have few processes, and many messages are for channels of the process that sends them.
No other process may read those, and they are lost with that process: the store would add only its
lock, two copies, and a bell that the process signals for itself.

A message bypasses the store only where that makes no difference but in time:

* It overtakes none (S6): the channel's buffer is empty, and so is the queue.
* Every channel has a waiting receiver. A message for a single channel may also lie in the buffer
  unread, but only one on a queue, and a sender in this process counts it as on the queue (S8);
  senders elsewhere can't, so the buffer has room for one more.
* A flush is noticed before, so that it removes the messages sent before it, and no others (S17).

The process counts these messages itself, as the store does not know of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..exceptions import Reentered, StoreCorrupt, StoreUnavailable
from .demultiplexer import Demultiplexer
from .mailboxes import OwnQueue


def loop_back(
    demux: Demultiplexer, own: OwnQueue, local_names: Sequence[bytes], body: bytes, deadline: int
) -> bool:
    """Put a message into its channels' buffers and wake receivers; return False if it may not be.

    Then the caller must push it to the store. Call without the lock. Never waits: if any thread
    holds the lock, this one included, the answer is False.
    """
    lock, engine = demux.lock, demux.engine
    if demux.blocking or lock._is_owned():
        return False
    try:
        if not lock.acquire(False):
            return False
        if engine.flushes != demux.flushes:
            demux.notice_flush()
        channel, waited_for = None, True
        for local in local_names:
            channel = own.locals.get(local)
            if channel is None or channel.items:
                return False
            if not channel.waiters:
                waited_for = False
        if not waited_for and (len(local_names) > 1 or own.held(engine.clock())):
            return False
        if demux.closed:
            return False
        if engine.peek(own.name) and not (waited_for and _is_drained(demux, own, local_names)):
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
    """Fetch what is on the queue; return whether a message now overtakes none and is waited for.

    `peek` only says that there may be something, and an engine may know no better until it is asked
    to pop. Whether a message bypasses the store must not depend on whether a receiver has popped.
    """
    try:
        demux.fetch(own, None, None)
    except Reentered:
        return False  # This thread is in the middle of another call of the engine.
    except (StoreCorrupt, StoreUnavailable) as error:
        demux.fail(own, error)  # For the receivers; the sender meets it in its own push.
        return False
    channels = [own.locals.get(local) for local in local_names]
    return not demux.engine.peek(own.name) and all(
        channel is not None and channel.waiters and not channel.items for channel in channels
    )


__all__ = ["loop_back"]
