"""Messages that expire are logged as drops are: at once, with the name, and then in a sum."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.engines.base import Record
from asgi_ipc.engines.memory import MemoryEngine
from tests.tools.doubles import fresh, run, watchdog
from tests.tools.layers import demux_of

__all__ = ["watchdog"]

SECOND = 1_000_000_000


class Clock:
    now = 1000 * SECOND

    def __call__(self) -> int:
        return self.now


def expired(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "expired unread" in text]


def sums(lines: list[str]) -> list[int]:
    """The numbers of messages that warnings name at their end."""
    return [int(line.rpartition("; ")[2].split()[0]) for line in lines]


@pytest.mark.parametrize("engine", ["memory", "mmap", "posix"])
def test_what_expires_in_the_store_is_told_by_the_process_that_drops_it(
    engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    options: dict[str, Any] = {"clock": clock}
    if engine != "memory":
        options["directory"] = str(tmp_path)
    layer = SyncIPCChannelLayer(
        prefix=fresh(),
        engine=engine,
        engine_options=options,
        expiry=10,
        channel_memory=1 << 20,
        group_memory=1 << 20,
    )
    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        # More than a list, so that rings are looked through too.
        for _ in range(3):
            for _ in range(40):
                layer.send("thumbnails", {"n": 1})
            clock.now += 11 * SECOND
            layer.send("other", {"n": 1})
            layer.channel_statistics("thumbnails")
            clock.now += 2 * SECOND
            layer.global_statistics()
            layer.receive(["other"])
        assert sums(expired(caplog))[0] == 40
        layer.destroy()
    lines = [line for line in expired(caplog) if "channel thumbnails was" in line]
    assert sums(lines) == [40, 80]
    assert "no receiver" in lines[0]


def test_of_what_is_left_for_a_relay_messages_are_told_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = SyncIPCChannelLayer(prefix=fresh(), engine="memory")
    engine = demux_of(layer).engine
    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        for queue in (b"!!relay.notices", b"!!relay.vacant", b"!!relay.out"):
            engine.push((Record(queue, b"x", engine.clock() - 1, 100),))
            engine.pop(queue)
        layer.destroy()
    (line,) = expired(caplog)
    assert "to other machines" in line
    assert "!!relay" not in line


def test_what_expires_in_a_mailbox_is_told_with_its_channel(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        clock = Clock()
        engine = MemoryEngine(fresh(), clock=clock, channel_memory=1 << 20, group_memory=1 << 20)
        layer = IPCChannelLayer(engine=engine, expiry=10)
        late, other = await layer.new_channel(), await layer.new_channel()
        for channel in (late, other):
            await layer.group_add("room", channel)
        waiting = asyncio.ensure_future(layer.receive(other))
        await asyncio.sleep(0)
        await layer.group_send("room", {"n": 1})
        await waiting
        clock.now += 11 * SECOND
        assert (await layer.global_statistics())["expired_count"] == 1
        (line,) = expired(caplog)
        assert f"channel {late} was not received on" in line
        assert sums([line]) == [1]
        await layer.close()

    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        run(main())


def test_the_sum_is_told_when_the_last_receiver_of_a_loop_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a process that a signal ends on the spot nothing is heard after that."""

    async def main() -> None:
        clock = Clock()
        engine = MemoryEngine(fresh(), clock=clock, channel_memory=1 << 20, group_memory=1 << 20)
        layer = IPCChannelLayer(engine=engine, capacity=1)
        demux_of(layer).look_again = 1e6
        waiting = [asyncio.ensure_future(layer.receive(name)) for name in ("a", "b")]
        await layer.group_add("room", "full")
        for _ in range(5):
            await layer.group_send("room", {"n": 1})
        assert sums(caplog.messages) == [1]
        waiting[0].cancel()
        await asyncio.sleep(0.01)
        assert sums(caplog.messages) == [1]
        # One that comes back at once has not left.
        waiting[1].cancel()
        await asyncio.gather(waiting[1], return_exceptions=True)
        waiting[1] = asyncio.ensure_future(layer.receive("b"))
        await asyncio.sleep(0.01)
        assert sums(caplog.messages) == [1]
        waiting[1].cancel()
        await asyncio.sleep(0.01)
        assert sums(caplog.messages) == [1, 3]
        # It is no way round the ten seconds between two warnings.
        await layer.group_send("room", {"n": 1})
        assert sums(caplog.messages) == [1, 3]
        await layer.close()
        assert sums(caplog.messages) == [1, 3, 1]

    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        run(main())
