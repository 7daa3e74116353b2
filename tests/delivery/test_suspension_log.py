"""Suspension (O6): what the log says of channels that leave their groups and come back."""

from __future__ import annotations

import logging
import re

import pytest

from tests.tools.doubles import (
    run,
    watchdog,
)
from tests.tools.suspension import EXPIRY, Site, begin_receiving, end, log_lines

__all__ = ["watchdog"]


def test_both_events_are_logged_and_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        site = Site()
        channels = [await site.dead("room") for _ in range(3)]
        await site.other.group_send("room", {"type": "unread"})
        await site.pass_time(6 * EXPIRY)
        for channel in channels:
            await end(await begin_receiving(site.layer, channel))
        await site.layer.close()

    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        run(main())
    suspended = log_lines(caplog, "suspended from the groups")
    restored = log_lines(caplog, "back in the groups they left")
    for found in (suspended, restored):
        assert found
        assert sum(int(re.findall(r"(\d+) channel", each)[0]) for each in found) == 3
        assert re.search(r"such as specific\.[0-9a-f]{32}![0-9a-f]{32}", found[0])
    assert "suspend_silent_channels" in suspended[0]


@pytest.mark.parametrize("option", [True, False])
def test_the_end_of_a_membership_is_logged_once_if_its_consumer_still_receives(
    caplog: pytest.LogCaptureFixture, option: bool
) -> None:
    async def main() -> None:
        site = Site(group_expiry=2 * EXPIRY, suspend_silent_channels=option)
        living = await site.layer.new_channel()
        await site.layer.group_add("room", living)
        await site.layer.group_add("left", living)
        await site.layer.group_discard("left", living)
        await site.layer.group_add("theirs", living)
        dead = await site.dead("dead")
        waiting = await begin_receiving(site.layer, living)
        await site.pass_time(EXPIRY)
        await site.other.group_add("theirs", living)
        await site.pass_time(30 * EXPIRY)
        assert dead
        await end(waiting)
        await site.layer.close()

    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        run(main())
    (line,) = log_lines(caplog, "group_expiry")
    assert line.startswith("group room: 1 membership ended")
    assert "raise group_expiry, or add a channel again" in line
