"""Machines of real processes, joined by a real server; relays that are killed; the commands."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi_ipc.conformance.wires.servers import Nats, Redis, Server, Valkey

from tests.tools import site_process
from tests.tools.machines import ENOUGH, Machine, eventually, join, received, run


@pytest.fixture
def redis() -> Iterator[Redis]:
    if Redis.missing():
        pytest.skip(str(Redis.missing()))
    server = Redis()
    yield server
    server.end()


@pytest.mark.parametrize("kind", [Redis, Nats, Valkey])
def test_machines_talk_over_each_server_and_after_its_restart(
    kind: type[Server], tmp_path: Path
) -> None:
    if kind.missing():
        pytest.skip(str(kind.missing()))

    async def main() -> None:
        server = kind()
        one, two = (Machine(tmp_path / name, server.url) for name in ("one", "two"))
        try:
            await join(one, two)
            channel = await two.member("room")
            for number in range(200):
                await one.layer.group_send("room", {"n": number})
            assert await received(two.layer, channel, 199) == list(range(200))
            server.stop()
            await eventually(lambda: one.relay_now.state == "away")
            await eventually(lambda: two.relay_now.state == "away")
            await one.layer.group_send("room", {"n": "waits"})
            server.start()
            assert await received(two.layer, channel) == ["waits"]
            await one.layer.flush()
            assert await two.layer.group_channels("room") == []
            assert two.count("gaps") == 0
        finally:
            one.layer.sync.destroy()
            two.layer.sync.destroy()
            server.end()

    run(main)


class Processes:
    """Processes of one machine, and what they have received."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self._url = folder, url
        folder.mkdir()
        self.received: dict[str, list[str]] = {}
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._reading: list[asyncio.Task[None]] = []

    async def start(self, name: str) -> None:
        """Start one that is a member of the group, and wait until it is."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            site_process.__file__,
            str(self.folder),
            self._url,
            name,
            stdout=subprocess.PIPE,
        )
        self._running[name] = process
        self.received[name] = []
        self._reading.append(asyncio.create_task(self._read(name, process)))
        await eventually(lambda: self.received[name])
        assert self.received[name].pop(0) == "ready"

    async def _read(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.received[name].append(line.split()[1].decode())

    def kill(self, pid: int) -> None:
        """Kill one with SIGKILL."""
        (process,) = (each for each in self._running.values() if each.pid == pid)
        process.kill()

    def last(self) -> str:
        """Return the name of the only one that still runs."""
        (name,) = (name for name, each in self._running.items() if each.returncode is None)
        return name

    async def end(self) -> None:
        """Kill all."""
        for process in self._running.values():
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asyncio.gather(*self._reading)


async def relay_of(machine: Machine) -> dict[str, Any]:
    """Wait until a machine's relay is connected, and return its report."""
    await eventually(lambda: machine.report().get("state") == "connected")
    return machine.report()


def test_a_relay_that_is_killed_is_replaced_and_nothing_comes_twice_or_stays(
    redis: Redis, tmp_path: Path
) -> None:
    """Messages between processes of one machine are not affected at all."""

    async def main() -> None:
        near = Machine(tmp_path / "near", redis.url)
        near.begin()
        far = Processes(tmp_path / "far", redis.url)
        # Looks at the store, and does not relay: no receiver waits in this process.
        watch = Machine(tmp_path / "watch", redis.url, **_of(far.folder))
        try:
            for name in "ab":
                await far.start(name)
            pid = (await relay_of(watch))["pid"]
            await eventually(lambda: near.knows(watch))
            sent = 400
            for number in range(sent):
                if number == sent // 2:
                    far.kill(pid)
                await near.layer.group_send("room", {"n": number})
                await asyncio.sleep(0.001)
            await eventually(lambda: watch.report().get("pid") != pid)
            await relay_of(watch)
            await near.layer.group_send("room", {"n": "end"})
            last = far.last()
            await eventually(lambda: "end" in far.received[last])
            numbers = [int(n) for n in far.received[last][:-1]]
            assert numbers == sorted(set(numbers))
            assert len(numbers) >= 200, "all but those around the kills"
            lost = sent - len(numbers)
            # With the next beat and report; what a relay had not written down counts as well.
            await eventually(lambda: watch.report()["counts"]["gaps"] >= lost)
        finally:
            await far.end()
            near.layer.sync.destroy()
            watch.layer.sync.destroy()

    run(main)


def _of(folder: Path) -> dict[str, Any]:
    return {"engine_options": {"directory": str(folder)}}


def asgi_ipc(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "asgi_ipc", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(folder: Path, *more: str) -> tuple[int, str]:
    """What `asgi-ipc relays` says."""
    process = asgi_ipc("relays", "site", "--directory", str(folder), *more)
    out, err = process.communicate(timeout=ENOUGH)
    assert err == ""
    return process.returncode, out


def test_the_command_relay_takes_precedence_and_relays_tells(redis: Redis, tmp_path: Path) -> None:
    async def main() -> None:
        one, two = (Machine(tmp_path / name, redis.url) for name in ("one", "two"))
        one.begin()
        two.begin()
        await eventually(lambda: one.knows(two) and two.knows(one))
        folder = tmp_path / "two"
        relay = asgi_ipc(
            "relay", "site", "--directory", str(folder), "--relay", redis.url,
            "--relay-option", "timeout=4",
        )  # fmt: skip
        try:
            await eventually(lambda: two.report().get("dedicated") is True)
            assert two.relay is not None
            await eventually(lambda: not two.relay.is_alive())  # type: ignore[union-attr]
            assert (await relay_of(two))["pid"] == relay.pid
            channel = await two.layer.new_channel()
            await two.layer.group_add("room", channel)
            await eventually(lambda: two.report()["shards"] == 1)
            await one.layer.group_send("room", {"n": 1})
            assert await asyncio.wait_for(two.layer.receive(channel), ENOUGH) == {"n": 1}
            status, text = await asyncio.to_thread(told, folder)
            assert status == 0
            for part in ("connected", redis.url, "a process of its own", one.node.hex(), "gaps"):
                assert part in text
            about = json.loads((await asyncio.to_thread(told, folder, "--json"))[1])
            assert about["pid"] == relay.pid
            assert [each["node"] for each in about["machines"]] == [one.node.hex()]
            # Another one is refused.
            other = asgi_ipc("relay", "site", "--directory", str(folder), "--relay", redis.url)
            _, err = await asyncio.to_thread(other.communicate, timeout=ENOUGH)
            assert other.returncode == 2
            assert "another process is the dedicated relay" in err
            relay.send_signal(signal.SIGTERM)
            _, err = await asyncio.to_thread(relay.communicate, timeout=ENOUGH)
            said = [line.rpartition("/")[2].partition(": ")[2] for line in err.splitlines()[1:]]
            assert relay.returncode == 0
            assert said == ["connected", "this process relays no more"], err
            two.begin()
            await relay_of(two)
        finally:
            relay.kill()
            relay.communicate()
            one.layer.sync.destroy()
            two.layer.sync.destroy()

    run(main)
