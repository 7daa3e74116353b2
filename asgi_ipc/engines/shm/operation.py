"""What every operation on a store has in common, written once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, cast

from .heap.heap import Pause
from .locks.base import Gone

if TYPE_CHECKING:
    from .session import Attachment

P = ParamSpec("P")
Result = TypeVar("Result")
Self = TypeVar("Self", bound="Attachment")


def operation(
    body: Callable[Concatenate[Self, P], Result],
) -> Callable[Concatenate[Self, P], Result]:
    """Make an operation of a method that enters the store's segments.

    It is joined first; it is called again in the next store if that one is gone, and after each
    `Pause`; what an exception leaves of its locks is given back; and upkeep follows, when it is
    due. (What runs for every message, `push`, `pop` and `disarm`, has these lines of its own, two
    calls less.)
    """
    return _repeated(body, then_upkeep=True)


def upkeep_step(
    body: Callable[Concatenate[Self, P], Result],
) -> Callable[Concatenate[Self, P], Result]:
    """Make such an operation of a part of upkeep, which upkeep does not follow.

    Where one hold takes longer than upkeep is put off for (a debugger, a machine that swaps),
    upkeep would begin again inside itself with each hold, until the stack is exhausted.
    """
    return _repeated(body, then_upkeep=False)


def _repeated(
    body: Callable[Concatenate[Self, P], Result], then_upkeep: bool
) -> Callable[Concatenate[Self, P], Result]:
    @wraps(body)
    def operate(self: Self, *arguments: P.args, **named: P.kwargs) -> Result:
        holds = 0
        while True:
            store = self._inside()
            try:
                result = store.lock_file.section.run(body, self, *arguments, **named)
                break
            except Pause as pause:
                holds += 1
                self._pause(pause.heap, holds)
            except Gone:
                self._reopen(store)
        if self._recovered:
            self._signal_all()
        if then_upkeep:
            now = self.clock()
            if now >= self._next_look:
                self._maintain(now)
        return result

    return cast(Callable[Concatenate[Self, P], Result], operate)
