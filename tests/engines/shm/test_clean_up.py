"""What an exception leaves when it comes at any instant, in the clean-up too: a store that works.

The stack is exhausted in each operation at each depth, and exceptions are raised at each opcode
of the clean-up, one and two in a row. Afterwards another process uses the store while the one
that failed lives on and does nothing; then that one does; or it ends at once instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import dis
import functools
import itertools
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.engines import deferred
from asgi_ipc.engines.shm import critical_section
from asgi_ipc.engines.shm.critical_section import CriticalSection
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.locked_segment import LockedSegment
from asgi_ipc.engines.shm.locks import fcntl_locks, semaphore_locks
from asgi_ipc.engines.shm.locks.base import FCNTL, FLOCK, SEMAPHORE
from asgi_ipc.engines.shm.locks.choice import choose
from asgi_ipc.engines.shm.locks.robust_mutex import SemLock
from asgi_ipc.engines.shm.queues.queues import Queues
from asgi_ipc.exceptions import Reentered
from conformance.opcodes import trace_nothing, trace_opcodes
from tests.tools.doubles import (
    watchdog,
)
from tests.tools.interruptions import (
    Interruption,
)
from tests.tools.operations import FAR, OPERATIONS, prepare, use
from tests.tools.samples import ALL
from tests.tools.stores import (
    open_store,
    record,
    start,
    wait,
)

__all__ = ["watchdog"]

#: Seconds in which another process must have done its few operations.
PROMPTLY = 60.0
SHM = Path("/dev/shm")
KINDS = {"fcntl": FCNTL, "flock": FLOCK, "semaphore": SEMAPHORE}


@pytest.fixture(params=list(KINDS))
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SharedMemoryEngine]:
    """An engine on each kind of lock."""
    folder = tmp_path
    if request.param == "semaphore":
        if SemLock is None or semaphore_locks.no_new_ones():
            pytest.skip("this system has no such semaphores")
        folder = Path(tempfile.mkdtemp(prefix="clean-up-", dir=SHM))
    elif request.param == "flock":
        monkeypatch.setattr(fcntl_locks, "record_locks_fail", lambda *_: "switched off")
    engine = open_store(folder)
    assert engine.session.store is not None
    if engine.session.store.lock_file.kind != KINDS[request.param]:
        pytest.skip("no folder here has this kind of lock")
    yield engine
    engine.destroy()
    if folder is not tmp_path:
        shutil.rmtree(folder)


class Helper:
    """Another process, which does something each time it is asked to."""

    def __init__(self, serve: Callable[[int], object]) -> None:
        theirs, self._ask = os.pipe()
        self._answer, answers = os.pipe()

        def loop() -> None:
            os.close(self._ask)
            os.close(self._answer)
            for number in itertools.count():
                if not os.read(theirs, 1):
                    return
                serve(number)
                os.write(answers, b"!")

        self.pid = start(loop)
        #: How it ended, if it did.
        self.status = 0
        os.close(theirs)
        os.close(answers)

    def ask(self, what: str, ended: Collection[int] = ()) -> bool:
        """Have it done, promptly; False if it ends with such a status instead."""
        os.write(self._ask, b"?")
        ready, _, _ = select.select([self._answer], [], [], PROMPTLY)
        assert ready, f"hangs {what}"
        if os.read(self._answer, 1):
            return True
        self.status = os.waitstatus_to_exitcode(wait(self.pid))
        self.pid = 0
        assert self.status in ended, f"failed {what}"
        return False

    def end(self) -> None:
        """Kill it, as it may hang."""
        if self.pid:
            os.kill(self.pid, 9)
            wait(self.pid)
        os.close(self._ask)
        os.close(self._answer)


@contextmanager
def helper(serve: Callable[[int], object]) -> Iterator[Helper]:
    one = Helper(serve)
    try:
        yield one
    finally:
        one.end()


def assert_nothing_is_held(engine: SharedMemoryEngine) -> None:
    """Another thread of this process gets in at once."""
    assert engine.session.store is not None
    section = engine.session.store.lock_file.section
    assert section.entered is None
    free: list[bool] = []

    def look() -> None:
        free.append(section.thread_lock.acquire(False))
        if free[0]:
            section.thread_lock.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert free == [True]


# ---- out of stack


def depth() -> int:
    frame: Any = sys._getframe()
    count = 0
    while frame:
        count, frame = count + 1, frame.f_back
    return count


def dive(frames: int, operation: Callable[[], object]) -> object:
    return dive(frames - 1, operation) if frames > 0 else operation()


def exhausted(operation: Callable[[], object], left: int) -> bool:
    """Run it with so many frames left; whether they were too few."""
    limit = sys.getrecursionlimit()
    here = depth()
    sys.setrecursionlimit(here + 150)
    try:
        dive(150 - left - 2, operation)
    except RecursionError:
        return True
    finally:
        sys.setrecursionlimit(limit)
    return False


FRAMES = range(2, 61)


@pytest.mark.parametrize("name", OPERATIONS)
def test_out_of_stack_at_any_depth_the_store_works_while_the_process_lives_on(
    engine: SharedMemoryEngine, name: str
) -> None:
    lefts = list(FRAMES)
    outcomes: list[bool] = []

    def fail(number: int) -> None:
        if not number:
            prepare(engine)
            return
        turn, late = divmod(number - 1, 2)
        if late:
            assert_nothing_is_held(engine)
            use(engine)
        else:
            outcomes.append(exhausted(lambda: OPERATIONS[name](engine), lefts[turn]))
            # The first does not get as far as that, the last does all of it.
            assert turn or outcomes[0] or name in ("flushes", "peek", "identity")
            assert turn < len(lefts) - 1 or not outcomes[-1]

    with helper(lambda _: use(engine)) as other, helper(fail) as victim:
        victim.ask("preparing")
        for left in lefts:
            victim.ask(f"with {left} frames left")
            other.ask(f"after {name} of another process, which had {left} frames left")
            victim.ask(f"after its own {name}, which had {left} frames left")


@pytest.mark.parametrize("name", OPERATIONS)
def test_out_of_stack_at_any_depth_the_store_works_when_the_process_then_ends(
    engine: SharedMemoryEngine, name: str
) -> None:
    def fail(left: int) -> None:
        prepare(engine)
        exhausted(lambda: OPERATIONS[name](engine), left)
        os._exit(0)

    # What is a hang for one left is one for its neighbours, or is seen by the test above.
    with helper(lambda _: use(engine)) as other:
        for left in FRAMES[:: 1 if ALL else 5]:
            assert wait(start(lambda left=left: fail(left))) == 0  # type: ignore[misc]
            other.ask(f"after {name} of a process that ended, which had {left} frames left")


def test_out_of_stack_while_the_lock_is_waited_for(engine: SharedMemoryEngine) -> None:
    """The recovery lock of a semaphore is released too."""
    reader, writer = os.pipe()

    def fail(number: int) -> None:
        if not number:
            prepare(engine)
        else:
            exhausted(lambda: OPERATIONS["push"](engine), FRAMES[number - 1])

    def holds(_: int) -> None:
        with engine.session.channels:
            os.write(writer, b"!")
            threading.Event().wait(0.02)

    with helper(fail) as victim, helper(holds) as holder, helper(lambda _: use(engine)) as other:
        victim.ask("preparing")
        for left in FRAMES:
            os.write(holder._ask, b"?")
            assert os.read(reader, 1) == b"!"
            victim.ask(f"with {left} frames left")
            assert os.read(holder._answer, 1) == b"!"
            other.ask(f"after another process waited with {left} frames left")
    os.close(reader)
    os.close(writer)


# ---- struck again and again


class Strikes:
    """An operation fails, and then an exception comes at one opcode of what cleans up."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self._armed = False
        self._left = 0

    def fail_once(self, owner: type[Any], name: str, late: bool = False) -> None:
        """Let a function raise, before or after its work; what comes then is clean-up."""
        really = getattr(owner, name)
        done: list[bool] = []

        def fails(*arguments: Any, **named: Any) -> Any:
            if done:
                return really(*arguments, **named)
            done.append(True)
            if late:
                really(*arguments, **named)
            self._armed = True
            raise Interruption

        self._patch.setattr(owner, name, fails)

    def run(self, operation: Callable[[], object], opcode: int) -> bool:
        """Do it, with an exception at that opcode of the clean-up; False if there were fewer."""
        self._armed, self._left = False, opcode

        def each(code: CodeType, offset: int) -> None:
            if self._armed and "asgi_ipc" in code.co_filename:
                self._left -= 1
                if self._left == 0:
                    self._armed = False
                    raise Interruption

        trace_opcodes(each)
        try:
            operation()
        except Interruption:
            pass
        finally:
            trace_nothing()
        return self._left <= 0


def second_strike(name: str, late: bool) -> Callable[[Strikes], None]:
    """What fails besides the operation itself, before the exception at an opcode."""
    owner = {"_release": LockedSegment, "let_go": CriticalSection}[name]

    def strike(strikes: Strikes) -> None:
        if owner is LockedSegment:
            strikes._patch.setattr(LockedSegment, "__exit__", _exits(strikes, late))
        else:
            strikes.fail_once(owner, name, late)

    return strike


def _exits(strikes: Strikes, late: bool) -> Callable[..., None]:
    really = LockedSegment.__exit__
    done: list[bool] = []

    def leave(self: LockedSegment, *error: Any) -> None:
        if done:
            return really(self, *error)
        done.append(True)
        if late:
            really(self, *error)
        strikes._armed = True
        raise Interruption

    return leave


SECOND: dict[str, Callable[[Strikes], None]] = {
    "once": lambda strikes: None,
    "twice, not yet out": second_strike("_release", late=False),
    "twice, just out": second_strike("_release", late=True),
}


#: Some interpreters die so, now and then, where a trace function raises.
CRASH = -signal.SIGSEGV


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("ends", [False, True], ids=["lives on", "ends"])
def test_struck_at_any_opcode_of_the_clean_up_the_store_works(
    engine: SharedMemoryEngine, second: str, ends: bool
) -> None:
    def struck(opcode: int) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            strikes = Strikes(patch)
            strikes.fail_once(Queues, "push")
            # The engine has the function already.
            SECOND[second](strikes)
            return strikes.run(lambda: engine.push([record(engine, b"q")]), opcode)

    def fail(first: int, number: int) -> None:
        if not number:
            prepare(engine)
        elif number % 2:
            if not struck(first + number // 2):
                os._exit(77)
        else:
            use(engine)
            assert_nothing_is_held(engine)

    def fail_and_end(opcode: int) -> None:
        prepare(engine)
        os._exit(0 if struck(opcode) else 77)

    with helper(lambda _: use(engine)) as other:
        if ends:
            for opcode in itertools.count(1, 7):
                status = os.waitstatus_to_exitcode(
                    wait(start(lambda opcode=opcode: fail_and_end(opcode)))  # type: ignore[misc]
                )
                other.ask(f"after a process that was struck at opcode {opcode}, and ended")
                if status == 77:
                    break
                # An end like any other, after which the helper has just gone on.
                assert status in (0, CRASH)
        else:
            opcode, status = 0, CRASH
            while status == CRASH:
                first = opcode + 1
                with helper(partial(fail, first)) as victim:
                    victim.ask("preparing")
                    for opcode in itertools.count(first):
                        if not victim.ask(f"struck at opcode {opcode}", ended=(77, CRASH)):
                            break
                        other.ask(f"while a process lives on that was struck at opcode {opcode}")
                        victim.ask(f"after it was struck at opcode {opcode}")
                    status = victim.status
                other.ask(f"after a process that was struck at opcode {opcode}, and ended")
    assert opcode > 30


# ---- what is left all the same


def leave_it_held(engine: SharedMemoryEngine) -> None:
    """As if no clean-up had come to an end: all is as inside."""
    engine.session.channels.__enter__()


def test_a_thread_takes_over_what_it_left(engine: SharedMemoryEngine) -> None:
    leave_it_held(engine)
    use(engine)
    assert_nothing_is_held(engine)
    with helper(lambda _: use(engine)) as other:
        other.ask("after it was taken over")


@pytest.mark.parametrize("alive", [False, True], ids=["ended", "alive"])
def test_another_thread_takes_over_what_a_thread_left(
    engine: SharedMemoryEngine, alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(critical_section, "PATIENCE", 0.05)
    left, over = threading.Event(), threading.Event()

    def leave() -> None:
        leave_it_held(engine)
        left.set()
        if alive:
            over.wait(PROMPTLY)

    thread = threading.Thread(target=leave)
    thread.start()
    left.wait(PROMPTLY)
    if not alive:
        thread.join()
    use(engine)
    assert_nothing_is_held(engine)
    over.set()
    thread.join()


def test_a_thread_that_is_inside_is_waited_for_however_long(
    engine: SharedMemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(critical_section, "PATIENCE", 0.02)
    inside, leave, passed = threading.Event(), threading.Event(), threading.Event()
    push = engine.session.queues.push

    def slowly(*arguments: Any) -> Any:
        inside.set()
        leave.wait(PROMPTLY)
        return push(*arguments)

    monkeypatch.setattr(engine.session.queues, "push", slowly)
    first = threading.Thread(target=lambda: engine.push([record(engine, b"q")]))
    first.start()
    inside.wait(PROMPTLY)

    def want() -> None:
        engine.put(b"t", b"m", FAR)
        passed.set()

    others = [threading.Thread(target=want) for _ in range(3)]
    for thread in others:
        thread.start()
    assert not passed.wait(0.5), "another thread went in"
    leave.set()
    for thread in (first, *others):
        thread.join(PROMPTLY)
    assert passed.is_set()
    assert_nothing_is_held(engine)


def test_a_del_method_that_is_called_while_a_bell_is_signalled_signals_too(
    engine: SharedMemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bells = [engine.bell(), engine.bell()]
    for queue, bell in zip((b"first", b"second"), bells, strict=True):
        assert engine.pop(queue, 1, bell) == []
    open_bell = engine.session._open_bell

    class Sends:
        def __del__(self) -> None:
            engine.push([record(engine, b"second")])

    def collects(bell: int) -> int:
        monkeypatch.undo()
        Sends()
        return open_bell(bell)

    monkeypatch.setattr(engine.session, "_open_bell", collects)
    engine.push([record(engine, b"first")])
    for bell in bells:
        assert select.select([bell], [], [], 0)[0] == [bell]
        bell.close()


def test_a_del_method_that_opens_a_store_while_one_is_opened_gets_an_error(
    engine: SharedMemoryEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Exception] = []
    folder = tmp_path / "another"
    folder.mkdir()

    class Opens:
        def __del__(self) -> None:
            try:
                open_store(folder)
            except Reentered as error:
                told.append(error)

    def collects(*arguments: Any) -> Any:
        Opens()
        return choose(*arguments)

    monkeypatch.setattr("asgi_ipc.engines.shm.lock_file.choose", collects)
    open_store(folder).destroy()
    assert len(told) == 1


def test_a_del_method_that_is_called_inside_gets_an_error_and_harms_nothing(
    engine: SharedMemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Exception] = []

    class Sends:
        def __del__(self) -> None:
            try:
                engine.push([record(engine, b"q")])
            except Exception as error:
                told.append(error)

    find = engine.session.queues.find

    def collects(*arguments: Any) -> Any:
        Sends()
        return find(*arguments)

    monkeypatch.setattr(engine.session.queues, "find", collects)
    engine.push([record(engine, b"other")])
    monkeypatch.undo()
    assert {type(error) for error in told} == {Reentered}
    assert "__del__" in str(told[0])
    assert_nothing_is_held(engine)
    use(engine)


def test_what_a_thread_left_defers_no_later_call(engine: SharedMemoryEngine) -> None:
    layer = SyncIPCChannelLayer(engine=engine)
    layer.group_add("group", "a")
    for call in (
        lambda: layer.send("a", {"n": 1}),
        lambda: layer.group_add("group", "b"),
        lambda: layer.group_discard("group", "b"),
        lambda: layer.group_send("group", {"n": 2}),
        lambda: layer.receive(["a"]),
        lambda: layer.global_statistics(),
    ):
        leave_it_held(engine)
        call()
        assert not deferred.pending
        assert_nothing_is_held(engine)
    assert layer.receive(["a"]) == ("a", {"n": 2})


# ---- the demultiplexer's lock, which no later call takes over

#: Opcodes after which the interpreter lets signal handlers run.
_CHECKED = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME"}


@functools.cache
def checked(code: CodeType) -> frozenset[int]:
    """The places in a function where an exception of a handler seems to come from.

    Right after such an opcode, if the same `except` is responsible there, and at jumps backward.
    """
    bytecode: Any = dis.Bytecode(code)

    def target(offset: int) -> int:
        entries = bytecode.exception_entries
        return next((each.target for each in entries if each.start <= offset < each.end), -1)

    found = list(bytecode)
    after = {
        then.offset
        for first, then in itertools.pairwise(found)
        if first.opname in _CHECKED and target(first.offset) == target(then.offset)
    }
    return frozenset(after | {each.offset for each in found if each.opname == "JUMP_BACKWARD"})


def suspend_and_close(layer: IPCChannelLayer, own: str) -> None:
    receive = layer.receive(own)
    try:
        receive.send(None)
    except StopIteration:
        pass
    finally:
        receive.close()


LAYER_CALLS: dict[str, Callable[[IPCChannelLayer, str], object]] = {
    "send": lambda layer, own: layer.sync.send(own, {}),
    "broadcast": lambda layer, own: layer.sync.group_send("g", {}),
    "receive": suspend_and_close,
    "receive in a thread": lambda layer, own: layer.sync.receive([own[: own.index("!") + 1]]),
    "statistics": lambda layer, own: layer.sync.global_statistics(),
}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="its opcodes are others")
# What is raised while something is thrown away is reported, and goes no further.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("unread", [False, True])
@pytest.mark.parametrize("name", LAYER_CALLS)
def test_a_signal_handler_that_raises_leaves_no_lock_of_a_demultiplexer(
    name: str, unread: bool
) -> None:
    locations: list[str] = []

    def struck(call: Callable[[], object], location: int) -> bool:
        left = location

        def each(code: CodeType, offset: int) -> None:
            nonlocal left
            if "asgi_ipc" in code.co_filename and offset in checked(code):
                left -= 1
                if left == 0:
                    locations.append(f"{code.co_name} at {offset}")
                    raise Interruption

        trace_opcodes(each)
        try:
            call()
        except Interruption:
            pass
        finally:
            trace_nothing()
        return left <= 0

    async def main() -> None:
        layer = IPCChannelLayer(f"clean-up-{os.getpid()}", engine="memory", capacity=10**6)
        own = await layer.new_channel()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive(own), 0.01)
        await layer.group_add("g", own)
        location = 1
        any_own = own[: own.index("!") + 1]
        while struck(lambda: LAYER_CALLS[name](layer, own), location):
            assert not deferred.is_inside(), locations[-1]
            location += 7 if name == "statistics" else 1  # Of many locations some.
            while layer.sync.receive([any_own])[0]:
                pass
            if unread:
                await layer.send(own, {})
        assert location > 10
        await layer.close()

    asyncio.run(main())
