"""What a question is, and the units of its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..peers import Peer
from ..processes import Role
from ..settings import Settings

#: What a case measured: the name of a number, which ends in its unit, and the number.
Answer = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One layer, asked one thing."""

    #: Name of a layer or of a floor.
    who: str
    #: Which sizes, such as ``"1,000 members"``; ``""`` if there is but one.
    variant: str
    roles: tuple[Role, ...]
    #: Makes of what the roles returned what is reported.
    answer: Callable[[list[Any]], Answer]
    peer: Peer | None = None
    #: Seconds until it is given up.
    timeout: float = 60.0

    @property
    def places(self) -> int:
        """How many places the roles have: one for all."""
        return 1

    def answers(self, results: list[Any]) -> dict[str, Answer]:
        """What is reported, by variant."""
        return {self.variant: self.answer(results)}


@dataclass(frozen=True)
class Comparison(Case):
    """A layer in several sizes at once. Each is a role with a place of its own, and a variant."""

    sizes: tuple[str, ...] = ()

    @property
    def places(self) -> int:
        """How many places the roles have: one each."""
        return len(self.roles)

    def answers(self, results: list[Any]) -> dict[str, Answer]:
        """What is reported, by size; ``answer`` is asked with the first size and each."""
        return {
            size: self.answer([results[0], result])
            for size, result in zip(self.sizes, results, strict=True)
        }


@dataclass(frozen=True)
class Question:
    """A question, and how each layer is asked it."""

    name: str
    asks: str
    #: Cases with the same variant stand together; they are compared with each other.
    cases: Callable[[Settings, Sequence[Peer]], list[Case]]


def micro(seconds: float) -> float:
    """Microseconds."""
    return seconds * 1e6


def first_as(name: str, key: str = "each") -> Callable[[list[Any]], Answer]:
    """The first role's time of that name, in µs."""

    def answer(results: list[Any]) -> Answer:
        return {f"{name} µs": micro(results[0][key])}

    return answer


def quantiles(results: list[Any]) -> Answer:
    """What `benchmarks.measure.latencies` gave the first role, in µs."""
    return {f"{key} µs": micro(results[0][key]) for key in ("p50", "p99", "p99.9")}
