"""Wake-ups: one FIFO for each event loop or thread that waits, in the store's directory.

A bell is named by its process's identity and a number, so it outlives neither. The
reader keeps a writer of its own, so that end-of-file never comes; when it dies, the
next ringer gets EPIPE or ENXIO and knows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posix
import re
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import partial
from typing import TypeVar

from asgi_ipc.exceptions import StoreUnavailable

from ..base import IDENTITY_BYTES
from ..bell import ANY, SIGNAL_BYTES, read_signals, signalled_for
from ..guards import Descriptors, WeakBag, own_lock
from .directory import StoreDirectory
from .errors import unusable
from .heap.layout import SLOT_MASK
from .location import Location

_Result = TypeVar("_Result")

#: The number of a process's list of bells that others are to signal (`spread`); bells are numbered
#: from 1.
LIST = 0
#: Open writers to other processes' bells that are kept.
_KEPT = 128
#: Seconds for which a FIFO without a reader may just be in the making.
_NEWBORN = 10
_NAME = re.compile(r"bell\.([0-9a-f]{28})\.\d+")
_GONE = {errno.EPIPE, errno.ENXIO, errno.ENOENT}


def bell_name(identity: bytes, number: int) -> str:
    """Return the name, in the store's directory, of the bell of that number of that process."""
    return f"bell.{identity.hex()}.{number}"


def bells_in(directory: StoreDirectory) -> list[tuple[bytes, str]]:
    """Return identity and name of each bell in the store's directory."""
    # Best effort: a waiting receiver that misses a wake-up looks again anyway.
    with contextlib.suppress(OSError):
        names = filter(None, map(_NAME.fullmatch, directory.names()))
        return [(bytes.fromhex(m[1]), m[0]) for m in names]
    return []


def is_abandoned(directory: StoreDirectory, name: str) -> bool:
    """Tell whether a bell has had no reader for a while: it was its process's last trace.

    For a process that was killed, and so was the process that should have removed its bells.
    """
    try:
        if time.time() < directory.status(name).st_ctime + _NEWBORN:
            return False
        os.close(directory.open_file(name, os.O_WRONLY))
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


def check_fifos(directory: StoreDirectory) -> None:
    """Raise `StoreUnavailable` if no FIFO can be made in the store's directory.

    Better when the store is opened than at the first wait; and without wake-ups every
    message would be a second late. The name is that of no bell and of no process, and always
    the same: what a process leaves that is killed at this is removed by the next.
    """
    name = bell_name(bytes(IDENTITY_BYTES), 0)
    try:
        with contextlib.suppress(FileExistsError):
            directory.make_fifo(name)
        directory.unlink(name)
    except FileNotFoundError:
        pass  # another was faster, or the directory was removed and will be made again
    except OSError as error:
        raise _no_fifo(directory, name, error) from error


def _no_fifo(directory: StoreDirectory, name: str, error: OSError) -> StoreUnavailable:
    return unusable(
        "make the wake-up FIFO",
        os.path.join(directory.path, name),
        error,
        "the store's directory must be on a file system with FIFOs where this user may write; "
        "name one with engine_options['directory']",
    )


class FifoBell:
    """A `asgi_ipc.engines.base.Bell` that other processes can signal."""

    def __init__(
        self,
        directory: StoreDirectory,
        identity: bytes,
        number: int,
        help_with: Callable[[bytes], None] | None = None,
    ) -> None:
        """Make the FIFO. Raises FileExistsError if there is one, `StoreUnavailable`.

        ``help_with`` is called with signals that may contain requests for help (`spread`).
        """
        self._help_with = help_with
        self.name = bell_name(identity, number)
        self.path = os.path.join(directory.path, self.name)
        self.number = number
        self._descriptors = Descriptors()
        self._lost = False
        self._directory = directory.share()
        #: Whether its number is in use.
        self.is_open = True
        try:
            directory.make_fifo(self.name)
            try:
                self._open(directory)
            except BaseException:
                directory.unlink(self.name)
                raise
        except BaseException as error:
            self.drop()
            if isinstance(error, OSError) and not isinstance(error, FileExistsError):
                raise _no_fifo(directory, self.name, error) from error
            raise

    def _open(self, directory: StoreDirectory) -> None:
        reader = directory.open_file(self.name, os.O_RDONLY)
        try:
            writer = directory.open_file(self.name, os.O_WRONLY)
        except BaseException:
            os.close(reader)
            raise
        self._descriptors.set(reader, writer)
        status = os.fstat(reader)
        # Before anything is changed: a member of the group may have put another file there.
        if (
            not _is_bell(status, directory.location)
            or status.st_uid != os.geteuid()
            or not os.path.samestat(status, os.fstat(writer))
        ):
            raise OSError(errno.EEXIST, "another user put something else there")
        directory.finish_file(reader, status)

    def fileno(self) -> int:
        """The descriptor to wait for; -1 once closed, or lost."""
        return -1 if self._lost else self._descriptors.reader()

    def look(self) -> None:
        """Find out whether the FIFO still lies where others look for it; if not, it is lost.

        It can't be put back. A receiver that waits for it sees that it has no descriptor any
        more and makes another; until it is closed, its descriptors stay open.
        """

        def is_elsewhere(reader: int, _: int) -> bool:
            try:
                return not os.path.samestat(os.lstat(self.path), os.fstat(reader))
            except OSError:
                return True

        self._lost = self._descriptors.use(is_elsewhere, self._lost)

    def clear(self) -> Collection[int] | None:
        """Forget the signals so far, and return what they were for (`signalled_for`)."""
        signals = self._descriptors.use(read_signals, b"")
        if signals[SIGNAL_BYTES:] and self._help_with is not None:  # More than one.
            self._help_with(signals)
        return signalled_for(signals)

    def use(self, action: Callable[[int, int], _Result], otherwise: _Result) -> _Result:
        """Call with reader and writer; return ``otherwise`` if they are closed."""
        return self._descriptors.use(action, otherwise)

    def signal(self) -> None:
        """Ring it from this process."""
        self._descriptors.use(_signal_any, None)

    def close(self) -> None:
        """Take it down."""
        # Once dropped or closed, the path may be another process's.
        if not self._descriptors.is_closing:
            with contextlib.suppress(OSError):
                self._directory.unlink(self.name)
            self.drop()

    def __del__(self) -> None:
        if hasattr(self, "is_open"):  # Else it was never made.
            self.close()

    def after_fork_in_child(self) -> None:
        """In the child: it is the parent's."""
        self._descriptors.after_fork_in_child()
        self.drop()

    def drop(self) -> None:
        """Close the descriptors and leave the FIFO to the process that owns it."""
        self._descriptors.close()
        if self.is_open:
            self.is_open = False
            self._directory.close()


def _signal_any(_: int, writer: int) -> None:
    with contextlib.suppress(OSError):
        posix.write(writer, ANY)


def signal_once(directory: StoreDirectory, name: str, signal: bytes = ANY) -> bool:
    """Ring a bell that is seldom signalled; False if it has no reader any more. Never blocks."""
    return _signal_once(partial(open_fifo, directory, name), signal)


def _signal_once(opened: Callable[[], int], signal: bytes) -> bool:
    try:
        writer = opened()
        try:
            posix.write(writer, signal)
        finally:
            os.close(writer)
    except BlockingIOError:
        pass  # full of signals not yet heard
    except OSError as error:
        return error.errno not in _GONE
    return True


class Signaller:
    """Signals the bells of other processes, keeping a writer open for those it signals often.

    A bell is told by its word in the store, which no other bell of that store has.
    """

    def __init__(self) -> None:
        self._writers: OrderedDict[int, int] = OrderedDict()
        self._lock = own_lock()
        self._closing = False

    def signal(self, bell: int, open_bell: Callable[[int], int], signal: bytes = ANY) -> bool:
        """Ring once; False if it has no reader any more. Never blocks.

        ``open_bell`` opens a bell for writing; raises OSError.
        """
        is_heard = self._signal(bell, open_bell, signal)
        if self._closing:
            self.close()
        return is_heard

    def _signal(self, bell: int, open_bell: Callable[[int], int], signal: bytes) -> bool:
        lock = self._lock
        # Never waits: Python may run other code in the middle of this method, which has the
        # writers in hand, and that may wait for what the caller holds.
        if lock._is_owned():
            return _signal_once(partial(open_bell, bell), signal)
        try:
            if not lock.acquire(False):
                return _signal_once(partial(open_bell, bell), signal)
            try:
                writer = self._writers.get(bell, -1)
                try:
                    if writer < 0:
                        writer = self._open(bell, open_bell)
                    posix.write(writer, signal)
                except BrokenPipeError:
                    # Its number may have been given to another bell since.
                    os.close(self._writers.pop(bell))
                    posix.write(self._open(bell, open_bell), signal)
            except BlockingIOError:
                pass  # full of signals not yet heard
            except OSError as error:
                if bell in self._writers:
                    os.close(self._writers.pop(bell))
                # Anything else (out of descriptors, say) must not fail a push that is
                # done: the receiver looks again by itself within a second.
                return error.errno not in _GONE
        finally:
            # Not asked whether it was taken: a signal's handler may raise after the answer.
            try:
                lock.release()
            except RuntimeError:
                pass
        return True

    def _open(self, bell: int, open_bell: Callable[[int], int]) -> int:
        self._writers[bell] = writer = open_bell(bell)
        if len(self._writers) > _KEPT:
            os.close(self._writers.popitem(last=False)[1])
        return writer

    def after_fork_in_child(self) -> None:
        """In the child: close what was inherited."""
        self._lock = own_lock()
        self.close()

    def close(self) -> None:
        """Close the writers."""
        # Set first: a thread that signals just now asks for it afterwards.
        self._closing = True
        lock = self._lock
        if lock._is_owned():
            return
        try:
            if lock.acquire(False):
                self._closing = False
                while self._writers:
                    os.close(self._writers.popitem()[1])
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass


class OwnBells:
    """The bells of this process on one store."""

    def __init__(self) -> None:
        self._bells: WeakBag[FifoBell] = WeakBag()
        self._last = 0
        #: The list of this process, once a push needed one.
        self.list: FifoBell | None = None

    def make(
        self, directory: StoreDirectory, identity: bytes, help_with: Callable[[bytes], None]
    ) -> FifoBell:
        """Make one more. Raises `StoreUnavailable` if there are as many as there are numbers."""
        used = {bell.number for bell in self._bells.alive() if bell.is_open}
        for _ in range(SLOT_MASK):
            self._last = self._last % SLOT_MASK + 1
            if self._last in used:
                continue
            with contextlib.suppress(FileExistsError):
                bell = FifoBell(directory, identity, self._last, help_with)
                self._bells.add(bell)
                return bell
        raise StoreUnavailable(
            f"this process waits with {SLOT_MASK} bells on the store at {directory.path!r}, the "
            "most it can have: use fewer threads and event loops, or more processes"
        )

    def make_list(self, directory: StoreDirectory, identity: bytes) -> None:
        """Make the list, in place of one that is lost. Raises OSError, `StoreUnavailable`."""
        if self.list is not None:
            self.list.close()
        self.list = FifoBell(directory, identity, LIST)
        self._bells.add(self.list)

    def look(self) -> None:
        """Find out which of them are lost, see `FifoBell.look`."""
        for bell in self._bells.alive():
            bell.look()

    def close(self) -> None:
        """Take them all down."""
        for bell in self._bells.alive():
            bell.close()

    def after_fork_in_child(self) -> None:
        """In the child: have none."""
        for bell in self._bells.alive():
            bell.after_fork_in_child()
        self._bells.clear()
        self._last = 0
        self.list = None


def signal_all(directory: StoreDirectory) -> None:
    """Signal every bell in the store's directory."""
    for identity, name in bells_in(directory):
        # A signal in a list would shift all of its entries.
        if name != bell_name(identity, LIST):
            signal_once(directory, name)


def remove_bells(directory: StoreDirectory, dead: Collection[bytes]) -> None:
    """Remove the bells of dead processes, and those that are abandoned."""
    for identity, name in bells_in(directory):
        if identity in dead or is_abandoned(directory, name):
            with contextlib.suppress(OSError):
                directory.unlink(name)


def open_fifo(directory: StoreDirectory, name: str, flags: int = os.O_WRONLY) -> int:
    """Open a bell for signalling, or a list for reading. Raises OSError."""
    descriptor = directory.open_file(name, flags)
    if not _is_bell(os.fstat(descriptor), directory.location):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "not a FIFO of the store")
    return descriptor


def _is_bell(status: os.stat_result, location: Location) -> bool:
    """Whether it is a FIFO of a user of the store, and of no other folder."""
    ours = status.st_uid == os.geteuid() or (
        location.gid is not None and status.st_gid == location.gid
    )
    return stat.S_ISFIFO(status.st_mode) and status.st_nlink == 1 and ours
