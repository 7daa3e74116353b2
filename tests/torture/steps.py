"""What scenarios are made of: operations, and what they change for the users of a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.tools import (
    stores,
)

from .world import View, World, short

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
    #: How the next process goes on with what is left to do; raises `Finding` if it can't.
    go_on: Callable[[World], object] | None = None


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


def popped_in_parts(queue: bytes) -> Callable[[World, View], list[View]]:
    """All records go, in several changes of any size."""

    def allowed(world: World, view: View) -> list[View]:
        views = []
        for count in range(len(view.queues[queue]) + 1):
            views.append(view.copy())
            popped(queue, count)(views[-1])
            views[-1].tidy()
        return views

    return allowed


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


def counted(number: int) -> Callable[[View], object]:
    """This process has counted as many more."""

    def more(view: View) -> None:
        view.counted += number

    return more


def push(*pairs: tuple[bytes, bytes], capacity: int = 10**6) -> Callable[[World], object]:
    """An operation that pushes a batch."""
    return lambda world: world.engine.push(
        [world.record(queue, payload, capacity=capacity) for queue, payload in pairs]
    )


# ---- what both kinds of scenarios do


def sweep(world: World) -> None:
    """All buckets of both."""
    stores.sweep(world.engine, world.now, everything=True)
    stores.sweep_groups(world.engine, world.now)


def leave(world: World) -> None:
    """This process goes."""
    with world.engine.session.channels:
        world.engine.session.processes.leave(world.slot)


def orphan(world: World) -> None:
    """This process goes, and what it leaves is looked after."""
    leave(world)
    sweep(world)


def left(view: View) -> object:
    """What went with it."""
    view.queues.pop(b"own", None)
    view.bells.clear()
    return view.tables[b"t"].pop(b"mine")
