"""Names that somebody chose fall into no one bucket; chains are as long as there are records."""

from __future__ import annotations

import statistics
from pathlib import Path
from zlib import crc32

import pytest

from asgi_ipc.engines.base import Record
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.hash_table import Index
from asgi_ipc.exceptions import StoreCorrupt
from tests.tools.stores import (
    KIB,
    assert_sound,
    open_store,
)

FAR = 1 << 62


def alike(count: int) -> list[bytes]:
    """Different names of letters and digits with one CRC-32, whatever it starts from."""
    # It is linear: names that differ by a sum of these differences have the same value.
    bits: dict[int, int] = {}
    found: list[int] = []
    zeros = bytes(20)
    base = crc32(zeros)
    for bit in range(8 * len(zeros)):
        if bit % 8 > 3:
            continue  # Only the lower half of each byte, so that a letter stays one.
        mask = 1 << bit
        value = crc32(mask.to_bytes(len(zeros), "little")) ^ base
        for high, (known, with_it) in list(_by_high(bits).items()):
            if value >> high & 1:
                value ^= known
                mask ^= with_it
        if value:
            bits[value] = mask
        else:
            found.append(mask)
    names = []
    letters = int.from_bytes(b"`" * len(zeros), "little")
    for number in range(count):
        mask = 0
        for location, each in enumerate(found):
            if number >> location & 1:
                mask ^= each
        names.append((letters ^ mask).to_bytes(len(zeros), "little"))
    return names


def _by_high(bits: dict[int, int]) -> dict[int, tuple[int, int]]:
    return {value.bit_length() - 1: (value, mask) for value, mask in sorted(bits.items())[::-1]}


def longest(engine: SharedMemoryEngine, groups: bool = False) -> int:
    """Records in the longest chain."""
    locked_segment = engine._groups if groups else engine._channels
    index = Index(locked_segment.heap, layout.T_CHAIN if groups else layout.Q_CHAIN)
    with locked_segment as heap:
        table = heap.geometry.hash_table
        buckets = range(table, table + heap.geometry.buckets)
        return max(len(list(index.chain(bucket))) for bucket in buckets)


def test_the_names_of_this_test_are_alike_for_a_crc() -> None:
    names = alike(3_000)
    assert len(set(names)) == 3_000
    for start in (0, 1, 0xDEADBEEF):
        assert len({crc32(name, start) for name in names}) == 1


@pytest.mark.parametrize("trial", range(5))
def test_chosen_names_are_spread_over_the_buckets(tmp_path: Path, trial: int) -> None:
    engine = open_store(tmp_path, channel_memory=4096 * KIB, group_memory=4096 * KIB)
    names = alike(3_000)
    for name in names:
        assert engine.push([Record(name, b"x", FAR, 1)]) == []
        engine.put(name, b"m", FAR)
        engine.put(b"t", name, FAR)
    # 3,000 in 2,048 buckets, and 9,000 in 8,192: about as many as names by chance.
    assert longest(engine) <= 12
    assert longest(engine, groups=True) <= 12
    assert_sound(engine)
    engine.destroy()


def test_each_store_has_a_key_of_its_own(tmp_path: Path) -> None:
    keys = set()
    locations = []
    for number in range(8):
        engine = open_store(tmp_path / str(number))
        for locked_segment in (engine._channels, engine._groups):
            start = layout.W_HASH_KEY * layout.WORD
            keys.add(locked_segment.heap.bytes[start : start + layout.HASH_KEY_BYTES].tobytes())
            locations.append(Index(locked_segment.heap, layout.Q_CHAIN).home(b"name") % 1021)
        engine.destroy()
    assert len(keys) == 16
    assert b"\0" * layout.HASH_KEY_BYTES not in keys
    assert statistics.pstdev(locations) > 0


def test_a_chain_may_be_as_long_as_there_are_records_and_no_longer(tmp_path: Path) -> None:
    engine = open_store(tmp_path, channel_memory=2048 * KIB)
    engine._queues._index.home = lambda name: engine._queues._index._table  # type: ignore[method-assign]
    for number in range(2_000):
        assert engine.push([Record(b"%d" % number, b"", FAR, 1)]) == []
    engine._queues._known.clear()
    assert len(engine.pop(b"0")) == 1
    assert engine.pop(b"none") == []
    # The last of the chain becomes the first again.
    words, index = engine._channels.words, engine._queues._index
    handles = list(index.chain(index._table))
    words[words[engine._channels.heap.end - handles[-1]] + layout.Q_CHAIN] = handles[0]
    with pytest.raises(StoreCorrupt, match="circle"):
        engine.pop(b"none")
    engine.destroy()
