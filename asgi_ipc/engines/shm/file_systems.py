"""What a file system does with memory that was reserved, asked of the file that is to hold it.

Clause G4 needs more of a file system than room. Two kinds break it whatever is reserved:

- one that copies what is overwritten needs a new block for every page written back, so a full
  disk refuses pages that were reserved (btrfs, ZFS, bcachefs, NILFS, UBIFS);
- one whose files lie on another machine hears of a full disk only after the page was written
  (NFS, SMB, 9p, folders that a hypervisor shares).

The first answers by SIGBUS or loses what was written, the second loses it. `refusal` finds both.

`granule` is the second question. Linux reads files in folios of up to `_LARGEST_FOLIO` bytes
(2 MiB where pages have 4 KiB), aligned in the file, and the first touch of any page asks the
file system for blocks under the whole folio. Blocks reserved under a part of it do not help:
that touch is SIGBUS once the disk is full. Where whole granules are reserved, no folio crosses
into blocks that are not. Memory file systems give single pages and are not affected.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import mmap
from functools import cache
from typing import NamedTuple

_COPIES = frozenset({"btrfs", "zfs", "bcachefs", "nilfs2", "ubifs"})
_REMOTE = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "orangefs"),
        *("fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "fuse.rclone", "fuse.s3fs", "virtiofs"),
        *("vboxsf", "prl_fs", "vmhgfs", "fuse.vmhgfs-fuse"),
    }
)
#: File systems whose files are memory: pages are given and refused one by one.
_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
#: FS_IOC_GETFLAGS and FS_IOC_SETFLAGS where a long has 8 bytes: of most processors, and of POWER,
#: MIPS and SPARC, on which the two bits that say "read" and "write" differ.
_CALLS = (0x80086601, 0x40086602), (0x40086601, 0x80086602)
#: FS_NOCOW_FL.
_NO_COPYING = 0x00800000
_REMEDY = (
    "name an engine_options['directory'] on a local file system that overwrites in place (ext4, "
    "XFS, or a tmpfs such as /dev/shm), or choose engine 'posix' or 'sysv'"
)


class Mount(NamedTuple):
    """A mounted file system."""

    #: As /proc/self/mountinfo has it: "ext4", "fuse.sshfs".
    type: str
    #: Where it is mounted.
    point: str


def mount_of(descriptor: int) -> Mount | None:
    """Return the file system of an open file or folder; None where the system does not tell."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}") as file:
            number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
        with open("/proc/self/mountinfo", errors="surrogateescape") as file:
            for line in file:
                # "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw"
                before, _, after = line.partition(" - ")
                words = before.split()
                if words[0] == number:
                    return Mount(after.split()[0], _unescaped(words[4]))
    except (OSError, StopIteration, IndexError):
        pass
    return None


def _unescaped(point: str) -> str:
    """Blanks and backslashes are written as octal numbers."""
    for code in (" ", "\t", "\n", "\\"):
        point = point.replace(f"\\{ord(code):03o}", code)
    return point


def refusal(descriptor: int) -> str | None:
    """Return why memory in this file would break clause G4, and the remedy; None if it keeps it.

    The file is open for writing and empty: only of such a file a file system that copies can
    be told by the flag that stops it, which also tells it beneath an overlay.
    """
    mount = mount_of(descriptor)
    where = f"{mount.type}, mounted at {mount.point!r}" if mount else "the file system"
    if mount and mount.type in _REMOTE:
        return (
            f"shared memory can't lie on {where}: its files are kept by another machine, whose "
            f"full disk loses what was written here; {_REMEDY}"
        )
    if (mount and mount.type in _COPIES) or _can_stop_copying(descriptor):
        return (
            f"shared memory can't lie on {where}: it writes every change to a new block, so that "
            f"a full disk would end processes with SIGBUS; {_REMEDY}"
        )
    return None


def _can_stop_copying(descriptor: int) -> bool:
    """Whether the file system takes the flag that forbids copy-on-write, so has it otherwise."""
    if array.array("l").itemsize != 8:
        return False
    flags = array.array("l", [0])
    for get, change in _CALLS:
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, get, flags)
            fcntl.ioctl(descriptor, change, array.array("l", [flags[0] | _NO_COPYING]))
            fcntl.ioctl(descriptor, get, flags)
            return bool(flags[0] & _NO_COPYING)
    return False


def granule(descriptor: int) -> int:
    """Return in which steps blocks must be reserved, aligned in the file, to be sure of a page."""
    return mmap.PAGESIZE if in_memory(descriptor) else largest_folio()


def in_memory(descriptor: int) -> bool:
    """Tell whether the system says that a file is memory, as on tmpfs, and not on a disk."""
    mount = mount_of(descriptor)
    return mount is not None and mount.type in _MEMORY


@cache
def largest_folio() -> int:
    """Return the most bytes of a file that one page fault may concern.

    Linux bounds it by a huge page and by 2048 pages. 2 MiB where the system does not tell.
    """
    huge = 0
    path = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"
    with contextlib.suppress(OSError, ValueError), open(path) as file:
        huge = int(file.read())
    return max(2 * 1024 * 1024, min(huge, 2048 * mmap.PAGESIZE))
