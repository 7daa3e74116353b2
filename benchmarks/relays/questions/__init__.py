"""What is asked: one module for each group of questions."""

from __future__ import annotations

from . import frames, growth, pairs, worker

QUESTIONS = [
    question for module in (pairs, worker, frames, growth) for question in module.QUESTIONS
]

__all__ = ["QUESTIONS"]
