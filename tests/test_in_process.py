"""Forks, threads, event loops, cancellation, closing and signals: what may happen in a process."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import multiprocessing
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest

from asgi_ipc import IPCChannelLayer, StoreUnavailable, SyncIPCChannelLayer
from asgi_ipc.store.engine import SharedMemoryEngine
from asgi_ipc.store.store import Store

from .doubles import PATIENCE, WATCHDOG, run, watchdog  # noqa: F401
from .stores import KIB, assert_sound, in_child, open_store, record, wait

ENGINES = ["posix", "sysv", "mmap"]


@pytest.fixture(params=ENGINES)
def options(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What all layers of a test are made with; the store is removed after it."""
    made = {
        "prefix": "store",
        "engine": request.param,
        "engine_options": {"directory": str(tmp_path)},
        "channel_memory": 2048 * KIB,
        "group_memory": 256 * KIB,
        "capacity": 100_000,
        "expiry": 3600,
    }
    yield made
    SyncIPCChannelLayer(**made).destroy()
    assert list(tmp_path.iterdir()) == []


def engine_of(layer: IPCChannelLayer | SyncIPCChannelLayer) -> SharedMemoryEngine:
    return cast(SharedMemoryEngine, layer._core.demux.engine)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


def drain(layer: SyncIPCChannelLayer, channel: str) -> list[int]:
    found: list[int] = []
    while True:
        _, message = layer.receive([channel])
        if message is None:
            return found
        found.append(message["n"])


# ---- Signals.


class Interrupted(BaseException):
    """What the signal's handler raises, as Python does for Ctrl-C."""


#: Whether somebody is there to catch it. A signal may be handled a little later than it came.
interruptible = False


def interrupt(number: int, frame: FrameType | None) -> None:
    if interruptible:
        raise Interrupted


@contextlib.contextmanager
def another_process(options: dict[str, Any]) -> Iterator[Callable[[], bool]]:
    """Yields a function: whether a process that uses the store gets in and out within seconds."""
    ask_out, ask_in = os.pipe()
    say_out, say_in = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.close(ask_in)
            signal.alarm(int(WATCHDOG))
            layer = SyncIPCChannelLayer(**options)
            while os.read(ask_out, 1):
                layer.send("other", {})
                layer.receive(["other"])
                layer.group_add("other", "other")
                layer.group_discard("other", "other")
                os.write(say_in, b"!")
        os._exit(0)
    os.close(ask_out)

    def is_let_in() -> bool:
        os.write(ask_in, b"?")
        if not select.select([say_out], [], [], PATIENCE)[0]:
            return False
        return os.read(say_out, 1) == b"!"

    try:
        yield is_let_in
    finally:
        os.close(ask_in)
        os.kill(child, signal.SIGKILL)
        wait(child)
        os.close(say_out)
        os.close(say_in)


def test_an_exception_from_a_signal_handler_leaves_nobody_blocked(options: dict[str, Any]) -> None:
    dice = random.Random(1)
    layer = SyncIPCChannelLayer(**options)
    received: collections.Counter[int] = collections.Counter()
    tried, sent = set(), set()
    in_receive = interrupts = 0
    global interruptible
    before = signal.signal(signal.SIGALRM, interrupt)
    # The interpreter swallows an exception that arrives in a finalizer or a weak reference's
    # callback, and those of whatever earlier tests left run when garbage is collected.
    gc.collect()
    gc.disable()
    try:
        with another_process(options) as is_let_in:
            for number in range(2_500):
                what = dice.randrange(3)
                try:
                    try:
                        interruptible = True
                        signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 150e-6))
                        if what == 0:
                            tried.add(number)
                            layer.send("a", {"n": number})
                            sent.add(number)
                        elif what == 1:
                            _, message = layer.receive(["a"])
                            if message:
                                received[message["n"]] += 1
                        else:
                            layer.group_add("g", f"c{number % 50}")
                            layer.group_send("g", {})
                            layer.group_discard("g", f"c{number % 50}")
                    finally:
                        interruptible = False
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupted:
                    interruptible = False
                    interrupts += 1
                    in_receive += what == 1
                    assert is_let_in()
        received.update(drain(layer, "a"))
        assert interrupts > 100
        assert max(received.values()) == 1
        assert set(received) <= tried
        # As a kill would: only what the interrupted call had just taken.
        assert len(sent - set(received)) <= in_receive
        assert_sound(engine_of(layer))
    finally:
        gc.enable()
        signal.signal(signal.SIGALRM, before)
        layer.close()


@pytest.mark.parametrize("options", ["posix"], indirect=True)
def test_a_signal_handler_that_uses_the_store_inside_the_store_is_refused(
    options: dict[str, Any],
) -> None:
    layer = SyncIPCChannelLayer(**options)
    outcomes: collections.Counter[str] = collections.Counter()

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            layer.send("signals", {"n": 0})
            outcomes.update(["sent"])
        except StoreUnavailable as error:
            outcomes.update([str(error)[:36]])

    before = signal.signal(signal.SIGALRM, handler)
    dice = random.Random(2)
    try:
        with another_process(options) as is_let_in:
            sent: list[int] = []
            until = time.monotonic() + PATIENCE
            while len(outcomes) < 2 and time.monotonic() < until:
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 100e-6))
                sent.append(len(sent))
                layer.send("a", {"n": sent[-1]})
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert outcomes.keys() == {"sent", "a signal handler used the store while"[:36]}
            assert is_let_in()
        assert drain(layer, "a") == sent
        assert len(drain(layer, "signals")) == outcomes["sent"]
        assert_sound(engine_of(layer))
    finally:
        signal.signal(signal.SIGALRM, before)
        layer.close()


# ---- Forks.


@contextlib.contextmanager
def busy_threads(layer: IPCChannelLayer, count: int = 3) -> Iterator[None]:
    """Threads that use the layer in every way meanwhile; an error of theirs is raised."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def synchronous(mine: str) -> None:
        sync = layer.sync
        while not stop.is_set():
            sync.send(mine, {"n": 1})
            sync.receive([mine], block=True, timeout=0.01)
            sync.group_add("busy", mine)
            sync.send_group("busy", {"n": 1})
            sync.group_discard("busy", mine)
            sync.receive([mine])

    async def asynchronous() -> None:
        mine = await layer.new_channel()
        await layer.group_add("busy", mine)
        while not stop.is_set():
            await layer.send(mine, {"n": 1})
            await asyncio.wait_for(layer.receive(mine), PATIENCE)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(layer.receive(mine), 0.001)

    def guarded(function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=guarded, args=(synchronous, f"busy{n}")) for n in range(count)
    ]
    threads.append(threading.Thread(target=guarded, args=(lambda: asyncio.run(asynchronous()),)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(WATCHDOG / 2)
    assert errors == []


def test_forks_amid_threads_that_use_the_layer_harm_nobody(options: dict[str, Any]) -> None:
    layer = IPCChannelLayer(**options)

    def child(number: int) -> None:
        layer.sync.send("children", {"n": number})
        mine = asyncio.run(layer.new_channel())
        layer.sync.send(mine, {"n": number})

        async def receive() -> dict[str, Any]:
            return await asyncio.wait_for(layer.receive(mine), PATIENCE)

        assert asyncio.run(receive()) == {"n": number}
        layer.sync.close()

    with busy_threads(layer):
        for number in range(25):
            forked: list[BaseException] = []

            def fork(number: int = number, forked: list[BaseException] = forked) -> None:
                try:
                    in_child(lambda: child(number))
                except BaseException as error:
                    forked.append(error)

            # From a thread, which is then the child's only one.
            if number % 2:
                thread = threading.Thread(target=fork)
                thread.start()
                thread.join(WATCHDOG / 2)
            else:
                fork()
            assert forked == []
    assert sorted(drain(layer.sync, "children")) == list(range(25))
    assert_sound(engine_of(layer))
    layer.sync.close()


def test_a_forked_child_that_only_exits_takes_nothing_along(options: dict[str, Any]) -> None:
    layer = IPCChannelLayer(**options)

    async def scenario() -> None:
        mine = await layer.new_channel()
        waiting = asyncio.ensure_future(layer.receive(mine))
        await asyncio.sleep(0.01)
        await layer.group_add("g", mine)
        for hard in (False, True):
            # sys.exit runs the interpreter's exit handlers, ours among them.
            child = os.fork()
            if not child:
                if hard:
                    os._exit(0)
                with contextlib.suppress(BaseException):
                    # As the interpreter would, and pytest would keep it from.
                    import atexit

                    atexit._run_exitfuncs()
                os._exit(0)
            assert wait(child) == 0
        await layer.group_send("g", {"n": 1})
        assert await asyncio.wait_for(waiting, PATIENCE) == {"n": 1}
        assert await layer.group_channels("g") == [mine]
        assert (await layer.global_statistics())["recoveries"] == 0
        await layer.close()

    run(scenario())


def test_a_layer_made_before_the_workers_were_forked_serves_each_of_them(
    options: dict[str, Any],
) -> None:
    layer = IPCChannelLayer(**options)  # As gunicorn --preload does it.
    children = []

    async def worker(number: int) -> None:
        mine = await layer.new_channel()
        await layer.group_add("workers", mine)
        await layer.send("ready", {"n": number})
        for _ in range(20):
            message = await asyncio.wait_for(layer.receive(mine), PATIENCE)
            await layer.send("answers", {"n": message["n"] * 10 + number})
        await layer.close()

    for number in range(4):
        child = os.fork()
        if not child:
            status = 1
            try:
                run(worker(number))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    sync = layer.sync
    for _ in children:
        assert sync.receive(["ready"], block=True, timeout=PATIENCE)[0] == "ready"
    for number in range(20):
        sync.send_group("workers", {"n": number})
    for child in children:
        assert wait(child) == 0
    wanted = sorted(number * 10 + child for number in range(20) for child in range(4))
    assert sorted(drain(sync, "answers")) == wanted
    assert sync.group_channels("workers") == []
    sync.close()


def in_another_process(options: dict[str, Any], number: int) -> None:
    """What a child of multiprocessing does."""
    layer = SyncIPCChannelLayer(**options)
    _, message = layer.receive(["work"], block=True, timeout=PATIENCE)
    assert message is not None
    layer.send("done", {"n": message["n"] * 2})


@pytest.mark.parametrize("options", ["mmap"], indirect=True)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_multiprocessing_share_the_store(options: dict[str, Any], method: str) -> None:
    layer = SyncIPCChannelLayer(**options)
    context: Any = multiprocessing.get_context(method)
    processes = [
        context.Process(target=in_another_process, args=(options, number)) for number in range(2)
    ]
    for process in processes:
        process.start()
    for number in range(2):
        layer.send("work", {"n": number})
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert sorted(drain(layer, "done")) == [0, 2]
    layer.close()


def test_a_forked_child_inherits_no_descriptor_for_good(options: dict[str, Any]) -> None:
    layer = SyncIPCChannelLayer(**options)

    def other() -> None:
        SyncIPCChannelLayer(**options).receive(["a"], block=True, timeout=PATIENCE)

    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            other()
        os._exit(0)
    while not engine_of(layer).statistics()["queues"]:
        time.sleep(0.01)
    layer.send("a", {"n": 1})  # Which opens a writer to the other's bell.
    wait(child)
    assert engine_of(layer)._ringer._writers
    layer.receive(["nothing"], block=True, timeout=0.01)  # Which makes a bell.

    def heir() -> None:
        kept = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd}
        assert not [name for name in kept if "bell." in name], kept

    if os.path.isdir("/proc/self/fd"):
        in_child(lambda: _ignoring(heir))
    layer.close()


def _ignoring(function: Callable[[], object]) -> None:
    # The listing of the folder is itself a descriptor, gone when it is looked at.
    for _ in range(3):
        try:
            function()
            return
        except FileNotFoundError:
            continue


# ---- Threads and loops.


@pytest.mark.parametrize("options", ["posix"], indirect=True)
def test_eight_threads_share_a_layer_without_loss_or_doubles(options: dict[str, Any]) -> None:
    layer = SyncIPCChannelLayer(**options)
    each, threads = 150, 8
    received: list[list[tuple[int, int]]] = [[] for _ in range(threads)]
    left = threading.Semaphore(0)

    def hammer(me: int) -> None:
        for number in range(each):
            layer.send(f"channel{number % 3}", {"n": me * 1000 + number})
            name, message = layer.receive(["channel0", "channel1", "channel2"], True, PATIENCE)
            assert message is not None
            assert name is not None
            received[me].append((int(name[7:]), message["n"]))
        left.release()

    workers = [threading.Thread(target=hammer, args=(n,), daemon=True) for n in range(threads)]
    for worker in workers:
        worker.start()
    for _ in workers:
        assert left.acquire(timeout=WATCHDOG / 2)
    got = [number for mine in received for _, number in mine]
    assert sorted(got) == sorted(me * 1000 + n for me in range(threads) for n in range(each))
    for mine in received:
        last: dict[tuple[int, int], int] = {}
        for channel, number in mine:
            key = channel, number // 1000
            assert number > last.get(key, -1)
            last[key] = number
    assert_sound(engine_of(layer))
    layer.close()


@pytest.mark.parametrize("options", ["posix"], indirect=True)
def test_loops_in_threads_and_calls_from_threads_use_one_layer(options: dict[str, Any]) -> None:
    sync_calls = pytest.importorskip("asgiref.sync")
    layer = IPCChannelLayer(**options)
    results: list[Any] = []

    async def echo(mine: str, rounds: int) -> None:
        for _ in range(rounds):
            message = await asyncio.wait_for(layer.receive(mine), PATIENCE)
            await layer.send(message["reply"], {"n": message["n"] + 1})

    def caller(number: int) -> None:
        call = sync_calls.async_to_sync
        name = call(layer.new_channel)()
        for turn in range(20):
            call(layer.send)(f"echo{number}", {"n": turn, "reply": name})
            results.append(call(layer.receive)(name)["n"] == turn + 1)

    threads = [
        *(
            threading.Thread(target=lambda n=n: asyncio.run(echo(f"echo{n}", 20)), daemon=True)
            for n in range(3)
        ),
        *(threading.Thread(target=caller, args=(n,), daemon=True) for n in range(3)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG / 2)
        assert not thread.is_alive()
    assert results == [True] * 60
    layer.sync.close()


@pytest.mark.parametrize("options", ["posix"], indirect=True)
@pytest.mark.parametrize("first_runs", [True, False], ids=["which runs elsewhere", "which stopped"])
def test_a_loop_receives_on_a_channel_of_another_loop(
    options: dict[str, Any], first_runs: bool
) -> None:
    """Where receivers of a first loop wait, so that all seems ready for one more."""
    layer = IPCChannelLayer(**options)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    waiting: list[asyncio.Future[Any]] = []

    async def begin() -> str:
        mine = [await layer.new_channel() for _ in range(3)]
        # Known to the layer from now on; the last one has nobody waiting.
        await layer.send(mine[2], {"n": 0})
        assert await layer.receive(mine[2]) == {"n": 0}
        waiting.extend(asyncio.ensure_future(layer.receive(name)) for name in mine[:2])
        await asyncio.sleep(0.01)
        return mine[2]

    async def receive(name: str) -> Any:
        return await asyncio.wait_for(layer.receive(name), PATIENCE)

    async def send_to_a_receiver(name: str) -> None:
        for number in range(3):
            received = asyncio.ensure_future(receive(name))
            await asyncio.sleep(0.01)
            await layer.send(name, {"n": number})
            assert await received == {"n": number}

    async def end() -> None:
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    name = first.run_until_complete(begin())
    thread = threading.Thread(target=first.run_forever, daemon=True)
    if first_runs:
        thread.start()
    second.run_until_complete(send_to_a_receiver(name))
    if first_runs:
        first.call_soon_threadsafe(first.stop)
        thread.join(PATIENCE)
    first.run_until_complete(end())
    for loop in (first, second):
        loop.close()
    layer.sync.close()


@pytest.mark.parametrize("options", ["posix"], indirect=True)
def test_loops_closed_with_receivers_waiting_leave_nothing_behind(options: dict[str, Any]) -> None:
    layer = IPCChannelLayer(**options)
    folder = Path(options["engine_options"]["directory"]) / "store"

    def forget() -> None:
        loop = asyncio.new_event_loop()

        async def wait_for_ever() -> None:
            mine = await layer.new_channel()
            tasks.extend(asyncio.ensure_future(layer.receive(name)) for name in (mine, "ordinary"))
            await asyncio.sleep(0.001)

        tasks: list[asyncio.Future[Any]] = []
        loop.run_until_complete(wait_for_ever())
        for task in tasks:
            task.cancel()
        # Some with what was to be cancelled still waiting.
        if len(closed) % 2:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        else:
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        closed.append(loop)

    closed: list[asyncio.AbstractEventLoop] = []
    for _ in range(4):
        forget()
    count = descriptors()
    bells = len(list(folder.glob("bell.*")))
    for _ in range(20):
        forget()
    assert descriptors() <= count + 4
    assert len(list(folder.glob("bell.*"))) <= bells + 2

    async def still_works() -> None:
        await layer.send("ordinary", {"n": 1})
        assert await asyncio.wait_for(layer.receive("ordinary"), PATIENCE) == {"n": 1}
        await layer.close()

    run(still_works())
    assert list(folder.glob("bell.*")) == []


# ---- Cancelling.


def test_senders_here_and_in_another_process_each_keep_their_order(
    options: dict[str, Any],
) -> None:
    """What this process sends to itself may pass by the store, and overtakes nothing there."""
    count = 1_500
    layer = IPCChannelLayer(**{**options, "capacity": 10 * count})
    mine = run(layer.new_channel())

    def send(to: SyncIPCChannelLayer, who: int) -> None:
        for number in range(count):
            to.send(mine, {"who": who, "n": number})
            if number % 7 == 0:
                time.sleep(0.002)

    async def receive() -> dict[int, list[int]]:
        got: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for _ in range(3 * count):
            message = await asyncio.wait_for(layer.receive(mine), PATIENCE)
            got[message["who"]].append(message["n"])
        return got

    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            send(SyncIPCChannelLayer(**{**options, "capacity": 10 * count}), 2)
        os._exit(0)
    threads = [threading.Thread(target=send, args=(layer.sync, who)) for who in range(2)]
    for thread in threads:
        thread.start()
    try:
        got = run(receive())
        (own,) = layer._core.demux.own.values()
        assert own.passed_directly > 0, "nothing went the other way"
    finally:
        for thread in threads:
            thread.join(PATIENCE)
        wait(child)
        layer.sync.close()
    assert got == {who: list(range(count)) for who in got}


def test_receivers_cancelled_at_every_await_under_load_lose_and_double_nothing(
    options: dict[str, Any],
) -> None:
    count = 1_000
    layer = IPCChannelLayer(**options)
    mine = run(layer.new_channel())
    ready_out, ready_in = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.read(ready_out, 1)
            other = SyncIPCChannelLayer(**options)
            dice = random.Random(3)
            for number in range(count):
                other.send("ordinary", {"n": number})
                other.send(mine, {"n": number})
                if number % 5 == 0:
                    time.sleep(dice.uniform(0, 0.002))
        os._exit(0)

    async def cancelled(channel: str, dice: random.Random, found: list[int]) -> None:
        """Receive until the others are done, hardly ever waiting long enough."""
        while len(own) < count or len(one) + len(two) < count:
            task = asyncio.ensure_future(layer.receive(channel))
            try:
                if dice.random() < 0.5:
                    message = await asyncio.wait_for(task, dice.choice([0, 1e-6, 1e-4, 1e-3]))
                else:
                    for _ in range(dice.randrange(4)):
                        await asyncio.sleep(0)
                    task.cancel()
                    message = await task
            except (asyncio.TimeoutError, asyncio.CancelledError):
                await asyncio.sleep(0)
                # From 3.12 on, wait_for may time out on a task that has just got its message.
                if not task.done() or task.cancelled():
                    continue
                message = task.result()
            found.append(message["n"])

    own: list[int] = []
    one: list[int] = []
    two: list[int] = []

    async def scenario() -> None:
        os.write(ready_in, b"!")
        # The ordinary channel has two receivers, which take turns.
        await asyncio.gather(
            cancelled(mine, random.Random(1), own),
            cancelled("ordinary", random.Random(2), one),
            cancelled("ordinary", random.Random(4), two),
        )
        assert own == list(range(count))
        assert (one, two) == (sorted(one), sorted(two))
        assert sorted(one + two) == list(range(count))
        demux = layer._core.demux
        assert not any(each.waiting for each in demux.own.values())
        await asyncio.sleep(0.1)
        for listener in demux.loops.values():
            assert not cast(Any, listener).watches
        await layer.close()

    run(scenario())
    assert wait(child) == 0
    os.close(ready_in)
    os.close(ready_out)
    assert_sound(engine_of(layer))
    layer.sync.close()


# ---- Closing.


@pytest.mark.parametrize("options", ["posix"], indirect=True)
def test_a_layer_closed_again_and_again_under_threads_opens_anew_for_each(
    options: dict[str, Any],
) -> None:
    layer = SyncIPCChannelLayer(**options)
    stop = threading.Event()
    errors: list[BaseException] = []
    done = collections.Counter[str]()

    def use(me: int) -> None:
        number = 0
        while not stop.is_set():
            try:
                layer.send("a", {"n": number})
                done["sent"] += 1
                layer.receive(["a"], block=bool(me % 2), timeout=0.05)
            except StoreUnavailable as error:
                if "closed" not in str(error):
                    errors.append(error)
                done["refused"] += 1
            except BaseException as error:
                errors.append(error)
            number += 1

    threads = [threading.Thread(target=use, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    closed = 0
    while closed < 40 or not done["sent"]:
        time.sleep(0.005)
        layer.close()
        closed += 1
    stop.set()
    for thread in threads:
        thread.join(WATCHDOG / 2)
        assert not thread.is_alive()
    assert errors == []
    assert done["sent"] > 0
    assert_sound(engine_of(layer))
    layer.close()
    assert list((Path(options["engine_options"]["directory"]) / "store").glob("bell.*")) == []


@pytest.mark.parametrize("call", ["push", "members"])
def test_what_is_read_without_a_lock_may_be_closed_by_another_thread(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = False

    def close_now(*_: object) -> bool:
        if closing:
            engine.close()
        return True

    engine = open_store(tmp_path, clock=lambda: close_now() and time.monotonic_ns())
    if call == "push":
        # Just before the regular look after the store, when all is done.
        records = [record(engine, b"a")]
        engine._next_look = 0
        monkeypatch.setattr(Store, "is_current", close_now)
        monkeypatch.setattr(engine, "clock", time.monotonic_ns)
        closing = True
        assert engine.push(records) == []
    else:
        engine.members(b"t")
        closing = True
        with pytest.raises(StoreUnavailable, match="closed"):
            engine.members(b"t")
    monkeypatch.undo()
    open_store(tmp_path).destroy()


EXITING = """
import asyncio, contextlib, sys, threading, time
from asgi_ipc import IPCChannelLayer, StoreUnavailable
layer = IPCChannelLayer(**{options!r})
ready = threading.Semaphore(0)
# Who still waits may be told. Told by a thread that ends with the interpreter, it may be cut off.
def thread():
    with contextlib.suppress(StoreUnavailable):
        ready.release()
        layer.sync.receive(["never"], block=True)
def loop():
    async def main():
        mine = await layer.new_channel()
        never = asyncio.ensure_future(layer.receive("never"))
        ready.release()
        for error in await asyncio.gather(never, layer.receive(mine), return_exceptions=True):
            assert isinstance(error, StoreUnavailable), error
    asyncio.run(main())
for target in (thread, loop):
    threading.Thread(target=target, daemon=True).start()
for _ in range(2):
    ready.acquire()
time.sleep(0.2)
sys.exit(7)
"""


@pytest.mark.parametrize("options", ["posix"], indirect=True)
def test_the_interpreter_exits_with_receivers_waiting_and_leaves_nothing(
    options: dict[str, Any],
) -> None:
    keeper = SyncIPCChannelLayer(**options)
    done = subprocess.run(
        [sys.executable, "-c", EXITING.format(options=options)],
        capture_output=True,
        text=True,
        timeout=WATCHDOG / 2,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert engine_of(keeper).statistics()["processes"] == 1
    folder = Path(options["engine_options"]["directory"]) / "store"
    assert list(folder.glob("bell.*")) == []
    keeper.close()
