"""What every operation on a store has in common, written once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

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


def step(
    body: Callable[Concatenate[Stepping, P], Result],
) -> Callable[Concatenate[Stepping, P], Result]:
    """Make a whole step of a method that enters the store's segments.

    The session joins the store first. The method is called again in the next store if that one is
    gone, and after each `Pause`; what an exception leaves of its locks is given back. (What runs
    for every message, `SharedMemoryEngine.push` and `pop`, has these lines of its own, two calls
    less.)
    """

    @wraps(body)
    def stepped(self: Stepping, *arguments: P.args, **named: P.kwargs) -> Result:
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
        return result

    return cast(Callable[Concatenate[Stepping, P], Result], stepped)


def operation(
    body: Callable[Concatenate[Operating, P], Result],
) -> Callable[Concatenate[Operating, P], Result]:
    """Make a step that upkeep follows when it is due: an operation of the engine.

    Upkeep itself is made of steps. Where one hold takes longer than upkeep is put off for (a
    debugger, a machine that swaps), upkeep would begin again inside itself with each hold, until
    the stack is exhausted.
    """
    whole = step(body)

    @wraps(body)
    def operate(self: Operating, *arguments: P.args, **named: P.kwargs) -> Result:
        result = whole(self, *arguments, **named)
        upkeep, now = self.upkeep, self.session.clock()
        if now >= upkeep.due:
            upkeep.maintain(now)
        return result

    return cast(Callable[Concatenate[Operating, P], Result], operate)
