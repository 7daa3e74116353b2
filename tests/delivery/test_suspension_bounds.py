"""Suspension (O6): what a process remembers is bounded, and what has ended is forgotten."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from asgi_ipc.delivery import suspension
from tests.tools.doubles import (
    run,
    watchdog,
)
from tests.tools.suspension import EXPIRY, SECOND, Site, begin_receiving, end, log_lines

__all__ = ["watchdog"]


def test_a_process_remembers_a_bounded_number_and_forgets_the_longest_suspended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(suspension, "MOST", 3)

    async def main() -> None:
        site = Site()
        first = await site.suspended("room")
        await site.pass_time(1)
        others = [await site.suspended("room") for _ in range(2)]
        assert site.memberships._count == 3
        # Room for one more, at the cost of the first.
        extra = await site.suspended("room")
        assert site.memberships._count == 3
        await end(await begin_receiving(site.layer, first))
        assert await site.members("room") == []
        for channel in (*others, extra):
            await end(await begin_receiving(site.layer, channel))
        assert sorted(await site.members("room")) == sorted([*others, extra])
        assert (await site.layer.global_statistics())["memberships_count"] == 3
        # All are awake: a further one is left as it is.
        unwatched = await site.dead("lobby")
        await site.other.group_send("lobby", {"type": "unread"})
        await site.pass_time(8 * EXPIRY)
        assert await site.members("lobby") == [unwatched]
        assert site.memberships._count == 3

    run(main())
    assert log_lines(caplog, "remembers 3 memberships")


def test_members_that_come_and_go_leave_nothing_behind() -> None:
    async def main() -> None:
        site = Site()
        for _ in range(50):
            channel = await site.layer.new_channel()
            await site.layer.group_add("room", channel)
            await site.layer.group_add("room", channel)
            await site.layer.group_discard("room", channel)
        assert (len(site.memberships.awake), site.memberships._count) == (0, 0)

    run(main())


def test_what_ended_without_a_goodbye_leaves_nothing_behind() -> None:
    async def main() -> None:
        site = Site(group_expiry=EXPIRY)
        for _ in range(5):
            await site.dead("room")
        await site.pass_time(10 * EXPIRY)
        assert (len(site.memberships.awake), site.memberships._count) == (0, 0)

    run(main())


def test_a_look_moves_few_memberships_and_says_that_there_are_more() -> None:
    async def main() -> None:
        site = Site()
        groups = [f"room{number}" for number in range(2 * suspension.MOVES)]
        channel = await site.dead(*groups)
        await site.other.group_send(groups[0], {"type": "unread"})
        await site.pass_time(5 * EXPIRY)
        site.now += SECOND
        assert site.memberships.sweep()
        left = [group for group in groups if await site.members(group)]
        assert len(left) == len(groups) - suspension.MOVES
        # What happens to it in between.
        await site.layer.group_discard(left[-1], channel)
        await site.layer.group_add(left[0], channel)
        await site.layer.group_add("more", channel)
        assert await site.members(left[0]) == await site.members("more") == []
        await end(await begin_receiving(site.layer, channel))
        groups.remove(left[-1])
        for group in (*groups, "more"):
            assert await site.members(group) == [channel]
        assert await site.members(left[-1]) == []
        await site.pass_time(2)
        assert site.memberships._count == len(groups) + 1
        assert site.memberships.asleep == {}

    run(main())


def test_suspending_and_restoring_need_no_room_in_a_full_store() -> None:
    async def main() -> None:
        site = Site(group_memory=120)
        channel = await site.dead("room")
        with contextlib.suppress(site.layer.ChannelFull):
            for number in range(100):
                await site.other.group_add("filler", f"f{number}")
        await site.other.group_send("room", {"type": "unread"})
        await site.pass_time(6 * EXPIRY)
        assert await site.members("room") == []
        await end(await begin_receiving(site.layer, channel))
        assert await site.members("room") == [channel]

    run(main())


def test_the_document_says_how_many_memberships_are_remembered() -> None:
    options = Path(__file__).resolve().parents[2] / "docs" / "options.md"
    assert f"a process remembers {suspension.MOST:,} of them" in " ".join(
        options.read_text().split()
    )
    assert suspension.PATIENCE == 5
