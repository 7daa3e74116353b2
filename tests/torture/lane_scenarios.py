"""Every mutating operation of a lane, and what it may come to."""

from __future__ import annotations

from collections.abc import Callable

from asgi_ipc.store.lane_extents import HOT

from .lane_states import (
    before_lane,
    before_leaving,
    before_lengthening,
    before_push_gives_lane,
    before_the_end_of_a_lane,
    dead_long_lane,
    empty_lane,
    full_in_front,
    full_lane,
    lane_and_list,
    laned,
    laned_and_waited_for,
    laned_and_waited_for_twice,
    long_lane,
    long_without_room_in_front,
    old_in_a_lane,
    old_long_lane,
    old_put_back,
    own_lane,
    own_long_lane,
    own_put_back,
    put_back,
    restore,
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
    return lambda view: view.queues[b"lane"].insert(0, short(payload))


def orphaned(world: World, view: View) -> list[View]:
    """This process goes, and what went with it, a lane too."""

    def step(view: View) -> None:
        without(world.identity)(view)
        del view.queues[b"lane"]
        left(view)

    return changes(step)(world, view)


LANE_SCENARIOS = [
    Scenario(
        "pop that gives a lane",
        lambda world: world.engine.pop(b"lane", HOT),
        changes(popped(b"lane", HOT)),
        before_lane,
    ),
    Scenario(
        "push that gives a lane",
        push((b"lane", b"new")),
        changes(pushed(b"lane", b"new")),
        before_push_gives_lane,
    ),
    Scenario(
        "push that moves some of a list to a lane",
        push((b"lane", b"new")),
        changes(pushed(b"lane", b"new")),
        lane_and_list,
    ),
    Scenario(
        "push through a lane", push((b"lane", b"new")), changes(pushed(b"lane", b"new")), laned
    ),
    *[
        Scenario(
            f"push through a lane to {who}",
            push((b"lane", b"new")),
            # A kill between the two leaves a bell that may ring for nothing.
            changes(
                lambda view: view.queues.setdefault(b"lane", [b"new"]),
                lambda view: view.bells[b"lane"].pop(0),
            ),
            prepare,
        )
        for who, prepare in (
            ("who waits", laned_and_waited_for),
            ("the first who waits", laned_and_waited_for_twice),
        )
    ],
    Scenario(
        "push around the end of a lane",
        push((b"lane", bytes(1_100))),
        changes(pushed(b"lane", bytes(1_100))),
        before_the_end_of_a_lane,
    ),
    Scenario(
        "push behind a full lane",
        push((b"lane", b"new")),
        changes(pushed(b"lane", b"new")),
        full_lane,
    ),
    Scenario(
        "pop from a lane",
        lambda world: world.engine.pop(b"lane"),
        changes(popped(b"lane")),
        laned,
    ),
    Scenario(
        "pop all from a lane and wait",
        lambda world: world.engine.pop(b"lane", 9, world.bells[0]),
        changes(popped(b"lane", 3), armed(b"lane", 1)),
        laned,
    ),
    Scenario(
        "pop from a lane and the list",
        lambda world: world.engine.pop(b"lane", 100),
        lambda world, view: changes(
            popped(b"lane", len(view.queues[b"lane"]) - 2), popped(b"lane", 2)
        )(world, view),
        full_lane,
    ),
    Scenario(
        "pop past the expired of a lane",
        lambda world: world.engine.pop(b"lane"),
        changes(popped(b"lane")),
        old_in_a_lane,
    ),
    Scenario(
        "expire in a lane",
        lambda world: world.engine.statistics(b"lane"),
        changes(),
        old_in_a_lane,
    ),
    Scenario(
        "restore to a lane",
        restore(b"back" * 100),
        changes(in_front(b"back" * 100)),
        before_the_end_of_a_lane,
    ),
    Scenario(
        "restore to a lane without room in front",
        restore(bytes(3_000)),
        changes(in_front(bytes(3_000))),
        full_in_front,
    ),
    Scenario(
        "orphan a lane",
        orphan,
        orphaned,
        own_lane,
    ),
    Scenario("drop a lane", sweep, changes(), empty_lane),
    Scenario(
        "pop that moves some of a list to a lane",
        lambda world: world.engine.pop(b"lane"),
        changes(popped(b"lane")),
        before_lane,
    ),
    Scenario(
        "push that lengthens a lane",
        push((b"lane", bytes(1_999))),
        changes(pushed(b"lane", bytes(1_999))),
        before_lengthening,
    ),
    Scenario(
        "push through a long lane",
        push((b"lane", b"new")),
        changes(pushed(b"lane", b"new")),
        long_lane,
    ),
    Scenario(
        "pop that leaves an extent of a lane",
        lambda world: world.engine.pop(b"lane"),
        changes(popped(b"lane")),
        before_leaving,
    ),
    Scenario(
        "pop all from a long lane",
        lambda world: world.engine.pop(b"lane", 100),
        popped_in_parts(b"lane"),
        long_lane,
    ),
    Scenario(
        "expire extents of a lane",
        lambda world: world.engine.statistics(b"lane"),
        changes(),
        old_long_lane,
    ),
    Scenario("drop a long lane of the dead", sweep, changes(), dead_long_lane),
    Scenario(
        "restore to a lane that nothing left yet",
        restore(b"back"),
        changes(in_front(b"back")),
        lane_and_list,
    ),
    Scenario(
        "restore in front of what was put back",
        restore(b"back"),
        changes(in_front(b"back")),
        put_back,
    ),
    Scenario(
        "push behind what was put back",
        push((b"lane", b"new")),
        changes(pushed(b"lane", b"new")),
        put_back,
    ),
    Scenario(
        "pop one that was put back",
        lambda world: world.engine.pop(b"lane"),
        changes(popped(b"lane")),
        put_back,
    ),
    Scenario(
        "pop all, some of which were put back",
        lambda world: world.engine.pop(b"lane", 100),
        popped_in_parts(b"lane"),
        put_back,
    ),
    Scenario(
        "expire what was put back",
        lambda world: world.engine.statistics(b"lane"),
        changes(),
        old_put_back,
    ),
    Scenario("orphan what was put back", orphan, orphaned, own_put_back),
    Scenario(
        "restore to a long lane without room in front",
        restore(bytes(3_000)),
        changes(in_front(bytes(3_000))),
        long_without_room_in_front,
    ),
    Scenario(
        "orphan a long lane",
        orphan,
        orphaned,
        own_long_lane,
    ),
]
