"""What keeps a process's own threads apart, and what Python runs in the middle of a call.

Python may run code of others between any two steps of a thread: finalizers and the clean-up of
coroutines at a garbage collection, signal handlers, trace functions. If that code comes back
into an engine or a layer while its own thread holds a lock there, waiting for the lock would
never end. So each lock of ours can be asked whether the calling thread holds it.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from types import TracebackType
from typing import Generic, Protocol, TypeVar, cast

_Kept = TypeVar("_Kept")


class OwnLock(Protocol):
    """A lock that knows the thread that holds it.

    Made by `own_lock`. Ask ``_is_owned()`` first: the holder itself is let in again.
    """

    def acquire(self, blocking: bool = True) -> bool:
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


__all__ = ["OwnLock", "WeakBag", "own_lock"]
