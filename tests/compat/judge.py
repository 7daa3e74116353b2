"""Compare the outcomes of a suite with what is known of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .suites import Suite


def complaints(suite: Suite, outcomes: Mapping[str, str]) -> list[str]:
    """What is not as it is known to be, each in a line: nothing, if all is well."""
    if not outcomes:
        return ["no test ran"]
    listed = [name for difference in suite.differences for name in difference.tests]
    found = []
    for test, outcome in sorted(outcomes.items()):
        known = [name for name in listed if matches(test, name)]
        if outcome.startswith("failed") and not known:
            found.append(f"new difference: {test} {outcome}")
        elif outcome == "skipped":
            found.append(f"skipped: {test}; it has to run or fail")
        elif len(known) > 1:
            found.append(f"listed twice: {test}")
    for name in listed:
        theirs = [outcomes[test] for test in outcomes if matches(test, name)]
        if not theirs:
            found.append(f"outdated: there is no test {name} any more; take it off the list")
        elif not any(outcome.startswith("failed") for outcome in theirs):
            found.append(f"outdated: {name} passes; take it off the list")
    return found


def matches(test: str, name: str) -> bool:
    """Whether a name of the list means a test: itself, or all its parameters."""
    return test == name or test.startswith(f"{name}[")


def counts(outcomes: Iterable[str]) -> dict[str, int]:
    """How many tests passed, and how many did not."""
    passed = [outcome == "passed" for outcome in outcomes]
    return {"passed": sum(passed), "differ": len(passed) - sum(passed)}


__all__ = ["complaints", "counts", "matches"]
