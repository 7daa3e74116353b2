"""The Segment contract: what a UNIX must offer for a shared-memory engine.

A port brings one class of this shape (about a hundred lines) and registers an engine
that names it; locks, wake-ups and liveness come from `lock_file` and `bells`, which
need fcntl record locks (or flock) and FIFOs, and nothing else.

  G1  `create` makes memory that no one had before, zero-filled, of exactly ``size``
      bytes and open to ``mode`` whatever the umask; if it can't, it leaves nothing and
      raises OSError, or `StoreUnavailable` with the reason and the remedy where memory
      there could not keep G4. Never more than one process is inside `create`, `attach` or
      `unlink` of one store.
  G2  `locator_for` is a function of its arguments and of nothing else. No locator is ever
      recorded or read: every process derives it from the store's id. So a creator that dies
      leaves nothing that can't be found again, and a forged lock file names no other object.
  G3  `attach` in any process shows the same bytes, to all at once; FileNotFoundError if
      the memory is gone. It makes, changes and waits for nothing, whatever it finds under
      the locator, and follows no link. Memory whose creator was killed before it had a size
      is shown as no bytes.
  G4  Bytes below ``size`` may be touched only after `reserve` covered them; `reserve`
      raises OSError (ENOSPC and the like) instead of letting a later touch fail, however
      full others make the system meanwhile. The second time it takes nothing, and
      changes nothing that lies there. `head` reads the beginning without that.
  G5  `owner` tells who made the memory, who may write it and under how many names it is
      known: of the memory that is attached, not of what its locator names by now.
  G6  `close` releases this process's mapping, after `view` has been released;
      `unlink` removes the memory that is attached, for later openers, while those attached
      keep it. It does nothing if that is removed already, and never removes other memory
      that has taken the locator since. `may_unlink` and `is_linked` tell in advance whether
      it may, and afterwards whether somebody did.
  G7  `left` lists the locators of the memory that this user made through this class, whether
      a store still knows it or not; nothing where the system does not tell.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from .directory import StoreDirectory


class Location(NamedTuple):
    """Where a store lives, and who may use it."""

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


class Segment(Protocol):
    """One block of shared memory, attached to this process. See G1 to G7."""

    @property
    def view(self) -> memoryview:
        """All of it, writable, one byte an item."""

    @staticmethod
    def locator_for(name: str, token: str) -> str:
        """Return what `create` calls the memory ``name`` of the store with that token (G2).

        At most 60 ASCII characters.
        """

    @classmethod
    def create(cls, directory: StoreDirectory, locator: str, size: int) -> Segment:
        """Make new memory (G1). FileExistsError if the locator is taken."""

    @classmethod
    def attach(cls, directory: StoreDirectory, locator: str) -> Segment:
        """Attach to the memory that `create` made (G3)."""

    @classmethod
    def left(cls) -> Iterable[str]:
        """List the locators of this user's memory (G7)."""

    @staticmethod
    def space(directory: str) -> str:
        """Tell, for error messages, what holds the memory and how much of it is free.

        ``directory`` is the path of the store's directory.
        """

    def owner(self) -> Owner:
        """Tell who made it (G5)."""

    def head(self, length: int) -> bytes:
        """Return the first bytes, fewer if it has fewer (G4)."""

    def reserve(self, offset: int, length: int) -> None:
        """Make sure that these bytes can be touched (G4)."""

    def may_unlink(self) -> bool:
        """Tell whether this process may `unlink` it (G6)."""

    def is_linked(self) -> bool:
        """Tell whether later openers still find it, as far as the system tells (G6)."""

    def unlink(self) -> None:
        """Remove it (G6). Raises OSError."""

    def close(self) -> None:
        """Release it (G6). May be called twice."""
