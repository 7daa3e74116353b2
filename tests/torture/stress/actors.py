"""What goes on in an event loop: tasks that send, receive, are cancelled, and get in the way.

No actor awaits between a call's return and its note, so that the ledgers are exact: what a
receive returned is noted, whatever is cancelled next.
"""

from __future__ import annotations

import asyncio
import sys
import time
import types
import weakref
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

import anyio

from asgi_ipc import ChannelFull, IPCChannelLayer

from .notes import CHILDREN, FINISH, MEMBER, RUN, Interruption, Notes, World
from .plan import CHANNELS, GROUPS

_Result = TypeVar("_Result")


class Enough(Exception):
    """What a task fails with to have its siblings cancelled."""


#: Loops whose tasks are all being cancelled.
ending: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


@types.coroutine
def cancelled_at(
    coroutine: Coroutine[Any, Any, _Result], suspension: int
) -> Generator[Any, Any, _Result]:
    """Await a coroutine, and cancel the task when it suspends for the so manieth time."""
    thrown: BaseException | None = None
    while True:
        try:
            found = coroutine.send(None) if thrown is None else coroutine.throw(thrown)
        except StopIteration as stop:
            result: _Result = stop.value
            return result
        suspension -= 1
        task = asyncio.current_task()
        if suspension == 0 and task is not None:
            task.cancel()
        thrown = None
        try:
            yield found
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:
            thrown = error


async def receive(notes: Notes, layer: IPCChannelLayer, where: int, name: str) -> bool:
    """Receive and note one message; False if the layer was closed under it."""
    try:
        message = await layer.receive(name)
    except Exception as error:
        notes.failed(f"receive on {where}", error, where)
        return isinstance(error, Interruption)
    notes.got(where, message)
    return True


async def new_channel(
    notes: Notes, layer: IPCChannelLayer, prefix: str = "specific", publish: bool = True
) -> tuple[int, str]:
    """A new own channel and its number."""
    while True:
        try:
            name = await layer.new_channel(prefix)
        except Exception as error:
            notes.failed("new_channel", error)
            await asyncio.sleep(0.001)
        else:
            return notes.begin(layer, name, publish), name


# Senders


async def send(world: World, layer: IPCChannelLayer) -> None:
    """Send to one channel after another, and each message again until there is room."""
    notes = world.notes("send")
    dice = notes.dice
    while world.stage == RUN:
        where, name = world.target(dice)
        message = notes.message(where)
        call = layer.group_send if where in GROUPS else layer.send
        tries = 5
        while tries and world.stage == RUN:
            try:
                await call(name, message)
                notes.sent(message)
                break
            except ChannelFull:
                notes.full(where)
                tries -= 1
                await asyncio.sleep(0.001 * dice.random())
            except Exception as error:
                # The next is another producer's: this one may be under way.
                notes.failed("send", error)
                notes.producer = world.number()
                break
        if dice.random() < 0.2:
            await asyncio.sleep(dice.choice((0, 0, 0.001, 0.01)))
    notes.close()


async def send_cancelled(world: World, layer: IPCChannelLayer) -> None:
    """Be cancelled in each await of a send, and of the other calls."""
    notes = world.notes("send_cancelled")
    while world.stage == RUN:
        where, name = world.target(notes.dice)
        # What was cancelled may have been sent, or be sent later.
        notes.producer = world.number()
        message = notes.message(where)

        async def once(where: int = where, name: str = name, message: Any = message) -> None:
            call = layer.group_send if where in GROUPS else layer.send
            # Met here, as the task that waits for this one may be abandoned.
            try:
                await cancelled_at(call(name, message), notes.dice.randint(1, 2))
                notes.sent(message)
            except ChannelFull:
                notes.full(where)
            except Exception as error:
                notes.failed("send", error)

        try:
            await asyncio.ensure_future(once())
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
        await asyncio.sleep(0.005 * notes.dice.random())
    notes.close()


# Receivers


async def receive_always(
    world: World, layer: IPCChannelLayer, where: int = -1, group: int = -1
) -> None:
    """Wait on a channel for as long as the round lasts: an ordinary one, or one of one's own."""
    notes = world.notes("receive", where)
    own = where < 0
    while world.stage != FINISH:
        if own:
            where, name = await new_channel(notes, layer)
            if group >= 0:
                try:
                    await layer.group_add(f"group{group}", name)
                    notes.note(MEMBER, where, group)
                except Exception as error:
                    notes.failed("group_add", error)
        else:
            name = f"channel{where}"
        reader = world.reader(notes.dice, layer)
        while await receive(notes, reader, where, name):
            pass
        if own:
            # The store was closed, and with it the process's right to the channel.
            notes.left(where)
        await asyncio.sleep(0.001)


async def receive_impatiently(world: World, layer: IPCChannelLayer) -> None:
    """Receive on an ordinary channel, or on one of one's own, and be cancelled in all ways."""
    notes = world.notes("impatient")
    dice = notes.dice
    where, name = dice.randrange(CHANNELS), ""
    own, loop = dice.random() < 0.6, asyncio.get_running_loop()
    # `wait_for` before Python 3.12, and a scope, may take this task's cancellation for their own.
    while world.stage == RUN and loop not in ending:
        if own and not name:
            where, name = await new_channel(notes, layer)
        else:
            name = name or f"channel{where}"
        reader = world.reader(dice, layer)
        ok = await _cancelled_somehow(notes, reader, where, name)
        if own and ok is False:
            notes.left(where)
            name = ""
            await asyncio.sleep(0.001)


async def _cancelled_somehow(
    notes: Notes, layer: IPCChannelLayer, where: int, name: str
) -> bool | None:
    """Receive once in one of many ways; None if it was cancelled."""
    dice = notes.dice
    patience = dice.choice((0, 0.0001, 0.001, 0.02))
    ways = ["suspension", "task", "wait_for", "timeout", "nested"]
    if notes.world.index < CHILDREN:
        # A scope imports something each time; a child may have inherited the lock of an import.
        ways.append("scope")
    way = dice.choice(ways)

    def once() -> Coroutine[Any, Any, bool]:
        return receive(notes, layer, where, name)

    try:
        if way == "suspension":
            return await asyncio.ensure_future(_wrapped(once(), dice.randint(1, 3)))
        if way == "wait_for":
            return await asyncio.wait_for(once(), patience)
        if way == "scope":
            with anyio.move_on_after(patience):
                return await once()
            return None
        if sys.version_info >= (3, 11) and way == "timeout":
            async with asyncio.timeout(patience):
                return await once()
        if sys.version_info >= (3, 11) and way == "nested":
            return await _cancelled_by_sibling(once(), patience)
        task = asyncio.ensure_future(once())
        await asyncio.sleep(patience)
        task.cancel()
        return await task
    except asyncio.TimeoutError:
        return None
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise
        return None


async def _wrapped(once: Coroutine[Any, Any, bool], suspension: int) -> bool:
    return await cancelled_at(once, suspension)


async def _cancelled_by_sibling(once: Coroutine[Any, Any, bool], patience: float) -> bool | None:
    inner: asyncio.Future[bool] | None = None
    try:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined]
            inner = group.create_task(once)
            group.create_task(_fail_after(patience))
    except Exception as error:  # A group of exceptions, of which CPython 3.10 has no name.
        if [type(each) for each in getattr(error, "exceptions", ())] != [Enough]:
            raise
    return None if inner is None or inner.cancelled() else inner.result()


async def _fail_after(seconds: float) -> None:
    await asyncio.sleep(seconds)
    raise Enough


def is_being_cancelled() -> bool:
    """Whether it is this task that is cancelled, and not what it waited for."""
    if sys.version_info >= (3, 11):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return asyncio.get_running_loop() in ending


async def snipe(world: World, layer: IPCChannelLayer) -> None:
    """Cancel a receive in the turn in which its message arrives, or a few turns later.

    Nobody else receives on these channels, so the next receive must get it.
    """
    notes = world.notes("snipe")
    dice = notes.dice
    where, name = -1, ""
    loop = asyncio.get_running_loop()
    while world.stage == RUN:
        if not name:
            where, name = await new_channel(notes, layer, "sniped", publish=False)
        waiting = asyncio.ensure_future(receive(notes, layer, where, name))
        for _ in range(dice.randint(0, 4)):
            await asyncio.sleep(0)
        if dice.random() < 0.7:
            message = notes.message(where)
            try:
                await layer.send(name, message)
                notes.sent(message)
            except ChannelFull:
                notes.full(where)
            except Exception as error:
                notes.failed("send", error)
        else:
            await loop.run_in_executor(None, notes.send, layer, where, name)
        for _ in range(dice.randint(0, 4)):
            await asyncio.sleep(0)
        waiting.cancel()
        try:
            if not await waiting:
                notes.left(where)
                name = ""
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise


async def inherit(world: World) -> None:
    """Go on receiving on the own channels of habitats that have ended."""
    tasks = []
    while world.stage != FINISH:
        while world.inherited:
            tasks.append(
                asyncio.ensure_future(_receive_inherited(world, *world.inherited.popleft()))
            )
        await asyncio.sleep(0.01)


async def _receive_inherited(world: World, where: int, layer: IPCChannelLayer, name: str) -> None:
    notes = world.notes("inherit", where)
    layer = world.reader(notes.dice, layer)
    while await receive(notes, layer, where, name):
        pass
    notes.left(where)
    notes.close()


# Others


async def come_and_go(world: World, layer: IPCChannelLayer) -> None:
    """Join and leave groups, and ask all there is to ask."""
    notes = world.notes("come_and_go")
    dice = notes.dice
    while world.stage == RUN:
        group, where = f"group{dice.choice(GROUPS)}", f"channel{dice.randrange(CHANNELS)}"
        # No member of this group is read, nor sent to.
        name = f"elsewhere.{dice.randrange(20)}"
        calls = (
            lambda name=name: layer.group_add("others", name),
            lambda name=name: layer.group_discard("others", name),
            lambda group=group: layer.group_channels(group),
            lambda: layer.global_statistics(),
            lambda where=where: layer.channel_statistics(where),
        )
        call = dice.choice(calls)
        try:
            await call()
        except Exception as error:
            notes.failed("an inquiry", error)
        await asyncio.sleep(dice.choice((0, 0.001, 0.02)))
    notes.close()


async def hold_up(world: World, layer: IPCChannelLayer) -> None:
    """Keep the loop from running now and then."""
    dice = world.plan.dice(world.index, "hold_up")
    while world.stage == RUN:
        time.sleep(dice.choice((0.001, 0.01, 0.1)))  # noqa: ASYNC251
        await asyncio.sleep(0.05 * dice.random())


async def until(world: World, stage: int, seconds: float = 1e9) -> None:
    """Return when the round has reached a stage, or after some time."""
    end = time.monotonic() + seconds
    while world.stage < stage and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
