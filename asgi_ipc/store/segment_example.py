"""A `Segment` that only raises: copy it, and fill it in for your UNIX.

`asgi_ipc.store.segment` is the contract (G1 to G6), `docs/porting.md` tells the traps by
system, and this says for each method what a porter needs to know. Of the three there are,
`asgi_ipc.engines.mmap` is the shortest. When it is filled in, prove it:

    python -m asgi_ipc.conformance test_segment --engine my.module:ExampleEngine
    python -m asgi_ipc.conformance --engine my.module:ExampleEngine -n auto

No method is called by two processes at a time for one store, except `reserve`, `owner`,
`close` and `view`: those are called while others use the same memory, and `reserve` never
by two at a time. An OSError may carry any errno unless one is named; its text is shown to
the user. What another library raises is translated with ``raise OSError(...) from error``.
"""

from __future__ import annotations

from .engine import SharedMemoryEngine
from .segment import Owner, Place


class ExampleSegment:
    """One block of memory, attached to this process."""

    #: Set by `create` and `attach`: all of the memory, ``memoryview`` of format "B", writable,
    #: at an address that is a multiple of 8, since it is used as 64-bit words. A forked child
    #: goes on using it: the mapping must be shared (MAP_SHARED), not copied.
    view: memoryview

    @staticmethod
    def locator_for(name: str, token: str) -> str:
        """Choose a name for new memory; make nothing (G2).

        ``name`` is "channels" or "groups", ``token`` 16 hexadecimal digits, random and the
        same for both. At most 60 ASCII characters: it is written into the lock file before
        `create` is called, so that who comes after a killed creator finds what he left. If
        the system chooses names itself (as shmget with IPC_PRIVATE does), choose one with
        which memory can be found again, such as a key.
        """
        raise NotImplementedError

    @classmethod
    def create(cls, place: Place, locator: str, size: int) -> ExampleSegment:
        """Make new memory and attach to it (G1).

        ``size`` is a multiple of 4096 and at least 256 KiB, often 100 MB. All bytes are
        zero; nothing need be reserved yet, and sparse memory is best. `owner` must tell
        ``place.mode`` and, unless None, ``place.gid``: set both after creating, as the
        umask is not to be trusted, and before anybody could attach who should not.

        FileExistsError if there is memory under this locator: never take over what exists,
        and never resize it, since others may be using it. Another OSError if it can't be
        made (too large, no permission, a limit); then nothing is left, no descriptor either.
        """
        raise NotImplementedError

    @classmethod
    def attach(cls, place: Place, locator: str) -> ExampleSegment:
        """Attach to what `create` made, here or in another process (G3).

        The size is the memory's own. FileNotFoundError if it is gone, or was never completed
        because its creator was killed in the middle of `create`; PermissionError if it is
        another user's. It may be attached several times in one process. Never make anything.
        """
        raise NotImplementedError

    @classmethod
    def unlink(cls, place: Place, locator: str) -> None:
        """Remove the memory for later openers (G6).

        Whoever is attached keeps it, until he closes or dies, and then it is given back to
        the system. If there is none under this locator, do nothing; one that a killed creator
        left half made must go as well.
        """
        raise NotImplementedError

    @staticmethod
    def space(place: Place) -> str:
        """For error messages: where memory comes from, how much is free, which limit holds.

        Called when `create` or `reserve` has failed. Must not fail itself.
        """
        raise NotImplementedError

    def owner(self) -> Owner:
        """Who made the memory, and its permission bits (G5), as the kernel has them.

        Called before anything in the memory is believed: memory that others may write is
        refused. It must be true of the memory that is attached, not of its name.
        """
        raise NotImplementedError

    def reserve(self, offset: int, length: int) -> None:
        """See to it that these bytes can be touched (G4).

        A later touch must not end the process (SIGBUS) because memory or disk is full:
        have it set aside now (posix_fallocate), or raise OSError (ENOSPC, usually). Called
        for each part before its first use, rarely, in the middle of a push: it may cost
        microseconds. What was reserved before keeps its content. Do nothing where the
        system accounts for all of the memory at creation.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of this process's attachment, and of every descriptor (G6).

        Release ``view`` first: unmapping under a live view ends the interpreter on some
        systems. Views that others made of it are released by then. May be called twice.
        """
        raise NotImplementedError


class ExampleEngine(SharedMemoryEngine):
    """The engine over it: this is all. Locks, wake-ups and liveness come with it.

    To register it, one line: in ``BUILT_IN`` of `asgi_ipc.engines`, or in another package an
    entry point in group ``asgi_ipc.engines``.
    """

    #: Written into the lock file, so that no other engine opens the store by mistake. At most
    #: 16 printable ASCII characters.
    name = "example"
    segment = ExampleSegment

    @classmethod
    def unavailable(cls) -> str | None:
        """None where it can work, or what is missing and what to do; asked before opening."""
        return "it is a skeleton; fill in asgi_ipc/store/segment_example.py"

    @classmethod
    def default_parent(cls) -> str:
        """The folder for locks and wake-ups: writable to all, on a file system with fcntl
        record locks and FIFOs, seen by all processes (containers!) that see the memory."""
        return super().default_parent()
