"""All clauses that tests may cite, with their words.

E1 to E34 stand in `asgi_ipc.engines.base`, G1 to G8 in `asgi_ipc.engines.shm.segment` and W1 to W14
in `asgi_ipc.relay.wire`, where engines, Segments and wires are defined. The clauses of the layers
are here: S are those of Channels' channel layer specification, A those in which ASGI 1.x differs, O
our own.

Messages and names
  S1   A message is a dict with str keys; its values are bytes, str, int (64 bits, signed), float,
       list, dict, bool or None, and arrive with the same type; tuples arrive as lists.
  S2   A message of at least 1 MB as JSON can be sent; one above the layer's limit raises
       `MessageTooLarge`.
  S3   Changes that the sender makes to its dict after `send` do not affect the message.
  S4   A channel name has ASCII letters, digits, ``-_.`` and optionally one ``!``, and fewer than
       100 characters; a group name has no ``!``. A bad name raises `TypeError`.

Channels
  S5   Messages arrive first in, first out; each goes to one reader, at most once.
  S6   A process-specific channel (``prefix!local``) is read by one process, in exact order.
  S7   `send` never waits for room. Over capacity it raises `ChannelFull`.
  S8   Capacity of process-specific channels counts all names up to and including the ``!``.
  S9   A message unread for `expiry` seconds is never delivered.
  S10  `receive` waits until a message arrives. Cancelling it loses no message.
  S11  `new_channel(prefix)` returns a process-specific name that was never returned before,
       whatever `random.seed` was.
  S12  A busy channel never starves a quiet one that the same caller reads.

Groups
  S13  `group_add` twice adds once and renews; `group_discard` of a channel that is no member does
       nothing.
  S14  `group_send` reaches every member once. It never raises `ChannelFull`: it drops the message
       for a full member. It may raise `MessageTooLarge`.
  S15  A membership ends at the latest `group_expiry` seconds after the last `group_add`.
  S16  Until then a membership lasts at least until a message to the member has expired unread; a
       successful delivery restores that. A `group_expiry` shorter than `expiry` ends it anyway.

Flush
  S17  After `flush` no message and no membership is left, for any process.
  S18  `extensions` lists what the layer provides: groups, flush, statistics.

The synchronous surface
  A1   `receive(channels, block)` takes a list, returns ``(channel, message)`` or ``(None, None)``,
       and is fair to all its channels. `receive_many` is its deprecated name.
  A2   In `receive`, a name that ends in ``!`` receives any message under that prefix, and returns
       the full name that the message was sent to. A name that goes on after the ``!`` receives its
       own messages if a `new_channel` of this process made it; other names with ``!`` raise.
  A3   `new_channel(pattern)` requires a pattern that ends in ``?`` and raises otherwise; without a
       pattern it returns a process-specific name. It never returns a name twice.
  A4   `send_group`, `group_channels`, and the exception classes as attributes.
  A5   `global_statistics` and `channel_statistics` return at least ``messages_count`` and
       ``channel_full_count``; for a channel also ``messages_pending`` and ``messages_max_age``.

Ours
  O1   `send` refuses a value that can't be sent, and names the path to it.
  O2   When a process is killed, only messages that it had received are lost, and it leaves no
       lock, membership or memory behind.
  O3   Every dropped message is counted by reason.
  O4   Both surfaces, any number of threads, loops and forked children may share one store.
  O6   A channel of a living process that was not received on for longer than five times
       `expiry`, and of which a message has expired meanwhile, is suspended from its groups; the
       next receive on it restores its memberships. It can be switched off.
  O10  With serializer ``"extended"`` Decimal, datetime, date, time, timedelta, UUID, set and
       frozenset arrive equal to what was sent, and of the same type.
  O11  A receiver passes over a message of another serializer, and counts it.
  O12  `group_send` reaches none of the channels in ``exclude``, and returns those that had no room.
       `group_count` returns the number of members.
  O13  `send` with ``wait`` waits so many seconds for room before it raises `ChannelFull`.
"""

from __future__ import annotations

import functools
import re

from asgi_ipc.engines import base
from asgi_ipc.engines.shm import segment
from asgi_ipc.relay import wire

#: A clause: two blanks, its name and its words; continuation lines are indented further.
_CLAUSE = re.compile(r"^  ([A-Z]\d+) +(\S.*(?:\n {5,}\S.*)*)", re.MULTILINE)


@functools.cache
def clauses() -> dict[str, str]:
    """Return each clause's words by its name, in order: engines, memory, wires, layers."""
    texts = (base.__doc__, segment.__doc__, wire.__doc__, __doc__)
    return {
        name: " ".join(words.split())
        for text in texts
        for name, words in _CLAUSE.findall(text or "")
    }
