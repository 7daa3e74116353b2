"""The Segment contract: the shared memory that a UNIX must offer to a shared-memory engine.

A port adds one class of this shape (about a hundred lines) and registers an engine that names it.
Locks, wake-ups and liveness come from `lock_file` and `bells`, which need only fcntl record locks
(or flock) and FIFOs.

  G1  `create` makes new memory, zero-filled, of exactly ``size`` bytes, with permissions ``mode``
      whatever the umask. On failure it leaves nothing behind and raises OSError, or
      `StoreUnavailable` with reason and remedy if memory there could not keep G4. At most one
      process at a time runs `create`, `attach` or `unlink` of one store.
  G2  `locator_for` depends on its arguments only. No locator is ever stored or read: every process
      derives it from the store's id. So the memory of a creator that died can be found again,
      and a forged lock file names no other object.
  G3  `attach` maps the same bytes in every process, visible to all at once. It raises
      FileNotFoundError if the memory does not exist. It makes, changes and waits for nothing,
      whatever it finds under the locator, follows no link, and raises OSError for what is no
      memory, such as a FIFO. Memory whose creator was killed before it set the size appears as no
      bytes.
  G4  Bytes below ``size`` may be touched only after `reserve` covered them. `reserve` raises
      OSError (such as ENOSPC) instead of letting a later touch fail, however full the system
      becomes meanwhile. Reserving bytes again takes no memory and changes no byte. `head` reads
      the beginning without reserving it.
  G5  `owner` returns the user who made the memory, its permissions, and its number of links: those
      of the attached memory, even if its locator now names other memory.
  G6  `close` releases this process's mapping, after `view` has been released. `unlink` removes the
      attached memory for later openers; processes that have it attached keep it. `unlink` does
      nothing if the memory is already removed, and never removes other memory that has taken the
      locator since. `may_unlink` returns beforehand whether this process may remove the memory,
      `is_linked` whether it is still there.
  G7  `left` lists the locators of all memory that this user has made through this class, whether
      a store still uses it or not; an empty list if the system does not tell.
  G8  `give_back` may return to the system what lies wholly within these bytes; no process touches
      them until `reserve` covers them anew, and then they have any content. All other bytes keep
      theirs. It returns whether it did so. A Segment whose system can't, or where `reserve` could
      not get them again, does nothing and returns False, also for no bytes at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from .directory import StoreDirectory
from .location import Location, Owner, public_token


class Segment(Protocol):
    """One block of shared memory, attached to this process. See G1 to G8."""

    @property
    def view(self) -> memoryview:
        """The whole memory, writable, in bytes."""

    @staticmethod
    def locator_for(name: str, token: str) -> str:
        """Return the locator of the memory ``name`` of the store with that token (G2).

        At most 60 ASCII characters.
        """

    @classmethod
    def create(cls, directory: StoreDirectory, locator: str, size: int) -> Segment:
        """Make new memory (G1). Raises FileExistsError if the locator is taken."""

    @classmethod
    def attach(cls, directory: StoreDirectory, locator: str) -> Segment:
        """Attach to the memory that `create` made (G3)."""

    @classmethod
    def left(cls) -> Iterable[str]:
        """List the locators of this user's memory (G7)."""

    @staticmethod
    def space(directory: str) -> str:
        """Return, for error messages, what holds the memory and how much of it is free.

        ``directory`` is the path of the store's directory.
        """

    def owner(self) -> Owner:
        """Return owner, permissions and number of links (G5)."""

    def head(self, length: int) -> bytes:
        """Return the first ``length`` bytes, or fewer if the memory is shorter (G4)."""

    def reserve(self, offset: int, length: int) -> None:
        """Make sure that these bytes can be touched (G4). Raises OSError."""

    def give_back(self, offset: int, length: int) -> bool:
        """Give what was reserved back to the system, if that can be done (G8). Raises nothing."""

    def may_unlink(self) -> bool:
        """Return whether this process may `unlink` it (G6)."""

    def is_linked(self) -> bool:
        """Return whether later openers still find it, as far as the system tells (G6)."""

    def unlink(self) -> None:
        """Remove it (G6). Raises OSError."""

    def close(self) -> None:
        """Release it (G6). May be called twice."""


#: What a port needs is imported from here.
__all__ = ["Location", "Owner", "Segment", "StoreDirectory", "public_token"]
