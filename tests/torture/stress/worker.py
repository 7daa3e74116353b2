"""A process of a round: ``python -m tests.torture.stress.worker FOLDER INDEX``."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from types import FrameType

import asgi_ipc
from asgi_ipc.delivery import demultiplexer
from asgi_ipc.engines import find

from . import habitats, plants
from .notes import CHILDREN, DRAIN, EMPTIED, FINISH, RUN, STRANDED, Interruption, World
from .plan import CHANNELS, Plan, make_layers

#: Seconds after which a lost wake-up is made good for where the round excuses it; else never.
NEVER = 1_000_000.0
#: Seconds that a process may last beyond its round's work before all of its stacks are shown.
PATIENCE = 90.0
_PACKAGE = str(Path(asgi_ipc.__file__).parent)


def main(folder: Path, index: int) -> int:
    """Live through a round."""
    # What would otherwise be imported in the middle of a fork.
    importlib.import_module("anyio._backends._asyncio")
    plan = Plan.load(folder)
    _watch(folder, plan)
    if plan.patient:
        demultiplexer.LOOK_AGAIN = NEVER
    world = World(folder, plan, index, [])
    warnings.simplefilter("error")
    # Of forks beside threads, and of coroutines that a closed loop leaves behind.
    for message in (".*multi-threaded, use of fork", ".*was never awaited", "unclosed event loop"):
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", category=ResourceWarning)
    sys.unraisablehook = lambda each: _unraisable(world, each)
    threading.excepthook = lambda each: world.fault(f"a thread died: {each.exc_value!r}")
    if plan.plant:
        plants.plant(plan.plant, find(plan.options(folder)["engine"]))
    world.layers = make_layers(plan, folder)
    if plan.has("logging"):
        logging.getLogger("asgi_ipc").addHandler(_Inquirer(world))
    (folder / f"{index}.ready").touch()
    gc.set_threshold(plan.gc_threshold)
    sys.setswitchinterval(plan.switch_interval)
    threads = [habitats.in_thread(habitats.live, world, kind, n) for n, kind in _slots(plan)]
    for feature, part in (
        ("close", close_now_and_then),
        ("destroy", destroy_now_and_then),
        ("flush", flush_now_and_then),
        ("fork", fork_now_and_then),
        ("finalizers", habitats.litter),
    ):
        if plan.has(feature):
            threads.append(habitats.in_thread(part, world))
    if plan.has("handlers"):
        interrupted(world)
    counting = world.notes("count")
    while world.stage != FINISH:
        counting.count()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    gc.set_threshold(700)
    drain(world)
    counting.count()
    for layer in world.layers:
        layer.sync.close()
    return 0


def _slots(plan: Plan) -> list[tuple[int, str]]:
    return list(enumerate(plan.kinds))


def _watch(folder: Path, plan: Plan) -> None:
    """Show all stacks if this process hangs, or is asked to."""
    stacks = (folder / f"{os.getpid()}.stacks").open("w")
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    faulthandler.dump_traceback_later(plan.seconds + PATIENCE, exit=True, file=stacks)


def _unraisable(world: World, found: sys.UnraisableHookArgs) -> None:
    """What is raised where no caller can catch it: in finalizers, and in what is collected."""
    # At the very end there is nothing left that anything could be done with.
    if isinstance(found.exc_value, Interruption) or sys.is_finalizing():
        return
    # To warn of a coroutine that was not awaited, CPython imports a module by the builtins of the
    # frame that the collection interrupted. The constructor of a named tuple has none.
    if isinstance(found.exc_value, KeyError) and found.exc_value.args == ("__import__",):
        return
    if os.getpid() == world.process:
        told = f"{found.err_msg or 'unraisable'}: {found.object!r}"
        notes = world.notes("unraisable")
        if found.exc_value is not None:
            notes.failed(told, found.exc_value)
        notes.close()


class _Inquirer(logging.Handler):
    """A logging handler that asks the layer how it is, from wherever something is logged."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self.world = world

    def emit(self, record: logging.LogRecord) -> None:
        notes = self.world.notes("logging")
        try:
            self.world.layers[0].sync.global_statistics()
        except Exception as error:
            notes.failed("global_statistics in a logging handler", error)
        notes.close()


# What empties a store, or closes it


def close_now_and_then(world: World) -> None:
    """Close a layer; the next call opens it again."""
    notes = world.notes("close")
    while world.stage == RUN:
        time.sleep(0.6 * notes.dice.random())
        world.closings += 1
        try:
            notes.dice.choice(world.layers).sync.close()
        except Exception as error:
            notes.failed("close", error)
        if world.plan.engine == "memory":
            notes.note(EMPTIED, 0)  # The store goes with the last layer that has it open.


def destroy_now_and_then(world: World) -> None:
    """Remove the store under everyone."""
    _empty_now_and_then(world, "destroy", 1.5)


def flush_now_and_then(world: World) -> None:
    """Empty the store."""
    _empty_now_and_then(world, "flush", 0.6)


def _empty_now_and_then(world: World, call: str, longest: float) -> None:
    notes = world.notes(call)
    while world.stage == RUN:
        time.sleep(longest * notes.dice.random())
        if call == "destroy":
            world.closings += 1
        try:
            getattr(notes.dice.choice(world.layers).sync, call)()
        except Exception as error:
            notes.failed(call, error)
        notes.note(EMPTIED, 0)


def drain(world: World) -> None:
    """Read what was left unread, which should be nothing."""
    notes = world.notes("drain")
    for layer in world.layers:
        names = [f"channel{where}" for where in range(CHANNELS)]
        try:
            client = f"{layer.client_prefix}!"
            names += [name for name in world.queues if name.endswith(client)]
            while True:
                found, message = layer.sync.receive(names)
                if found is None or message is None:
                    break
                where = habitats.number_of(world, found)
                notes.note(STRANDED, where, message["n"], message["p"])
                notes.got(where, message)
        except Exception as error:
            notes.failed("receiving the rest", error, CHANNELS)


# Forks


def fork_now_and_then(world: World) -> None:
    """Fork in the middle of everything, and see that the child can work."""
    dice = world.plan.dice(world.index, "fork")
    children = []
    number = 0
    while world.stage == RUN:
        time.sleep(0.1 + 0.4 * dice.random())
        number += 1
        child = os.fork()
        if child:
            children.append(child)
            continue
        status = 1
        try:
            _child(world, number, dice)
            status = 0
        except BaseException as error:
            with contextlib.suppress(BaseException):
                world.notes("fork").failed("a forked child", error)
        finally:
            os._exit(status)
    for child in children:
        _, status = os.waitpid(child, 0)
        if status:
            world.fault(f"a forked child ended with {status}")


def _child(parent: World, number: int, dice: random.Random) -> None:
    plan = parent.plan
    parent.process = -1
    stacks = (parent.folder / f"{os.getpid()}.stacks").open("w")
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    # The thread that would show its stacks later has not come along.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(plan.seconds + PATIENCE))
    index = (parent.index + 1) * CHILDREN + number
    world = World(parent.folder, plan, index, parent.layers)
    world.closings = parent.closings
    until = time.monotonic() + 0.3 + 0.5 * dice.random()
    notes = world.notes("child")
    # Something at once, while all is as the parent had it.
    notes.send(world.layers[0], *world.target(dice))
    kind = dice.choice(("asyncio", "uvloop", "sync"))
    while time.monotonic() < until and world.stage == RUN:
        if kind == "sync":
            habitats.receive_in_thread(world, dice.choice(world.layers))
        else:
            habitats.run_loop(world, kind, False, dice)
    # Its own channels end with it; no other process can read them.
    notes.count()
    for channels in list(world.open.values()):
        for where in list(channels):
            notes.left(where)
    if plan.engine == "memory":
        drain(world)  # So does its store.


# Signals


def interrupted(world: World) -> None:
    """Live in the main thread, where the handlers of signals run, and raise."""
    dice = world.plan.dice(world.index, "handlers")

    def handler(number: int, frame: FrameType | None) -> None:
        if frame is None or world.stage != RUN:
            return
        # What asyncio itself loses when a handler raises in it is not ours to find.
        inside = frame.f_code.co_filename.startswith(_PACKAGE)
        asleep = frame.f_code.co_name == "select" and "selectors" in frame.f_code.co_filename
        if (inside or asleep) and not _in_finalizer(frame):
            raise Interruption

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
    try:
        while world.stage < DRAIN:
            with contextlib.suppress(Interruption):
                habitats.live_once(world, dice.choice(("asyncio", "sync")), dice)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)


def _in_finalizer(frame: FrameType | None) -> bool:
    """Whether an exception would get lost: no caller can catch what a finalizer raises."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
