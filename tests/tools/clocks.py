"""A clock that a test winds."""

from __future__ import annotations


class Clock:
    """Nanoseconds that pass when the test says so: set ``now``."""

    def __init__(self, now: int = 10**15) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now
