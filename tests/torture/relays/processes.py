"""What the processes of a machine do until they are killed, or told to stop by SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from typing import Any

from asgi_ipc import ChannelFull, IPCChannelLayer
from asgi_ipc.cli.main import main as command
from asgi_ipc.layers import candidate
from asgi_ipc.layers import options as layer_options
from tests.torture.ledgers import GOT, JOINED, SENT, TRIED, Ledger

from .places import (
    GROUPS,
    LOCAL,
    LOCAL_GROUP,
    OWN,
    PREFIX,
    SHARED,
    SHARED_CHANNEL,
    Setting,
    groups_of,
    is_steady,
    machine_of,
    steady,
)

_SIZES = (10, 10, 10, 200, 3_000)
#: Seconds between two looks for the files that tell what to do.
_LOOK = 0.05


def work(setting: Setting, me: int, role: str) -> None:
    """Be a process of a machine; ``me`` is a number that none had before.

    A ``site`` process may relay, and a ``steady`` one does not; a ``dedicated`` one does nothing
    else.
    """
    logging.basicConfig(
        filename=setting.log(me), level=logging.WARNING, format="%(levelname)s %(message)s"
    )
    if role == "dedicated":
        _relay(setting, machine_of(me))
        return
    layer_options.may_relay = role == "site"
    candidate.SERVES = 0.0
    asyncio.run(_Worker(setting, me).main())


def _relay(setting: Setting, machine: int) -> None:
    options = ["--relay", setting.urls[machine], "--relay-option", f"timeout={setting.timeout}"]
    if setting.shares:
        options += ["--relay-channel", "shared.*"]
    command(["relay", PREFIX, "--directory", str(setting.store(machine)), *options])


class _Worker:
    def __init__(self, setting: Setting, me: int) -> None:
        self.setting, self.me, self.machine = setting, me, machine_of(me)
        self.dice = random.Random(me)
        self.ledger = Ledger(setting.ledger(me))
        self.layer = IPCChannelLayer(**setting.options(self.machine))
        #: The channels of the steady processes, by their numbers.
        self.channels: dict[int, str] = {}

    async def main(self) -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        own = await self.layer.new_channel()
        for number, name in groups_of(self.me).items():
            await self.layer.group_add(name, own)
            self.ledger.note(JOINED, number, self.me, 0)
        part = self.setting.name(self.me).with_suffix(".part")
        part.write_text(own)
        part.rename(self.setting.name(self.me))
        work = [self.receive(own, OWN + self.me), self.send()]
        if is_steady(self.me):
            work.append(self.receive("local", LOCAL + self.machine))
            if self.setting.shares:
                work += [
                    self.receive(f"shared.{number}", SHARED_CHANNEL + number)
                    for number in range(SHARED)
                ]
        tasks = [asyncio.create_task(each) for each in work]
        ends = asyncio.create_task(stop.wait())
        await asyncio.wait([*tasks, ends], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.layer.close()

    async def receive(self, channel: str, where: int) -> None:
        while True:
            message = await self.layer.receive(channel)
            self.ledger.note(GOT, where, message["s"], message["n"])

    async def send(self) -> None:
        while not self.setting.begun.exists():  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        self.channels = {each: self.setting.name(each).read_text() for each in steady()}
        number = 0
        while not self.setting.quiet.exists():
            where = self.somewhere()
            number += 1
            self.ledger.note(TRIED, where, self.me, number)
            if await self.sent(where, number):
                self.ledger.note(SENT, where, self.me, number)
            await asyncio.sleep(self.dice.expovariate(1 / self.setting.pause))
        await asyncio.Event().wait()

    def somewhere(self) -> int:
        """Draw a place to send to."""
        kind = self.dice.random()
        if kind < 0.35:
            return self.dice.randrange(GROUPS)
        if kind < 0.65:
            return OWN + self.dice.choice(steady())
        if kind < 0.75:
            return LOCAL_GROUP + self.machine
        if kind < 0.85 or not self.setting.shares:
            return LOCAL + self.machine
        return SHARED_CHANNEL + self.dice.randrange(SHARED)

    async def sent(self, where: int, number: int) -> bool:
        """Send a message; return whether it was taken."""
        message: dict[str, Any] = {"s": self.me, "n": number, "x": bytes(self.dice.choice(_SIZES))}
        if where >= OWN:
            await self.layer.send(self.channels[where - OWN], message)
        elif where < LOCAL:
            group = groups_of(self.me)[where]
            await self.layer.group_send(group, message)
        else:
            channel = "local" if where < SHARED_CHANNEL else f"shared.{where - SHARED_CHANNEL}"
            try:
                await self.layer.send(channel, message)
            except ChannelFull:
                return False
        return True
