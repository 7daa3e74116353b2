"""What the commands say of a machine's relay, in each state of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from asgi_ipc.cli.main import run as run_command
from asgi_ipc.cli.pending import unread_in
from asgi_ipc.engines.base import Record
from asgi_ipc.exceptions import WireRefused
from tests.tools.machines import ENOUGH, Machine, Site, eventually, run


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.destroy()


class Told:
    """What a command says of a machine's store."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, machine: Machine, name: str, *words: str) -> tuple[int, str]:
        self._capsys.readouterr()
        status = run_command([name, "site", "--directory", str(machine.folder), *words])
        return status, self._capsys.readouterr().out

    def relays(self, machine: Machine) -> tuple[int, dict[str, Any]]:
        status, text = self(machine, "relays", "--json")
        return status, json.loads(text)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(capsys)


async def _is_told_until_it_is_long_ago(machine: Machine, told: Told) -> None:
    machine.end()
    machine.begin()
    await eventually(lambda: told.relays(machine)[1]["state"] == "connected")
    assert told.relays(machine)[0] == 1, "the next relay knows"
    machine.forgets()
    assert told.relays(machine)[0] == 0, "that is long ago"


def test_relays_ends_with_1_whenever_something_needs_a_person(site: Site, told: Told) -> None:
    async def main() -> None:
        machine, other = await site.joined(2)

        def state() -> str:
            return str(told.relays(machine)[1]["state"])

        await eventually(lambda: state() == "connected")
        status, about = told.relays(machine)
        assert (status, about["problems"], about["differs"]) == (0, [], [])
        assert 0 <= about["contact_age"] < ENOUGH
        # Dropped of late; but not where that is as it should be.
        for harmless in ("no machine", "relay killed"):
            machine.dropped(harmless, 5)
        assert told.relays(machine)[0] == 0
        machine.dropped("from a copy of this store")
        machine.dropped("way out full", 7)
        status, text = told(machine, "relays")
        assert status == 1
        copy, dropped, *_ = text.splitlines()
        assert copy.startswith("! another machine has used a copy of this machine's store")
        assert "7 way out full" in dropped
        assert "no machine" not in dropped
        assert "killed" not in dropped
        await _is_told_until_it_is_long_ago(machine, told)
        site.server.refuse()
        site.server.cut()
        await eventually(lambda: state() == "refused")
        status, text = told(machine, "relays")
        assert status == 1
        assert "! the server refuses this machine for" in text
        assert "these credentials" in text
        site.server.come_back()
        await eventually(lambda: state() == "connected")
        machine.end()
        other.end()
        status, text = told(machine, "relays")
        assert status == 1
        assert "! no process of this machine relays" in text
        assert "one of whose processes relays once it has WebSockets" in text

    run(main)


def test_a_connection_that_is_lost_again_and_again_needs_a_person(site: Site, told: Told) -> None:
    async def main() -> None:
        (machine,) = await site.joined(1)
        for lost in range(1, 4):
            site.server.cut()
            await eventually(lambda n=lost: machine.count("disconnects") == n)  # type: ignore[misc]
            await eventually(lambda: told.relays(machine)[1]["state"] == "connected")
            assert told.relays(machine)[0] == (lost == 3)
        text = told(machine, "relays")[1]
        assert "! the connection to the server was lost 3 times in the last 10 minutes" in text
        assert "lost connections 3; relays killed 0; gaps 0;" in text
        await _is_told_until_it_is_long_ago(machine, told)

    run(main)


def test_relays_that_are_killed_again_and_again_need_a_person(site: Site, told: Told) -> None:
    """And not those that a deployment kills."""

    async def main() -> None:
        (machine,) = await site.joined(1)
        for kills in (19, 1):
            assert told.relays(machine)[0] == 0
            machine.counted("kills", kills)
        status, text = told(machine, "relays")
        assert status == 1
        assert "! processes that relay were killed 20 times in the last 10 minutes" in text
        assert "relays killed 20;" in text

    run(main)


def test_relays_says_why_shared_channels_do_not_work(
    site: Site, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay stays connected: groups do not need what the server refuses."""

    def push(*_: object) -> None:
        raise WireRefused("it answered EVAL: NOPERM no permissions")

    async def main() -> None:
        machine, _ = await site.joined(2, relay_channels=["work"])
        await eventually(lambda: told.relays(machine)[0] == 0)
        with monkeypatch.context() as patch:
            patch.setattr(site.server, "push", push)
            await machine.layer.send("work", {"n": 0})
            await eventually(lambda: told.relays(machine)[0] == 1)
        status, text = told(machine, "relays")
        assert status == 1
        assert "the server refused commands for shared channels, last " in text
        assert "seconds ago: it answered EVAL: NOPERM no permissions\n" in text
        assert "relay of this machine: connected" in text

    run(main)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        -1,
        1 << 63,
        1e300,
        "\x1b[2J\n",
        b"\xff",
        [],
        [{}],
        [[]],
        {},
        {"dropped_x": "many"},
        {1: 2},
    ],
)
def test_a_report_of_another_form_is_told_as_far_as_it_is_one(
    site: Site, told: Told, wrong: object
) -> None:
    """A member of the store's group may have forged it, or another version written it."""
    machine = site.machine()
    peer = {"heard_at": 1, "host": "afar", "node": b"other", "left": False, "late_at": 0}
    fields = [
        "url",
        "pid",
        "began",
        "lag",
        "contact",
        "backlog",
        "counts",
        "lately",
        "rates",
        "peers",
    ]
    for some in ([], *([each] for each in fields), fields):
        content = {"state": "away", "peers": [peer], **dict.fromkeys(some, wrong)}
        packed = msgpack.packb({**content, "v": 1, "at": machine.engine.clock()})
        while machine.engine.pop(b"!!relay.report"):
            pass
        machine.engine.push([Record(b"!!relay.report", packed, 1 << 62, 2)])
        assert told.relays(machine)[0] == 1
        text = told(machine, "relays")[1]
        assert "no process of this machine relays" in text
        assert "\x1b" not in text
        assert ("afar" in text) == ("peers" not in some)
        assert told(machine, "metrics")[0] == 0


def test_list_names_a_relay_that_is_not_connected(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        machine, other = await site.joined(2)
        plain = site.machine(prefix="plain", relay=None)

        def listed(each: Machine, *words: str) -> str:
            capsys.readouterr()
            assert run_command(["list", "--directory", str(each.folder), *words]) == 0
            return capsys.readouterr().out

        def state(each: Machine) -> object:
            return json.loads(listed(each, "--json"))[0]["relay"]

        await eventually(lambda: state(machine) == "connected")
        assert "its relay" not in listed(machine)
        site.server.go_away()
        await eventually(lambda: state(machine) == "away")
        assert "site: its relay is 'away'; 'relays site' says why" in listed(machine)
        other.end()
        assert state(other) == "none"
        assert state(plain) is None

    run(main)


def test_a_relay_that_is_stopped_is_told_with_the_remedy(site: Site, told: Told) -> None:
    async def main() -> None:
        (machine,) = await site.joined(1)
        await eventually(lambda: told.relays(machine)[0] == 0)
        machine.reported_last(60)
        status, text = told(machine, "relays")
        assert status == 1
        assert f"'kill -CONT {os.getpid()}' continues it" in text

    run(main)


def test_messages_that_wait_for_the_server_are_told_by_drain(site: Site, told: Told) -> None:
    async def main() -> None:
        machine = site.machine()
        for _ in range(3):
            await machine.layer.group_send("room", {"type": "x"})
        status, text = told(machine, "drain", "--timeout", "0")
        assert status == 1
        assert "3 messages pending" in text
        assert "3 of them wait for the server, and 'relays' shows why" in text
        await machine.layer.send("work", {"type": "x"})
        assert (
            "'channels' shows where the others are" in told(machine, "drain", "--timeout", "0")[1]
        )
        status, text = told(machine, "drain", "--timeout", "0", "--json")
        about = json.loads(text)
        assert (about["pending"], about["on_the_way_out"]) == (4, 3)

    run(main)


def test_what_a_relay_leaves_in_the_store_is_no_membership_in_any_command(
    site: Site, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        (machine,) = await site.joined(1)
        await machine.member("room")
        await eventually(lambda: machine.hears("room"))
        run_command(["list", "--directory", str(machine.folder), "--json"])
        (about,) = json.loads(capsys.readouterr().out)
        assert about["memberships"] == 1
        (process,) = json.loads(told(machine, "processes", "--json")[1])
        assert process["waits_for"] == []
        machine.end()
        flushed = json.loads(told(machine, "flush", "--yes", "--force", "--json")[1])
        assert (flushed["messages"], flushed["memberships"]) == (0, 1)

    run(main)


def test_the_report_of_a_relay_is_not_pending(site: Site) -> None:
    machine = site.machine()
    machine.engine.push([Record(b"!!relay.report", b"x", 1 << 62, 2)])
    assert unread_in(machine.engine).total == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGHUP, 0), (signal.SIGTERM, 0), (signal.SIGINT, 130)]
)
def test_a_dedicated_relay_says_goodbye_whatever_signal_ends_it(
    site: Site, number: signal.Signals, status: int
) -> None:
    machine = site.machine(relay="memory://of-another-process")
    words = ["relay", "site", "--directory", str(machine.folder), "--relay"]
    command = [sys.executable, "-m", "asgi_ipc", *words, "memory://of-another-process"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:

        async def main() -> None:
            await eventually(lambda: machine.report().get("state") == "connected")
            child.send_signal(number)
            await eventually(lambda: child.poll() is not None)

        run(main)
        assert child.returncode == status
        assert machine.report()["state"] == "none"
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.communicate()
