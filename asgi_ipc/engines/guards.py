"""What keeps a process's own threads apart, and what Python runs in the middle of a call.

Python may run code of others between any two steps of a thread: finalizers and the clean-up of
coroutines at a garbage collection, signal handlers, trace functions. If that code comes back
into an engine or a layer while its own thread holds a lock there, waiting for the lock would
never end. So each lock of ours can be asked whether the calling thread holds it.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, TypeVar, cast

_Kept = TypeVar("_Kept")
_Result = TypeVar("_Result")


class OwnLock(Protocol):
    """A lock that knows the thread that holds it.

    Made by `own_lock`. Ask ``_is_owned()`` first: the holder itself is let in again.
    """

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it."""

    def release(self) -> None:
        """Give it back."""

    def _is_owned(self) -> bool:
        """Whether the calling thread holds it."""

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None: ...


def own_lock() -> OwnLock:
    """A new lock, free."""
    return cast(OwnLock, threading.RLock())


class Descriptors:
    """Two descriptors that any thread may use, and any may close, without waiting for another.

    The number of a descriptor that is closed may belong to a stranger's socket the next moment. So
    who closes them while others use them leaves that to the last of these. A lock would do, too;
    but then a thread that holds another lock would wait for this one, while code that interrupts
    the holder of this one waits for that.
    """

    def __init__(self) -> None:
        self._pair: tuple[int, int] = (-1, -1)
        #: Has the pair while it is open. What takes it closes it.
        self._open: list[tuple[int, int]] = []
        self._users: dict[object, None] = {}
        self.is_closing = False

    def set(self, reader: int, writer: int) -> None:
        """Be these from now on."""
        self._pair = reader, writer
        self._open.append(self._pair)

    def reader(self) -> int:
        """The first, or -1 once closed."""
        return -1 if self.is_closing else self._pair[0]

    def use(self, action: Callable[[int, int], _Result], otherwise: _Result) -> _Result:
        """Call it with both, which stay open meanwhile; ``otherwise`` if they are closed."""
        token = object()
        try:
            self._users[token] = None
            # Asked after that, as `close` notes that it is wanted before it asks for users.
            if self.is_closing:
                return otherwise
            return action(*self._pair)
        finally:
            self._users.pop(token, None)
            if self.is_closing:
                self.close()

    def close(self) -> None:
        """Close them, now or after the last use of them. May be called twice."""
        self.is_closing = True
        if self._users:
            return
        try:
            pair = self._open.pop()
        except IndexError:
            return
        for descriptor in pair:
            os.close(descriptor)

    def after_fork(self) -> None:
        """In the child: close them, as no thread of the parent's uses them here."""
        self._users.clear()
        self.close()


class WeakBag(Generic[_Kept]):
    """Objects that nothing else needs to keep; any thread may add while another one lists them.

    A `weakref.WeakSet` is iterated in Python code, and raises if a thread adds meanwhile.
    """

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[_Kept]] = {}
        self._keys = itertools.count()

    def add(self, kept: _Kept) -> None:
        """Keep it in mind until it is collected."""
        key, references = next(self._keys), self._references

        def forget(_: weakref.ref[_Kept]) -> None:
            references.pop(key, None)

        references[key] = weakref.ref(kept, forget)

    def discard(self, kept: _Kept) -> None:
        """Forget it."""
        for key, reference in self._references.copy().items():
            if reference() is kept:
                self._references.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._references.clear()

    def alive(self) -> list[_Kept]:
        """Those that are not collected, in the order in which they were added."""
        # A copy of a dict is made in one step.
        found = [reference() for reference in self._references.copy().values()]
        return [each for each in found if each is not None]

    def __len__(self) -> int:
        return len(self._references)


__all__ = ["Descriptors", "OwnLock", "WeakBag", "own_lock"]
