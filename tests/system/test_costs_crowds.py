"""The opcodes of a message, and of waiting, in a process where many clients wait: as many with
thousands of them as with a few."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence

import pytest

from asgi_ipc import IPCChannelLayer
from tests.tools.costs import (
    MESSAGE,
    at_leisure,
    countable,
    engine,
    engine_options,
    layer,
    opcodes,
    other,
    settle,
)
from tests.tools.doubles import (
    run,
    watchdog,
)

__all__ = ["at_leisure", "engine", "engine_options", "layer", "other", "watchdog"]

pytestmark = [countable, pytest.mark.usefixtures("at_leisure")]

FEW, MANY = 20, 2_000
#: How much more among many than among few is still the same.
SAME = 1.1
#: Clients that a count is made for, evenly spread.
SAMPLE = 10


class Clients:
    """Receivers that wait, one for each channel, for one message after another."""

    def __init__(self, layer: IPCChannelLayer, channels: Sequence[str]) -> None:
        self.layer, self.channels = layer, channels
        self.received = 0

    async def _receive(self, channel: str) -> None:
        while True:
            await self.layer.receive(channel)
            self.received += 1

    async def __aenter__(self) -> Clients:
        self._tasks = [asyncio.create_task(self._receive(each)) for each in self.channels]
        await settle()
        for channel in self.channels:  # What lasts is made with the first message.
            await self.layer.send(channel, MESSAGE)
        await self.has_received(len(self.channels))
        return self

    async def has_received(self, number: int) -> None:
        """Wait until all clients together have received so many."""
        while self.received < number:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await settle()

    def some(self) -> Sequence[str]:
        """A few of the channels."""
        return self.channels[:: len(self.channels) // SAMPLE]

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def own(layer: IPCChannelLayer, number: int) -> list[str]:
    return [await layer.new_channel() for _ in range(number)]


def test_a_message_to_one_of_many_waiting_clients_costs_as_much_as_to_one_of_few(
    layer: IPCChannelLayer, other: IPCChannelLayer
) -> None:
    async def cost(number: int, sender: IPCChannelLayer) -> float:
        async with Clients(layer, await own(layer, number)) as clients:
            costs = []
            for channel in clients.some():
                due = clients.received + 1

                async def send_and_receive(channel: str = channel, due: int = due) -> None:
                    await sender.send(channel, MESSAGE)
                    await clients.has_received(due)

                costs.append(await opcodes(send_and_receive))
            return statistics.median(costs)

    async def main() -> None:
        for sender in (layer, other):
            few, many = await cost(FEW, sender), await cost(MANY, sender)
            assert many <= SAME * few, (few, many)

    run(main())


def test_sending_to_all_waiting_clients_from_one_coroutine_costs_as_much_for_each_of_many(
    layer: IPCChannelLayer,
) -> None:
    async def cost(number: int) -> float:
        async with Clients(layer, await own(layer, number)) as clients:
            due = clients.received + number

            async def send_to_all() -> None:
                for channel in clients.channels:
                    await layer.send(channel, MESSAGE)
                await clients.has_received(due)

            return await opcodes(send_to_all) / number

    async def main() -> None:
        few, many = await cost(FEW), await cost(MANY)
        assert many <= SAME * few, (few, many)

    run(main())


def test_a_signal_costs_as_much_among_many_ordinary_channels_as_among_few(
    layer: IPCChannelLayer, other: IPCChannelLayer
) -> None:
    async def cost(number: int) -> float:
        channels = [f"work.{number}.{each}" for each in range(number)]
        async with Clients(layer, channels) as clients:
            costs = []
            for channel in clients.some():
                due = clients.received + 1

                async def send_and_receive(channel: str = channel, due: int = due) -> None:
                    await other.send(channel, MESSAGE)
                    await clients.has_received(due)

                costs.append(await opcodes(send_and_receive))
            return statistics.median(costs)

    async def main() -> None:
        few, many = await cost(FEW), await cost(MANY)
        # Chains of the hash table of the store are longer and shorter.
        assert many <= 1.25 * few, (few, many)

    run(main())


@pytest.mark.parametrize("engine", ["posix"], indirect=True)
@pytest.mark.parametrize("kind", ["own", "ordinary"])
def test_waiting_itself_costs_no_more_for_very_many_clients_than_for_many(
    layer: IPCChannelLayer, kind: str
) -> None:
    """The regular look, which comes once a second, is what is left while nothing comes."""

    async def channels(number: int) -> list[str]:
        if kind == "own":
            return await own(layer, number)
        return [f"work.{number}.{each}" for each in range(number)]

    async def cost() -> int:
        # What the messages before have left to be swept is swept in the first.
        return min([await opcodes(lambda: asyncio.sleep(2.5)) for _ in range(3)])

    async def main() -> None:
        async with Clients(layer, await channels(3 * MANY)):
            many = await cost()
            async with Clients(layer, await channels(4 * MANY)):
                very_many = await cost()
        # Each look looks at a part of them.
        assert very_many <= 1.5 * many, (many, very_many)

    run(main())
