"""What a planted bug is, and one way to make it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from textwrap import dedent
from typing import Any, NamedTuple

from asgi_ipc.engines.shm.heap import layout


class Plant(NamedTuple):
    """A bug, and how it is found."""

    name: str
    plant: Callable[[], None]
    #: A scenario that stumbles over it.
    scenario: str
    finders: tuple[str, ...] = ("kill", "prefixes")


def altered(owner: Any, name: str, *replacements: tuple[str, str]) -> Callable[[], None]:
    """A plant that replaces parts of the source of a function, each of which must be there once.

    Names of the layout are written without their module, however the function has them.
    """

    def plant() -> None:
        function = getattr(owner, name)
        source = dedent(inspect.getsource(function)).replace("layout.", "")
        for old, new in replacements:
            if source.count(old) != 1:
                raise LookupError(f"{source.count(old)} times in {name}: {old!r}")
            source = source.replace(old, new)
        for word, value in vars(layout).items():
            function.__globals__.setdefault(word, value)
        made: dict[str, Any] = {}
        exec(compile(source, f"<altered {name}>", "exec"), function.__globals__, made)
        setattr(owner, name, made[name])

    return plant
