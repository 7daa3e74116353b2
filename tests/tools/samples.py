"""Samples of what a test tries: all of it with ``CASES=all`` in the environment.

`make torture` runs every module that imports this one so. What is left out of a sample is alike in
what the test is for; each test says why.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["ALL", "each_value", "some"]

#: Whether all is tried, and nothing sampled.
ALL = os.environ.get("CASES") == "all"


def each_value(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Some combinations in which each value of each axis occurs, or all.

    As many as the longest axis has values. An axis gets its values in turn, and a round later
    another one first, so that axes of one length are not always combined in the same way.
    """
    if ALL:
        return list(itertools.product(*axes))
    found = []
    for number in range(max(map(len, axes))):
        rounds = [(number + number // len(axis)) % len(axis) for axis in axes]
        found.append(tuple(axis[at] for axis, at in zip(axes, rounds, strict=True)))
    return found


def some(first: int, step: int) -> Iterator[int]:
    """Numbers from 1 on: each of the first, then every so manieth; or all."""
    if ALL:
        return itertools.count(1)
    return itertools.chain(range(1, first + 1), itertools.count(first + step, step))
