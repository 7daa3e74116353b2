"""Full stores: what is refused, what is not, and that nothing is lost or left unusable."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_ipc.engines.base import Record, Refused
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.mmap import MmapSegment
from asgi_ipc.exceptions import StoreFull, StoreUnavailable
from tests.tools.stores import (
    KIB,
    assert_sound,
    open_store,
    record,
    room,
)

FAR = 1 << 62


def fill(engine: SharedMemoryEngine, queue: bytes, size: int, deadline: int = FAR) -> int:
    """Push until refused, to eight queues, as one may not have it all; how many were stored."""
    stored = 0
    while not engine.push([Record(queue + b"%d" % (stored % 8), bytes(size), deadline, 10**9)]):
        stored += 1
    return stored


def test_full_channel_memory_refuses_with_the_option_named_and_serves_on(tmp_path: Path) -> None:
    engine = open_store(tmp_path)
    try:
        stored = fill(engine, b"a", 1_000)
        refused = engine.push([Record(b"b", bytes(1_000), FAR, 10)])
        assert refused[0].no_room
        assert "channel_memory" in refused[0].detail
        # Members have a memory of their own.
        engine.put(b"t", b"m", FAR)
        assert_sound(engine)
        assert sum(len(engine.pop(b"a%d" % number, stored)) for number in range(8)) == stored
        assert fill(engine, b"c", 1_000) >= stored - 1
        assert engine.statistics()["refused"] == 3
        assert_sound(engine)
    finally:
        engine.destroy()


def test_full_group_memory_refuses_with_the_option_named_and_serves_on(tmp_path: Path) -> None:
    engine = open_store(tmp_path)
    try:
        members: list[int] = []
        with pytest.raises(StoreFull, match="group_memory"):  # noqa: PT012
            while True:
                engine.put(b"t%d" % (len(members) % 50), b"member %d" % len(members), FAR)
                members.append(len(members))
        # Renewing and sending need no room.
        engine.put(b"t0", b"member 0", FAR + 1)
        assert engine.push([Record(b"a", b"x", FAR, 1)]) == []
        assert_sound(engine)
        for number in members:
            assert engine.remove(b"t%d" % (number % 50), b"member %d" % number)
        assert engine.statistics()["members"] == engine.statistics()["tables"] == 0
        for number in members:
            engine.put(b"u%d" % (number % 50), b"member %d" % number, FAR)
        assert_sound(engine)
    finally:
        engine.destroy()


@pytest.mark.parametrize("size", [10, 1_000, 100_000])
def test_the_expired_make_room_before_anybody_is_refused(tmp_path: Path, size: int) -> None:
    now = [10**12]
    engine = open_store(tmp_path, clock=lambda: now[0])
    # In a ring a message takes less room than in a list. Let all take the same.
    engine._queues._rings._most_unread = 0
    try:
        names = [b"q%d" % number for number in range(30)]
        stored = 0
        while not engine.push([Record(names[stored % 30], bytes(size), now[0] + 50, 10**9)]):
            stored += 1
        assert stored
        members = 0
        try:
            while True:
                engine.put(names[members % 30], b"member %d" % members, now[0] + 50)
                members += 1
        except StoreFull:
            pass
        now[0] += 50
        for number in range(stored):
            assert engine.push([Record(b"new%d" % (number % 30), bytes(size), FAR, 10**9)]) == []
        for number in range(members):
            engine.put(b"new%d" % (number % 30), b"member %d" % number, FAR)
        assert_sound(engine)
    finally:
        engine.destroy()


def test_very_many_small_channels_fill_the_store_and_empty_it_again(tmp_path: Path) -> None:
    now = [10**12]
    engine = open_store(tmp_path, clock=lambda: now[0])
    try:
        names: list[bytes] = []
        while not engine.push([Record(b"channel-%d" % len(names), b"", FAR, 1)]):
            names.append(b"channel-%d" % len(names))
        # A queue of one message has 31 words and two handles.
        assert len(names) > room(engine) // 300
        assert_sound(engine)
        random.Random(1).shuffle(names)
        for name in names:
            assert len(engine.pop(name)) == 1
        now[0] += 1
        assert engine.push([Record(b"large", bytes(300_000), FAR, 1)]) == []
        assert engine.statistics()["pending"] == 1
        assert_sound(engine)
    finally:
        engine.destroy()


def test_one_channel_may_have_seven_eighths(tmp_path: Path) -> None:
    engine = open_store(tmp_path)
    try:
        stored = 0
        while not (refused := engine.push([Record(b"a", b"", FAR, 10**9)])):
            stored += 1
        assert refused[0].reason == "share"
        # Four words and a handle.
        assert stored > room(engine) * 7 // 8 // 48
        assert engine.statistics(b"a")["pending"] == stored
        assert_sound(engine)
        assert len(engine.pop(b"a", 10**6)) == stored
        assert_sound(engine)
    finally:
        engine.destroy()


@pytest.mark.parametrize("seed", range(2))
def test_after_days_of_mixed_sizes_a_mebibyte_fits_where_a_quarter_is_free(
    tmp_path: Path, seed: int
) -> None:
    """Minutes a step: what comes lives from seconds to a day, and some of it is read."""
    now = [10**15]
    dice = random.Random(seed)
    engine = open_store(tmp_path, channel_memory=8 * 1024 * KIB, clock=lambda: now[0])
    try:
        total = 8 * 1024 * KIB
        names = [b"q%d" % number for number in range(60)]
        minute = 60 * 10**9
        for _ in range(3 * 24 * 60):
            now[0] += minute
            for _ in range(dice.choice([0, 1, 3])):
                size = dice.choice([20, 100, 900, 900, 6_000, 30_000, 200_000])
                lifetime = dice.choice([1, 10, 60, 24 * 60]) * minute
                if engine.statistics()["bytes_used"] < total * 7 // 10:
                    record = Record(dice.choice(names), bytes(size), now[0] + lifetime, 10**6)
                    assert engine.push([record]) == []
            engine.pop(dice.choice(names), dice.choice([0, 1, 5]))
        large = bytes(range(256)) * 4096
        assert engine._channels.heap.usage()[0] < total * 3 // 4
        assert engine.push([Record(b"large", large, FAR, 1)]) == []
        assert engine.pop(b"large")[0].payload == large
        assert_sound(engine)
    finally:
        engine.destroy()


@pytest.mark.parametrize("allowed", range(8))
def test_memory_that_runs_out_in_the_midst_of_growth_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    reserve, left = MmapSegment.reserve, [10**6]

    def refuse(self: MmapSegment, offset: int, length: int) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        reserve(self, offset, length)

    monkeypatch.setattr(MmapSegment, "reserve", refuse)
    engine = open_store(tmp_path)
    try:
        engine.push([Record(b"a", b"kept", FAR, 9)])
        engine.put(b"t", b"kept", FAR)
        left[0] = allowed
        # Nine extents are needed, and not all of them are given.
        refused = engine.push([Record(b"large", bytes(140_000), FAR, 1)])
        assert refused[0].no_room
        assert "No space left" in refused[0].detail
        assert_sound(engine)
        # What was given before it ran out serves smaller ones.
        if allowed > 2:
            assert engine.push([Record(b"b", bytes(10_000), FAR, 1)]) == []
        left[0] = 10**6
        assert engine.push([Record(b"large", bytes(140_000), FAR, 1)]) == []
        assert engine.pop(b"a")[0].payload == b"kept"
        assert engine.members(b"t").names == (b"kept",)
        assert_sound(engine)
    finally:
        engine.destroy()


#: Fills a small file system with other things at random moments while the store grows.
CROWDED = """
import os, random, sys
from asgi_ipc.engines.base import Record
from asgi_ipc.engines.{module} import {engine} as Engine
from asgi_ipc.exceptions import StoreFull, StoreUnavailable
from asgi_ipc.engines.shm.check import check
dice = random.Random(1)
engine = Engine("crowded", channel_memory=16 << 20, group_memory=4 << 20, directory="/mnt/d")
refused = stored = 0
held = []
for step in range(3000):
    name = b"q%d" % dice.randrange(9)
    if engine.push([Record(name, bytes(dice.choice([10, 2000, 90000])), 1 << 62, 10**6)]):
        refused += 1
    else:
        stored += 1
        held.append(name)
    try:
        engine.put(b"t%d" % dice.randrange(9), b"m%d" % step, 1 << 62)
    except StoreFull:
        refused += 1
    if dice.random() < 0.3 and held:
        assert len(engine.pop(held.pop(0))) == 1
    if dice.random() < 0.02:
        try:
            with open("{mount}/ballast", "wb") as file:
                file.write(bytes(dice.choice([0, 1 << 20, 3 << 20])))
        except OSError:
            pass
for region in (engine._channels, engine._groups):
    with region as heap:
        assert check(heap) == [], check(heap)
for name in held:
    assert len(engine.pop(name)) == 1
assert refused and stored, (refused, stored)
engine.destroy()
print("survived", stored, refused)
"""


may_mount = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def run_where(mounted: dict[str, str], script: str) -> None:
    """Run a script to its end where file systems of those sizes are mounted at those places."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")
    mounts = "".join(f"mount -t tmpfs -o size={size} none {at} && " for at, size in mounted.items())
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mounts} exec "$0" -c "$1"', sys.executable, script],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "survived" in done.stdout


@may_mount
@pytest.mark.parametrize(
    ("module", "engine", "mount"),
    [("posix", "PosixEngine", "/dev/shm"), ("mmap", "MmapEngine", "/mnt")],
)
def test_a_file_system_that_others_fill_up_meanwhile_is_never_a_crash(
    module: str, engine: str, mount: str
) -> None:
    script = CROWDED.format(module=module, engine=engine, mount=mount)
    run_where({"/mnt": "4m", "/dev/shm": "4m"}, script)


def refusing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Make the file system full from the moment that the only item is set to True."""
    full = [False]
    reserve = MmapSegment.reserve

    def refuse(self: MmapSegment, offset: int, length: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(self, offset, length)

    monkeypatch.setattr(MmapSegment, "reserve", refuse)
    return full


def test_a_system_that_gives_no_memory_is_named_at_construction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch)[0] = True
    with pytest.raises(
        StoreUnavailable, match=r"786,432 bytes \(No space left.*KiB free"
    ) as caught:
        open_store(tmp_path)
    assert "smaller channel_memory" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_memory_that_runs_out_later_is_a_full_store_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = refusing(monkeypatch)
    engine = open_store(tmp_path)
    try:
        engine.push([record(engine, b"a", b"kept")])
        engine.put(b"t", b"m", 1 << 62)
        full[0] = True
        refused: list[Refused] = []
        while not refused:
            refused = engine.push([record(engine, b"b", b"x" * 1000)])
        assert refused[0].no_room
        assert "No space left" in refused[0].detail
        assert str(tmp_path) in refused[0].detail
        with pytest.raises(StoreFull, match="group_memory"):
            put_many(engine)
        assert engine.pop(b"a")[0].payload == b"kept"
        assert_sound(engine)
        # What is taken out makes room again.
        engine.pop(b"b", 10)
        assert engine.push([record(engine, b"b", b"x" * 1000)]) == []
    finally:
        engine.destroy()


def put_many(engine: SharedMemoryEngine) -> None:
    for number in range(100_000):
        engine.put(b"t", b"%d" % number, 1 << 62)


TINY = """
import sys
from asgi_ipc.engines.base import Record
from asgi_ipc.engines.{module} import {engine} as Engine
from asgi_ipc.exceptions import StoreUnavailable
engine = Engine("tiny", channel_memory=50 << 20, group_memory=10 << 20, {options})
far = engine.clock() + 10**12
stored = 0
while True:
    refused = engine.push([Record(b"q", b"x" * 1000, far, 10**6)])
    if refused:
        break
    stored += 1
assert refused[0].no_room and "KiB free" in refused[0].detail, refused
assert stored > 50, stored
for _ in range(stored):
    assert len(engine.pop(b"q")) == 1
engine.destroy()
print("survived", stored)
"""


@may_mount
@pytest.mark.parametrize(
    ("module", "engine", "options"),
    [("posix", "PosixEngine", ""), ("mmap", "MmapEngine", "directory='/dev/shm/d'")],
)
def test_a_file_system_of_a_megabyte_fills_up_without_a_crash(
    module: str, engine: str, options: str
) -> None:
    script = TINY.format(module=module, engine=engine, options=options)
    run_where({"/dev/shm": "1m"}, script)
