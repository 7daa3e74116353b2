"""Locks and descriptors that are safe against code that Python runs in the middle of a call.

Python may run other code between any two steps of a thread: finalizers and the clean-up of
coroutines at a garbage collection, signal handlers, trace functions. If that code calls an engine
or a layer while its own thread holds a lock there, waiting for the lock would never end. So each
of these locks can tell whether the calling thread holds it.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Generic, ParamSpec, Protocol, TypeVar, cast

from ..exceptions import Reentered

_Kept = TypeVar("_Kept")
_Result = TypeVar("_Result")
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Arguments = ParamSpec("_Arguments")


class OwnLock(Protocol):
    """A lock that knows the thread that holds it.

    Made by `own_lock`. Ask ``_is_owned()`` first, as the holder may acquire it again.
    """

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock."""

    def release(self) -> None:
        """Release the lock."""

    def _is_owned(self) -> bool:
        """Return whether the calling thread holds the lock."""

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None: ...


def own_lock() -> OwnLock:
    """Return a new lock, free."""
    return cast(OwnLock, threading.RLock())


def hold_at_once(
    lock: OwnLock,
    operation: Callable[_Arguments, _Result],
    *arguments: _Arguments.args,
    **named: _Arguments.kwargs,
) -> _Result:
    """Call with a lock held that this thread doesn't hold. Raises `Reentered` if another does."""
    try:
        if not lock.acquire(False):
            raise Reentered
        return operation(*arguments, **named)
    finally:
        # Not asked whether it was taken: a signal's handler may raise after the answer.
        try:
            lock.release()
        except RuntimeError:
            pass


class Descriptors:
    """Two descriptors that any thread may use, and any may close, without waiting for another.

    The number of a closed descriptor may be that of another program's socket the next moment. So
    if descriptors are closed while other threads use them, the last of these closes them. With a
    lock instead, a thread that holds another lock would wait for this one, while code that
    interrupts the holder of this one waits for that.
    """

    def __init__(self) -> None:
        self._pair: tuple[int, int] = (-1, -1)
        #: Contains the pair while it is open. The thread that pops it closes it.
        self._open: list[tuple[int, int]] = []
        self._users: dict[object, None] = {}
        self.is_closing = False

    def set(self, reader: int, writer: int) -> None:
        """Set the descriptors."""
        self._pair = reader, writer
        self._open.append(self._pair)

    def reader(self) -> int:
        """Return the first descriptor, or -1 once closed."""
        return -1 if self.is_closing else self._pair[0]

    def use(self, action: Callable[[int, int], _Result], otherwise: _Result) -> _Result:
        """Call with both descriptors, open meanwhile; return ``otherwise`` if they are closed."""
        token = object()
        try:
            self._users[token] = None
            # In this order, as `close` sets the flag before it looks for users.
            if self.is_closing:
                return otherwise
            return action(*self._pair)
        finally:
            self._users.pop(token, None)
            if self.is_closing:
                self.close()

    def close(self) -> None:
        """Close both descriptors, now or after their last use. May be called twice."""
        self.is_closing = True
        if self._users:
            return
        try:
            pair = self._open.pop()
        except IndexError:
            return
        for descriptor in pair:
            os.close(descriptor)

    def after_fork_in_child(self) -> None:
        """Close both descriptors in a forked child, where no thread of the parent's uses them."""
        self._users.clear()
        self.close()


def items_of(mapping: dict[_Key, _Value]) -> list[tuple[_Key, _Value]]:
    """Return the items of a dict that other threads, and finalizers in this one, may change.

    A list of a dict's keys, or of its values, is made in one step. `dict.copy` is not: CPython 3.11
    may run a collection between taking the entries and taking their number, so that iterating over
    the copy fails.
    """
    found = []
    for key in list(mapping):
        try:
            found.append((key, mapping[key]))
        except KeyError:
            pass
    return found


class WeakBag(Generic[_Kept]):
    """A set of weak references: any thread may add while another iterates.

    A `weakref.WeakSet` is iterated in Python code, and raises if a thread adds meanwhile.
    """

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[_Kept]] = {}
        self._keys = itertools.count()

    def add(self, kept: _Kept) -> None:
        """Add an object, until it is collected."""
        key, references = next(self._keys), self._references

        def forget(_: weakref.ref[_Kept]) -> None:
            references.pop(key, None)

        references[key] = weakref.ref(kept, forget)

    def discard(self, kept: _Kept) -> None:
        """Remove an object."""
        for key, reference in items_of(self._references):
            if reference() is kept:
                self._references.pop(key, None)

    def clear(self) -> None:
        """Remove all objects."""
        self._references.clear()

    def alive(self) -> list[_Kept]:
        """Return the objects that are not collected, in the order in which they were added."""
        # As `items_of`: a list of a dict's values is made in one step.
        found = [reference() for reference in list(self._references.values())]
        return [each for each in found if each is not None]

    def __len__(self) -> int:
        return len(self._references)


__all__ = ["Descriptors", "OwnLock", "WeakBag", "hold_at_once", "items_of", "own_lock"]
