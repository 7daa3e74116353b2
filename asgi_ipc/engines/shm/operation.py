"""What every operation on a store has in common, written once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from .heap.heap import Pause
from .locks.base import Gone
from .session import Session

P = ParamSpec("P")
Result = TypeVar("Result")


class Upkeep(Protocol):
    """The upkeep that follows an operation."""

    #: When it is due, in nanoseconds on the session's clock.
    due: int

    def maintain(self, now: int) -> None:
        """Do what is due."""


class HasSession(Protocol):
    """An object with steps: methods that enter the store's segments."""

    session: Session


class HasUpkeep(HasSession, Protocol):
    """An object with operations."""

    @property
    def upkeep(self) -> Upkeep:
        """What comes after each."""


Stepping = TypeVar("Stepping", bound=HasSession)
Operating = TypeVar("Operating", bound=HasUpkeep)


def operation(
    body: Callable[Concatenate[Operating, P], Result],
) -> Callable[Concatenate[Operating, P], Result]:
    """Make an operation of a method that enters the store's segments.

    The session joins the store first. The method is called again in the next store if that one is
    gone, and after each `Pause`; what an exception leaves of its locks is given back; and upkeep
    follows when it is due. (What runs for every message, `SharedMemoryEngine.push` and `pop`, has
    these lines of its own, two calls less.)
    """
    return cast(Callable[Concatenate[Operating, P], Result], _repeated(body, then_upkeep=True))


def step(
    body: Callable[Concatenate[Stepping, P], Result],
) -> Callable[Concatenate[Stepping, P], Result]:
    """Make such an operation of a part of upkeep, or of a call, which upkeep does not follow.

    Where one hold takes longer than upkeep is put off for (a debugger, a machine that swaps),
    upkeep would begin again inside itself with each hold, until the stack is exhausted.
    """
    return cast(Callable[Concatenate[Stepping, P], Result], _repeated(body, then_upkeep=False))


def _repeated(body: Callable[..., Result], then_upkeep: bool) -> Callable[..., Result]:
    @wraps(body)
    def operate(self: HasUpkeep, *arguments: Any, **named: Any) -> Result:
        session = self.session
        holds = 0
        while True:
            store = session.joined()
            try:
                result = store.lock_file.section.run(body, self, *arguments, **named)
                break
            except Pause as pause:
                holds += 1
                session.pause(pause.heap, holds)
            except Gone:
                session.reopen(store)
        if session.recovered:
            session.signal_all()
        if then_upkeep:
            now = session.clock()
            if now >= self.upkeep.due:
                self.upkeep.maintain(now)
        return result

    return operate
