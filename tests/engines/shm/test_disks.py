"""Clause G4 on real disks that fill up: a file system refuses at once, or serves every byte.

Each case makes a file system in a file, mounts it in a mount namespace, and runs in a process
of its own, so that SIGBUS is seen and nothing stays mounted. Needs root, loop devices and the
programs that make file systems; what is missing is skipped with the reason.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_ipc.engines.base import Record
from asgi_ipc.engines.shm import file_systems, files
from asgi_ipc.engines.shm.check import check
from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.locks.base import FCNTL
from asgi_ipc.engines.shm.mmap import MmapEngine, MmapSegment
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.segment import Location
from asgi_ipc.exceptions import StoreFull, StoreUnavailable
from tests.tools.disks import DISKS, as_root, every_disk, on_disk
from tests.tools.namespaces import (
    CANT_PLAY,
    run_on,
)
from tests.tools.samples import each_value

KIB, MIB = 1024, 1024 * 1024
FAR = 1 << 62


class Neighbour:
    """Another program, which takes and frees blocks of the disk."""

    def __init__(self, directory: str) -> None:
        self._descriptor = os.open(f"{directory}/ballast", os.O_RDWR | os.O_CREAT)
        self._directory, self._size = directory, 0

    def fill(self, leave: int = 0) -> None:
        """Take all but ``leave`` bytes."""
        step = 64 * MIB
        while step >= KIB:
            status = os.statvfs(self._directory)
            if leave and status.f_bfree * status.f_frsize - step < leave:
                step //= 2
                continue
            try:
                if os.pwrite(self._descriptor, bytes(min(step, MIB)), self._size) < min(step, MIB):
                    raise OSError(errno.ENOSPC, "written in part")
                with contextlib.suppress(OSError):
                    os.posix_fallocate(self._descriptor, self._size, step)
                self._size += step
            except OSError:
                step //= 2
        assert leave or os.statvfs(self._directory).f_bavail < 64

    def free(self, size: int) -> None:
        """Give back about that much."""
        self._size = max(0, self._size - size)
        os.ftruncate(self._descriptor, self._size)


# ---- the memory alone


def read_all(path: str) -> None:
    """As a backup does: it brings the file in, in folios that are as large as may be."""
    with open(path, "rb") as file:
        # Memory is taken by reading a mapping of tmpfs, and that on a full one is SIGBUS.
        if not file_systems.in_memory(file.fileno()):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
                with contextlib.suppress(OSError, AttributeError):
                    mapping.madvise(mmap.MADV_HUGEPAGE)
                bytes(mapping)
        while file.read(4 * MIB):
            pass


def forget_pages(descriptor: int) -> None:
    """Have everything written back, and read again when it is touched."""
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def steps(size: int) -> Iterator[tuple[int, int]]:
    """What a heap reserves: extents from below, handles from above."""
    low, high = 0, size
    while low + 64 * KIB < high - 4 * KIB:
        yield low, 64 * KIB
        low += 64 * KIB
        if low % (256 * KIB) == 0:
            high -= 4 * KIB
            yield high, 4 * KIB


def touch(segment: MmapSegment, ranges: list[tuple[int, int]], seed: int) -> None:
    """Change every byte that was reserved, and see all of them again once pages were dropped."""
    for offset, length in ranges:
        segment.view[offset : offset + length] = random.Random(offset ^ seed).randbytes(length)
    forget_pages(segment._descriptor)
    for offset, length in ranges:
        want = random.Random(offset ^ seed).randbytes(length)
        assert segment.view[offset : offset + length] == want


def check_memory(directory: str, when: int, small_steps: bool = False) -> None:
    """The disk fills up after ``when`` reservations; some room comes and goes once more."""
    if small_steps:
        files.granule = lambda descriptor: 4 * KIB  # type: ignore[attr-defined]
    size = 20 * MIB
    location = StoreDirectory.open(Location(f"{directory}/d", 0o600, None))
    segment = MmapSegment.create(location, "memory", size)
    neighbour = Neighbour(directory)
    neighbour.fill(leave=size)
    reserved: list[tuple[int, int]] = []
    refused = 0
    for number, (offset, length) in enumerate(steps(size)):
        if number % 16 == 3:
            read_all(f"{directory}/d/memory")
        if number == when:
            neighbour.fill()
        if refused == 3:
            neighbour.free(3 * MIB)
        try:
            segment.reserve(offset, length)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            refused += 1
            continue
        if offset // (2 * MIB) % 2:  # The others are touched first when the disk is full.
            segment.view[offset : offset + length] = b"\1" * length
        reserved.append((offset, length))
    neighbour.fill()
    assert len(reserved) >= min(when, 100)
    for seed in range(3):
        touch(segment, reserved, seed)
        read_all(f"{directory}/d/memory")
    segment.close()
    # XFS refuses on a full disk what it has reserved already, but serves it.
    other = MmapSegment.attach(location, "memory")
    with contextlib.suppress(OSError):
        other.reserve(*reserved[0])
    touch(other, reserved, 4)
    other.close()


@as_root
@pytest.mark.parametrize(("disk", "when"), each_value(list(DISKS), [1, 30, 150]))
def test_every_reserved_byte_of_a_disk_that_others_fill_can_be_touched(
    disk: str, when: int, tmp_path: Path
) -> None:
    on_disk(disk, tmp_path, check_memory, when)


def check_it_dies(directory: str, function: str, *arguments: object) -> None:
    """The function ends in SIGBUS; a kernel that gives single pages can't show it."""
    child = os.fork()
    if not child:
        try:
            globals()[function](directory, *arguments)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        sys.stdout.write("this kernel reads files by single pages")
        sys.exit(CANT_PLAY)
    assert os.WIFSIGNALED(status), status
    assert os.WTERMSIG(status) == signal.SIGBUS


@as_root
@pytest.mark.parametrize("disk", ["ext4, 1k blocks", "ext4, 4k blocks", "xfs"])
def test_reserving_less_than_a_folio_is_caught_by_this_test(disk: str, tmp_path: Path) -> None:
    on_disk(disk, tmp_path, check_it_dies, "check_memory", 30, True)


# ---- a store


def check_store(directory: str, disk: str) -> None:
    """Both memories grow on a disk that fills up; all that was sent comes out again."""
    reserved: dict[MmapSegment, list[tuple[int, int]]] = {}
    reserve = MmapSegment.reserve

    def recorded(self: MmapSegment, offset: int, length: int) -> None:
        reserve(self, offset, length)
        reserved.setdefault(self, []).append((offset, length))

    MmapSegment.reserve = recorded  # type: ignore[method-assign,assignment]
    engine = MmapEngine(
        "full", channel_memory=14 * MIB, group_memory=8 * MIB, directory=f"{directory}/d"
    )
    neighbour = Neighbour(directory)
    neighbour.fill(leave=14 * MIB)
    dice = random.Random(1)
    held: list[tuple[bytes, bytes]] = []
    members: list[int] = []
    refused = {"channels": 0, "groups": 0}
    for number in range(6000):
        if number in (1500, 3000, 4500):
            (neighbour.fill if number != 3000 else lambda: neighbour.free(4 * MIB))()
        queue, data = b"q%d" % dice.randrange(9), dice.randbytes(dice.choice([10, 2000, 60000]))
        if engine.push([Record(queue, data, FAR, 10**6)]):
            refused["channels"] += 1
        else:
            held.append((queue, data))
        try:
            engine.put(b"t", bytes(250) + b"%d" % number, FAR)
            members.append(number)
        except StoreFull:
            refused["groups"] += 1
    neighbour.fill()
    for locked_segment in (engine.session.channels, engine.session.groups):
        with locked_segment as heap:
            assert check(heap) == [], check(heap)
    assert len(reserved) == 2
    for segment, ranges in reserved.items():
        for _ in range(2):
            for offset, length in ranges:
                with segment.view[offset : offset + length] as part:
                    part[:] = bytes(part)
            forget_pages(segment._descriptor)
    for queue, data in held:
        assert engine.pop(queue)[0].payload == data
    assert len(engine.members(b"t").names) == len(members)
    assert refused["channels"]
    # Where all was written at the beginning the disk refuses nothing any more.
    assert refused["groups"] or "ext2" in disk or "ext3" in disk
    assert len(held) > 100
    assert len(members) > 100
    engine.destroy()


@as_root
@every_disk
def test_a_store_on_a_disk_that_fills_up_refuses_and_loses_nothing(
    disk: str, tmp_path: Path
) -> None:
    on_disk(disk, tmp_path, check_store, disk)


def send_beside_shm(directory: str) -> None:
    """Where /dev/shm is a folder of such a disk, semaphores are not made there either."""
    with pytest.raises(StoreUnavailable, match="SIGBUS"):
        PosixEngine("a", channel_memory=MIB, group_memory=MIB)
    assert os.listdir("/dev/shm") == []
    engine = MmapEngine("a", channel_memory=MIB, group_memory=MIB)
    assert engine.session.joined().lock_file.kind == FCNTL
    engine.push([Record(b"a", b"x", FAR, 1)])
    engine.destroy()


@as_root
def test_shared_memory_on_a_disk_that_copies_leaves_record_locks(tmp_path: Path) -> None:
    bind = "chmod 1777 '{where}/disk'; mount --bind '{where}/disk' /dev/shm"
    on_disk("btrfs", tmp_path, send_beside_shm, then=bind)


# ---- file systems that take back what they gave


def check_refused(directory: str, named: str) -> None:
    """Nothing is made there, and the error says where and what else to do."""
    with pytest.raises(StoreUnavailable) as caught:
        MmapEngine("a", channel_memory=MIB, group_memory=MIB, directory=f"{directory}/d")
    for part in (named, directory, "SIGBUS", "engine_options['directory']", "'posix'"):
        assert part in str(caught.value), str(caught.value)
    assert list(Path(directory, "d").rglob("*")) == []


def check_unasked(directory: str) -> None:
    """All that is reserved is refused when it is touched."""
    files.refusal = lambda descriptor: None  # type: ignore[attr-defined]
    segment = MmapSegment.create(
        StoreDirectory.open(Location(f"{directory}/d", 0o600, None)), "memory", 20 * MIB
    )
    segment.reserve(0, 20 * MIB)
    Neighbour(directory).fill()
    touch(segment, [(0, 20 * MIB)], 0)


#: A layer above the file system that was mounted.
OVERLAY = """
mkdir '{where}/disk/upper' '{where}/disk/work' '{where}/below'
mount -t overlay overlay '{where}/disk' \
    -o 'lowerdir={where}/below,upperdir={where}/disk/upper,workdir={where}/disk/work'
"""


@as_root
@pytest.mark.parametrize("above", ["", OVERLAY], ids=["itself", "below an overlay"])
def test_a_file_system_that_copies_what_is_overwritten_is_refused(
    above: str, tmp_path: Path
) -> None:
    on_disk("btrfs", tmp_path, check_refused, "overlay" if above else "btrfs", then=above)


@as_root
def test_without_the_question_btrfs_kills(tmp_path: Path) -> None:
    on_disk("btrfs", tmp_path, check_it_dies, "check_unasked")


@as_root
@pytest.mark.parametrize("disk", ["ext4, 4k blocks", "xfs"])
def test_an_overlay_above_a_sound_file_system_is_served(disk: str, tmp_path: Path) -> None:
    on_disk(disk, tmp_path, check_memory, 30, then=OVERLAY)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("zfs", "SIGBUS"),
        ("bcachefs", "SIGBUS"),
        ("nfs4", "another machine"),
        ("cifs", "another machine"),
        ("fuse.sshfs", "another machine"),
    ],
)
def test_file_systems_that_can_not_be_made_here_are_refused_by_name(
    kind: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = file_systems.Mount(kind, "/srv/data")
    monkeypatch.setattr(file_systems, "mount_of", lambda descriptor: mount)
    with pytest.raises(StoreUnavailable, match=rf"{kind}, mounted at '/srv/data'.*{reason}"):
        MmapEngine("a", channel_memory=MIB, group_memory=MIB, directory=tmp_path / "d")
    assert list(tmp_path.rglob("*/*")) == []


def test_a_mount_is_found_with_blanks_in_its_name(tmp_path: Path) -> None:
    run_on(f"mkdir -p '{tmp_path}/a b'; mount -t tmpfs none '{tmp_path}/a b'", tell, str(tmp_path))


def tell(path: str) -> None:
    descriptor = os.open(f"{path}/a b", os.O_RDONLY)
    assert file_systems.mount_of(descriptor) == ("tmpfs", f"{path}/a b")
    assert file_systems.granule(descriptor) == os.sysconf("SC_PAGE_SIZE")
    os.close(descriptor)
