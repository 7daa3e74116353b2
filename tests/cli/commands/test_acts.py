"""``send``, ``group-send``, ``tail``, ``ping``, ``flush``, ``remove``, ``drain``, ``check``."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from asgi_ipc.cli import snapshot
from asgi_ipc.cli.commands import drain, tail
from asgi_ipc.cli.limits import TooLate
from asgi_ipc.cli.orphans import Orphan
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.mmap import MmapEngine
from tests.cli.conftest import Commands, MakeLayer
from tests.tools.holders import stopped_holder
from tests.tools.layers import engine_of
from tests.tools.stores import open_store

# ---- send, group-send, tail


def test_a_message_is_sent(
    command: Commands, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(capacity=1)
    assert command("send", "site", "a", '{"b": {"$bytes": "eA=="}}').out == "sent\n"
    assert layer.receive(["a"]) == ("a", {"b": b"x"})
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"from": "a pipe"}'))
    sent = command("send", "site", "a", "-", "--json", "--expiry", "0.001")
    assert sent.json() == {"channel": "a", "sent": True, "reason": None}
    time.sleep(0.002)
    assert layer.receive(["a"]) == (None, None)
    for message, text in (
        ("[1]", "pass an object"),
        ('{"$bytes": "aGk="}', 'the message is {"$bytes": "aGk="}; pass an object'),
        ('[{"$float": "nan"}]', 'the message is [{"$float": "nan"}]; pass an object'),
        ("{", "not JSON"),
        ('{"$bytes": "?"}', "not base64"),
        ('{"n": 9223372036854775808}', "64 bits"),
    ):
        ended = command("send", "site", "a", message)
        assert ended.status == 2
        assert text in ended.err


def test_a_channel_that_is_full_ends_it_with_1(command: Commands, make_layer: MakeLayer) -> None:
    layer = make_layer()
    for _ in range(100):
        layer.send("a", {})
    ended = command("send", "site", "a", "{}", "--json")
    assert ended.status == 1
    assert "capacity of 100" in ended.json()["reason"]


def test_a_group_is_followed(command: Commands, make_layer: MakeLayer) -> None:
    layer = make_layer()

    def send() -> None:
        deadline = time.monotonic() + 60
        while not layer.group_channels("news") and time.monotonic() < deadline:
            time.sleep(0.005)
        layer.group_send("news", {"n": 1, "raw": b"x"})
        layer.group_send("news", {"n": 2})

    sender = threading.Thread(target=send)
    sender.start()
    ended = command("tail", "site", "old", "news", "--count", "2", "--timeout", "60", "--json")
    sender.join()
    assert ended.status == 0
    first, second = map(json.loads, ended.out.splitlines())
    assert set(first) == {"time", "group", "message"}
    assert (first["group"], first["message"]) == ("news", {"n": 1, "raw": {"$bytes": "eA=="}})
    assert second["message"] == {"n": 2}
    assert layer.group_channels("news") == []
    ended = command("group-send", "site", "news", "{}", "--json")
    assert (ended.status, ended.json()) == (1, {"group": "news", "channels": 0})
    layer.group_add("news", "work")
    assert command("group-send", "site", "news", "{}").out == "sent to 1 channels\n"
    assert command("tail", "site", "news", "--count", "1", "--timeout", "0.05").status == 1
    assert command("tail", "site", "bad name").status == 2


# ---- ping


def test_a_probe_of_a_store_that_is_well_changes_nothing(
    command: Commands, make_layer: MakeLayer
) -> None:
    layer = make_layer()
    layer.send("work", {})
    before = layer.global_statistics() | {"messages_max_age": 0}
    ended = command("ping", "site", "--json")
    assert ended.status == 0
    assert set(ended.json()) == {"prefix", "alive", "seconds", "reason"}
    assert ended.json()["alive"] is True
    assert layer.global_statistics() | {"messages_max_age": 0} == before
    assert command("ping", "site").out.startswith("site: alive (")


def test_a_probe_of_a_store_that_is_not_well_says_why(
    command: Commands, make_layer: MakeLayer, parent: Path, tmp_path: Path
) -> None:
    assert "no store of prefix 'site'" in command("ping", "site", "--json").json()["reason"]
    assert command("ping", "site").status == 1
    assert list(parent.iterdir()) == []

    with stopped_holder(lambda: open_store(tmp_path)):
        ended = command("ping", "store", "--directory", str(tmp_path), "--timeout", "0.2")
        assert ended.status == 1
        assert "could not join the store within 0.2 seconds" in ended.out
    open_store(tmp_path).destroy()


def test_a_probe_notices_a_wake_up_that_does_not_arrive(
    command: Commands, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_layer()
    monkeypatch.setattr("asgi_ipc.engines.shm.session.Session._open_bell", gone)
    assert "a wake-up could not be written" in command("ping", "site").out


def gone(*_: object) -> int:
    raise FileNotFoundError(2, "gone")


# ---- flush, remove


def test_a_store_in_use_is_spared_without_force(
    command: Commands, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer()
    layer.send("work", {})
    layer.group_add("news", "work")
    for name in ("flush", "remove"):
        ended = command(name, "site", "--yes")
        assert ended.status == 2
        assert "--force" in ended.err
    assert layer.global_statistics()["messages_pending"] == 1
    # Nobody answers.
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for name in ("flush", "remove"):
        ended = command(name, "site", "--force")
        assert ended.status == 1
        assert "pass --yes" in ended.err
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    ended = command("flush", "site", "--force", "--json")
    assert ended.json() == {"prefix": "site", "messages": 1, "memberships": 1}
    assert layer.global_statistics()["messages_pending"] == 0
    layer.send("work", {})
    assert command("remove", "site", "--force", "--yes").out == "removed site\n"
    assert layer.receive(["work"]) == (None, None)


def test_stale_stores_and_orphans_are_removed_and_others_spared(
    command: Commands, make_layer: MakeLayer, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_layer("used")
    make_layer("stale", "posix").close()
    make_layer("old", "sysv").close()
    file = parent / "memory"
    file.touch()
    found = [
        Orphan("locks", str(file), "gone", "", "/tmp/x/lost"),
        Orphan("posix", "/asgi_ipc.none", "gone", "it is mapped", "/tmp/x/kept"),
    ]
    monkeypatch.setattr("asgi_ipc.cli.listing.find_orphans", lambda: found)
    removed = command("remove", "--stale", "--json", "--yes").json()
    assert [Path(each["path"]).name for each in removed] == ["old", "stale"]
    assert all(each["removed"] and each["left"] == [] for each in removed)
    assert [path.name for path in parent.glob("asgi_ipc-*/*")] == ["used"]
    assert command("remove", "--stale", "--yes").out == "nothing to remove\n"
    ended = command("remove", "--orphans", "--yes")
    assert ended.status == 1, "one was kept"
    assert "kept: it is mapped" in ended.out
    assert not file.exists()
    assert "'remove --orphans' removes it" in command("list").err
    del found[0]
    listed = command("list")
    assert "kept: it is mapped" in listed.out
    assert "--orphans" not in listed.err, "it would remove nothing"


def test_a_store_that_a_process_joins_meanwhile_is_spared(
    command: Commands, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer()
    layer.send("work", {})
    monkeypatch.setattr("asgi_ipc.cli.commands.remove.refuse_if_in_use", lambda *_: None)
    ended = command("remove", "site", "--yes")
    assert (ended.status, "processes use the store" in ended.err) == (2, True)
    assert layer.receive(["work"])[0] == "work"


# ---- drain


def test_a_store_drains_or_the_time_is_over(command: Commands, make_layer: MakeLayer) -> None:
    layer = make_layer()
    ended = command("drain", "site", "--json")
    assert (ended.status, ended.json()["drained"]) == (0, True)
    layer.send("work", {})
    ended = command("drain", "site", "--timeout", "0.05", "--interval", "0.02")
    assert ended.status == 1
    assert "1 message pending" in ended.out
    assert "1 message pending, 0 s" in ended.err
    reader = threading.Timer(0.05, layer.receive, [["work"]])
    reader.start()
    ended = command("drain", "site", "--interval", "0.01", "--json")
    reader.join()
    assert (ended.status, ended.json()["pending"], ended.json()["held"]) == (0, 0, 0)


def test_a_group_message_that_a_process_holds_is_not_drained(
    command: Commands, make_layer: MakeLayer
) -> None:
    layer = make_layer()
    first, second = (layer.new_channel() for _ in range(2))
    for channel in (first, second):
        layer.group_add("news", channel)
    layer.group_send("news", {"n": 1})
    assert layer.receive([first]) == (first, {"n": 1})
    layer.global_statistics()  # Tells other processes what this one holds.
    ended = command("drain", "site", "--timeout", "0", "--json")
    assert (ended.status, ended.json()["drained"]) == (1, False)
    assert (ended.json()["pending"], ended.json()["held"]) == (0, 1)
    assert layer.receive([second]) == (second, {"n": 1})
    layer.global_statistics()
    assert command("drain", "site", "--timeout", "0").status == 0


# ---- behind a stopped process


def test_a_time_limit_bounds_the_whole_command(
    command: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = ("store", "--directory", str(tmp_path))
    for module in (drain, tail):
        monkeypatch.setattr(module, "GRACE", 0.1)
    ended_with: list[int] = []

    def end_at_once(status: int) -> None:
        ended_with.append(status)
        raise TooLate

    monkeypatch.setattr(tail, "end_at_once", end_at_once)
    monkeypatch.setattr(drain, "end_at_once", ended_with.append)
    with stopped_holder(lambda: open_store(tmp_path)):
        ended = command("drain", *at, "--timeout", "0", "--json")
        assert (ended.status, ended.json()["drained"], ended.json()["held"]) == (1, False, None)
        assert "state T in ps" in ended.json()["reason"]
        with pytest.raises(TooLate):
            command("tail", *at, "news", "--timeout", "0.1")
        assert ended_with == [1]
    # It is joined by now, so leaving would wait, too.
    monkeypatch.setattr(drain, "GRACE", 2.0)
    closed: list[bool] = []
    monkeypatch.setattr(MmapEngine, "close", lambda self: closed.append(True))
    monkeypatch.setattr(drain, "unread_in", lambda engine: time.sleep(60))
    ended = command("drain", *at, "--timeout", "0")
    assert (ended.status, ended_with, closed) == (1, [1, 1], [])
    assert ended.out.startswith("no answer from the store after ")
    monkeypatch.undo()
    open_store(tmp_path).destroy()


@pytest.mark.parametrize(
    "arguments",
    [
        ("stats", "--watch", "1", "--count", "1"),
        ("drain",),
        ("flush", "--force", "--yes"),
        ("remove", "--force", "--yes"),
        ("tail", "news", "--count", "1", "--timeout", "20"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_that_waits_says_so(
    arguments: tuple[str, ...],
    command: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr("asgi_ipc.cli.joining._PATIENCE", 0.05)
    with stopped_holder(lambda: open_store(tmp_path)) as go_on:

        class Told(io.StringIO):
            """What is told lets the command end."""

            def write(self, text: str) -> int:
                told.append(text)
                go_on()
                return len(text)

        monkeypatch.setattr("asgi_ipc.cli.joining.sys", SimpleNamespace(stderr=Told()))
        if arguments[0] == "tail":
            # There is no message: the command is to end once it has said that it waits.
            monkeypatch.setattr(tail, "_read", _read_none)
        # Without the notice it would wait for ever.
        rescue = threading.Timer(30, go_on)
        rescue.start()
        ended = command(arguments[0], "store", "--directory", str(tmp_path), *arguments[1:])
        rescue.cancel()
    assert ended.status == 0
    assert "kill -CONT" in told[0]
    open_store(tmp_path).destroy()


async def _read_none(layer: Any, group: str, channel: str, came: Any) -> None:
    await came.put((group, {}))


# ---- check


def test_a_check_leaves_the_lock_to_others_while_it_looks(
    command: Commands, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer()

    def looks(heap: Any) -> list[str]:
        sender = threading.Thread(target=layer.send, args=("work", {}))
        sender.start()
        sender.join(60)
        assert not sender.is_alive()
        return []

    monkeypatch.setattr("asgi_ipc.cli.check.check_heap", looks)
    assert command("check", "site").out == "sound\n"
    assert layer.global_statistics()["messages_pending"] == 2


def test_only_what_is_not_sound_is_copied_under_the_lock(
    command: Commands, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer()
    copied: list[bool] = []
    copy = snapshot.Snapshot.copy

    def changed_meanwhile(self: Any) -> None:
        copied.append(engine_of(layer).session.is_inside())
        copy(self)
        if is_busy and len(copied) == 1:
            self.heap.words[layout.NAMED] += 1

    monkeypatch.setattr(snapshot.Snapshot, "copy", changed_meanwhile)
    is_busy = False
    assert command("check", "site").out == "sound\n"
    assert copied == [False, False], "channels and groups"
    copied.clear()
    is_busy = True
    assert command("check", "site").out == "sound\n"
    assert copied == [False, True, False]


@pytest.mark.parametrize("limit", [0, snapshot.LIMIT])
def test_a_check_finds_what_is_wrong_in_a_copy_and_in_place(
    limit: int, command: Commands, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "LIMIT", limit)
    layer = make_layer()
    layer.send("work", {"text": "x" * 1000})
    assert command("check", "site", "--json").json()["sound"] is True
    words = engine_of(layer).session.channels.words
    words[layout.NAMED] += 1
    ended = command("check", "site", "--json")
    words[layout.NAMED] -= 1
    assert ended.status == 1
    assert set(ended.json()) == {"prefix", "engine", "sound", "findings", "removed", "left"}
    assert "queues" in ended.json()["findings"][0]
