"""The messages that are sent: like those of a chat, as large as wanted."""

from __future__ import annotations

from typing import Any

import msgpack

#: Bytes of a message as msgpack, which all layers here use, unless a question says otherwise.
USUAL = 150


def message(size: int = USUAL) -> dict[str, Any]:
    """A message of about so many bytes as msgpack."""
    made = {"type": "chat.message", "user": "someone", "number": 0, "text": ""}
    # A long text has up to four bytes more in front than an empty one.
    room = size - len(msgpack.packb(made))
    made["text"] = "x" * max(0, room - (0 if room < 32 else 1 if room < 256 else 2))
    return made
