"""A store as people see it: suspended channels, and what no layer has written."""

from __future__ import annotations

import pytest

from asgi_ipc.engines.base import Record
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.layers import inspection
from asgi_ipc.policy import groups

FAR = 1 << 62


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine("inspected", channel_memory=1 << 20, group_memory=1 << 20)


def test_suspended_channels_are_told_apart(engine: MemoryEngine) -> None:
    for table, member in ((b"room", b"a"), (b"room", b"b"), (b"empty", b"c")):
        engine.put(groups.suspended(table) if member != b"a" else table, member, FAR)
    assert sorted(inspection.all_groups(engine)) == [("empty", 0, 1), ("room", 1, 1)]
    assert [(each.name, each.suspended) for each in inspection.members(engine, "room")] == [
        ("a", False),
        ("b", True),
    ]


def test_what_no_layer_has_written_is_told_and_raises_nothing(engine: MemoryEngine) -> None:
    engine.put(b"room", b"\x01\xff", FAR)
    engine.put(b"\x1b[m", b"x", FAR)
    engine.push([Record(b"their!", b"\xff" * 9, FAR, 9), Record(b"plain", b"\xc1", FAR, 9)])
    (member,) = inspection.members(engine, "room")
    assert (member.name, member.process) == ("\x01\\xff", None)
    assert member.problem is not None
    assert {each.name for each in inspection.all_groups(engine)} == {"room", "\x1b[m"}
    for channel in ("their!", "plain"):
        (message,) = inspection.waiting_messages(engine, channel)
        assert (message.channels, message.message) == ((channel,), None)
        assert message.problem is not None
    assert {each.name for each in inspection.channels(engine)} == {"their!", "plain"}
    with pytest.raises(TypeError, match="not valid"):
        inspection.members(engine, "no name")
