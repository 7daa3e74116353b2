"""How a queue of the torture gets a ring, and what may be in it and beside it."""

from __future__ import annotations

from collections.abc import Callable

from asgi_ipc.engines.base import Popped
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.queues.linked_list import head
from asgi_ipc.engines.shm.queues.ring_extents import HOT

from .world import SECOND, Finding, World


def restore(payload: bytes) -> Callable[[World], object]:
    """Put a record back to the queue with the ring."""
    return lambda world: world.engine.restore(b"ring", Popped(payload, world.now + SECOND))


def ringed(world: World) -> None:
    """A queue has a ring, and three records in it."""
    before_ring(world)
    world.engine.pop(b"ring", HOT)
    world.push(b"ring", b"l1", b"l2", b"l3")
    expect_ring(world)


def before_ring(world: World) -> None:
    """To read from a queue gives it a ring; when it was pushed to there was none."""
    world.give_no_rings()
    world.push(b"ring", *[b"%d" % number for number in range(HOT)])
    allow_one_ring(world)


def allow_one_ring(world: World) -> None:
    """There is room for one ring of one extent, and for a spare extent beside it."""
    rings = world.engine._queues._rings
    rings._most = rings._most_unread = 1
    rings._most_large = 0
    while world.engine._channels.words[layout.FREE_EXTENTS] < 2:
        world.engine._channels.heap._grow()


def before_push_gives_ring(world: World) -> None:
    """The next record that is pushed to a queue gives it a ring."""
    allow_one_ring(world)
    world.push(b"ring", *[b"%d" % number for number in range(HOT - 1)])


def ring_and_list(world: World) -> None:
    """A ring that nothing left yet, and a list, of which every push moves some to it."""
    before_push_gives_ring(world)
    world.push(b"ring", b"gives it")
    if not listed(world):
        raise Finding("something should be in the list")


def expect_ring(world: World, name: bytes = b"ring") -> int:
    """The address of a queue that has a ring, to be sure of it."""
    with world.engine._channels as heap:
        address = world.engine._queues.find(name)
        if not heap.words[address + layout.Q_RING_IN]:
            raise Finding("there should be a ring")
        return address


def listed(world: World, which: int = layout.BEHIND_SHIFT) -> int:
    """The first message of one of the lists beside the ring, or 0."""
    return head(world.engine._channels.words, expect_ring(world), which)


def ringed_and_waited_for(world: World) -> None:
    """A queue has an empty ring, and a waiter or two."""
    ringed(world)
    world.engine.pop(b"ring", 4, world.bells[0])


def in_a_ring_and_waited_for_twice(world: World) -> None:
    """The same with a second waiter."""
    ringed_and_waited_for(world)
    world.engine.pop(b"ring", 4, world.bells[1])


def before_the_end_of_a_ring(world: World) -> None:
    """The next record does not fit between the newest of a ring and its end."""
    ringed(world)
    engine, words = world.engine, world.engine._channels.words
    address = expect_ring(world)
    end = words[address + layout.Q_RING_IN] + engine._channels.heap.geometry.extent_words
    while end - (words[address + layout.Q_IN] & layout.OFFSET_MASK) > 130:
        engine.pop(b"ring", 1)
        world.push(b"ring", bytes(900))
    engine.pop(b"ring", 1)
    world.push(b"ring", b"last")


def full_ring(world: World) -> None:
    """What comes next is too much for the ring, and goes to the list."""
    ringed(world)
    while not listed(world):
        world.push(b"ring", bytes(1_500))
    world.push(b"ring", b"listed")


def old_in_a_ring(world: World) -> None:
    """In a ring, one of five lives."""
    ringed(world)
    world.engine.pop(b"ring", 3)
    world.push(b"ring", b"x1", b"x2", lifetime=100)
    world.push(b"ring", b"live")
    world.push(b"ring", b"x3", b"x4", lifetime=100)
    world.now += 200


def full_in_front(world: World) -> None:
    """A ring has records up to where one was just taken from."""
    full_ring(world)
    world.engine.pop(b"ring", 4)
    while listed(world):
        world.engine.pop(b"ring", 1)
    # Now it goes round, and is filled up to its oldest.
    while not listed(world):
        world.push(b"ring", bytes(700))


def own_ring(world: World) -> None:
    """A ring that goes with this process."""
    ringed(world)
    world.engine._channels.words[expect_ring(world) + layout.Q_OWNER] = (
        world.engine._processes.owner_word(world.identity)
    )


def empty_ring(world: World) -> None:
    """A ring that nobody has used for a while."""
    ringed(world)
    world.engine.pop(b"ring", 3)


def allow_long_rings(world: World) -> None:
    """There is room for more extents."""
    world.engine._queues._rings._most_large = 1000
    while world.engine._channels.words[layout.FREE_EXTENTS] < 4:
        world.engine._channels.heap._grow()


def may_be_long(world: World) -> None:
    """A queue has a ring that nothing keeps from getting more extents."""
    ringed(world)
    allow_long_rings(world)


def lengthen(world: World, count: int, lifetime: int = 10**13) -> None:
    """Push until a ring has so many extents."""
    words = world.engine._channels.words
    while words[layout.BACKLOG] < count - 1:
        world.push(b"ring", bytes(1_900), lifetime=lifetime)
    if listed(world):
        raise Finding("nothing should be in the list")


def before_lengthening(world: World) -> None:
    """The next record does not fit into the one extent of a ring."""
    may_be_long(world)
    address, words = expect_ring(world), world.engine._channels.words
    end = words[address + layout.Q_RING_IN] + world.engine._channels.heap.geometry.extent_words
    while end - (words[address + layout.Q_IN] & layout.OFFSET_MASK) > 250:
        world.push(b"ring", bytes(1_900))


def long_ring(world: World) -> None:
    """A ring has three extents."""
    may_be_long(world)
    lengthen(world, 3)


def before_leaving(world: World) -> None:
    """With the next record the first extent of a ring is read."""
    long_ring(world)
    address, words = expect_ring(world), world.engine._channels.words
    stop = words[words[address + layout.Q_RING_OUT] + layout.L_STOP]
    while stop - (words[address + layout.Q_OUT] & layout.OFFSET_MASK) > 250:
        world.engine.pop(b"ring")


def old_long_ring(world: World) -> None:
    """In a ring of three extents only the last record lives."""
    may_be_long(world)
    world.engine.pop(b"ring", 3)
    lengthen(world, 3, lifetime=100)
    world.push(b"ring", b"live")
    world.now += 200


def dead_long_ring(world: World) -> None:
    """The one record of a long ring that lived is gone, and the expired behind it are left."""
    may_be_long(world)
    world.engine.pop(b"ring", 3)
    world.push(b"ring", b"lives", lifetime=300)
    lengthen(world, 3, lifetime=100)
    world.now += 200
    world.engine.statistics(b"ring")
    world.engine.pop(b"ring")


def long_without_room_in_front(world: World) -> None:
    """A long ring, and no room in front of its oldest record."""
    may_be_long(world)
    lengthen(world, 2)


def put_back(world: World) -> None:
    """Three records before those of a ring, and a list behind it."""
    ring_and_list(world)
    for payload in (b"back 3", b"back 2", b"back 1"):
        restore(payload)(world)
    if not listed(world, layout.FRONT_SHIFT) or not listed(world):
        raise Finding("something should be in both lists")


def old_put_back(world: World) -> None:
    """Of three before those of a ring the first and the last have expired."""
    ring_and_list(world)
    for lifetime in (100, SECOND, 100):
        world.engine.restore(b"ring", Popped(b"back", world.now + lifetime))
    world.now += 200


def own_put_back(world: World) -> None:
    """The same, and they go with this process."""
    own_ring(world)
    world.engine.pop(b"ring", 9)
    for _ in range(2):
        restore(bytes(17_000))(world)


def own_long_ring(world: World) -> None:
    """A long ring that goes with this process."""
    own_ring(world)
    allow_long_rings(world)
    lengthen(world, 2)
