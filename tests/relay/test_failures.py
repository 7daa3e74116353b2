"""What no relay should meet: R10, and after it R7."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from asgi_ipc.exceptions import StoreUnavailable
from asgi_ipc.relay import failures, loop, relay, report
from asgi_ipc.relay.failures import Failures
from asgi_ipc.relay.memory import MemoryServer, MemoryWire
from asgi_ipc.relay.texts import clause, printable
from tests.tools.machines import Machine, Site, ended, eventually, received, run
from tests.tools.relays import DEDICATED, dedicated, engine_beside


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_report_that_can_not_be_written_ends_no_relay_and_is_logged_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R10."""

    async def main() -> None:
        one, two = await site.joined(2)
        channel = await two.member("room")
        monkeypatch.setattr(report, "write", raising(OverflowError("too large")))
        for machine in (one, two):
            for _ in range(3):
                machine.relay_now._reports.write()
        await one.layer.group_send("room", {"n": 1})
        assert await received(two.layer, channel) == [1]
        assert one.count("failures") >= 3
        assert sum("report" in record.message for record in caplog.records) == 2

    run(main)


def test_a_relay_that_fails_closes_what_it_has_open_and_another_begins_after_a_pause(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        one, two = await site.joined(2)
        await asyncio.sleep(0.1)
        one.end()
        two.end()
        before = descriptors()
        with monkeypatch.context() as patched:
            patched.setattr(relay.Relay, "_put_back_after_flush", raising(KeyError("unexpected")))
            # Not even the last report can be written.
            patched.setattr(report, "write", raising(OverflowError("too large")))
            seen = Failures()
            for _ in range(5):
                fail_once(one, seen)
                assert seen.pause > 0
            assert descriptors() == before
        assert sum("ended with an error" in record.message for record in caplog.records) == 1
        one.begin()
        two.begin()
        await eventually(lambda: one.knows(two) and two.knows(one))

    def fail_once(machine: Machine, seen: Failures) -> None:
        ended(machine.start(seen))

    run(main)


def test_a_process_pauses_longer_from_failure_to_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seen, pauses = Failures(), []
    for _ in range(9):
        seen.begun()
        try:
            raise KeyError("unexpected")
        except KeyError as error:
            seen.failed(error, "memory://x")
        pauses.append(seen.pause)
    assert pauses == [2, 4, 8, 16, 32, 64, 120, 120, 120]
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info
    now[0] += 120
    assert seen.pause == 0
    seen.begun()
    now[0] += failures.LASTED + 1
    seen.failed(ValueError("another"), "memory://x")
    assert seen.pause == 2
    assert len(caplog.records) == 2


def test_a_process_that_can_make_no_bell_for_its_relay_does_not_flood_the_log(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As at its limit of open files."""

    async def main() -> None:
        (one,) = await site.joined(1)
        one.end()
        monkeypatch.setattr(relay, "StoreBell", raising(StoreUnavailable("too many open files.")))
        seen = Failures()
        for pause in (2, 4):
            thread = one.start(seen)
            ended(thread)
            assert 0 < seen.pause <= pause
            (said,) = (each.getMessage() for each in caplog.records)
            assert said.endswith(
                f" ended: too many open files; this process begins again after {pause} seconds"
            )
            caplog.clear()

    caplog.set_level(logging.ERROR, "asgi_ipc")
    run(main)


def test_a_relay_that_can_use_the_store_no_more_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        (one,) = await site.joined(1)
        caplog.clear()
        with monkeypatch.context() as patched:
            patched.setattr(one.engine, "hold", raising(StoreUnavailable("no access.")))
            await eventually(lambda: not one.relay.is_alive())  # type: ignore[union-attr]
        (said,) = (each.getMessage() for each in caplog.records)
        assert said.endswith(" relays no more, as it can't use the store: no access")

    caplog.set_level(logging.INFO, "asgi_ipc")
    run(main)


def test_a_process_without_descriptors_is_away_and_says_so_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R8."""

    async def main() -> None:
        one, two = site.machine(), site.machine()
        with monkeypatch.context() as patched:
            tried: list[None] = []

            async def start(*_: object) -> None:
                tried.append(None)
                raise OSError(errno.EMFILE, "Too many open files")

            patched.setattr(MemoryWire, "start", start)
            one.begin()
            await eventually(lambda: len(tried) >= 3)
            assert one.relay_now.state == "away"
            assert "Too many open files" in one.report()["error"]
        two.begin()
        await eventually(lambda: one.knows(two))
        assert sum("Too many open" in record.message for record in caplog.records) == 1

    caplog.set_level(logging.WARNING, "asgi_ipc")
    run(main)


def test_a_process_without_descriptors_for_an_event_loop_says_so_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R10: and Python warns of no coroutine that was never awaited."""
    one = site.machine()
    too_many = OSError(errno.EMFILE, "Too many open files")
    monkeypatch.setattr(loop, "RelayLoop", raising(too_many))
    seen = Failures()
    for pause in (2, 4):
        one.start(seen)._thread.join(10)
        assert pause - 1 < seen.pause <= pause
    gc.collect()
    (said,) = (each.getMessage() for each in caplog.records)
    assert "ended with an error" in said


def test_what_a_server_says_is_bounded_and_can_not_act_on_a_terminal(
    site: Site, server: MemoryServer
) -> None:
    async def main() -> None:
        one = site.machine()
        server.go_away("\x1b[2J" + "A" * 200_000)
        one.begin()
        await eventually(lambda: one.report().get("state") == "away")
        assert len(one.report()["error"]) <= 500
        assert "\x1b" not in one.report()["error"]
        server.come_back()
        await eventually(lambda: one.relay_now.state == "connected")

    run(main)


def test_a_text_is_cut_and_has_no_controls() -> None:
    assert printable("all is well", 20) == "all is well"
    assert printable("\x1b[2J\n\u00e9\x7f~ ", 20) == "?[2J???~ "
    assert printable("a" * 21, 20) == "a" * 16 + " ..."
    assert clause("It said no.") == "It said no"
    assert clause("it said a lot ...") == "it said a lot ..."


def test_a_server_of_small_frames_gets_beats_in_pieces(site: Site, server: MemoryServer) -> None:
    """R5: the beats tell all sequences nevertheless."""
    server.frame_limit = 512

    async def main() -> None:
        one, two = await site.joined(2)
        for number in range(100):
            await one.layer.group_send(f"room{number}", {"n": number})
        channel = await two.member("room")
        await one.layer.group_send("room", {"n": 1})
        assert await received(two.layer, channel) == [1]
        server.drop_frames(1)
        await one.layer.group_send("room", {"n": 2})
        await eventually(lambda: two.count("gaps") or two.count("frames_in") > 20)
        assert one.relay_now.state == two.relay_now.state == "connected"
        assert one.count("failures") == 0

    run(main)


def test_a_server_that_has_no_room_for_a_beat_is_refused_with_the_remedy(
    site: Site, server: MemoryServer
) -> None:
    server.frame_limit = 20

    async def main() -> None:
        one = site.machine()
        one.begin()
        await eventually(lambda: one.report().get("state") == "refused")
        assert "max_payload" in one.report()["error"]

    run(main)


def test_a_dedicated_relay_that_fails_leaves_the_roles_to_the_site_for_a_while(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R7."""

    async def main() -> None:
        one = site.machine()
        engine = engine_beside(one.options)
        seen = Failures()
        try:
            with monkeypatch.context() as patched:
                patched.setattr(
                    relay.Relay, "_put_back_after_flush", raising(KeyError("unexpected"))
                )
                await dedicated(engine, one.relay_options, seen)
            assert seen.pause > 0
            assert not one.engine.is_held(DEDICATED)
            one.begin()
            await eventually(lambda: one.relay_now.state == "connected")
        finally:
            engine.close()
        assert sum("ended with an error" in record.message for record in caplog.records) == 1

    run(main)
