"""What is asked of a running site; each function measures one thing and cleans up its clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ..measure import latencies
from .clients import Client, Crowd, join
from .counting import Tally
from .running import Site

#: Figures by variant and then by the name of a number, which ends in its unit.
Figures = dict[str, dict[str, float]]
Measure = Callable[[Site, Crowd, "Sizes"], Awaitable[Figures]]


#: More messages than any throughput can need.
_ENDLESS = 10**9


class Sizes:
    """How much is asked: enough to measure, or so little that it only shows whether it works."""

    def __init__(self, quick: bool) -> None:
        self.clients = 60 if quick else 2_000
        self.seconds = 0.4 if quick else 2.0
        #: Members of a room, and messages to it in a second: a quiet site, and one near the most
        #: deliveries that two workers carry, where whatever a layer costs makes others wait.
        self.rooms: tuple[tuple[int, int], ...] = ((10, 20), (20, 10))
        if not quick:
            self.rooms = ((10, 100), (100, 10), (500, 2), (10, 900), (100, 90), (500, 18))
        #: Rooms, and members of each, for the throughput.
        self.crowd = (4, 5) if quick else (20, 25)
        self.talkers = (10, 5) if quick else (50, 10)
        self.flood = 50 if quick else 500
        self.idle = 20 if quick else 300
        self.asks = 10 if quick else 200


async def storm(site: Site, crowd: Crowd, sizes: Sizes) -> Figures:
    """All clients connect and join at once; and what each takes of memory."""
    before, began, spent = site.memory(), time.monotonic(), site.cpu()
    clients = await crowd.open(sizes.clients)
    await asyncio.gather(
        *(join(clients[at::100], f"storm{at}") for at in range(min(100, len(clients))))
    )
    took, spent = time.monotonic() - began, site.cpu() - spent
    await asyncio.sleep(0.3)
    memory = (site.memory() - before) / len(clients)
    await crowd.close(clients)
    return {
        f"{sizes.clients:,} clients": {
            "all joined s": took,
            "CPU s": spent,
            "a connection kB": memory / 1000,
        }
    }


async def latency(site: Site, crowd: Crowd, sizes: Sizes) -> Figures:
    """Messages at a fixed rate to a room: how long until each member has each."""
    found: Figures = {}
    for members, rate in sizes.rooms:
        room = f"fixed{members}"
        clients = await crowd.open(members)
        await join(clients, room)
        await asyncio.sleep(0.2)
        count = max(2, round(rate * sizes.seconds))
        spent, tally = site.cpu(), crowd.count(count, members)
        for at, number in enumerate(tally.numbers, 1):
            clients[number % members].order("say", room=room, number=number)
            # Not later because a turn was late: the rate is what is fixed.
            await asyncio.sleep(max(0.0, tally.began + at / rate - time.monotonic()))
        await crowd.settle(tally)
        spent = site.cpu() - spent
        found[f"{rate}/s to {members}"] = {
            **_quantiles(tally),
            "CPU s/10,000": spent / max(1, tally.arrived) * 10_000,
            **_faults(tally),
        }
        await crowd.close(clients)
    return found


def _quantiles(tally: Tally) -> dict[str, float]:
    if not tally.latencies:
        return {}
    told = latencies(tally.latencies)
    return {"p50 ms": told["p50"] * 1000, "p99 ms": told["p99"] * 1000}


def _faults(tally: Tally) -> dict[str, float]:
    return {"not come": tally.missing, "twice": tally.twice}


async def throughput(site: Site, crowd: Crowd, sizes: Sizes) -> Figures:
    """As many as can be without loss: a room's next message is said when all have the last.

    Each room has two under way, so that no worker waits for a room's last member. A room whose
    message does not come to all falls silent, so a layer that loses has fewer deliveries too.
    """
    rooms, members = sizes.crowd
    clients = await crowd.open(rooms * members)
    groups = [clients[at::rooms] for at in range(rooms)]
    for at, group in enumerate(groups):
        await join(group, f"busy{at}")
    waiting: dict[int, tuple[int, list[Client], int]] = {}
    ending = False
    tally = crowd.count(_ENDLESS, 0)
    numbers = iter(tally.numbers)

    def say(at: int, group: list[Client]) -> None:
        number = next(numbers)
        waiting[number] = (at, group, members)
        tally.expected += members
        group[number % members].order("say", room=f"busy{at}", number=number)

    def heard(number: int) -> None:
        if number not in waiting:
            return
        at, group, left = waiting.pop(number)
        if left > 1:
            waiting[number] = (at, group, left - 1)
        elif not ending:
            say(at, group)

    spent, began, own = site.cpu(), time.monotonic(), time.process_time()
    crowd.heard = heard
    for at, group in enumerate(groups):
        say(at, group)
        say(at, group)
    await asyncio.sleep(sizes.seconds)
    deliveries, ending = tally.arrived, True
    took, spent = time.monotonic() - began, site.cpu() - spent
    own = time.process_time() - own
    await crowd.settle(tally)
    crowd.heard = None
    await crowd.close(clients)
    return {
        f"{rooms} rooms of {members}": {
            "deliveries/s": deliveries / took,
            "CPU s/10,000": spent / max(1, deliveries) * 10_000,
            "load generator % of a core": 100 * own / took,
            **_faults(tally),
        }
    }


async def worker(site: Site, crowd: Crowd, sizes: Sizes) -> Figures:
    """To a process of `runworker` and back: one after the other."""
    (client,) = await crowd.open(1)
    come, tally = asyncio.Event(), crowd.count(sizes.asks, 1)
    crowd.heard = lambda number: come.set()
    for number in tally.numbers:
        come.clear()
        client.order("work", number=number)
        try:
            await asyncio.wait_for(come.wait(), 2.0)
        except asyncio.TimeoutError:
            break
    crowd.heard = None
    await crowd.close([client])
    return {"": {**_quantiles(tally), **_faults(tally)}}
