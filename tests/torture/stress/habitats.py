"""Where actors live: event loops of every kind, and threads without one.

The first habitat of a process lasts for the whole round and holds the receivers that wait
without a timeout, so that a wake-up that is lost keeps messages from arriving. The others live
for fractions of a second, one after another, and end in different ways.
"""

from __future__ import annotations

import _thread
import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import uvloop

from asgi_ipc import IPCChannelLayer

from . import actors
from .notes import DRAIN, FINISH, RUN, Interruption, World
from .plan import CHANNELS, GROUPS

Actor = Coroutine[Any, Any, None]

#: What asyncio says of tasks whose loop was closed under them, as some are here on purpose.
_ABANDONED = ("was destroyed but it is pending", "coroutine ignored GeneratorExit")


def live(world: World, kind: str, slot: int) -> None:
    """Fill a thread with habitats of a kind, for as long as the round lasts."""
    dice = world.plan.dice(world.index, "habitat", slot)
    while world.stage < (DRAIN if slot else FINISH):
        live_once(world, kind, dice, slot == 0)


def live_once(world: World, kind: str, dice: random.Random, lasting: bool = False) -> None:
    """Make a habitat, and see its end."""
    try:
        if kind == "raw":
            # A thread that Python did not start: nothing tells of its end.
            ended = threading.Semaphore(0)
            _thread.start_new_thread(_raw, (world, dice.choice(world.layers), ended))
            ended.acquire()
        elif kind == "sync":
            receive_in_thread(world, dice.choice(world.layers))
        else:
            run_loop(world, kind, lasting, dice)
    except Interruption:
        pass  # It came between two calls.
    except Exception as error:
        world.notes("habitat").failed(f"a habitat of kind {kind}", error)
    finally:
        world.bequeath()


def _raw(world: World, layer: IPCChannelLayer, ended: threading.Semaphore) -> None:
    try:
        receive_in_thread(world, layer)
    finally:
        ended.release()


def cast(world: World, lasting: bool, dice: random.Random) -> list[Actor]:
    """The actors of an event loop."""
    layer = dice.choice(world.layers)
    if lasting:
        found = [
            *(actors.receive_always(world, layer, where) for where in range(CHANNELS)),
            *(actors.receive_always(world, each) for each in world.layers),
            *(actors.receive_always(world, layer, group=group) for group in GROUPS),
            actors.inherit(world),
            actors.send(world, layer),
        ]
    else:
        makers = (
            actors.send,
            actors.send,
            actors.send_cancelled,
            actors.receive_impatiently,
            actors.receive_impatiently,
            actors.snipe,
            actors.come_and_go,
        )
        found = [
            dice.choice(makers)(world, dice.choice(world.layers)) for _ in range(dice.randint(2, 7))
        ]
    if world.plan.has("held_up"):
        found.append(actors.hold_up(world, layer))
    return found


def run_loop(world: World, kind: str, lasting: bool, dice: random.Random) -> None:
    """Run one event loop from its making to its closing."""
    seconds = 1e9 if lasting else 0.1 + 0.5 * dice.random()
    stage = FINISH if lasting else DRAIN

    async def wait() -> None:
        await actors.until(world, stage, seconds)

    if kind == "anyio":

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(_handler(world))
            async with anyio.create_task_group() as group:
                for actor in cast(world, lasting, dice):
                    group.start_soon(_awaited, actor)
                await wait()
                group.cancel_scope.cancel()

        anyio.run(main, backend_options={"use_uvloop": dice.random() < 0.5})
        return
    loop = _new_loop(kind)
    loop.set_exception_handler(_handler(world))
    abandon = not lasting and world.plan.has("abandon") and dice.random() < 0.5
    try:
        if kind == "taskgroup" and sys.version_info >= (3, 11):

            async def grouped() -> None:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(actor) for actor in cast(world, lasting, dice)]
                    await wait()
                    actors.ending.add(loop)
                    for task in tasks:
                        task.cancel()

            _run(loop, grouped())
            return

        async def plain() -> None:
            for actor in cast(world, lasting, dice):
                kept.append(asyncio.ensure_future(actor))
            await wait()

        kept: list[asyncio.Future[None]] = []
        _run(loop, plain())
        if abandon:
            # Its tasks stay suspended until a collection closes them, wherever that is.
            kept.clear()
        else:
            _run(loop, _cancel_all())
            _run(loop, loop.shutdown_default_executor())
    finally:
        loop.close()


async def _awaited(actor: Actor) -> None:
    await actor


async def _cancel_all() -> None:
    loop = asyncio.get_running_loop()
    actors.ending.add(loop)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(found, Exception) and not isinstance(found, Interruption):
            loop.call_exception_handler({"message": "an actor failed", "exception": found})


def _run(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine, whatever handlers of signals raise in the loop itself."""
    asyncio.set_event_loop(None)
    task = loop.create_task(main)
    while True:
        try:
            loop.run_until_complete(task)
        except Interruption:
            pass
        except RuntimeError:
            # So asyncio calls it if a handler has raised just when it was told to stop.
            if task.done() or "stopped before" not in str(sys.exc_info()[1]):
                raise
        if task.done():
            return


def _new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        return uvloop.new_event_loop()
    loop = asyncio.new_event_loop()
    if kind == "eager" and sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def _handler(world: World) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """What is reported of errors that are not awaited: in callbacks, and in tasks."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message, error = str(context.get("message")), context.get("exception")
        ours = isinstance(error, (Interruption, actors.Enough))
        if ours or any(each in message for each in _ABANDONED):
            return
        notes = world.notes("loop")
        if error is None:
            world.fault(f"the event loop was told: {message}")
        else:
            notes.failed(f"a callback ({message})", error)
        notes.close()

    return handle


# Without an event loop


def receive_in_thread(world: World, layer: IPCChannelLayer) -> None:
    """Send and receive with the synchronous surface for a while."""
    notes = world.notes("sync")
    dice, sync = notes.dice, layer.sync
    until = time.monotonic() + 0.1 + 0.5 * dice.random()
    own = ""
    while world.stage == RUN and time.monotonic() < until:
        for _ in range(dice.randint(0, 3)):
            notes.send(layer, *world.target(dice))
        names = [f"channel{where}" for where in dice.sample(range(CHANNELS), dice.randint(1, 3))]
        try:
            if dice.random() < 0.3:
                # All that this process has open on it; the channel's own receiver shares them.
                own = f"specific.{layer.client_prefix}!"
                names.append(own)
            found, message = sync.receive(names, dice.random() < 0.7, 0.05 * dice.random())
        except Exception as error:
            notes.failed("sync.receive", error, -1 if own else int(names[0][7:]))
            if isinstance(error, Interruption):
                for name in names:
                    if name.startswith("channel"):
                        notes.failed("sync.receive", error, int(name[7:]))
            continue
        if found is not None and message is not None:
            notes.got(number_of(world, found), message)
    notes.close()


def number_of(world: World, name: str) -> int:
    """The number of a channel that was received on."""
    if name.startswith("channel"):
        return int(name[7:])
    where = world.own.get(name)
    if where is None:
        world.fault(f"a message came on {name}, which this process has not made")
        return 0
    return where


class Sending:
    """Something that sends a message when it is collected, wherever that happens."""

    def __init__(self, world: World, where: int, name: str) -> None:
        self.world, self.where, self.name = world, where, name
        self.layer, self.process = world.layers[0], world.process
        self.cycle = self

    def __del__(self) -> None:
        world = self.world
        # A forked child collects what its parent does.
        if world.stage == RUN and os.getpid() == self.process:
            notes = world.notes("finalizer")
            notes.send(self.layer, self.where, self.name)
            notes.close()


def litter(world: World) -> None:
    """Leave things for the collector."""
    dice = world.plan.dice(world.index, "litter")
    while world.stage == RUN:
        for _ in range(dice.randint(1, 20)):
            Sending(world, *world.target(dice))
        time.sleep(0.002)


def in_thread(function: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Run something in a thread of Python's."""
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


__all__ = ["in_thread", "litter", "live", "live_once", "number_of", "receive_in_thread", "run_loop"]
