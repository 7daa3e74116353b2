"""Every mutating operation of a store: how to get there, and what it may come to.

Each scenario gives the views a kill may leave, first to last: mostly before and after.
They are written down here and not taken from the code under test.
"""

from __future__ import annotations

from collections.abc import Callable

from asgi_ipc.engines.base import Popped
from asgi_ipc.engines.shm.heap import layout, returns
from asgi_ipc.engines.shm.locks.base import FIRST_SLOT
from asgi_ipc.exceptions import StoreFull

from .pause_scenarios import PAUSE_SCENARIOS
from .ring_scenarios import RING_SCENARIOS
from .steps import (
    FAR,
    Scenario,
    armed,
    changes,
    counted,
    emptied,
    leave,
    left,
    popped,
    popped_in_parts,
    push,
    pushed,
    put,
    removed,
    sweep,
    without,
)
from .world import LARGE, SECOND, World, expect, until

# ---- getting there


def before_growing(world: World) -> None:
    """The next push needs an extent that was never used."""
    words = world.engine.session.channels.words
    until(
        world,
        lambda: world.push(b"fill", b"." * 3_000),
        lambda: words[layout.EXTENTS_USED],
    )


def before_announcing(world: World) -> None:
    """There are free extents, of which more are kept than needed."""
    returns.KEEP = 1
    fill(world, 4_000)
    while world.engine.pop(b"fill", 50):
        pass


def announced(world: World) -> None:
    """Some of them are on the list of what is to be given back."""
    before_announcing(world)
    give_back(world)
    assert world.engine.session.channels.words[layout.RETURN_PENDING]


def given_back(world: World) -> None:
    """They have no memory, as far as the system takes it; the next push needs one of them."""
    announced(world)
    give_back(world)
    words = world.engine.session.channels.words
    until(world, lambda: world.push(b"fill", b"." * 3_000), lambda: words[layout.RETURNED_EXTENTS])


def before_trimming(world: World) -> None:
    """A flush has left extents that are on no list, and this is announced."""
    before_announcing(world)
    world.engine.flush()
    give_back(world)


def give_back(world: World) -> None:
    """The next step of giving memory back; where none can be, as if it had been."""
    channels = world.engine.session.channels
    with channels as heap:
        heap.returns.step(
            True, lambda offset, length: channels.segment.give_back(offset, length) or True
        )


def before_growing_handles(world: World) -> None:
    """The next push needs a handle that was never reserved."""
    words = world.engine.session.channels.words
    world.give_no_rings()
    until(world, lambda: world.push(b"fill", b""), lambda: words[layout.IDS_RESERVED])


def fill(world: World, size: int, lifetime: int = 10**13) -> None:
    """Push until there is no room."""
    engine = world.engine
    for _ in range(5):
        while not engine.push([world.record(b"fill", bytes(size), lifetime)]):
            pass
        size = size // 2 + 1


def before_moving(size: int, push: int) -> Callable[[World], None]:
    """The next push makes the heap move records, of which those on "kept" are."""

    def prepare(world: World) -> None:
        engine = world.engine
        while not engine.push([world.record(b"fill", bytes(size)), world.record(b"k", b"kept")]):
            pass
        while engine.pop(b"fill", 50):
            pass
        heap, moves = engine.session.channels.heap, [0]
        move = heap._move

        def counted(change: dict[int, int], address: int) -> None:
            moves[0] += 1
            move(change, address)

        heap._move = counted  # type: ignore[method-assign]
        try:
            until(world, lambda: world.push(b"fill", bytes(push)), lambda: moves[0] > 0)
        finally:
            del heap._move
        # What "k" holds would only make each look at the store slow.
        for _ in range(3):
            engine.pop(b"k", 1)

    return prepare


def before_moving_pieces(world: World) -> None:
    """The next push moves a record that has to be split anew."""
    engine = world.engine
    while not engine.push(
        [world.record(b"fill", bytes(2_900)), world.record(b"k", LARGE[:7_000], capacity=4)]
    ):
        pass
    while engine.pop(b"fill", 3):
        engine.pop(b"fill", 1)
    heap, splits = engine.session.channels.heap, [0]
    location = heap.log.write

    def counted(*arguments: object) -> None:
        splits[0] += arguments[0] is not None and arguments[2] == layout.MESSAGE
        location(*arguments)  # type: ignore[arg-type]

    heap.log.write = counted  # type: ignore[method-assign, assignment]
    try:
        until(world, lambda: world.push(b"fill", bytes(900)), lambda: splits[0])
    finally:
        del heap.log.write


def before_moving_members(world: World) -> None:
    """The next member makes the groups' heap move."""
    engine = world.engine
    numbers = iter(range(10**6))
    members = []
    try:
        while True:
            members.append(b"%d" % next(numbers))
            engine.put(b"fill", members[-1], FAR)
    except StoreFull:
        pass
    for member in members[::2]:
        engine.remove(b"fill", member)
    heap, moves = engine.session.groups.heap, [0]
    move = heap._move

    def counted(change: dict[int, int], address: int) -> None:
        moves[0] += 1
        move(change, address)

    heap._move = counted  # type: ignore[method-assign]
    try:
        until(world, lambda: engine.put(b"more", b"%d" % next(numbers), FAR), lambda: moves[0] > 0)
    finally:
        del heap._move


def full_of_the_expired(world: World) -> None:
    """No room is left but that of what has expired."""
    fill(world, 2_000, lifetime=100)
    world.now += 200


def full(world: World) -> None:
    """No room is left."""
    fill(world, 2_000)


def full_of_expired_members(world: World) -> None:
    """No room is left for members but that of those that have expired."""
    try:
        for number in range(10**6):
            world.engine.put(b"fill%d" % (number % 7), b"%d" % number, world.now + 100)
    except StoreFull:
        pass
    world.now += 200


def all_expired(world: World) -> None:
    """Time passes until nothing lives."""
    world.now += 10**14


def due(world: World) -> None:
    """The store wants to be looked after."""
    world.engine.session.channels.words[layout.NEXT_SWEEP] = 0


def signalled(world: World) -> None:
    """A bell was signalled and not heard; another waits, and there is a record."""
    world.push(b"waited for", b"w1")


def many(world: World) -> None:
    """A queue of more than one change can take."""
    world.push(b"many", *[b"%d" % number for number in range(400)])


def maintain(world: World) -> None:
    """The regular look, with everything that the dead and the expired left."""
    world.engine.upkeep.maintain(world.now)


JOINER = b"a new process."


def join(world: World) -> None:
    """Another process comes."""
    engine = world.engine
    with engine.session.channels:
        slot = engine.session.processes.join(JOINER, world.now, 0)
    # So that it can be done again.
    engine.session.processes._lock_file.release(FIRST_SLOT + slot)


def meet_joiner(world: World) -> None:
    """What is known of a process is there when it is in its slot."""
    processes = world.engine.session.processes
    for slot in processes.used():
        if processes.identity(slot) == JOINER:
            row = (
                world.engine.session.channels.heap.geometry.processes + slot * layout.PROCESS_WORDS
            )
            joined = world.engine.session.channels.words[row + layout.P_JOINED]
            expect(joined, world.now, "when the process joined")


SCENARIOS = [
    Scenario("push", push((b"a", b"new")), changes(pushed(b"a", b"new"))),
    Scenario("push to a new queue", push((b"q", b"new")), changes(pushed(b"q", b"new"))),
    Scenario(
        "push to a queue waited for",
        push((b"waited for", b"new")),
        changes(pushed(b"waited for", b"new")),
    ),
    Scenario(
        "push to a queue that the dead wait for first",
        push((b"the dead wait", b"new")),
        # The bell of the dead goes with the record; only when it is not heard, the next.
        changes(
            lambda view: view.queues.setdefault(b"the dead wait", [b"new"]),
            lambda view: view.bells[b"the dead wait"].pop(),
        ),
    ),
    Scenario("push over extents", push((b"a", LARGE)), changes(pushed(b"a", LARGE))),
    Scenario(
        "push a batch",
        push((b"a", b"n1"), (b"q", b"n2"), (b"waited for", b"n3"), (b"a", b"n4"), capacity=9),
        changes(pushed(b"a", b"n1"), pushed(b"q", b"n2"), pushed(b"waited for", b"n3")),
    ),
    Scenario("push refused", push((b"a", b"new"), capacity=8), changes()),
    Scenario("push refused to a new queue", push((b"q", b"new"), capacity=0), changes()),
    Scenario(
        "push in place of the expired",
        push((b"old", b"new"), capacity=2),
        changes(pushed(b"old", b"new")),
    ),
    Scenario("pop", lambda world: world.engine.pop(b"a"), changes(popped(b"a"))),
    Scenario("pop a batch", lambda world: world.engine.pop(b"a", 3), changes(popped(b"a", 3))),
    Scenario("pop all", lambda world: world.engine.pop(b"a", 8), changes(popped(b"a", 8))),
    Scenario(
        "pop over extents", lambda world: world.engine.pop(b"large"), changes(popped(b"large"))
    ),
    Scenario(
        "pop past the expired", lambda world: world.engine.pop(b"old"), changes(popped(b"old"))
    ),
    Scenario("pop the expired", lambda world: world.engine.pop(b"all old"), changes()),
    Scenario(
        "pop and wait",
        lambda world: world.engine.pop(b"own", 2, world.bells[0]),
        changes(popped(b"own"), armed(b"own", 1)),
    ),
    Scenario(
        "pop many",
        lambda world: world.engine.pop(b"many", 400),
        popped_in_parts(b"many"),
        many,
        stride=61,
    ),
    Scenario(
        "restore",
        lambda world: world.engine.restore(b"a", Popped(b"back", world.now + SECOND)),
        changes(lambda view: view.queues[b"a"].insert(0, b"back")),
    ),
    Scenario(
        "restore to a queue that went",
        lambda world: world.engine.restore(b"q", Popped(b"back", world.now + SECOND)),
        changes(pushed(b"q", b"back")),
    ),
    Scenario(
        "restore to a queue waited for",
        lambda world: world.engine.restore(b"waited for", Popped(LARGE, world.now + SECOND)),
        changes(pushed(b"waited for", LARGE)),
    ),
    Scenario(
        "arm",
        lambda world: world.engine.pop(b"empty", 1, world.bells[0]),
        changes(armed(b"empty", 1)),
    ),
    Scenario(
        "arm on a new queue",
        lambda world: world.engine.pop(b"q", 1, world.bells[0]),
        changes(armed(b"q", 1)),
    ),
    Scenario(
        "arm behind others",
        lambda world: world.engine.pop(b"waited for", 1, world.bells[3]),
        changes(armed(b"waited for", 4)),
    ),
    Scenario(
        "arm again", lambda world: world.engine.pop(b"waited for", 1, world.bells[1]), changes()
    ),
    *[
        Scenario(
            f"disarm the {which}",
            lambda world, location=location: world.engine.disarm(
                b"waited for", world.bells[location]
            ),  # type: ignore[misc]
            changes(lambda view, location=location: view.bells[b"waited for"].pop(location)),  # type: ignore[misc]
        )
        for location, which in enumerate(("first", "middle", "last"))
    ],
    Scenario(
        "disarm a signalled one",
        lambda world: world.engine.disarm(b"waited for", world.bells[0]),
        changes(lambda view: view.bells[b"waited for"].pop(0)),
        signalled,
    ),
    *RING_SCENARIOS,
    *PAUSE_SCENARIOS,
    Scenario("put", lambda world: world.engine.put(b"t", b"new", FAR), changes(put(b"t", b"new"))),
    Scenario(
        "put into a new table",
        lambda world: world.engine.put(b"n", b"new", FAR, world.identity),
        changes(put(b"n", b"new")),
    ),
    Scenario(
        "renew",
        lambda world: world.engine.put(b"t", b"m2", FAR + 1),
        changes(put(b"t", b"m2", FAR + 1)),
    ),
    Scenario(
        "renew an expired one",
        lambda world: world.engine.put(b"t", b"old", FAR),
        changes(put(b"t", b"old")),
    ),
    Scenario(
        "remove", lambda world: world.engine.remove(b"t", b"m2"), changes(removed(b"t", b"m2"))
    ),
    Scenario(
        "remove the last",
        lambda world: world.engine.remove(b"single", b"m"),
        changes(removed(b"single", b"m")),
    ),
    Scenario(
        "list a table of expired members", lambda world: world.engine.members(b"old"), changes()
    ),
    Scenario("list a table", lambda world: world.engine.members(b"t"), changes()),
    Scenario("count", lambda world: world.engine.statistics(b"old"), changes()),
    Scenario("list all queues", lambda world: list(world.engine.queues()), changes()),
    Scenario("list all tables", lambda world: list(world.engine.tables()), changes()),
    Scenario("list all processes", lambda world: list(world.engine.processes()), changes()),
    Scenario("look", lambda world: world.engine.look(b"old"), changes()),
    Scenario("note", lambda world: world.engine.note({"overflowed": 15}), changes(counted(5))),
    Scenario("flush", lambda world: world.engine.flush(), changes(emptied)),
    Scenario("announce what is given back", give_back, changes(), before_announcing),
    Scenario("give back", give_back, changes(), announced),
    Scenario(
        "push into what was given back",
        push((b"q", bytes(3_000))),
        changes(pushed(b"q", bytes(3_000))),
        given_back,
    ),
    Scenario("give back what was flushed", give_back, changes(), before_trimming),
    Scenario("join", join, changes(lambda view: view.processes.add(JOINER)), go_on=meet_joiner),
    Scenario(
        "leave",
        leave,
        lambda world, view: changes(lambda view: (without(world.identity)(view), left(view)))(
            world, view
        ),
    ),
    Scenario(
        "look after what the dead left",
        maintain,
        lambda world, view: changes(
            lambda view: (
                without(world.dead)(view),
                view.queues.pop(b"orphan"),
                view.tables.pop(b"only the dead"),
                view.tables[b"t"].pop(b"of the dead"),
            )
        )(world, view),
        due,
    ),
    Scenario("look after a store where all has expired", sweep, changes(), all_expired),
    Scenario(
        "grow", push((b"q", bytes(3_000))), changes(pushed(b"q", bytes(3_000))), before_growing
    ),
    Scenario("grow for pieces", push((b"q", LARGE)), changes(pushed(b"q", LARGE)), before_growing),
    Scenario(
        "grow the handles",
        push((b"q", b"new")),
        changes(pushed(b"q", b"new")),
        before_growing_handles,
    ),
    Scenario(
        "move",
        push((b"q", bytes(1_000))),
        changes(pushed(b"q", bytes(1_000))),
        before_moving(2_000, 1_000),
        full=True,
    ),
    Scenario(
        "move for pieces",
        push((b"q", LARGE)),
        changes(pushed(b"q", LARGE)),
        before_moving(4_000, 700),
        full=True,
        stride=3,
    ),
    Scenario(
        "move pieces",
        push((b"q", bytes(900))),
        changes(pushed(b"q", bytes(900))),
        before_moving_pieces,
        full=True,
    ),
    Scenario(
        "move members",
        lambda world: world.engine.put(b"n", b"new" * 20, FAR),
        changes(put(b"n", b"new" * 20)),
        before_moving_members,
        full=True,
        stride=29,
    ),
    Scenario(
        "push into a store full of the expired",
        push((b"q", bytes(2_000))),
        changes(pushed(b"q", bytes(2_000))),
        full_of_the_expired,
        full=True,
        stride=11,
    ),
    Scenario(
        "push into a full store", push((b"q", bytes(20_000))), changes(), full, full=True, stride=3
    ),
    Scenario(
        "put into a store full of the expired",
        lambda world: world.engine.put(b"n", b"new", FAR),
        changes(put(b"n", b"new")),
        full_of_expired_members,
        full=True,
        stride=9_973,
    ),
]
