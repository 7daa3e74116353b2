"""How much is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

_Size = TypeVar("_Size")


@dataclass(frozen=True)
class Settings:
    """For all questions of a run."""

    rounds: int = 3
    #: Less of everything: to see that it works, not to learn how fast it is.
    quick: bool = False

    @property
    def seconds(self) -> float:
        """How long a case measures."""
        return 0.2 if self.quick else 1.0

    def sizes(self, usual: Sequence[_Size], quick: Sequence[_Size]) -> Sequence[_Size]:
        """The sizes to ask about."""
        return quick if self.quick else usual
