"""What was measured: every number of every round, and what they come to."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any, NamedTuple


class Key(NamedTuple):
    """One number's place."""

    question: str
    variant: str
    who: str
    number: str


class Figure(NamedTuple):
    """One number over all rounds."""

    median: float
    least: float
    most: float


class Results:
    """All numbers of a run."""

    def __init__(self) -> None:
        self._values: defaultdict[Key, list[float]] = defaultdict(list)
        #: What went wrong, by question, variant and who.
        self.failures: dict[tuple[str, str, str], str] = {}

    def add(self, key: Key, value: float) -> None:
        """Add one round's."""
        self._values[key].append(value)

    def figure(self, question: str, variant: str, who: str, number: str) -> Figure | None:
        """One number, if it was measured."""
        values = self._values.get(Key(question, variant, who, number))
        if not values:
            return None
        return Figure(statistics.median(values), min(values), max(values))

    def median(self, question: str, variant: str, who: str, number: str) -> float | None:
        """Its median alone."""
        figure = self.figure(question, variant, who, number)
        return figure.median if figure else None

    def all_keys(self) -> list[Key]:
        """All, in the order in which they were first measured."""
        return list(self._values)

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> Results:
        """The figures that `as_json` told."""
        made = cls()
        for each in told["figures"]:
            key = Key(*(each[name] for name in Key._fields))
            for value in each["rounds"]:
                made.add(key, value)
        return made

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "figures": [
                {**key._asdict(), "median": figure.median, "rounds": values}
                for key, values in self._values.items()
                if (figure := self.figure(*key)) is not None
            ],
            "failures": [
                {"question": question, "variant": variant, "who": who, "why": why}
                for (question, variant, who), why in self.failures.items()
            ],
        }
