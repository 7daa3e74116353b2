"""Frames sealed with keys that rotate."""

from __future__ import annotations

import itertools
import os

import pytest

from asgi_ipc.exceptions import OptionError
from asgi_ipc.relay.sealing import OVERHEAD, SealBroken, Sealer

OLD, NEW, OTHER = os.urandom(32), os.urandom(32).hex(), os.urandom(32)


def reason(sealer: Sealer, frame: bytes, associated: bytes = b"a") -> str:
    """Why a frame can't be opened."""
    with pytest.raises(SealBroken) as caught:
        sealer.open(frame, associated)
    return caught.value.reason


def test_what_is_sealed_opens_with_the_same_key_and_associated_data_alone() -> None:
    sealer, there = Sealer([OLD]), Sealer([OTHER, OLD])
    for payload in (b"", b"x", os.urandom(100_000)):
        frame = sealer.seal(payload, b"a")
        assert len(frame) == len(payload) + OVERHEAD
        assert there.open(frame, b"a") == payload
        assert reason(there, frame, b"b") == "forged"
        assert reason(Sealer([OTHER]), frame) == "unknown key"


def test_no_variable_of_an_error_has_a_key() -> None:
    """Services that collect errors show them."""
    key = bytes(range(32))
    sealed = Sealer([key]).seal(b"payload", b"there")
    with pytest.raises(SealBroken) as caught:
        Sealer([key]).open(sealed, b"elsewhere")
    for entry in caught.traceback[1:]:
        assert repr(key) not in repr(entry.frame.f_locals)


def test_keys_rotate_without_a_frame_that_cannot_be_opened() -> None:
    steps: list[list[str | bytes]] = [[OLD], [OLD, NEW], [NEW, OLD], [NEW]]
    for before, after in itertools.pairwise(steps):
        one, other = Sealer(before), Sealer(after)
        assert other.open(one.seal(b"x", b"a"), b"a") == b"x"
        assert one.open(other.seal(b"x", b"a"), b"a") == b"x"


def test_every_changed_byte_is_noticed() -> None:
    sealer = Sealer([OLD])
    frame = sealer.seal(b"payload", b"a")
    for at in range(len(frame)):
        changed = bytearray(frame)
        changed[at] ^= 1
        assert reason(sealer, bytes(changed)) == ("unknown key" if at < 4 else "forged")
        assert reason(sealer, frame[:at]) in ("form", "forged")
    assert sealer.open(frame, b"a") == b"payload"


def test_no_number_is_used_twice_with_a_key() -> None:
    """By one sealer, by two with one key, and by a forked child."""
    first, second = Sealer([OLD]), Sealer([OLD])
    first.seal(b"", b"")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, first.seal(b"", b"")[:28])
        os._exit(0)
    os.waitpid(child, 0)
    heads = [sealer.seal(b"", b"")[:28] for sealer in (first, first, second, second)]
    heads.append(os.read(reading, 100))
    os.close(reading)
    os.close(writing)
    assert len(set(heads)) == 5
    assert heads[0][:20] == heads[1][:20] != heads[4][:20]


def test_forged_salts_push_out_no_relay_that_was_heard() -> None:
    sealer, other = Sealer([OLD]), Sealer([OLD])
    frame = other.seal(b"x", b"a")
    sealer.open(frame, b"a")
    kept = dict(sealer._derived)
    for _ in range(50):
        forged = frame[:4] + os.urandom(16) + frame[20:]
        assert reason(sealer, forged) == "forged"
    assert sealer._derived == kept


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([], "must be a list of keys"),
        ("ab" * 32, "must be a list of keys"),
        ([b"short", "zz" * 32, OLD], "key 0 is not 64 hexadecimal digits or 32 bytes; key 1 is"),
        ([b"\0" * 32], "key 0 has hardly any different bytes"),
        ([None], "key 0 is not 64"),
    ],
)
def test_keys_of_no_use_are_refused_and_not_shown(keys: list[bytes], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        Sealer(keys)
    assert words in str(caught.value)
    assert "secrets.token_hex(32)" in str(caught.value)
    assert "zz" not in str(caught.value)
    assert OLD.hex() not in repr(Sealer([OLD]))
