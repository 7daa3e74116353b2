"""What is asked: one module for each group of questions."""

from __future__ import annotations

from . import (
    bystander,
    crowds,
    groups,
    growth,
    latency,
    parts,
    resources,
    synchronous,
    throughput,
)
from .base import Case, Question


def all_questions() -> list[Question]:
    """All questions, the important ones first."""
    modules = (
        *(latency, parts, throughput, groups, synchronous),
        *(growth, crowds, bystander, resources),
    )
    return [question for module in modules for question in module.QUESTIONS]


__all__ = ["Case", "Question", "all_questions"]
