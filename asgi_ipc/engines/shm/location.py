"""Where a store lies and which users may use it, and what follows from that for its files."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import NamedTuple

from asgi_ipc.exceptions import StoreUnavailable

#: Bytes by which memory names the store's directory. Do not change.
FOLDER_BYTES = 56


class Location(NamedTuple):
    """Where a store lies, and which users may use it."""

    #: The store's own directory.
    directory: str
    #: Permission bits of memory and files, e.g. 0o600.
    mode: int
    #: Group that owns them, or None for the process's own.
    gid: int | None
    #: True if the directory above it is ours alone, to be removed when empty.
    private: bool = True


class Owner(NamedTuple):
    """Who made an object, its permission bits, and the number of its names."""

    uid: int
    gid: int
    mode: int
    #: More than 1 where it also lies elsewhere; 0 where it has been removed, or has no name.
    links: int = 1

    @classmethod
    def of(cls, status: os.stat_result) -> Owner:
        """Return the same, from a stat result."""
        return cls(status.st_uid, status.st_gid, status.st_mode & 0o777, status.st_nlink)


def public_token(store_id: bytes, purpose: str) -> str:
    """Return 16 hexadecimal digits that follow from a store's id; the id does not follow from them.

    For names that other users can see, such as those under /dev/shm. A member of a group can
    write any id into the lock file that the group shares, but not one whose names are those of
    another store: that store's id never shows.
    """
    person = purpose.encode()
    return hashlib.blake2b(store_id, digest_size=8, person=person).hexdigest()


def check_owner(path: str, owner: Owner, location: Location) -> None:
    """Refuse what others made or may write to, beyond what ``location`` allows on purpose.

    Raises `StoreUnavailable`.
    """
    if location.gid is None:
        mine = owner.uid == os.geteuid()
        wanted = f"user {os.geteuid()}"
    else:
        mine = owner.gid == location.gid
        wanted = f"group {location.gid}"
    if not mine:
        raise StoreUnavailable(
            f"{path!r} belongs to user {described(owner.uid)}, group {owner.gid}, and not to "
            f"{wanted}: the processes of one store run as one user, or share a group through "
            "engine_options['group']; if that user has nothing to do with the store, name "
            "another engine_options['directory'], or have root remove it"
        )
    if owner.mode & ~location.mode & 0o022:
        raise StoreUnavailable(
            f"{path!r} can be written by others (mode {owner.mode:o}, expected {location.mode:o}): "
            "remove it or take the right away"
        )


def described(uid: int) -> str:
    """Return a user's number and, where the system knows it, name."""
    with contextlib.suppress(ImportError, KeyError, OSError):
        import pwd

        return f"{uid} ({pwd.getpwuid(uid).pw_name})"
    return f"{uid}"


def folder_mark(path: str) -> bytes:
    """Return how memory names the store's directory: by its path, or a digest if that is long."""
    name = os.fsencode(path)
    if len(name) > FOLDER_BYTES:
        name = b"\0" + hashlib.blake2b(name, digest_size=16).digest()
    return name.ljust(FOLDER_BYTES, b"\0")


def folder_said(mark: bytes) -> str | None:
    """Return the path that a `folder_mark` is of; None if it is a digest, or no path at all."""
    name = mark.rstrip(b"\0")
    return os.fsdecode(name) if name.startswith(b"/") and b"\0" not in name else None
