"""The protocol of Redis: what a server sends in pieces, and what no server sends."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_ipc.relay.resp import ErrorReply, Reader, pack

_lines = st.binary(max_size=20).map(lambda each: each.replace(b"\r", b"").replace(b"\n", b""))
_leaves = st.one_of(
    st.none(), st.integers(-(10**18), 10**18), st.binary(max_size=50), _lines.map(ErrorReply)
)
replies = st.recursive(_leaves, lambda each: st.lists(each, max_size=4), max_leaves=12)


def packed(reply: Any) -> bytes:
    """Return a reply as a server sends it."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, ErrorReply):
        return b"-%s\r\n" % reply.text
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(packed, reply))


def plain(reply: Any) -> Any:
    """Return a reply so that it can be compared."""
    if isinstance(reply, ErrorReply):
        return ("error", reply.text)
    return [plain(each) for each in reply] if isinstance(reply, list) else reply


def read(*pieces: bytes) -> list[Any]:
    found: list[Any] = []
    reader = Reader(found.append)
    for piece in pieces:
        reader.feed(piece)
    return found


@given(st.lists(replies, max_size=5), st.lists(st.integers(1, 40), max_size=40))
def test_replies_are_the_same_however_they_are_cut(all_of_them: list[Any], cuts: list[int]) -> None:
    data = b"".join(map(packed, all_of_them))
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(data[at : at + cut])
        at += cut
    assert plain(read(*pieces, data[at:])) == plain(all_of_them)


@given(st.binary(max_size=200))
def test_any_bytes_are_replies_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        read(data)


def test_the_other_forms_of_nothing_and_of_text() -> None:
    assert read(b"*-1\r\n+OK\r\n*0\r\n$0\r\n\r\n") == [None, b"OK", [], b""]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"$3\r\nabcd\r\n",
        b"$-2\r\n",
        b"*-2\r\n",
        b"*65537\r\n",
        b"$50331649\r\n",
        b":" + b"1" * 21 + b"\r\n",
        b":one\r\n",
        b"*1\r\n" * 9,
        b"*3\r\n" + (b"*30000\r\n" + b"*0\r\n" * 30_000) * 3,
        b"+" + b"x" * 65536,
        b"%1\r\n",
    ],
)
def test_what_no_server_sends_is_an_error_at_once(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(data)


def test_an_array_of_strings_is_bounded_as_a_whole() -> None:
    strings = (b"$1000000\r\n" + bytes(1_000_000) + b"\r\n" for _ in range(60))
    with pytest.raises(ValueError, match="without end"):
        read(b"*100\r\n", *strings)


def test_elements_are_counted_for_each_reply_by_itself() -> None:
    reply = b"*40000\r\n" + b":1\r\n" * 40_000
    assert read(reply, reply) == [[1] * 40_000] * 2


def test_commands_are_arrays_of_strings() -> None:
    assert read(pack([(b"GET", b"a\r\n"), (b"PING",)])) == [[b"GET", b"a\r\n"], [b"PING"]]
