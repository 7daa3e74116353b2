"""What all tests have: an end, and signals that end programs."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.tools.leftovers import left_below

#: Seconds until a test hangs that has no watchdog of its own; long runs raise it.
LONGEST = float(os.environ.get("LONGEST_TEST", "600"))


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """End the process, showing all stacks, if a test hangs."""
    faulthandler.dump_traceback_later(LONGEST, exit=True, file=sys.__stderr__ or sys.stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True, scope="session")
def nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail, with the last test of this process, if any has left memory or locks of a store."""
    yield
    assert left_below(tmp_path_factory.getbasetemp()) == []


@pytest.fixture(autouse=True, scope="session")
def default_signals() -> Iterator[None]:
    """A shell starts what it puts into the background with SIGINT ignored, and nohup SIGHUP.

    Tests send these signals to programs that they start, which would inherit that.
    """
    handlers: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if signal.getsignal(number) is signal.SIG_IGN
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_unconfigure() -> None:
    """Keep quiet, after the report, what layers log that end with the process."""
    logging.lastResort = logging.NullHandler()
