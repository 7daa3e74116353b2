"""Operations that take several holds of the lock, and what may happen between two of them.

Holds are made short here, so that a small store has many. After each kill the next process goes
on with what is left to do, and then it must be done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asgi_ipc.engines.shm import locked_segment
from asgi_ipc.engines.shm.heap import layout, log
from asgi_ipc.engines.shm.heap.heap import HOLD, Pause
from asgi_ipc.engines.shm.locks.base import FIRST_SLOT
from asgi_ipc.engines.shm.queues.ring_extents import HOT
from asgi_ipc.engines.shm.tables import member_name

from .ring_states import allow_one_ring, expect_ring, ringed
from .steps import Scenario, changes, popped, push, pushed, sweep
from .world import LARGE, View, World, expect

LONG = 10**13


@contextmanager
def short_holds(hold: int, pieces: int = log.PIECES_A_CHANGE) -> Iterator[None]:
    """A hold of the lock may spend so much, and a change free so many pieces."""
    before = log.PIECES_A_CHANGE
    locked_segment.HOLD, log.PIECES_A_CHANGE = hold, pieces  # type: ignore[attr-defined]
    try:
        yield
    finally:
        locked_segment.HOLD, log.PIECES_A_CHANGE = HOLD, before  # type: ignore[attr-defined]


def slowly(
    operate: Callable[[World], object], hold: int, pieces: int = log.PIECES_A_CHANGE
) -> Callable[[World], object]:
    """The operation, in short holds."""

    def operate_slowly(world: World) -> None:
        with short_holds(hold, pieces):
            operate(world)

    return operate_slowly


# ---- records in pieces


def two_large(world: World) -> None:
    """A queue has two records in pieces."""
    world.push(b"pieces", LARGE[:20_000], LARGE[:21_000], b"after them")


def settle(world: World) -> None:
    """A record that needs room has what is left of others freed."""
    world.push(b"q", LARGE[:18_000])
    expect(world.engine._channels.words[layout.LEFTOVER], 0, "what is left of a record")


# ---- cleaning


def much_dead_in_front(world: World) -> None:
    """No extent has as many dead words as the one where the next record would go."""
    engine = world.engine
    world.give_no_rings()
    sweep(world)
    before = world.save()
    count = 0
    # Of several queues, as one may not have that much.
    while not engine.push([world.record(b"kept %d" % (count % 5), bytes(1_500))]):
        count += 1
    world.load(before)
    for number in range(count):
        is_kept = number < count - 6 or number == count - 1
        world.push(b"kept %d" % (number % 5) if is_kept else b"fill", bytes(1_500))
    engine.pop(b"fill", 5)


def much_dead_behind(world: World) -> None:
    """Every other record of a full store is dead."""
    engine = world.engine
    world.give_no_rings()
    sweep(world)
    while not engine.push([world.record(b"fill", bytes(900)), world.record(b"kept", bytes(900))]):
        pass
    while engine.pop(b"fill", 16):
        pass


def fill_up(world: World) -> None:
    """The room that there is can be used: it is not less than a record."""
    words = world.engine._channels.words
    world.push(b"more", bytes(1_400))
    expect(words[layout.CLEANING], 0, "what is being cleaned")
    while not world.engine.push([world.record(b"more", bytes(1_400))]):
        pass


# ---- rounds


def in_order(world: World) -> None:
    """In the order in which a round comes by, each queue expires later than those before it."""
    sweep(world)
    index = world.engine._queues._index
    names = sorted((b"round %d" % number for number in range(12)), key=index.home)
    for number, name in enumerate(names):
        world.push(name, b"r", lifetime=LONG // 10 + number * 1_000)


def members_in_order(world: World) -> None:
    """The same of tables."""
    sweep(world)
    index = world.engine._tables._index
    names = sorted(
        (b"round %d" % number for number in range(12)),
        key=lambda name: index.home(member_name(name, b"m")),
    )
    for number, name in enumerate(names):
        world.engine.put(name, b"m", world.now + LONG // 10 + number * 1_000)


def round_of(kind: int) -> Callable[[World], object]:
    """A round of sweeping, or the rest of one."""

    def go_round(world: World) -> None:
        while not world.engine._sweep_hold(kind, world.now)[0]:
            pass
        heap = world.locked_segments[kind != layout.CHANNELS].heap
        expect(heap.words[layout.ROUND_BEGAN], 0, "the round under way")

    return go_round


def ring_without_old(world: World) -> None:
    """A queue has a ring, and nothing has expired."""
    ringed(world)
    sweep(world)


def a_round_under_way(world: World) -> None:
    """A round has come by half of the queues."""
    in_order(world)
    with short_holds(2_000):
        world.engine._sweep_hold(layout.CHANNELS, world.now)
    expect(world.engine._channels.words[layout.ROUND_BEGAN] > 0, True, "a round is under way")


# ---- searching


def old_and_new(queue: bytes, pairs: int = 12) -> Callable[[World], None]:
    """Of the messages of a queue every other one has expired; each of the others lives longer."""

    def fill(world: World) -> None:
        for number in range(pairs):
            world.push(queue, b"live %d" % number, lifetime=LONG + number * 1_000)
            world.push(queue, b"old", lifetime=100)
        world.now += 200

    return fill


def old_in_list(world: World) -> None:
    """They are in a list."""
    world.give_no_rings()
    old_and_new(b"search")(world)


def few_old_in_list(world: World) -> None:
    """So few are in a list that one hold does for all of them."""
    world.give_no_rings()
    old_and_new(b"search", 3)(world)


def old_in_ring(world: World) -> None:
    """They are in a ring."""
    ringed(world)
    world.engine.pop(b"ring", 3)
    old_and_new(b"ring")(world)
    expect_ring(world)


def begin_search(world: World, queue: bytes, hold: int, until: int) -> None:
    """Search until it pauses in that part."""
    words = world.engine._channels.words
    with short_holds(hold):
        for _ in range(100):
            try:
                with world.engine._channels:
                    world.engine._queues.statistics(queue, world.now)
            except Pause:
                pass
            walk = words[world.engine._queues.find(queue) + layout.Q_WALK]
            if walk >> layout.WALK_SHIFT == until:
                return
    expect(walk >> layout.WALK_SHIFT, until, "where the search is")


def search_under_way(world: World) -> None:
    """A search has come by some."""
    old_in_list(world)
    begin_search(world, b"search", 1_500, layout.WALK_BEHIND)


def search_before_a_refill(world: World) -> None:
    """A search has come by the ring, and not by the list, the first of which expires first."""
    allow_one_ring(world)
    for number in range(HOT):
        # The first four go to the ring.
        world.push(b"ring", b"%d" % number, lifetime=(2 if number < 4 else 1) * LONG + number)
    world.push(b"ring", b"old", lifetime=100)
    world.now += 200
    begin_search(world, b"ring", 550, layout.WALK_BEHIND)


def search(queue: bytes) -> Callable[[World], object]:
    """Search through a queue, or through the rest of it."""

    def look(world: World) -> None:
        engine = world.engine
        engine.statistics(queue)
        address, words = engine._queues.find(queue), engine._channels.words
        expect(words[address + layout.Q_WALK], 0, "the search under way")
        live = len(world.view().queues.get(queue, []))
        expect(engine.statistics(queue)["pending"], live, "what has not expired")

    return look


# ---- many dead processes

CROWD = [b"dead number %02d" % number for number in range(40)]


def crowd(world: World) -> None:
    """More processes have died than one hold frees the slots of."""
    engine = world.engine
    for identity in CROWD:
        with engine._channels:
            slot = engine._processes.join(identity, world.now, 0)
        engine._processes._lock_file.release(FIRST_SLOT + slot)


def reaped(world: World, view: View) -> list[View]:
    """They go one by one, in the order of their slots."""
    processes = world.engine._processes
    gone = [processes.identity(slot) for slot in processes.used() if slot != world.slot]

    def go(identity: bytes) -> Callable[[View], object]:
        def step(view: View) -> None:
            view.processes.remove(identity)
            if identity == world.dead:
                del view.queues[b"orphan"], view.tables[b"only the dead"]
                del view.tables[b"t"][b"of the dead"]

        return step

    return changes(*map(go, gone))(world, view)


def reap(world: World) -> None:
    """The rest goes, and each is counted."""
    engine = world.engine
    engine._reap()
    expect(engine._processes.used(), [world.slot], "the slots in use")
    expect(engine._processes.deaths(), len(CROWD) + 1, "the processes that have gone")


PAUSE_SCENARIOS = [
    Scenario(
        "free a record bit by bit",
        slowly(lambda world: world.engine.pop(b"large"), 7_000, pieces=1),
        changes(popped(b"large")),
        go_on=settle,
    ),
    Scenario(
        "free two records bit by bit",
        slowly(lambda world: world.engine.pop(b"pieces", 2), 7_000, pieces=1),
        changes(popped(b"pieces"), popped(b"pieces")),
        two_large,
        go_on=settle,
    ),
    Scenario(
        "clean over several holds",
        slowly(push((b"q", bytes(1_400))), 1_700),
        changes(pushed(b"q", bytes(1_400))),
        much_dead_behind,
        full=True,
        stride=3,
        go_on=fill_up,
    ),
    Scenario(
        "clean the current extent over several holds",
        slowly(push((b"q", bytes(1_400))), 1_700),
        changes(pushed(b"q", bytes(1_400))),
        much_dead_in_front,
        full=True,
        stride=3,
        go_on=fill_up,
    ),
    Scenario(
        "a round over several holds",
        slowly(round_of(layout.CHANNELS), 2_000),
        changes(),
        in_order,
        go_on=round_of(layout.CHANNELS),
    ),
    Scenario(
        "a round of tables over several holds",
        slowly(round_of(layout.GROUPS), 2_000),
        changes(),
        members_in_order,
        go_on=round_of(layout.GROUPS),
    ),
    Scenario(
        "push what expires first during a round",
        lambda world: world.engine.push([world.record(b"a", b"new", 1_000_000)]),
        changes(pushed(b"a", b"new")),
        a_round_under_way,
        go_on=round_of(layout.CHANNELS),
    ),
    Scenario(
        "push through a ring what expires first",
        lambda world: world.engine.push([world.record(b"ring", b"new", 1_000_000)]),
        changes(pushed(b"ring", b"new")),
        ring_without_old,
    ),
    Scenario(
        "search a list over several holds",
        slowly(lambda world: world.engine.statistics(b"search"), 1_500),
        changes(),
        old_in_list,
        go_on=search(b"search"),
    ),
    Scenario(
        "search a list in one hold",
        lambda world: world.engine.statistics(b"search"),
        changes(),
        few_old_in_list,
        go_on=search(b"search"),
    ),
    Scenario(
        "search a ring over several holds",
        slowly(lambda world: world.engine.statistics(b"ring"), 2_200),
        changes(),
        old_in_ring,
        go_on=search(b"ring"),
    ),
    Scenario(
        "pop where a search is",
        lambda world: world.engine.pop(b"search", 3),
        changes(popped(b"search", 3)),
        search_under_way,
        go_on=search(b"search"),
    ),
    Scenario(
        "push that refills a ring which a search has passed",
        push((b"ring", b"new")),
        changes(pushed(b"ring", b"new")),
        search_before_a_refill,
        go_on=search(b"ring"),
    ),
    Scenario(
        "reap more than one hold may", lambda world: world.engine._reap(), reaped, crowd, go_on=reap
    ),
]
