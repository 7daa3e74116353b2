"""``channels``, ``groups``, ``processes``, ``peek``, ``stats``: what is in a store."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.cli.choice import StoreChoice
from asgi_ipc.cli.top.look import FIRST, look
from asgi_ipc.engines.base import COUNTERS, GAUGES, Record
from tests.cli.conftest import Commands, MakeLayer
from tests.tools.layers import engine_of

HOSTILE = b"\x1b[31mred\x07\xff"


@pytest.fixture
def layer(make_layer: MakeLayer) -> SyncIPCChannelLayer:
    """One on a store with two channels and two groups."""
    made = make_layer()
    for number in range(3):
        made.send("work", {"n": number, "raw": b"\x00", "odd": float("inf")})
    made.send("other", {"n": 0})
    for channel in ("work", "other"):
        made.group_add("news", channel)
    made.group_add("quiet", "work")
    return made


def push(layer: SyncIPCChannelLayer, queue: bytes, payload: bytes) -> None:
    """Push what no layer would."""
    engine = engine_of(layer)
    assert not engine.push([Record(queue, payload, engine.clock() + 10**12, 10)])


def test_channels_are_listed_sorted_and_limited(
    command: Commands, layer: SyncIPCChannelLayer
) -> None:
    found = command("channels", "site", "--json").json()
    assert [(each["name"], each["pending"]) for each in found] == [("work", 3), ("other", 1)]
    assert set(found[0]) == {
        "name", "pending", "bytes", "oldest_age", "high_water", "pushed", "popped", "expired",
        "refused", "waiting", "process", "process_alive",
    }  # fmt: skip
    named = command("channels", "site", "--json", "--sort", "name", "--limit", "1").json()
    assert [each["name"] for each in named] == ["other"]
    assert command("channels", "site").out.splitlines()[1].split()[:2] == ["work", "3"]
    assert command("channels", "site", "--sort", "colour").status == 2


def test_names_of_a_hostile_store_are_escaped(
    command: Commands, layer: SyncIPCChannelLayer
) -> None:
    push(layer, HOSTILE, b"no message")
    assert r"\x1b[31mred\x07\xff" in command("channels", "site").out
    names = [each["name"] for each in command("channels", "site", "--json").json()]
    assert "\x1b[31mred\x07\\xff" in names
    push(layer, b"bad", b"\xc1")
    ended = command("peek", "site", "bad", "--json").json()
    assert ended[0]["message"] is None
    assert ended[0]["problem"]


def test_groups_and_their_channels_are_listed(
    command: Commands, layer: SyncIPCChannelLayer
) -> None:
    assert command("groups", "site", "--json").json() == [
        {"name": "news", "members": 2, "suspended": 0},
        {"name": "quiet", "members": 1, "suspended": 0},
    ]
    members = command("groups", "site", "news", "--json").json()
    assert [each["name"] for each in members] == ["other", "work"]
    assert set(members[0]) == {"name", "suspended", "process", "process_alive", "problem"}
    assert command("groups", "site", "none").out == "group 'none' has no channels\n"
    assert command("groups", "site", "no name").status == 2
    assert "news" in command("groups", "site").out
    assert "work" in command("groups", "site", "news").out


def test_processes_are_listed_without_the_command_itself(
    command: Commands, layer: SyncIPCChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = command("processes", "site", "--json").json()
    assert found["pid"] == os.getpid()
    assert found["identity"] == engine_of(layer).identity.hex()
    assert "pytest" in found["command"] or "python" in found["command"]
    assert set(found) == {
        "identity", "pid", "command", "parent_command", "started", "joined_age", "waits_for",
        "fetched", *COUNTERS, *GAUGES,
    }  # fmt: skip
    shown = command("processes", "site", "--sort", "held_bytes").out
    assert str(os.getpid()) in shown
    assert time.strftime("%H:%M", time.localtime(found["started"])) in shown
    monkeypatch.setattr("asgi_ipc.cli.commands.processes.parent_command", lambda *_: "uvicorn site")
    assert command("processes", "site").out.endswith("  child of uvicorn site\n")


def test_a_process_and_its_channels_are_brought_together(
    command: Commands, make_layer: MakeLayer
) -> None:
    make_layer()

    async def main() -> tuple[str, Any, Any]:
        layer = IPCChannelLayer("site", engine="mmap", channel_memory=1 << 19, group_memory=1 << 18)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        receiving = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0)
        try:
            return (
                channel,
                command("channels", "site", "--json").json(),
                command("groups", "site", "room").out,
            )
        finally:
            receiving.cancel()
            await layer.close()

    channel, found, members = asyncio.run(main())
    (about,) = [each for each in found if each["name"] == channel.partition("!")[0] + "!"]
    assert about["waiting"]
    assert about["process"] in channel
    assert about["process_alive"]
    assert channel in members
    assert str(os.getpid()) in members
    assert "(gone)" not in members


def test_a_reader_that_is_gone_is_said_to_be(command: Commands, make_layer: MakeLayer) -> None:
    site = make_layer()
    names: list[str] = []
    killed = os.fork()
    # The engine of a killed process leaves all as it is; a fork's cleans up nothing either.
    if not killed:
        try:
            layer = SyncIPCChannelLayer("site", engine="mmap")
            channel = layer.new_channel()
            layer.group_add("room", channel)
            layer.send(channel, {"n": 0})
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    for is_stale in (False, True):
        if is_stale:
            site.close()
        (about,) = command("channels", "site", "--json").json()
        names.append(about["name"])
        assert (about["pending"], about["process_alive"]) == (1, False)
        assert f"process {killed} (gone)" in command("channels", "site").out
        rows = look(StoreChoice("site"), FIRST).channels
        assert rows is not None
        assert rows.rows[0].reader == f"{killed} (gone)"
    for arguments in (["groups", "site"], ["stats", "site"], ["list"]):
        ended = command(*arguments)
        assert "memberships of processes that have ended are counted" in ended.err, ended
    assert names[0] == names[1]


def test_peek_shows_messages_and_takes_none(command: Commands, layer: SyncIPCChannelLayer) -> None:
    first, second = command("peek", "site", "work", "--json", "--limit", "2").json()
    assert first["message"] == {
        "n": 0, "raw": {"$bytes": "AA=="}, "odd": {"$float": "inf"},
    }  # fmt: skip
    assert second["message"]["n"] == 1
    assert set(first) == {"channels", "message", "bytes", "expires_in", "problem"}
    assert (first["channels"], first["problem"]) == (["work"], None)
    assert 0 < first["expires_in"] <= 60
    assert len(command("peek", "site", "work").out.splitlines()) == 3
    assert command("peek", "site", "none").status == 1
    assert command("peek", "site", "bad name").status == 2
    # What it printed can be sent again.
    assert command("send", "site", "again", json.dumps(first["message"])).status == 0
    assert layer.receive(["again"])[1] == layer.receive(["work"])[1]


def test_peek_at_a_process_specific_channel_shows_its_messages_alone(
    command: Commands, layer: SyncIPCChannelLayer
) -> None:
    for name in ("a", "b"):
        layer.send(f"their!{name}", {"for": name})
    (found,) = command("peek", "site", "their!b", "--json").json()
    assert (found["channels"], found["message"]) == (["their!b"], {"for": "b"})
    assert len(command("peek", "site", "their!", "--json").json()) == 2


def test_peek_names_few_of_the_channels_of_a_group_message(
    command: Commands, make_layer: MakeLayer
) -> None:
    reader = make_layer()
    names = sorted(reader.new_channel() for _ in range(4))
    for name in names:
        reader.group_add("room", name)
    make_layer().group_send("room", {"n": 1})
    which = names[0].partition("!")[0] + "!"
    (found,) = command("peek", "site", which, "--json").json()
    assert sorted(found["channels"]) == names
    first, second, *_ = found["channels"]
    assert f"for {first}, {second} and 2 more]" in command("peek", "site", which).out


def test_stats_are_those_of_the_layer(command: Commands, layer: SyncIPCChannelLayer) -> None:
    found = command("stats", "site", "--json").json()
    expected = layer.global_statistics()
    ages = [statistics.pop("messages_max_age") for statistics in (found, expected)]
    assert 0 < ages[0] <= ages[1]
    assert found == expected
    assert command("stats", "site", "--channel", "work", "--json").json()["messages_pending"] == 3
    assert command("stats", "site", "--channel", "bad name").status == 2
    assert command("stats", "site", "--channel", "work").err == ""
    assert "channel 'typo' is not in the store" in command("stats", "site", "--channel", "typo").err
    assert "messages_pending" in command("stats", "site").out


def test_watched_stats_have_rates(command: Commands, layer: SyncIPCChannelLayer) -> None:
    out = command("stats", "site", "--watch", "0.1", "--count", "2", "--json").out
    first, second = map(json.loads, out.splitlines())
    assert first["rates"] == {}
    assert second["rates"]["messages_count"] == 0.0
    assert "messages_pending" not in second["rates"]
    assert "A SECOND" in command("stats", "site", "--watch", "0.1", "--count", "2").out
