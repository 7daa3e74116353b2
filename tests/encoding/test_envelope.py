"""The envelope is that of docs/format.md."""

from __future__ import annotations

from asgi_ipc.encoding import envelope
from tests.tools.documents import rows


def test_an_envelope_is_as_documented() -> None:
    names = b"one\ntwo"
    assert [cells[:2] for cells in rows("What is pushed")][2:] == [
        ["4", "length n of the names, little-endian"],
        ["n", "the names, each the part behind the `!`, separated by newlines"],
        ["rest", "the encoded message"],
    ]
    made = len(names).to_bytes(4, "little") + names + b"message"
    assert envelope.address([b"one", b"two"]) + b"message" == made
    assert envelope.unpack(made) == ([b"one", b"two"], b"message")
