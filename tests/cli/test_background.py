"""Looks in a thread: one at a time, whose result and error all get that ask meanwhile."""

from __future__ import annotations

import threading

import pytest

from asgi_ipc.cli.background import Background

ENOUGH = 30.0


def test_all_that_ask_meanwhile_get_one_look() -> None:
    go_on, calls = threading.Event(), []

    def look() -> int:
        calls.append(go_on.wait(ENOUGH))
        return len(calls)

    background = Background(look)
    first, second = background.start(), background.start()
    assert first is second
    assert background.is_busy
    go_on.set()
    assert first.result(ENOUGH) == 1
    assert background.start().result(ENOUGH) == 2
    assert not background.is_busy


def test_an_error_of_the_look_comes_to_the_caller() -> None:
    def look() -> int:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        Background(look).start().result(ENOUGH)


def test_a_look_for_which_there_was_no_thread_does_not_keep_others_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    background = Background(lambda: "found")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            background.start()
    assert not background.is_busy
    assert background.start().result(ENOUGH) == "found"
