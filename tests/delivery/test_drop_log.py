"""The log of dropped messages: it never waits for another thread that notes a drop."""

from __future__ import annotations

import pytest

from asgi_ipc.delivery.drop_log import DropLog
from asgi_ipc.engines import deferred
from tests.tools.stopped import Stopped


def test_noting_a_drop_does_not_wait_for_another_thread_that_notes_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def clock() -> float:
        stopped.here()
        return 0.0

    drops = DropLog(clock)

    def note() -> None:
        drops.dropped("a", 2, "{}".format)
        deferred.run_deferred()

    stopped = Stopped(note)
    with stopped:
        drops.dropped("a", 3, "{}".format)
        drops.sum_up(ending=True)
        deferred.run_deferred()
    assert sum(int(line) for line in caplog.messages) == 5
