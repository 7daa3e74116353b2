"""The full check: it finds what is wrong, says so, and changes nothing."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.heap import Heap
from tests.tools.checked import checked, engine, fill
from tests.tools.stores import (
    in_child,
    killed_at,
    open_store,
    record,
)

__all__ = ["engine"]


def test_a_store_in_use_is_sound(kind: type[SharedMemoryEngine], tmp_path: Path) -> None:
    engine = fill(open_store(tmp_path, kind))
    try:
        before = engine.statistics()
        assert checked(engine, tmp_path) == []
        after = engine.statistics()
        assert {**after, "oldest_age": 0} == {**before, "oldest_age": 0}
    finally:
        engine.destroy()


def queue(heap: Heap, kind: int = layout.QUEUE) -> int:
    """Where the first record of a kind is."""
    used = heap.words[layout.IDS_USED]
    entries = [heap.words[heap.end - handle] for handle in range(1, used + 1)]
    return next(at for at in entries if at < heap.end and heap.kind(at) == kind)


#: What is spoiled: the segment, the word of it, and what the check says.
SPOILED: dict[str, tuple[int, Callable[[Heap], int], str]] = {
    "handle": (0, lambda heap: heap.end - 1, "handle"),
    "free handle": (0, lambda heap: layout.FREE_ID, "free"),
    "used handles": (0, lambda heap: layout.IDS_USED, "never used"),
    "cursor": (0, lambda heap: layout.CURSOR, "cursor"),
    "free extents": (0, lambda heap: layout.FREE_EXTENTS, "free extents"),
    "live words": (0, lambda heap: heap.geometry.extent_live, "live words"),
    "bucket": (0, lambda heap: heap.geometry.hash_table + 3, "can't be followed|found by its name"),
    "META": (0, lambda heap: queue(heap), "another's"),
    "head": (0, lambda heap: queue(heap) + layout.Q_HEADS, "queue"),
    "tail": (0, lambda heap: queue(heap) + layout.Q_TAIL, "tail"),
    "count": (0, lambda heap: queue(heap) + layout.Q_PUSHED, "counts otherwise"),
    "link": (0, lambda heap: queue(heap, layout.MESSAGE) + layout.M_LINK, "queue"),
    "high water": (0, lambda heap: layout.HIGH_WATER, "high-water"),
    "gone": (0, lambda heap: layout.GONE, "are counted"),
    "queues": (0, lambda heap: layout.NAMED, "queues and"),
    "rings": (0, lambda heap: layout.RINGS, "rings and"),
    "backlog": (0, lambda heap: layout.BACKLOG, "extents more"),
    "node": (0, lambda heap: layout.NODES_USED, "wait nodes"),
    "free node": (0, lambda heap: layout.FREE_NODE, "wait node"),
    "table": (1, lambda heap: queue(heap, layout.TABLE) + layout.T_COUNT, "members and counts"),
    "first member": (1, lambda heap: queue(heap, layout.TABLE) + layout.T_FIRST, "table|handle"),
    "next member": (1, lambda heap: queue(heap, layout.MEMBER) + layout.E_NEXT, "table|handle"),
    "owner table": (1, lambda heap: queue(heap, layout.MEMBER) + layout.E_TABLE, "point back"),
    "deadline": (1, lambda heap: queue(heap, layout.MEMBER) + layout.E_DEADLINE, "sooner"),
    "members": (1, lambda heap: layout.MEMBERS, "members"),
    "live in all": (0, lambda heap: layout.LIVE, "counted in all"),
    "leftover": (0, lambda heap: layout.LEFTOVER, "left of a record"),
    "cleaning": (0, lambda heap: layout.CLEANING, "nothing to clean"),
    "bytes": (0, lambda heap: queue(heap) + layout.Q_BYTES, "bytes and counts"),
    "size": (0, lambda heap: queue(heap, layout.MESSAGE) + layout.M_SIZE, "another size"),
    "walk": (0, lambda heap: queue(heap) + layout.Q_WALK, "searched, and not where"),
    "unseen": (0, lambda heap: queue(heap) + layout.Q_UNSEEN, "searched, and not where"),
    "key": (0, lambda heap: layout.W_HASH_KEY, "found by its name"),
    "key of groups": (1, lambda heap: layout.W_HASH_KEY, "found by its name"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_word_is_found(name: str, engine: SharedMemoryEngine, tmp_path: Path) -> None:
    part, find, said = SPOILED[name]
    heap = (engine.session.channels, engine.session.groups)[part].heap
    word = find(heap)
    kept = heap.words[word]
    heap.words[word] = 1 if kept != 1 else 2
    try:
        found = "\n".join(checked(engine, tmp_path))
        assert found, "nothing was found"
        assert any(each in found for each in said.split("|")), found
    finally:
        heap.words[word] = kept


def test_a_store_that_has_no_extent_to_move_records_to_is_found(
    engine: SharedMemoryEngine, tmp_path: Path
) -> None:
    words = engine.session.channels.words
    forged = {layout.FREE_EXTENT: 0, layout.FREE_EXTENTS: 0}
    kept = {word: words[word] for word in forged}
    assert kept[layout.FREE_EXTENTS], "there should be one"
    try:
        for word, value in forged.items():
            words[word] = value
        assert "none is being cleaned" in "\n".join(checked(engine, tmp_path))
    finally:
        for word, value in kept.items():
            words[word] = value


#: Words of a store of 64 GiB, forged, and what is said of them.
VAST: list[tuple[dict[int, int], str]] = [
    ({}, ""),
    ({layout.IDS_USED: 1 << 32, layout.IDS_RESERVED: 1 << 32}, "no record can be"),
    ({layout.EXTENTS_USED: 1 << 20}, "not free"),
    ({layout.EXTENTS_USED: 1 << 62, layout.FREE_EXTENT: 1}, "extents are in use"),
    ({layout.FREE_EXTENTS: 1 << 62}, "its count"),
]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA"), reason="memory can't be limited here")
@pytest.mark.parametrize(("forged", "said"), VAST, ids=range(len(VAST)))
def test_a_store_that_is_large_in_name_alone_is_checked_in_little_memory(
    forged: dict[int, int], said: str, tmp_path: Path
) -> None:
    engine = open_store(tmp_path, channel_memory=64 << 30)
    words = engine.session.channels.words
    words[engine.session.channels.heap.geometry.extent_next] = 1

    def limited() -> None:
        with open("/proc/self/status") as file:
            (data,) = (int(line.split()[1]) for line in file if line.startswith("VmData"))
        limit = (data << 10) + (32 << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        found = "\n".join(checked(engine, tmp_path))
        assert said in found if said else not found, found

    try:
        for word, value in forged.items():
            words[word] = value
        in_child(limited)
    finally:
        for word in forged:
            words[word] = 0
        engine.destroy()


def test_what_a_killed_process_left_half_done_is_ended_first(
    engine: SharedMemoryEngine, tmp_path: Path
) -> None:
    left = 0
    for opcode in range(400, 3_000, 20):
        if left == 3:
            break
        killed_at(lambda: engine.push([record(engine, b"a")]), opcode, lambda: engine.identity)
        left += engine.session.channels.words[layout.STATE] == layout.COMMITTED
        assert checked(engine, tmp_path) == []
        assert engine.session.channels.words[layout.STATE] == layout.IDLE
    assert left
