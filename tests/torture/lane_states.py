"""How a queue of the torture gets a lane, and what may be in it and beside it."""

from __future__ import annotations

from collections.abc import Callable

from asgi_ipc.engines.base import Popped
from asgi_ipc.store import layout
from asgi_ipc.store.lane_extents import HOT
from asgi_ipc.store.lists import head

from .world import SECOND, Finding, World


def restore(payload: bytes) -> Callable[[World], object]:
    """Put a record back to the queue with the lane."""
    return lambda world: world.engine.restore(b"lane", Popped(payload, world.now + SECOND))


def laned(world: World) -> None:
    """A queue has a lane, and three records in it."""
    before_lane(world)
    world.engine.pop(b"lane", HOT)
    world.push(b"lane", b"l1", b"l2", b"l3")
    expect_lane(world)


def before_lane(world: World) -> None:
    """To read from a queue gives it a lane; when it was pushed to there was none."""
    world.give_no_lanes()
    world.push(b"lane", *[b"%d" % number for number in range(HOT)])
    allow_one_lane(world)


def allow_one_lane(world: World) -> None:
    """There is room for one lane of one extent, and for a spare extent beside it."""
    lanes = world.engine._queues._lanes
    lanes._most = lanes._most_unread = 1
    lanes._most_large = 0
    while world.engine._channels.words[layout.FREE_EXTENTS] < 2:
        world.engine._channels.heap._grow()


def before_push_gives_lane(world: World) -> None:
    """The next record that is pushed to a queue gives it a lane."""
    allow_one_lane(world)
    world.push(b"lane", *[b"%d" % number for number in range(HOT - 1)])


def lane_and_list(world: World) -> None:
    """A lane that nothing left yet, and a list, of which every push moves some to it."""
    before_push_gives_lane(world)
    world.push(b"lane", b"gives it")
    if not listed(world):
        raise Finding("something should be in the list")


def expect_lane(world: World, name: bytes = b"lane") -> int:
    """The address of a queue that has a lane, to be sure of it."""
    with world.engine._channels as heap:
        address = world.engine._queues.find(name)
        if not heap.words[address + layout.Q_LANE_IN]:
            raise Finding("there should be a lane")
        return address


def listed(world: World, which: int = layout.BEHIND_SHIFT) -> int:
    """The first message of one of the lists beside the lane, or 0."""
    return head(world.engine._channels.words, expect_lane(world), which)


def laned_and_waited_for(world: World) -> None:
    """A queue has an empty lane, and a waiter or two."""
    laned(world)
    world.engine.pop(b"lane", 4, world.bells[0])


def laned_and_waited_for_twice(world: World) -> None:
    """The same with a second waiter."""
    laned_and_waited_for(world)
    world.engine.pop(b"lane", 4, world.bells[1])


def before_the_end_of_a_lane(world: World) -> None:
    """The next record does not fit between the newest of a lane and its end."""
    laned(world)
    engine, words = world.engine, world.engine._channels.words
    address = expect_lane(world)
    end = words[address + layout.Q_LANE_IN] + engine._channels.heap.geometry.extent_words
    while end - (words[address + layout.Q_IN] & layout.PLACE_MASK) > 130:
        engine.pop(b"lane", 1)
        world.push(b"lane", bytes(900))
    engine.pop(b"lane", 1)
    world.push(b"lane", b"last")


def full_lane(world: World) -> None:
    """What comes next is too much for the lane, and goes to the list."""
    laned(world)
    while not listed(world):
        world.push(b"lane", bytes(1_500))
    world.push(b"lane", b"listed")


def old_in_a_lane(world: World) -> None:
    """In a lane, one of five lives."""
    laned(world)
    world.engine.pop(b"lane", 3)
    world.push(b"lane", b"x1", b"x2", lifetime=100)
    world.push(b"lane", b"live")
    world.push(b"lane", b"x3", b"x4", lifetime=100)
    world.now += 200


def full_in_front(world: World) -> None:
    """A lane has records up to where one was just taken from."""
    full_lane(world)
    world.engine.pop(b"lane", 4)
    while listed(world):
        world.engine.pop(b"lane", 1)
    # Now it goes round, and is filled up to its oldest.
    while not listed(world):
        world.push(b"lane", bytes(700))


def own_lane(world: World) -> None:
    """A lane that goes with this process."""
    laned(world)
    world.engine._channels.words[expect_lane(world) + layout.Q_OWNER] = (
        world.engine._processes.owner_word(world.identity)
    )


def empty_lane(world: World) -> None:
    """A lane that nobody has used for a while."""
    laned(world)
    world.engine.pop(b"lane", 3)


def allow_long_lanes(world: World) -> None:
    """There is room for more extents."""
    world.engine._queues._lanes._most_large = 1000
    while world.engine._channels.words[layout.FREE_EXTENTS] < 4:
        world.engine._channels.heap._grow()


def may_be_long(world: World) -> None:
    """A queue has a lane that nothing keeps from getting more extents."""
    laned(world)
    allow_long_lanes(world)


def lengthen(world: World, count: int, lifetime: int = 10**13) -> None:
    """Push until a lane has so many extents."""
    words = world.engine._channels.words
    while words[layout.BACKLOG] < count - 1:
        world.push(b"lane", bytes(1_900), lifetime=lifetime)
    if listed(world):
        raise Finding("nothing should be in the list")


def before_lengthening(world: World) -> None:
    """The next record does not fit into the one extent of a lane."""
    may_be_long(world)
    address, words = expect_lane(world), world.engine._channels.words
    end = words[address + layout.Q_LANE_IN] + world.engine._channels.heap.geometry.extent_words
    while end - (words[address + layout.Q_IN] & layout.PLACE_MASK) > 250:
        world.push(b"lane", bytes(1_900))


def long_lane(world: World) -> None:
    """A lane has three extents."""
    may_be_long(world)
    lengthen(world, 3)


def before_leaving(world: World) -> None:
    """With the next record the first extent of a lane is read."""
    long_lane(world)
    address, words = expect_lane(world), world.engine._channels.words
    stop = words[words[address + layout.Q_LANE_OUT] + layout.L_STOP]
    while stop - (words[address + layout.Q_OUT] & layout.PLACE_MASK) > 250:
        world.engine.pop(b"lane")


def old_long_lane(world: World) -> None:
    """In a lane of three extents only the last record lives."""
    may_be_long(world)
    world.engine.pop(b"lane", 3)
    lengthen(world, 3, lifetime=100)
    world.push(b"lane", b"live")
    world.now += 200


def dead_long_lane(world: World) -> None:
    """The one record of a long lane that lived is gone, and the expired behind it are left."""
    may_be_long(world)
    world.engine.pop(b"lane", 3)
    world.push(b"lane", b"lives", lifetime=300)
    lengthen(world, 3, lifetime=100)
    world.now += 200
    world.engine.statistics(b"lane")
    world.engine.pop(b"lane")


def long_without_room_in_front(world: World) -> None:
    """A long lane, and no room in front of its oldest record."""
    may_be_long(world)
    lengthen(world, 2)


def put_back(world: World) -> None:
    """Three records before those of a lane, and a list behind it."""
    lane_and_list(world)
    for payload in (b"back 3", b"back 2", b"back 1"):
        restore(payload)(world)
    if not listed(world, layout.FRONT_SHIFT) or not listed(world):
        raise Finding("something should be in both lists")


def old_put_back(world: World) -> None:
    """Of three before those of a lane the first and the last have expired."""
    lane_and_list(world)
    for lifetime in (100, SECOND, 100):
        world.engine.restore(b"lane", Popped(b"back", world.now + lifetime))
    world.now += 200


def own_put_back(world: World) -> None:
    """The same, and they go with this process."""
    own_lane(world)
    world.engine.pop(b"lane", 9)
    for _ in range(2):
        restore(bytes(17_000))(world)


def own_long_lane(world: World) -> None:
    """A long lane that goes with this process."""
    own_lane(world)
    allow_long_lanes(world)
    lengthen(world, 2)
