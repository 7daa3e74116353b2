"""Give the suite's tests their fixtures, and add the contract's words to failures."""

from __future__ import annotations

from collections.abc import Generator

import pytest

# By the full name: the plug-in is the installed package's, wherever this file lies.
from asgi_ipc.conformance.clauses import clauses
from asgi_ipc.conformance.fixtures import (
    around,
    case,
    conformance_engine,
    engine,
    engine_proxy,
    hasty_threads,
    network,
    real_stderr,
)
from asgi_ipc.conformance.plugin import require

__all__ = [
    "around",
    "case",
    "conformance_engine",
    "engine",
    "engine_proxy",
    "hasty_threads",
    "network",
    "real_stderr",
]


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Require the plug-in. (pytest calls no earlier hook of this file with --pyargs.)"""
    require(config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure the clauses that the test checks."""
    report = yield
    if report.failed:
        known = clauses()
        named = {name for mark in item.iter_markers("clause") for name in mark.args}
        lines = [f"{name}  {known[name]}" for name in known if name in named]
        report.sections.append(("what it fails", "\n".join(lines)))
    return report
