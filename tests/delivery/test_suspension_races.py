"""What begins, fails or runs in the middle of a suspension, or of its end (O6)."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from asgi_ipc.delivery.suspension import GroupedChannel, Memberships
from asgi_ipc.engines.memory import MemoryEngine
from tests.tools.doubles import (
    PATIENCE,
    BlockingEngine,
    in_thread,
    run,
    watchdog,
)
from tests.tools.layers import demux_of
from tests.tools.suspension import EXPIRY, SECOND, Site, begin_receiving, end, until

__all__ = ["watchdog"]


def nothing(what: str, table: bytes) -> None:
    pass


class Interrupting(MemoryEngine):
    """Calls ``between`` before and after each change of a table."""

    between: Callable[[str, bytes], object] = staticmethod(nothing)

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        self.between("put", table)
        super().put(table, member, deadline, owner)
        self.between("was put", table)

    def remove(self, table: bytes, member: bytes) -> bool:
        self.between("remove", table)
        removed = super().remove(table, member)
        self.between("removed", table)
        return removed


def interrupting(site: Site) -> Any:
    return demux_of(site.layer).engine


@pytest.mark.parametrize("number", range(12))
def test_a_receive_that_begins_amid_a_suspension_ends_it(number: int) -> None:
    async def main() -> None:
        site = Site(Interrupting)
        channel = await site.dead("room", "lobby", "yard")
        await site.other.group_send("room", {"type": "unread"})
        await site.pass_time(5 * EXPIRY)
        received: list[Any] = []
        begun = threading.Event()
        calls = 0

        def receive() -> None:
            async def until_read() -> None:
                waiting = asyncio.ensure_future(site.layer.receive(channel))
                await asyncio.sleep(0)
                begun.set()
                received.append(await asyncio.wait_for(waiting, PATIENCE))

            run(until_read())

        threads: list[threading.Thread] = []

        def between(what: str, table: bytes) -> None:
            nonlocal calls
            calls += 1
            if calls == number + 1 and not threads:
                threads.append(in_thread(receive))
                # It has said that it is there, and waits for the look to end.
                member = site.memberships.awake[channel]
                while not member.received:
                    begun.wait(0.01)

        interrupting(site).between = between
        await site.pass_time(2)
        (thread,) = threads
        assert await asyncio.get_running_loop().run_in_executor(None, begun.wait, PATIENCE)
        for group in ("room", "lobby", "yard"):
            assert await site.members(group) == [channel]
        await site.other.group_send("room", {"type": "last"})
        await asyncio.get_running_loop().run_in_executor(None, thread.join, PATIENCE)
        assert received == [{"type": "last"}]

    run(main())


def test_a_receive_that_begins_when_a_suspension_is_decided_prevents_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suspend = Memberships._suspend

    def late(self: Memberships, member: GroupedChannel, most: int, now: int) -> int:
        # What a receive does first.
        assert self.note_receive(member.name, member.queue) is member
        assert not member.suspended
        return suspend(self, member, most, now)

    monkeypatch.setattr(Memberships, "_suspend", late)

    async def main() -> None:
        site = Site()
        channel = await site.dead("room")
        await site.other.group_send("room", {"type": "unread"})
        await site.pass_time(7 * EXPIRY)
        assert await site.members("room") == [channel]
        assert site.memberships.asleep == {}

    run(main())


def test_a_suspension_waits_for_a_group_add_that_has_begun() -> None:
    async def main() -> None:
        site = Site(Interrupting)
        channel = await site.dead("room")
        await site.other.group_send("room", {"type": "unread"})
        await site.pass_time(5 * EXPIRY)
        site.now += SECOND
        site.memberships.due = 1 << 62  # The add shall not look itself.

        def between(what: str, table: bytes) -> None:
            interrupting(site).between = nothing
            site.memberships.due = 0
            in_thread(site.memberships.sweep).join(PATIENCE)

        interrupting(site).between = between
        await site.layer.group_add("lobby", channel)
        assert await site.members("room") == await site.members("lobby") == [channel]
        await site.pass_time(2)
        assert await site.members("room") == await site.members("lobby") == []
        await end(await begin_receiving(site.layer, channel))
        assert await site.members("room") == await site.members("lobby") == [channel]

    run(main())


class Interrupt(BaseException):
    """As a signal's handler raises it."""


@pytest.mark.parametrize("number", range(13))
@pytest.mark.parametrize("while_", ["suspending", "restoring"])
def test_what_an_exception_interrupts_is_completed(while_: str, number: int) -> None:
    async def main() -> None:
        site = Site(Interrupting)
        channel = await site.dead("room", "lobby", "yard")
        await site.other.group_send("room", {"type": "unread"})
        await site.pass_time(5 * EXPIRY)
        calls = 0

        def between(what: str, table: bytes) -> None:
            nonlocal calls
            calls += 1
            if calls == number + 1:
                raise Interrupt

        if while_ == "suspending":
            interrupting(site).between = between
        try:
            await site.pass_time(2)
        except Interrupt:
            await site.pass_time(2)
        for group in ("room", "lobby", "yard"):
            assert await site.members(group) == []
        interrupting(site).between = between if while_ == "restoring" else nothing
        if while_ == "restoring":
            try:
                await end(await begin_receiving(site.layer, channel))
            except Interrupt:
                pass
        await end(await begin_receiving(site.layer, channel))
        for group in ("room", "lobby", "yard"):
            assert await site.members(group) == [channel]
        assert site.memberships._count == 3
        assert (await site.layer.global_statistics())["memberships_count"] == 3

    run(main())


@pytest.mark.parametrize("while_", ["suspending", "restoring"])
@pytest.mark.parametrize("number", range(4))
def test_what_another_process_discards_in_the_middle_is_gone(while_: str, number: int) -> None:
    async def main() -> None:
        site = Site(Interrupting)
        channel = await site.dead("room", "lobby")
        await site.other.group_send("room", {"type": "unread"})
        await site.pass_time(5 * EXPIRY)
        calls = 0

        def between(what: str, table: bytes) -> None:
            nonlocal calls
            calls += 1
            if calls == number + 1:
                # In a thread, as this one is in the middle of a call.
                in_thread(site.other.sync.group_discard, "room", channel).join(PATIENCE)

        if while_ == "suspending":
            interrupting(site).between = between
        await site.pass_time(2)
        interrupting(site).between = between
        await end(await begin_receiving(site.layer, channel))
        assert await site.members("room") == []
        assert await site.members("lobby") == [channel]
        assert (await site.layer.global_statistics())["memberships_count"] == 1
        # What is discarded after its move the process gets to know when it moves it again.
        assert site.memberships._count == (2 if (while_, number) == ("restoring", 3) else 1)

    run(main())


def test_what_python_runs_in_the_middle_of_a_look_is_left_for_later() -> None:
    async def main() -> None:
        site = Site(Interrupting)
        channel = await site.dead("room", "lobby")
        await site.other.group_send("room", {"type": "unread"})
        await site.pass_time(5 * EXPIRY)

        def between(what: str, table: bytes) -> None:
            interrupting(site).between = nothing
            site.layer.sync.group_discard("lobby", channel)
            site.layer.sync.group_add("yard", channel)
            assert not site.memberships.sweep()

        interrupting(site).between = between
        site.now += 2 * SECOND
        site.layer.sync.group_send("nobody", {"type": "unheard"})
        assert await site.members("room") == []
        await end(await begin_receiving(site.layer, channel))
        found = [await site.members(group) for group in ("room", "lobby", "yard")]
        assert found == [[channel], [], [channel]]

    run(main())


def test_threads_that_add_discard_receive_and_look_agree_in_the_end() -> None:
    site = Site()
    layer = site.layer.sync
    queue = f"own.{layer.client_prefix}!"
    channels = [f"{queue}{number}" for number in range(8)]
    stop, errors = threading.Event(), list[BaseException]()

    def guarded(action: Callable[[int], object]) -> None:
        turn = 0
        try:
            while not stop.is_set():
                turn += 1
                action(turn)
        except BaseException as error:
            errors.append(error)

    actions: list[Callable[[int], object]] = [
        lambda turn: layer.group_add("room", channels[turn % 8]),
        lambda turn: layer.group_discard("room", channels[turn * 3 % 8]),
        lambda turn: layer.receive([queue]) if turn % 50 == 0 else None,
        lambda turn: site.other.sync.group_send("room", {"type": "unread"}),
        lambda turn: site.other.sync.group_discard("room", channels[turn * 5 % 8]),
        lambda turn: site.let_pass(1),
    ]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [in_thread(guarded, action) for action in actions]
        stop.wait(1.0)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    finally:
        sys.setswitchinterval(before)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)
    layer.receive([queue])
    for channel in channels:
        layer.group_add("room", channel)
    assert sorted(layer.group_channels("room")) == channels
    for channel in channels:
        layer.group_discard("room", channel)
    assert layer.global_statistics()["memberships_count"] == 0
    memberships = site.memberships
    assert (len(memberships.awake), memberships.asleep, memberships._count) == (0, {}, 0)


def test_an_engine_that_blocks_is_never_called_in_the_event_loop() -> None:
    class Blocking(BlockingEngine):
        delay = 0.0

        def remove(self, table: bytes, member: bytes) -> bool:
            self._block()
            return super().remove(table, member)

    async def main() -> None:
        site = Site(Blocking)
        demux = demux_of(site.layer)
        channel = await site.suspended("room")
        waiting = await begin_receiving(site.layer, channel)
        await until(lambda: bool(site.other.sync.group_channels("room")))
        await site.other.group_send("room", {"type": "again"})
        assert await asyncio.wait_for(waiting, PATIENCE) == {"type": "again"}
        demux.look_again = 0.02  # Now the event loop looks, by its threads.
        (listener,) = demux.loops.values()
        listener._tick()

        def later() -> bool:
            site.now += SECOND
            site.other.sync.group_send("room", {"type": "unread"})
            return not site.other.sync.group_channels("room")

        await until(later)
        await site.layer.close()
        await site.other.close()

    run(main())
