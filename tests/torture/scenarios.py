"""Every mutating operation of a store: how to get there, and what it may come to.

Each scenario gives the views a kill may leave, first to last: mostly before and after.
They are written down here and not taken from the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from asgi_ipc.engines.base import Popped
from asgi_ipc.exceptions import StoreFull
from asgi_ipc.store import layout
from asgi_ipc.store.lanes import HOT
from asgi_ipc.store.locks import FIRST_SLOT

from .world import LARGE, SECOND, Finding, View, World, short, until

FAR = 1 << 62


@dataclass(frozen=True)
class Scenario:
    """One operation on a prepared store."""

    name: str
    operate: Callable[[World], object]
    #: From the view before to all those that a kill may leave.
    allowed: Callable[[World, View], list[View]]
    prepare: Callable[[World], object] = lambda world: None
    #: The store is so full that it may refuse more.
    full: bool = False
    #: It is so long that a run visits every so-manieth opcode only.
    stride: int = 1


def changes(*steps: Callable[[View], object]) -> Callable[[World, View], list[View]]:
    """The view before, and after each step."""

    def allowed(world: World, view: View) -> list[View]:
        views = [view]
        for step in steps:
            view = view.copy()
            step(view)
            views.append(view.tidy())
        return views

    return allowed


def pushed(queue: bytes, *payloads: bytes) -> Callable[[View], object]:
    """Records come; each takes a bell with it in the same instant."""

    def step(view: View) -> None:
        view.queues.setdefault(queue, []).extend(map(short, payloads))
        view.bells[queue] = view.bells.get(queue, [])[len(payloads) :]

    return step


def popped(queue: bytes, count: int = 1) -> Callable[[View], object]:
    """Records go from the front."""
    return lambda view: view.queues[queue].__delitem__(slice(count))


def armed(queue: bytes, bell: int) -> Callable[[View], object]:
    """A bell is added at the end."""
    return lambda view: view.bells.setdefault(queue, []).append(bell)


def put(table: bytes, member: bytes, deadline: int = FAR) -> Callable[[View], object]:
    """A member comes, or has another deadline."""
    return lambda view: view.tables.setdefault(table, {}).__setitem__(member, deadline)


def removed(table: bytes, member: bytes) -> Callable[[View], object]:
    """A member goes."""
    return lambda view: view.tables[table].pop(member)


def emptied(view: View) -> None:
    """All is flushed."""
    view.queues, view.bells, view.tables = {}, {}, {}
    view.flushes += 1


def without(*identities: bytes) -> Callable[[View], object]:
    """Processes go."""
    return lambda view: view.processes.difference_update(identities)


def push(*pairs: tuple[bytes, bytes], capacity: int = 10**6) -> Callable[[World], object]:
    """An operation that pushes a batch."""
    return lambda world: world.engine.push(
        [world.record(queue, payload, capacity=capacity) for queue, payload in pairs]
    )


# ---- getting there


def before_growing(world: World) -> None:
    """The next push needs an extent that was never used."""
    words = world.engine._channels.words
    until(
        world,
        lambda: world.push(b"fill", b"." * 3_000),
        lambda: words[layout.EXTENTS_USED],
    )


def before_growing_handles(world: World) -> None:
    """The next push needs a handle that was never reserved."""
    words = world.engine._channels.words
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
        heap, moves = engine._channels.heap, [0]
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
    heap, splits = engine._channels.heap, [0]
    place = heap._place

    def counted(*arguments: object) -> None:
        splits[0] += arguments[0] is not None and arguments[2] == layout.MESSAGE
        place(*arguments)  # type: ignore[arg-type]

    heap._place = counted  # type: ignore[method-assign, assignment]
    try:
        until(world, lambda: world.push(b"fill", bytes(900)), lambda: splits[0])
    finally:
        del heap._place


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
    heap, moves = engine._groups.heap, [0]
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
    world.engine._channels.words[layout.NEXT_TEND] = 0


def rung(world: World) -> None:
    """A bell was rung and not heard; another waits, and there is a record."""
    world.push(b"waited for", b"w1")


def many(world: World) -> None:
    """A queue of more than one change can take."""
    world.push(b"many", *[b"%d" % number for number in range(400)])


def laned(world: World) -> None:
    """A queue has a lane, and three records in it."""
    before_lane(world)
    world.engine.pop(b"lane", HOT)
    world.push(b"lane", b"l1", b"l2", b"l3")
    expect_lane(world)


def before_lane(world: World) -> None:
    """To empty a queue gives it a lane."""
    # There is room for one lane, and for a spare extent beside it.
    while world.engine._channels.words[layout.FREE_EXTENTS] < 2:
        world.engine._channels.heap._grow()
    world.push(b"lane", *[b"%d" % number for number in range(HOT)])


def expect_lane(world: World, name: bytes = b"lane") -> int:
    """The address of a queue that has a lane, to be sure of it."""
    with world.engine._channels as heap:
        address = world.engine._queues.find(name)
        if not heap.words[address + layout.Q_LANE_IN]:
            raise Finding("there should be a lane")
        return address


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
    address = expect_lane(world)
    while not world.engine._channels.words[address + layout.Q_HEAD]:
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
    words = world.engine._channels.words
    address = expect_lane(world)
    while words[address + layout.Q_HEAD]:
        world.engine.pop(b"lane", 1)
    # Now it goes round, and is filled up to its oldest.
    while not words[address + layout.Q_HEAD]:
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


def look_after(world: World) -> None:
    """The regular look, with everything that the dead and the expired left."""
    world.engine._look_after(world.now)


def sweep(world: World) -> None:
    """All buckets of both."""
    channels, groups = world.regions
    with channels:
        world.engine._queues.upkeep.sweep(world.now, everything=True)
    with groups:
        world.engine._tables.sweep(world.now)


JOINER = b"a new process."


def join(world: World) -> None:
    """Another process comes."""
    engine = world.engine
    with engine._channels:
        slot = engine._processes.join(JOINER)
    # So that it can be done again.
    engine._processes._sidecar.release(FIRST_SLOT + slot)


def leave(world: World) -> None:
    """This process goes."""
    with world.engine._channels:
        world.engine._processes.leave(world.slot)


def orphan(world: World) -> None:
    """This process goes, and what it leaves is looked after."""
    leave(world)
    sweep(world)


def orphaned(view: View) -> object:
    """What went with it, a lane too."""
    del view.queues[b"lane"]
    return left(view)


def left(view: View) -> object:
    """What went with it."""
    view.queues.pop(b"own", None)
    view.bells.clear()
    return view.tables[b"t"].pop(b"mine")


def seven(world: World, view: View) -> list[View]:
    """What is left of many while they are taken out; each change takes as many as it can."""
    views = []
    for count in range(len(view.queues[b"many"]) + 1):
        views.append(view.copy())
        popped(b"many", count)(views[-1])
        views[-1].tidy()
    return views


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
    Scenario("pop many", lambda world: world.engine.pop(b"many", 400), seven, many, stride=61),
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
            lambda world, place=place: world.engine.disarm(b"waited for", world.bells[place]),  # type: ignore[misc]
            changes(lambda view, place=place: view.bells[b"waited for"].pop(place)),  # type: ignore[misc]
        )
        for place, which in enumerate(("first", "middle", "last"))
    ],
    Scenario(
        "disarm a rung one",
        lambda world: world.engine.disarm(b"waited for", world.bells[0]),
        changes(lambda view: view.bells[b"waited for"].pop(0)),
        rung,
    ),
    Scenario(
        "pop that gives a lane",
        lambda world: world.engine.pop(b"lane", HOT),
        changes(popped(b"lane", HOT)),
        before_lane,
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
        lambda world: world.engine.restore(b"lane", Popped(b"back" * 100, world.now + SECOND)),
        changes(lambda view: view.queues[b"lane"].insert(0, short(b"back" * 100))),
        before_the_end_of_a_lane,
    ),
    Scenario(
        "restore to a lane without room in front",
        lambda world: world.engine.restore(b"lane", Popped(bytes(3_000), world.now + SECOND)),
        changes(lambda view: view.queues[b"lane"].insert(0, short(bytes(3_000)))),
        full_in_front,
        stride=5,
    ),
    Scenario(
        "orphan a lane",
        orphan,
        lambda world, view: changes(lambda view: (without(world.identity)(view), orphaned(view)))(
            world, view
        ),
        own_lane,
    ),
    Scenario("drop a lane", sweep, changes(), empty_lane),
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
    Scenario("flush", lambda world: world.engine.flush(), changes(emptied)),
    Scenario("join", join, changes(lambda view: view.processes.add(JOINER))),
    Scenario(
        "leave",
        leave,
        lambda world, view: changes(lambda view: (without(world.identity)(view), left(view)))(
            world, view
        ),
    ),
    Scenario(
        "look after what the dead left",
        look_after,
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
