"""A `Segment` that only raises: copy it, and fill it in for your UNIX.

`asgi_ipc.engines.shm.segment` is the contract (G1 to G8), `docs/porting.md` tells the traps by
system, and this says for each method what a porter needs to know. Of the three there are,
`asgi_ipc.engines.shm.mmap` is the shortest. When it is filled in, prove it:

    python -m asgi_ipc.conformance test_segment --engine my.module:ExampleEngine
    python -m asgi_ipc.conformance --engine my.module:ExampleEngine -n auto

No method is called by two processes at a time for one store, except `reserve`, `owner`,
`close` and `view`: those are called while others use the same memory, and `reserve` never
by two at a time. An OSError may carry any errno unless one is named; its text is shown to
the user. What another library raises is translated with ``raise OSError(...) from error``.
"""

from __future__ import annotations

from collections.abc import Iterable

from .engine import SharedMemoryEngine
from .segment import Owner, StoreDirectory


class ExampleSegment:
    """One block of memory, attached to this process."""

    #: Set by `create` and `attach`: all of the memory, ``memoryview`` of format "B", writable,
    #: at an address that is a multiple of 8, since it is used as 64-bit words. A forked child
    #: goes on using it: the mapping must be shared (MAP_SHARED), not copied.
    view: memoryview

    @staticmethod
    def locator_for(name: str, token: str) -> str:
        """Return a name for new memory; make nothing (G2).

        ``name`` is "channels" or "groups", ``token`` 16 hexadecimal digits that follow from the
        store's id, the same for both. At most 60 ASCII characters. The name is recorded
        nowhere: every process derives it, so it must not depend on anything else. If the name
        holds the whole token, memory that a killed creator left blank is known by its name; a
        shorter one (a key of 31 bits, say) may by chance or on purpose be that of another
        program's memory. If the system chooses names itself (as shmget with IPC_PRIVATE
        does), choose one with which memory can be found again, such as a key.
        """
        raise NotImplementedError

    @classmethod
    def create(cls, directory: StoreDirectory, locator: str, size: int) -> ExampleSegment:
        """Make new memory and attach to it (G1).

        ``size`` is a multiple of 4096 and at least 256 KiB, often 100 MB. All bytes are
        zero; nothing need be reserved yet, and sparse memory is best. `owner` must tell
        ``directory.location.mode`` and, unless None, ``directory.location.gid``: set both after
        creating, as the umask is not to be trusted, and before another user could attach that
        should not. Files in the store's directory are made with `StoreDirectory.open_file`,
        and changed through their descriptor, never by path.

        FileExistsError if there is memory under this locator: never take over what exists,
        and never resize it, since others may be using it. Another OSError if it can't be
        made (too large, no permission, a limit); then nothing is left, no descriptor either.
        """
        raise NotImplementedError

    @classmethod
    def attach(cls, directory: StoreDirectory, locator: str) -> ExampleSegment:
        """Attach to what `create` made, here or in another process (G3).

        The size is the memory's own. FileNotFoundError if it is gone; PermissionError if it is
        another user's. Memory that has no size yet, because its creator was killed in the
        middle of `create`, is shown as no bytes, so that it can be removed. It may be attached
        several times in one process. Never make or change anything: what is found under the
        locator may be another program's, and is not believed until its owner and its beginning
        were looked at. Follow no link, and raise OSError for what is no memory, such as a FIFO.
        """
        raise NotImplementedError

    @classmethod
    def left(cls) -> Iterable[str]:
        """List the locators of all memory of this user's that may be this engine's (G7).

        For ``python -m asgi_ipc check --orphans``, which looks into each. An empty list where
        the system does not tell, or where memory lies in the stores' directories alone.
        """
        raise NotImplementedError

    @staticmethod
    def space(directory: str) -> str:
        """Tell where memory comes from, how much is free, which limit holds.

        For error messages; ``directory`` is the path of the store's directory. Called when
        `create` or `reserve` has failed. Must not fail itself.
        """
        raise NotImplementedError

    def owner(self) -> Owner:
        """Return the user who made the memory, and its permission bits (G5), as the kernel knows.

        Called before anything in the memory is believed: memory that others may write is
        refused, and so is a file that has more than one name (``links``). It must be true of
        the memory that is attached, not of its name.
        """
        raise NotImplementedError

    def head(self, length: int) -> bytes:
        """Return the first bytes, all zero if they were never written (G4).

        Called before `reserve`: where memory is sparse, read it as a file (pread), since to
        touch it might end the process.
        """
        raise NotImplementedError

    def reserve(self, offset: int, length: int) -> None:
        """See to it that these bytes can be touched (G4).

        A later touch must not end the process (SIGBUS) because memory or disk is full:
        have it set aside now (posix_fallocate), or raise OSError (ENOSPC, usually). Called
        for each part before its first use, rarely, in the middle of a push: it may cost
        microseconds. What was reserved before keeps its content, and what lies around may be
        live: never write zeros here. Do nothing where the system accounts for all of the
        memory at creation, or where `create` wrote all of it as nothing can be reserved.
        """
        raise NotImplementedError

    def give_back(self, offset: int, length: int) -> bool:
        """Give the system back the whole pages within these bytes, if it can be done (G8).

        Nobody touches them until they are reserved again, and their content is lost. The bytes
        around are live: round inwards. Return False, and do nothing, where the system has no such
        call, where memory is not scarce (a file on a disk), and where `reserve` could not set the
        pages aside again, as `create` has written all of the file. Must not raise.
        """
        raise NotImplementedError

    def may_unlink(self) -> bool:
        """Tell whether this process may `unlink` the memory (G6).

        Asked before a store is marked as destroyed: in a sticky folder, for example, a member
        of the group may not remove what another user made.
        """
        raise NotImplementedError

    def is_linked(self) -> bool:
        """Tell whether later openers still find the memory (G6).

        A process that is attached asks about once a second: only it can tell memory that was
        removed from memory that another process can't see. True where the system does not tell.
        """
        raise NotImplementedError

    def unlink(self) -> None:
        """Remove the attached memory for later openers (G6).

        Whoever is attached keeps it, until it is closed or its process dies, and then it is
        given back to the system. If it is removed already, do nothing; other memory that has
        taken its locator since must stay.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Release this process's attachment and every descriptor (G6).

        Release ``view`` first: unmapping under a live view ends the interpreter on some
        systems. Views that others made of it are released by then. May be called twice.
        """
        raise NotImplementedError


class ExampleEngine(SharedMemoryEngine):
    """The engine over it: this is all. Locks, wake-ups and liveness come with it.

    To register it, one line: in ``BUILT_IN`` of `asgi_ipc.engines.choice`, or in another package an
    entry point in group ``asgi_ipc.engines``.
    """

    #: Written into the lock file, so that no other engine opens the store by mistake. At most
    #: 16 printable ASCII characters.
    name = "example"
    segment = ExampleSegment

    @classmethod
    def unavailable(cls) -> str | None:
        """None where it can work, or what is missing and what to do; asked before opening."""
        return "it is a skeleton; fill in asgi_ipc/engines/shm/segment_example.py"

    @classmethod
    def default_parent(cls) -> str:
        """The folder for locks and wake-ups: writable to all, on a file system with fcntl
        record locks and FIFOs, seen by all processes (containers!) that see the memory."""
        return super().default_parent()
