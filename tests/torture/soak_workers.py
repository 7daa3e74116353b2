"""What the processes of a soak do until they are killed, or told to stop by SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from asgi_ipc import ChannelFull, IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.delivery import demultiplexer

from .ledgers import (
    ANSWER,
    CHANNELS,
    GOT,
    GROUPS,
    JOINED,
    LEFT,
    QUIET,
    SENT,
    TRIED,
    Ledger,
)

#: Seconds that messages to groups live.
FORGOTTEN = 6
#: Seconds after which the quiet pair looks by itself: in no soak. A signal that is lost stops
#: it for good, and can't be taken for one that was late.
NEVER = 1_000_000.0
_SIZES = (10, 10, 10, 200, 3_000, 20_000)


class Setting(NamedTuple):
    """What all processes of a soak share."""

    folder: Path
    options: dict[str, Any]


class Part(NamedTuple):
    """What a process is started for: a method of `Worker`, and the channels that it reads."""

    role: str
    reads: tuple[int, ...] = ()

    @property
    def receives(self) -> tuple[frozenset[int], ...]:
        """The channels of each receive that it has running at a time."""
        if self.role == "consume_async":
            return tuple(frozenset([where]) for where in self.reads)
        return (frozenset(self.reads),) if self.reads else ()


#: Who is killed is replaced by one of the same part. So each channel has readers of both
#: kinds at any time, and producers never wait for one that nobody reads.
KILLABLE = (
    Part("produce"),
    Part("produce"),
    Part("produce_async"),
    Part("consume", (0, 1, 2)),
    Part("consume", (3, 4, 5)),
    Part("consume_async", (0, 2, 4)),
    Part("consume_async", (1, 3, 5)),
    Part("group_send"),
    Part("come_and_go"),
)
#: The quiet pair: never killed, never stopped.
PAIR = (Part("knock"), Part("listen"))
STEADY = (Part("stay"), *PAIR)


def _message(producer: int, number: int, dice: random.Random) -> dict[str, Any]:
    return {"p": producer, "n": number, "x": bytes(dice.choice(_SIZES))}


class Worker:
    """One process; ``me`` is a number that none had before."""

    def __init__(self, setting: Setting, me: int, reads: tuple[int, ...]) -> None:
        self.setting = setting
        self.me = me
        self.dice = random.Random(me)
        self.reads = self.dice.sample(reads, len(reads))
        self.ledger = Ledger(setting.folder / f"{me}.ledger")
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def layer(self) -> IPCChannelLayer:
        return IPCChannelLayer(**self.setting.options)

    def sync_layer(self) -> SyncIPCChannelLayer:
        return SyncIPCChannelLayer(**self.setting.options)

    def numbers(self) -> Iterator[int]:
        """0, 1, 2 and so on until it is told to stop."""
        number = 0
        while not self.stopping:
            yield number
            number += 1

    # Producers.

    def produce(self) -> None:
        layer = self.sync_layer()
        for number in self.numbers():
            where = self.dice.randrange(CHANNELS)
            self.ledger.note(TRIED, where, self.me, number)
            while not self.stopping:
                try:
                    layer.send(f"channel{where}", _message(self.me, number, self.dice))
                    self.ledger.note(SENT, where, self.me, number)
                    break
                except ChannelFull:
                    time.sleep(0.002)
            if self.dice.random() < 0.1:
                time.sleep(self.dice.uniform(0, 0.005))

    def produce_async(self) -> None:
        asyncio.run(self._produce_async())

    async def _produce_async(self) -> None:
        layer = self.layer()
        for number in self.numbers():
            where = self.dice.randrange(CHANNELS)
            self.ledger.note(TRIED, where, self.me, number)
            while not self.stopping:
                try:
                    await layer.send(f"channel{where}", _message(self.me, number, self.dice))
                    self.ledger.note(SENT, where, self.me, number)
                    break
                except ChannelFull:
                    await asyncio.sleep(0.002)
            if self.dice.random() < 0.1:
                await asyncio.sleep(self.dice.uniform(0, 0.005))

    # Consumers of ordinary channels. They note nothing but what they got.

    def consume(self) -> None:
        layer = self.sync_layer()
        names = [f"channel{where}" for where in self.reads]
        while not self.stopping:
            name, message = layer.receive(names, block=True, timeout=self.dice.uniform(0, 0.3))
            if name is not None and message is not None:
                self.ledger.note(GOT, int(name[7:]), message["p"], message["n"])

    def consume_async(self) -> None:
        asyncio.run(self._consume_async())

    async def _consume_async(self) -> None:
        layer = self.layer()

        async def consume(where: int, patient: bool) -> None:
            while not self.stopping:
                timeout = 0.5 if patient else self.dice.uniform(0, 0.01)
                try:
                    message = await asyncio.wait_for(layer.receive(f"channel{where}"), timeout)
                except asyncio.TimeoutError:
                    continue
                self.ledger.note(GOT, where, message["p"], message["n"])

        await asyncio.gather(*(consume(n, index > 0) for index, n in enumerate(self.reads)))

    # Groups.

    def group_send(self) -> None:
        # Sent to a member that has just been forgotten, a message stays until it expires.
        layer = SyncIPCChannelLayer(**{**self.setting.options, "expiry": FORGOTTEN})
        for number in self.numbers():
            where = self.dice.randrange(GROUPS)
            self.ledger.note(TRIED, CHANNELS + where, self.me, number)
            layer.send_group(f"group{where}", _message(self.me, number, self.dice))
            self.ledger.note(SENT, CHANNELS + where, self.me, number)
            time.sleep(self.dice.uniform(0, 0.01))

    def stay(self) -> None:
        """A steady member: joins all groups, and leaves when told to stop."""
        asyncio.run(self._member(steady=True))

    def come_and_go(self) -> None:
        asyncio.run(self._member(steady=False))

    async def _member(self, steady: bool) -> None:
        layer = self.layer()

        async def member(where: int) -> None:
            while not self.stopping:
                name = await layer.new_channel()
                await layer.group_add(f"group{where}", name)
                (self.setting.folder / f"{self.me}.prefix").write_text(layer.client_prefix)
                self.ledger.note(JOINED, CHANNELS + where, self.me, 0)
                until = time.monotonic() + (1e9 if steady else self.dice.uniform(0, 0.2))
                while time.monotonic() < until and not self.stopping:
                    with contextlib.suppress(asyncio.TimeoutError):
                        message = await asyncio.wait_for(layer.receive(name), 0.1)
                        self.ledger.note(GOT, CHANNELS + where, message["p"], message["n"])
                if steady:
                    # What was sent before the end is there by now.
                    with contextlib.suppress(asyncio.TimeoutError):
                        while True:
                            message = await asyncio.wait_for(layer.receive(name), 1.5)
                            self.ledger.note(GOT, CHANNELS + where, message["p"], message["n"])
                self.ledger.note(LEFT, CHANNELS + where, self.me, 0)
                await layer.group_discard(f"group{where}", name)

        await asyncio.gather(*(member(where) for where in range(GROUPS)))

    # The quiet pair. Each waits for the other and sends nothing meanwhile, so nothing but
    # the signal that it is owed wakes it. Pauses on both sides let the other fall asleep.

    def knock(self) -> None:
        demultiplexer.LOOK_AGAIN = NEVER
        layer = self.sync_layer()
        _, hello = layer.receive(["answer"], block=True)
        assert hello is not None
        for number in self.numbers():
            self.ledger.note(SENT, QUIET, self.me, number)
            layer.send(self.dice.choice(("quiet", hello["own"])), {"p": self.me, "n": number})
            _, message = layer.receive(["answer"], block=True)
            assert message is not None
            self.ledger.note(GOT, ANSWER, message["p"], message["n"])
            time.sleep(self._pause())
        for name in ("quiet", hello["own"]):
            layer.send(name, {"p": self.me, "n": None})

    def listen(self) -> None:
        demultiplexer.LOOK_AGAIN = NEVER
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        layer = self.layer()
        own = await layer.new_channel()

        async def answer(name: str) -> None:
            while True:
                message = await layer.receive(name)
                number = message["n"]
                if number is None:
                    return
                self.ledger.note(GOT, QUIET, message["p"], number)
                await asyncio.sleep(self._pause())
                self.ledger.note(SENT, ANSWER, self.me, number)
                await layer.send("answer", {"p": self.me, "n": number})

        await layer.send("answer", {"own": own})
        await asyncio.gather(answer("quiet"), answer(own))

    def _pause(self) -> float:
        return self.dice.choice((0.0, 0.001, 0.01, 0.1)) * self.dice.random()
