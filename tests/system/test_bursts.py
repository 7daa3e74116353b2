"""Bursts that sites have, between two processes with default settings (O5): all of them arrives."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.engines import available
from tests.tools.doubles import (
    WATCHDOG,
    fresh,
    watchdog,
)

__all__ = ["watchdog"]

_REPOSITORY = Path(__file__).parents[2]


class _Worker:
    """A process of the site."""

    def __init__(self, prefix: str, directory: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.tools.burst_worker", prefix, directory],
            cwd=_REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(self, *command: Any) -> None:
        """Give a command, and do not wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the oldest command that has none."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, *command: Any) -> Any:
        self.order(*command)
        return self.answer()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(WATCHDOG / 2) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[list[_Worker]]:
    """Two workers."""
    if why := available()["posix"]:
        pytest.skip(why)
    prefix = fresh()
    workers = [_Worker(prefix, str(tmp_path)) for _ in range(2)]
    yield workers
    for worker in workers:
        worker.end()
    SyncIPCChannelLayer(prefix, engine_options={"directory": str(tmp_path)}).destroy()


def heard(site: list[_Worker], expected: dict[str, int]) -> dict[str, int]:
    """What all clients have heard, by rooms, once it is all or nothing more comes for long."""
    total: Counter[str] = Counter()
    changed = time.monotonic()
    # A machine that is busy may keep a worker waiting; what is lost never comes.
    while total != expected and time.monotonic() < changed + 60:
        time.sleep(0.02)
        before, total = total, Counter()
        for worker in site:
            total.update(worker.ask("heard"))
        if total != before:
            changed = time.monotonic()
    return dict(total)


def test_each_of_500_clients_says_one_thing_at_once(site: list[_Worker]) -> None:
    rooms = {f"room{number}": 100 for number in range(50)}
    for worker in site:
        for room in rooms:
            worker.order("join", room, 5)
        for _ in rooms:
            worker.answer()
    for worker in site:
        worker.order("say")
    for worker in site:
        worker.answer()
    assert heard(site, rooms) == rooms


@pytest.mark.parametrize("how", ["flood", "flood_from_thread"])
def test_one_consumer_or_thread_sends_many_messages_in_a_loop(
    site: list[_Worker], how: str
) -> None:
    for worker in site:
        worker.ask("join", "room", 5)
    site[0].ask(how, "room", 500)
    expected = {"room": 10 * 500}
    assert heard(site, expected) == expected


def test_one_message_to_each_of_300_idle_channels_of_another_process(site: list[_Worker]) -> None:
    channels = site[0].ask("join", "room", 300)
    assert site[1].ask("tell", channels) == 0
    assert heard(site, {"room": 300}) == {"room": 300}


def test_eight_clients_send_texts_a_few_milliseconds_apart(site: list[_Worker]) -> None:
    for worker in site:
        worker.ask("join", "room", 4)
    for worker in site:
        for _ in range(40):
            worker.order("say")
    for worker in site:
        for _ in range(40):
            worker.answer()
    expected = {"room": 8 * 8 * 40}
    assert heard(site, expected) == expected


def test_a_quiet_room_loses_nothing_while_another_is_flooded_and_its_loop_blocks(
    site: list[_Worker],
) -> None:
    blocked, other = site
    blocked.ask("join", "flooded", 1)
    blocked.ask("join", "quiet", 10)
    blocked.order("block", 0.15, 6)
    for _ in range(10):
        other.order("flood", "flooded", 1_500)
        other.order("flood", "quiet", 5)
    for _ in range(20):
        other.answer()
    blocked.answer()
    expected = {"flooded": 15_000, "quiet": 500}
    assert heard(site, expected) == expected
    assert blocked.ask("overflowed") == 0


def test_nothing_is_lost_while_a_loop_is_blocked_for_a_second(site: list[_Worker]) -> None:
    blocked, other = site
    blocked.ask("join", "flooded", 1)
    blocked.ask("join", "quiet", 10)
    blocked.order("block", 1)
    other.ask("flood", "flooded", 15_000)
    other.ask("flood", "quiet", 10)
    blocked.answer()
    expected = {"flooded": 15_000, "quiet": 100}
    assert heard(site, expected) == expected
