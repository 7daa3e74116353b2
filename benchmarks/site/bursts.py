"""Bursts that sites have: how many percent arrive, and how long until the last."""

from __future__ import annotations

import asyncio

from .clients import Crowd, join
from .counting import Tally
from .measures import Figures, Sizes
from .running import Site

#: A room of this many hears what one consumer has to say.
_LISTENERS = 10
_GAP = 0.01
_TEXTS, _TYPISTS = 40, 8


def _burst(tally: Tally) -> dict[str, float]:
    return {"percent": tally.percent, "until the last ms": tally.took * 1000, "twice": tally.twice}


async def everyone_at_once(site: Site, crowd: Crowd, sizes: Sizes) -> Figures:
    """Each client says one thing, all at once."""
    rooms, members = sizes.talkers
    clients = await crowd.open(rooms * members)
    for at in range(rooms):
        await join(clients[at::rooms], f"talk{at}")
    await asyncio.sleep(0.2)
    tally = crowd.count(len(clients), members)
    for at, (client, number) in enumerate(zip(clients, tally.numbers, strict=True)):
        client.order("say", room=f"talk{at % rooms}", number=number)
    await crowd.settle(tally)
    await crowd.close(clients)
    return {f"{len(clients)} clients at once, rooms of {members}": _burst(tally)}


async def one_consumer(site: Site, crowd: Crowd, sizes: Sizes) -> Figures:
    """A consumer makes many group_sends in a loop; then a plain thread does."""
    clients = await crowd.open(_LISTENERS)
    await join(clients, "flood")
    (speaker,) = await crowd.open(1)
    await asyncio.sleep(0.2)
    found: Figures = {}
    for do, who in (("flood", "a consumer"), ("flood_from_thread", "a plain thread")):
        tally = crowd.count(sizes.flood, _LISTENERS)
        first = tally.numbers.start
        answer = await speaker.ask(do, room="flood", first=first, count=sizes.flood)
        await crowd.settle(tally)
        variant = f"{who}: {sizes.flood} to a room of {_LISTENERS}"
        found[variant] = _burst(tally)
        if "each" in answer:
            found["calls from a plain thread"] = {"each µs": answer["each"] * 1e6}
    await crowd.close([*clients, speaker])
    return found


async def idle_sockets(site: Site, crowd: Crowd, sizes: Sizes) -> Figures:
    """One message to each of many channels, from another process where there is one."""
    clients = await crowd.open(sizes.idle, worker=0)
    channels = await join(clients, "idle")
    (speaker,) = await crowd.open(1, worker=len(site.ports) - 1 and 1)
    await asyncio.sleep(0.2)
    tally = crowd.count(sizes.idle, 1)
    answer = await speaker.ask("tell", channels=channels, first=tally.numbers.start)
    await crowd.settle(tally)
    await crowd.close([*clients, speaker])
    variant = f"one to each of {sizes.idle} idle sockets"
    return {variant: {**_burst(tally), "ChannelFull": answer["refused"]}}


async def typists(site: Site, crowd: Crowd, sizes: Sizes) -> Figures:
    """Some sockets of one room send texts, a few milliseconds apart."""
    clients = await crowd.open(_TYPISTS)
    await join(clients, "typists")
    await asyncio.sleep(0.2)
    tally = crowd.count(_TYPISTS * _TEXTS, _TYPISTS)

    async def send(at: int) -> None:
        for number in tally.numbers[at::_TYPISTS]:
            clients[at].order("say", room="typists", number=number)
            await asyncio.sleep(_GAP)

    await asyncio.gather(*map(send, range(_TYPISTS)))
    await crowd.settle(tally)
    await crowd.close(clients)
    return {f"{_TYPISTS} typists, {_TEXTS} texts each": _burst(tally)}


async def quiet_room(site: Site, crowd: Crowd, sizes: Sizes) -> Figures:
    """A room is flooded, its worker's loop blocks, and another room of that worker is quiet."""
    other = len(site.ports) - 1 and 1
    flooded = await crowd.open(_LISTENERS, worker=0)
    quiet = await crowd.open(_LISTENERS, worker=0)
    (blocker,) = await crowd.open(1, worker=0)
    flooder, speaker = await crowd.open(2, worker=other)
    await join(flooded, "flooded")
    await join(quiet, "quiet")
    await asyncio.sleep(0.2)
    count, many = max(10, sizes.flood // 10), sizes.flood * 4
    loud, tally = crowd.pass_over(many), crowd.count(count, _LISTENERS)
    soft = tally.numbers.start
    await asyncio.gather(
        blocker.ask("block", seconds=0.15, times=6),
        flooder.ask("flood", room="flooded", first=loud, count=many),
        speaker.ask("flood", room="quiet", first=soft, count=count, gap=0.02),
    )
    await crowd.settle(tally)
    await crowd.close([*flooded, *quiet, blocker, flooder, speaker])
    return {"a quiet room beside a flooded one": _burst(tally)}
