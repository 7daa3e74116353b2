"""What a process holds and what a store leaves in the system, seen from outside the engine.

Nothing here knows an engine: it looks where UNIX shows open descriptors, mapped files,
threads, shared memory and the temporary folder. Where a system does not show something,
it is not checked.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from .tools import patient


def _places() -> list[Path]:
    """Where stores are known to lie."""
    found = {Path("/dev/shm"), Path(tempfile.gettempdir())}
    return sorted(location for location in found if location.is_dir())


def entries_named(word: str) -> list[str]:
    """Files and folders with the word in their name, at most one folder deep."""
    found = []
    for location in _places():
        # Others come and go while we look, and some folders are not ours to read.
        for folder in (location, *_list(location)):
            found += [str(path) for path in _list(folder) if word in path.name]
    return found


def _list(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    except OSError:
        return []


def _descriptors(process: str = "self") -> dict[int, str]:
    """The open descriptors of a process, and what they are."""
    folder = f"/proc/{process}/fd"
    if process == "self" and not os.path.isdir(folder):
        folder = "/dev/fd"
    found = {}
    with contextlib.suppress(OSError):  # There is no such thing here.
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):  # The one that listed them is closed by now.
                if process == "self":
                    os.fstat(int(name))
                found[int(name)] = name if folder == "/dev/fd" else os.readlink(f"{folder}/{name}")
    return found


def _mapped(process: str = "self") -> set[str]:
    """The files that are mapped into a process."""
    try:
        lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    except OSError:
        return set()
    return {fields[5] for line in lines if len(fields := line.split(None, 5)) == 6}


def files_used(process: str = "self") -> set[str]:
    """The files in those places that a process has open or mapped, where that can be seen."""
    locations = tuple(f"{location}/" for location in _places())
    # Python itself may be installed in the temporary folder, and loads as it goes.
    code = tuple(
        f"{location}/" for location in (sys.prefix, sys.base_prefix, *sys.path) if location
    )
    return {
        name
        for name in {*_descriptors(process).values(), *_mapped(process)}
        # A folder may be that of all stores of a user; what lies in it is found by its name.
        if name.startswith(locations) and not name.startswith(code) and not os.path.isdir(name)
    }


def _sysv_segments(creators: Collection[int] = ()) -> set[str]:
    """Ids of the SysV shared memory segments that one of these processes made, or of all."""
    try:
        rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    except OSError:
        return set()
    fields = [row.split() for row in rows]
    return {each[1] for each in fields if not creators or int(each[4]) in creators}


class Snapshot(NamedTuple):
    """What this process holds at some instant."""

    descriptors: dict[int, str]
    threads: set[threading.Thread]
    files: set[str]
    segments: set[str]

    @classmethod
    def take(cls, children: Collection[int] | None = None) -> Snapshot:
        """Look at this process; and at the segments that it or its children made, or at all.

        All, to know later which are new: a child may get the number of a process that
        died long ago and left segments.
        """
        segments = _sysv_segments({os.getpid(), *children} if children is not None else ())
        return cls(_descriptors(), set(threading.enumerate()), files_used(), segments)


def left_behind(before: Snapshot, files: set[str], prefix: str, children: list[int]) -> list[str]:
    """What there is that was not there before, for people; empty if all is well."""
    found: list[str] = []
    for patience in (0, 0.05, 0.2, 0.5, patient(1), patient(5)):
        found = _differences(before, files, prefix, children)
        if not found:
            break
        # A finished thread or a cycle of garbage is no leak, but may need a moment to go.
        time.sleep(patience)
        gc.collect()
    return found


def _differences(before: Snapshot, files: set[str], prefix: str, children: list[int]) -> list[str]:
    now = Snapshot.take(children)
    found = [
        f"descriptor {number}: {target}"
        for number, target in now.descriptors.items()
        if before.descriptors.get(number) != target
    ]
    found += [f"thread: {thread.name}" for thread in now.threads - before.threads]
    # A file that we had open and that others may still name.
    found += [f"file: {name}" for name in sorted(files - before.files) if os.path.exists(name)]
    found += [f"file: {name}" for name in entries_named(prefix)]
    found += [f"SysV segment: {number}" for number in now.segments - before.segments]
    return sorted(set(found))
