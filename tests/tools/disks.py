"""Disks in files, mounted where no other process sees them: each in its own process, as root."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.tools.namespaces import (
    CANT_PLAY,
    run_on,
)

#: The program that makes each file system, the size of the disk in MiB, and how it is mounted.
DISKS = {
    "ext4, 1k blocks": ("mkfs.ext4 -q -b 1024", 48, ""),
    "ext4, 2k blocks": ("mkfs.ext4 -q -b 2048", 48, ""),
    "ext4, 4k blocks": ("mkfs.ext4 -q -b 4096", 48, ""),
    "ext4, data journalled": ("mkfs.ext4 -q", 48, "data=journal"),
    "ext3, without fallocate": ("mkfs.ext3 -q", 48, ""),
    "ext2, without fallocate": ("mkfs.ext2 -q", 48, ""),
    "xfs": ("mkfs.xfs -q", 320, ""),
    "tmpfs": ("", 32, ""),
    "tmpfs, huge pages": ("", 32, "huge=always"),
}

COPYING = {"btrfs": ("mkfs.btrfs -q", 160, "")}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")

every_disk = pytest.mark.parametrize("disk", DISKS)


def on_disk(disk: str, where: Path, function: object, *arguments: object, then: str = "") -> None:
    """Call a function of the test's module in ``where``/disk, a file system of that kind."""
    command, size, option = (DISKS | COPYING)[disk]
    made = f"mount -t tmpfs -o 'size={size}m,mode=700,{option}' none"
    if command:
        program = command.split()[0]
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
        made = f"""
truncate -s {size}M '{where}/image'
{command} '{where}/image' >/dev/null
mount -o 'loop,{option}' '{where}/image'"""
    cant = f'{{ echo "{disk} can not be mounted here"; exit {CANT_PLAY}; }}'
    setup = f"""
mount -t tmpfs none '{where}'
mkdir '{where}/disk'
{made} '{where}/disk' 2>/dev/null || {cant}
{then.format(where=where)}
"""
    run_on(setup, function, f"{where}/disk", *arguments)  # type: ignore[arg-type]
