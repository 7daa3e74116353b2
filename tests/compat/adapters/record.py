"""A pytest plug-in that writes down the outcome of each test, for `tests.compat`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

#: Seconds for one test.
PATIENCE = 30
_outcomes: dict[str, str] = {}


def _too_long(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"it takes longer than {PATIENCE} seconds")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """End a test that hangs."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(PATIENCE)
    try:
        return (yield)
    finally:
        signal.alarm(0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the worst outcome of a test's phases, a failure with its last line."""
    name = report.nodeid.rpartition("/")[2]
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        _outcomes[name] = f"failed: {crash.message.splitlines()[0] if crash else report.longrepr}"
    elif report.skipped:
        _outcomes.setdefault(name, "skipped")
    elif report.when == "call":
        _outcomes.setdefault(name, "passed")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note a module that can't be loaded."""
    if report.failed:
        _outcomes[report.nodeid.rpartition("/")[2]] = "failed: it can't be loaded"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write all down, once all workers are done."""
    if not hasattr(session.config, "workerinput"):
        Path(os.environ["COMPAT_OUTCOMES"]).write_text(json.dumps(_outcomes))
