"""Every mutating operation of a ring, and what it may come to."""

from __future__ import annotations

from collections.abc import Callable

from asgi_ipc.engines.shm.queues.ring_extents import HOT

from .ring_states import (
    before_leaving,
    before_lengthening,
    before_push_gives_ring,
    before_ring,
    before_the_end_of_a_ring,
    dead_long_ring,
    empty_ring,
    full_in_front,
    full_ring,
    in_a_ring_and_waited_for_twice,
    long_ring,
    long_without_room_in_front,
    old_in_a_ring,
    old_long_ring,
    old_put_back,
    own_long_ring,
    own_put_back,
    own_ring,
    put_back,
    restore,
    ring_and_list,
    ringed,
    ringed_and_waited_for,
)
from .steps import (
    Scenario,
    armed,
    changes,
    left,
    orphan,
    popped,
    popped_in_parts,
    push,
    pushed,
    sweep,
    without,
)
from .world import View, World, short


def in_front(payload: bytes) -> Callable[[View], object]:
    """It is there."""
    return lambda view: view.queues[b"ring"].insert(0, short(payload))


def orphaned(world: World, view: View) -> list[View]:
    """This process goes, and what went with it, a ring too."""

    def step(view: View) -> None:
        without(world.identity)(view)
        del view.queues[b"ring"]
        left(view)

    return changes(step)(world, view)


RING_SCENARIOS = [
    Scenario(
        "pop that gives a ring",
        lambda world: world.engine.pop(b"ring", HOT),
        changes(popped(b"ring", HOT)),
        before_ring,
    ),
    Scenario(
        "push that gives a ring",
        push((b"ring", b"new")),
        changes(pushed(b"ring", b"new")),
        before_push_gives_ring,
    ),
    Scenario(
        "push that moves some of a list to a ring",
        push((b"ring", b"new")),
        changes(pushed(b"ring", b"new")),
        ring_and_list,
    ),
    Scenario(
        "push through a ring", push((b"ring", b"new")), changes(pushed(b"ring", b"new")), ringed
    ),
    *[
        Scenario(
            f"push through a lane to {who}",
            push((b"ring", b"new")),
            # A kill between the two leaves a bell that may signal for nothing.
            changes(
                lambda view: view.queues.setdefault(b"ring", [b"new"]),
                lambda view: view.bells[b"ring"].pop(0),
            ),
            prepare,
        )
        for who, prepare in (
            ("who waits", ringed_and_waited_for),
            ("the first who waits", in_a_ring_and_waited_for_twice),
        )
    ],
    Scenario(
        "push around the end of a ring",
        push((b"ring", bytes(1_100))),
        changes(pushed(b"ring", bytes(1_100))),
        before_the_end_of_a_ring,
    ),
    Scenario(
        "push behind a full ring",
        push((b"ring", b"new")),
        changes(pushed(b"ring", b"new")),
        full_ring,
    ),
    Scenario(
        "pop from a ring",
        lambda world: world.engine.pop(b"ring"),
        changes(popped(b"ring")),
        ringed,
    ),
    Scenario(
        "pop all from a ring and wait",
        lambda world: world.engine.pop(b"ring", 9, world.bells[0]),
        changes(popped(b"ring", 3), armed(b"ring", 1)),
        ringed,
    ),
    Scenario(
        "pop from a ring and the list",
        lambda world: world.engine.pop(b"ring", 100),
        lambda world, view: changes(
            popped(b"ring", len(view.queues[b"ring"]) - 2), popped(b"ring", 2)
        )(world, view),
        full_ring,
    ),
    Scenario(
        "pop past the expired of a ring",
        lambda world: world.engine.pop(b"ring"),
        changes(popped(b"ring")),
        old_in_a_ring,
    ),
    Scenario(
        "expire in a ring",
        lambda world: world.engine.statistics(b"ring"),
        changes(),
        old_in_a_ring,
    ),
    Scenario(
        "restore to a ring",
        restore(b"back" * 100),
        changes(in_front(b"back" * 100)),
        before_the_end_of_a_ring,
    ),
    Scenario(
        "restore to a ring without room in front",
        restore(bytes(3_000)),
        changes(in_front(bytes(3_000))),
        full_in_front,
    ),
    Scenario(
        "orphan a ring",
        orphan,
        orphaned,
        own_ring,
    ),
    Scenario("drop a ring", sweep, changes(), empty_ring),
    Scenario(
        "pop that moves some of a list to a ring",
        lambda world: world.engine.pop(b"ring"),
        changes(popped(b"ring")),
        before_ring,
    ),
    Scenario(
        "push that lengthens a ring",
        push((b"ring", bytes(1_999))),
        changes(pushed(b"ring", bytes(1_999))),
        before_lengthening,
    ),
    Scenario(
        "push through a long ring",
        push((b"ring", b"new")),
        changes(pushed(b"ring", b"new")),
        long_ring,
    ),
    Scenario(
        "pop that leaves an extent of a ring",
        lambda world: world.engine.pop(b"ring"),
        changes(popped(b"ring")),
        before_leaving,
    ),
    Scenario(
        "pop all from a long ring",
        lambda world: world.engine.pop(b"ring", 100),
        popped_in_parts(b"ring"),
        long_ring,
    ),
    Scenario(
        "expire extents of a ring",
        lambda world: world.engine.statistics(b"ring"),
        changes(),
        old_long_ring,
    ),
    Scenario("drop a long ring of the dead", sweep, changes(), dead_long_ring),
    Scenario(
        "restore to a ring that nothing left yet",
        restore(b"back"),
        changes(in_front(b"back")),
        ring_and_list,
    ),
    Scenario(
        "restore in front of what was put back",
        restore(b"back"),
        changes(in_front(b"back")),
        put_back,
    ),
    Scenario(
        "push behind what was put back",
        push((b"ring", b"new")),
        changes(pushed(b"ring", b"new")),
        put_back,
    ),
    Scenario(
        "pop one that was put back",
        lambda world: world.engine.pop(b"ring"),
        changes(popped(b"ring")),
        put_back,
    ),
    Scenario(
        "pop all, some of which were put back",
        lambda world: world.engine.pop(b"ring", 100),
        popped_in_parts(b"ring"),
        put_back,
    ),
    Scenario(
        "expire what was put back",
        lambda world: world.engine.statistics(b"ring"),
        changes(),
        old_put_back,
    ),
    Scenario("orphan what was put back", orphan, orphaned, own_put_back),
    Scenario(
        "restore to a long ring without room in front",
        restore(bytes(3_000)),
        changes(in_front(bytes(3_000))),
        long_without_room_in_front,
    ),
    Scenario(
        "orphan a long ring",
        orphan,
        orphaned,
        own_long_ring,
    ),
]
