"""Memory and locks that no store knows any more: found, named, and removed on demand.

A store's folder can be removed by hand while its memory lies elsewhere: under /dev/shm, or with
`sysv` in the kernel. No later process finds that memory, as its name follows from the store's id,
which was in the folder. But the memory itself says which folder that was.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from asgi_ipc.engines import names
from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.files import SHM
from asgi_ipc.engines.shm.locks.semaphore_locks import folder_of_flags
from asgi_ipc.engines.shm.segment import Location, Owner, Segment, public_token
from asgi_ipc.engines.shm.store_memory import HEAD, folder_in, is_folder_in, store_id_in
from asgi_ipc.exceptions import StoreUnavailable

from .finding import importable_engine
from .lock_files import header_of

#: Why something is kept whose store's path is not recorded.
_UNNAMED = "pass PREFIX and --engine-option directory=... of its store to find out"
_LOCKS = re.compile(r"(?:sem\.)?asgi_ipc\.([0-9a-f]{16})\.(?:\d+|marks|t)").fullmatch

_T = TypeVar("_T")


class Orphan(NamedTuple):
    """Memory, or a file of locks, that belongs to no store."""

    #: The engine that made it, or "locks".
    engine: str
    #: What it is called: a locator of that engine, or a path.
    name: str
    #: Why it is thought to be one.
    reason: str
    #: Why it is not to be removed all the same, or "".
    kept: str
    #: The folder of its store, if it is known.
    folder: str | None = None


def find_orphans(directories: Iterable[str] = ()) -> list[Orphan]:
    """List this user's memory and locks that belong to no store.

    ``directories`` are directories of stores (``directory/prefix``) that may be gone: those with
    long paths are not written down in their memory, and can only be recognized.
    """
    known = list(directories)
    mapped = _mapped()
    looked = look_at_memory(lambda engine, locator, memory: _look(engine, locator, memory, known))
    found = [*filter(None, looked), *_locks(known)]
    return [_kept_if_mapped(orphan, mapped) for orphan in found]


def look_at_memory(look: Callable[[str, str, Segment], _T]) -> Iterator[_T]:
    """Yield what ``look`` returns for each memory of this user: its engine, locator, and itself.

    Leaves out memory that can't be attached, or for which it raises OSError.
    """
    for engine in names():
        factory = importable_engine(engine)
        if factory is None or factory.unavailable():
            continue
        for locator in factory.segment.left():
            with contextlib.suppress(OSError), _memory(factory.segment, locator) as memory:
                yield look(engine, locator, memory)


def folder_of(head: bytes, known: Iterable[str]) -> str | None:
    """Return the folder of the store that memory belongs to; a long one only if it is known."""
    return folder_in(head) or next((each for each in known if is_folder_in(head, each)), None)


def remove_orphan(orphan: Orphan) -> None:
    """Remove one that `find_orphans` has found. Raises OSError."""
    if orphan.kept:
        return
    if orphan.engine == "locks":
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(orphan.name).st_uid == os.geteuid():
                os.unlink(orphan.name)
        return
    factory = importable_engine(orphan.engine)
    if factory is not None:
        with (
            contextlib.suppress(FileNotFoundError),
            _memory(factory.segment, orphan.name) as memory,
        ):
            if store_id_in(memory.head(HEAD)) and memory.owner().uid == os.geteuid():
                memory.unlink()


@contextlib.contextmanager
def _memory(segment: type[Segment], locator: str) -> Iterator[Segment]:
    """Attach to memory that lies in no store's directory."""
    root = StoreDirectory(Location("/", 0o600, None), os.open("/", os.O_RDONLY | os.O_CLOEXEC))
    try:
        memory = segment.attach(root, locator)
        try:
            yield memory
        finally:
            memory.close()
    finally:
        root.close()


def _look(engine: str, locator: str, memory: Segment, known: list[str]) -> Orphan | None:
    head = memory.head(HEAD)
    store_id = store_id_in(head)
    if store_id is None:
        # Of System V memory a key tells nothing: it is another program's.
        if any(head) or not locator.startswith("/"):
            return None
        return Orphan(engine, locator, "it was never completed", "it does not name its store")
    folder = folder_of(head, known)
    if folder is None:
        reason = "the path of its store is too long to be recorded in it"
        return Orphan(engine, locator, reason, _UNNAMED)
    return _of_store(engine, locator, folder, memory.owner(), store_id.__eq__)


def _of_store(
    engine: str, name: str, folder: str, owner: Owner, is_its_id: Callable[[bytes], bool]
) -> Orphan | None:
    """Return an orphan if there is no store in that folder, or one with another id."""
    group = owner.gid if owner.mode & 0o060 else None
    location = Location(folder, 0o600 if group is None else 0o660, group, private=False)
    try:
        header = header_of(location)
    except (OSError, StoreUnavailable) as error:
        reason, kept = f"its store at {folder!r} can't be inspected", str(error)
        return Orphan(engine, name, reason, kept, folder)
    if header is None:
        return Orphan(engine, name, f"there is no store at {folder!r} any more", "", folder)
    if not is_its_id(header.store_id):
        return Orphan(engine, name, f"another store is now at {folder!r}", "", folder)
    return None


def _locks(known: list[str]) -> Iterator[Orphan]:
    """Yield semaphores and marks under /dev/shm whose store is gone."""
    mine: dict[str, list[str]] = {}
    with contextlib.suppress(OSError), os.scandir(SHM) as entries:
        for entry in entries:
            match = _LOCKS(entry.name)
            with contextlib.suppress(OSError):
                if match and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    mine.setdefault(match[1], []).append(entry.path)
    for token, paths in sorted(mine.items()):
        folder = folder_of_flags(token, known)
        if folder is None:
            reason, kept = "its intent flags are gone, or do not record where their store is", ""
            if any(path.endswith(".marks") for path in paths):
                kept = _UNNAMED
            yield from (Orphan("locks", path, reason, kept) for path in sorted(paths))
            continue

        def is_its_id(store_id: bytes, token: str = token) -> bool:
            return public_token(store_id, "locks") == token

        for path in sorted(paths):
            with contextlib.suppress(FileNotFoundError):
                orphan = _of_store("locks", path, folder, Owner.of(os.lstat(path)), is_its_id)
                if orphan:
                    yield orphan


def _kept_if_mapped(orphan: Orphan, mapped: set[str]) -> Orphan:
    """Keep what a living process still has: it will remove it, or not find it gone."""
    name = orphan.name
    file = (
        f"/SYSV{int(name, 16):08x}"
        if name.startswith("0x")
        else os.path.join(
            SHM, name.lstrip("/") if orphan.engine != "locks" else os.path.basename(name)
        )
    )
    if file in mapped and not orphan.kept:
        return orphan._replace(kept="a living process still has it mapped")
    return orphan


def _mapped() -> set[str]:
    """Return the files that other processes have mapped, as far as this user is told."""
    found = set()
    for process in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if process.isdigit() and int(process) != os.getpid():
            # Any user may choose a name that is mapped, in any encoding.
            path = f"/proc/{process}/maps"
            with contextlib.suppress(OSError), open(path, errors="surrogateescape") as table:
                for line in table:
                    if "asgi_ipc." in line or "/SYSV" in line:
                        found.add(line.split(maxsplit=5)[5].split(" (deleted)")[0].strip())
    return found
