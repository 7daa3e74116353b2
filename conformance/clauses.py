"""All clauses that tests may name, with their words.

E1 to E26 stand in `asgi_ipc.engines.base`, G1 to G7 in `asgi_ipc.engines.shm.segment`: where
the thing is that they define. The layers' are here. S are those of Channels' channel
layer specification; A is what ASGI 1.x differs in; O is what we add.

Messages and names
  S1   A message is a dict with str keys; its values are bytes, str, int (64 bit, signed),
       float, list (tuples arrive as lists), dict, bool, None, and stay what they are.
  S2   At least 1 MB as JSON is carried; more than the limit raises `MessageTooLarge`.
  S3   What the sender does to its dict after `send` changes nothing.
  S4   Channel names: ASCII letters, digits, ``-_.``, optionally one ``!``, under 100
       characters. Group names the same without ``!``. A bad name is a `TypeError`.

Channels
  S5   First in, first out; at most once; one reader gets each message.
  S6   A process-specific channel (``prefix!local``) is read by one process, in exact order.
  S7   `send` never waits. Over capacity it raises `ChannelFull`.
  S8   Capacity of process-specific channels counts up to and including the ``!``.
  S9   A message unread for `expiry` seconds is not delivered any more.
  S10  `receive` waits until there is a message. Cancelling it loses none.
  S11  `new_channel(prefix)` gives a process-specific name never given before, whatever
       `random.seed` was.
  S12  A busy channel does not starve a quiet one that the same caller reads.

Groups
  S13  `group_add` twice is once, and renews; `group_discard` of a stranger does nothing.
  S14  `group_send` reaches every member once and never raises `ChannelFull`, but drops;
       it may raise `MessageTooLarge`.
  S15  Membership ends `group_expiry` seconds after the last `group_add`.
  S16  Membership lives at least until a message to that member has expired unread; a
       successful delivery restores that.

Flush
  S17  After `flush` no message and no membership is left, for anyone.
  S18  `extensions` names what is provided: groups, flush, statistics.

The synchronous surface
  A1   `receive(channels, block)` takes a list, returns ``(channel, message)`` or ``(None,
       None)``, and is fair to several channels. `receive_many` is its deprecated name.
  A2   In `receive`, a name with ``!`` ends there and gets any message under that prefix,
       with the full name it was sent to. Another is an error.
  A3   `new_channel(pattern)`: the pattern ends in ``?``; anything else is an error. No
       name is given twice.
  A4   `send_group`, `group_channels`, and the exception classes as attributes.
  A5   `global_statistics` and `channel_statistics` tell at least ``messages_count`` and
       ``channel_full_count``; for a channel ``messages_pending``, ``messages_max_age`` too.

Ours
  O1   What can't be carried is refused at `send`, naming the path to the value.
  O2   A killed process takes nothing with it but what it had already received, and
       leaves nothing behind: not a lock, not a membership, not memory.
  O3   Every dropped message is counted by reason.
  O4   Both surfaces, any number of threads, loops and forked children, on one store.
"""

from __future__ import annotations

import functools
import re

from asgi_ipc.engines import base
from asgi_ipc.engines.shm import segment

#: A clause: two blanks, its name, and its words, further lines further in.
_CLAUSE = re.compile(r"^  ([A-Z]\d+) +(\S.*(?:\n {5,}\S.*)*)", re.MULTILINE)


@functools.cache
def clauses() -> dict[str, str]:
    """Each clause's words by its name, in order: engines, memory, layers."""
    texts = (base.__doc__, segment.__doc__, __doc__)
    return {
        name: " ".join(words.split())
        for text in texts
        for name, words in _CLAUSE.findall(text or "")
    }
