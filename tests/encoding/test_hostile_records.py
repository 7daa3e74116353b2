"""Records that no layer has written: what they cost, and that a receiver gets none of it."""

from __future__ import annotations

import resource
import tracemalloc
from typing import Any

import pytest

from asgi_ipc.encoding.codec import DEPTH_LIMIT, MESSAGE_LIMIT, SharedBody, decode, encode
from asgi_ipc.encoding.envelope import unpack
from asgi_ipc.exceptions import RecordCorrupt
from tests.tools.hostile_records import BODIES, ENVELOPES, MIB, nested
from tests.tools.stores import (
    in_child,
)


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_no_sender_encodes_is_refused_in_little_memory(name: str) -> None:
    body = BODIES[name]

    def limited() -> None:
        tracemalloc.start()
        for function in (decode, lambda body: SharedBody(body).decode()):
            with pytest.raises(RecordCorrupt):
                function(body)
        # All that one of the lists promises is at once set aside, and not touched.
        assert tracemalloc.get_traced_memory()[1] < (16 << 30 if "promise" in name else 32 * MIB)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 400 << 10

    in_child(limited)


#: The largest and deepest that are encoded, and with what makes the decoder look closer.
HONEST: list[dict[str, Any]] = [
    {"a": nested(DEPTH_LIMIT - 1, lambda value: [value])},
    {"a": nested(DEPTH_LIMIT - 1, lambda value: {"b": value})},
    {"a": "x" * (MESSAGE_LIMIT - 8)},
    {"a": b"\xc4\xc5\xc6\xcf" * 1000, "b": [b"\xcf", {"c": b"\xc4"}]},
    {"a": (1 << 63) - 1, "b": -(1 << 63), "c": "\u0141\u03a9", "d": 1e300},
    {"a": [0.5] * (MESSAGE_LIMIT // 4 - 10)},
    {"a": [{} for _ in range(100_000)]},
    {"a": [[1, None, True, "x", 0.5, b"y"]] * 100},
]


@pytest.mark.parametrize("message", HONEST, ids=range(len(HONEST)))
def test_whatever_is_encoded_is_decoded(message: dict[str, Any]) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_that_no_layer_writes_is_refused_in_little_memory(name: str) -> None:
    payload = ENVELOPES[name]
    tracemalloc.start()
    try:
        with pytest.raises(RecordCorrupt):
            unpack(payload)
        assert tracemalloc.get_traced_memory()[1] < 20 * MIB
    finally:
        tracemalloc.stop()
