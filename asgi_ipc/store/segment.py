"""The Segment contract: what a UNIX must offer for a shared-memory engine.

A port brings one class of this shape (about a hundred lines) and registers an engine
that names it; locks, wake-ups and liveness come from `sidecar` and `bells`, which
need fcntl record locks (or flock) and FIFOs, and nothing else.

  G1  `create` makes memory that no one had before, zero-filled, of exactly ``size``
      bytes and open to ``mode`` whatever the umask; if it can't, it leaves nothing and
      raises OSError, or `StoreUnavailable` with the reason and the remedy where memory
      there could not keep G4. Never more than one process is inside `create`, `attach` or
      `unlink` of one store.
  G2  ``locator`` is chosen by `locator_for` before `create`, recorded in the lock file,
      and is all that `attach` and `unlink` get: a creator that dies leaves nothing
      that can't be found again.
  G3  `attach` in any process shows the same bytes, to all at once; FileNotFoundError if
      the memory is gone.
  G4  Bytes below ``size`` may be touched only after `reserve` covered them; `reserve`
      raises OSError (ENOSPC and the like) instead of letting a later touch fail, however
      full others make the system meanwhile. The second time it takes nothing, and
      changes nothing that lies there.
  G5  `owner` tells who made the memory and who may write it.
  G6  `close` lets go of this process's mapping, after `view` has been released;
      `unlink` removes the memory for later openers while those attached keep it, and
      does nothing if it is gone.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol


class Place(NamedTuple):
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
    """Who made an object, and its permission bits."""

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Owner:
        """The same, from a stat result."""
        return cls(status.st_uid, status.st_gid, status.st_mode & 0o777)


class Segment(Protocol):
    """One block of shared memory, attached to this process. See G1 to G6."""

    @property
    def view(self) -> memoryview:
        """All of it, writable, one byte an item."""

    @staticmethod
    def locator_for(name: str, token: str) -> str:
        """What `create` will call the memory ``name`` of the store with random ``token`` (G2).

        At most 60 ASCII characters.
        """

    @classmethod
    def create(cls, place: Place, locator: str, size: int) -> Segment:
        """New memory (G1). FileExistsError if the locator is taken."""

    @classmethod
    def attach(cls, place: Place, locator: str) -> Segment:
        """The memory that `create` made (G3)."""

    @classmethod
    def unlink(cls, place: Place, locator: str) -> None:
        """Remove it (G6)."""

    @staticmethod
    def space(place: Place) -> str:
        """For error messages: what holds the memory, and how much of it is free."""

    def owner(self) -> Owner:
        """Who made it (G5)."""

    def reserve(self, offset: int, length: int) -> None:
        """Make sure that these bytes can be touched (G4)."""

    def close(self) -> None:
        """Let go of it (G6). May be called twice."""
