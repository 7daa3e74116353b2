"""Every system call of the store fails once, in every way: an error of ours, or none, and no harm.

For each operation the calls that it makes are counted, and then it is repeated once for each
call and each error number, with that call failing. It must go on, or raise one of our errors
naming what it is about; the store stays sound and usable, and nothing is left behind.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.engines.base import Record
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.sysv import SysVEngine
from asgi_ipc.exceptions import EngineUnavailable, StoreFull, StoreUnavailable
from tests.tools.faults import (
    ERRORS,
    Faults,
)
from tests.tools.stores import (
    assert_sound,
    in_child,
    open_store,
    wait,
)

ENGINES = [PosixEngine, SysVEngine, MmapEngine]
FAR = 1 << 62
#: What an operation may raise.
OURS = (StoreFull, StoreUnavailable, EngineUnavailable)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Installed, and not active."""
    made = Faults()
    made.install(monkeypatch)
    return made


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> type[SharedMemoryEngine]:
    """Each engine."""
    found: type[SharedMemoryEngine] = request.param
    return found


def holdings(directory: Path) -> tuple[int, set[str], set[str]]:
    """Descriptors, files and memory that there are."""
    gc.collect()
    shm = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    segments = set()
    if os.path.exists("/proc/sysvipc/shm"):
        rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        mine = str(os.getpid())
        segments = {row.split()[1] for row in rows if mine in row.split()[4:6]}
    ours = {f"shm {name}" for name in shm if name.startswith("asgi_ipc.")} & _seen_by_us(shm)
    files = {str(path) for path in directory.rglob("*")}
    return len(os.listdir("/proc/self/fd")), files, segments | ours


def _seen_by_us(names: set[str]) -> set[str]:
    """Those that this process made or has mapped; others run tests at the same time."""
    return {f"shm {name}" for name in names if name in _made}


#: Names of the shared memory that this process made.
_made: set[str] = set()


@pytest.fixture(autouse=True)
def note_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember what is made, to look for it afterwards."""
    locator_for = PosixEngine.segment.locator_for

    def noted(name: str, token: str) -> str:
        locator = locator_for(name, token)
        _made.add(locator.strip("/"))
        return locator

    monkeypatch.setattr(PosixEngine.segment, "locator_for", staticmethod(noted))


#: Calls whose failure leaves what they should have removed.
REMOVING = ("unlink", "rmdir")


def clear(directory: Path, what: str) -> None:
    """Remove what could not be removed."""
    if what.startswith(REMOVING):
        shutil.rmtree(directory / "store", ignore_errors=True)


def assert_clear(error: BaseException) -> None:
    """Names what it is about and what to do."""
    text = str(error)
    assert len(text) > 40, text
    assert any(word in text for word in ("engine_options", "use ", "choose", "raise", "free ",
                                         "take ", "larger", "remove", "limit")), text  # fmt: skip


def every_failure(
    faults: Faults,
    prepare: Callable[[], Any],
    operate: Callable[[Any], object],
    after: Callable[[Any, BaseException | None, str], None],
) -> int:
    """Run it for each call and error; the number of failures. Prepares each time anew."""
    subject = prepare()
    with faults.failing(-1, 0):
        operate(subject)
    count = len(faults.calls)
    after(subject, None, "no failure")
    done = 0
    for at in range(count):
        # All of them with FAULTS=all; else one each, another for each call.
        some = [ERRORS[at % len(ERRORS)]]
        for number in ERRORS if os.environ.get("FAULTS") == "all" else some:
            subject = prepare()
            raised: BaseException | None = None
            with faults.failing(at, number):
                try:
                    operate(subject)
                except OURS as error:
                    raised = error
                except BaseException as error:
                    call = faults.calls[at]
                    raise AssertionError(f"{call} number {at} fails with {number}") from error
            what = f"{faults.calls[at] if faults.happened else '-'} number {at}, error {number}"
            if raised is not None:
                assert_clear(raised)
            after(subject, raised, what)
            done += 1
    assert done
    return done


def test_opening(kind: type[SharedMemoryEngine], faults: Faults, tmp_path: Path) -> None:
    """A store is made, wholly or not at all, and what was there is left alone."""
    before: list[Any] = []
    opened: list[SharedMemoryEngine] = []

    def prepare() -> None:
        before[:] = [holdings(tmp_path)]

    def operate(_: None) -> None:
        opened[:] = []
        opened.append(open_store(tmp_path, kind))

    def after(_: None, error: BaseException | None, what: str) -> None:
        if error is None:
            opened.pop().destroy()
        # An error may come when the store is made already; it is left for others then.
        assert holdings(tmp_path)[0] == before[0][0], what
        again = open_store(tmp_path, kind)
        assert_sound(again)
        again.destroy()
        clear(tmp_path, what)
        assert holdings(tmp_path) == before[0], what

    every_failure(faults, prepare, operate, after)


def test_opening_what_another_has_made(
    kind: type[SharedMemoryEngine], faults: Faults, tmp_path: Path
) -> None:
    """Its store and its messages stay."""
    opened: list[SharedMemoryEngine] = []
    before: list[Any] = []
    maker = open_store(tmp_path, kind)
    maker.push([Record(b"a", b"kept", FAR, 10)])
    maker.close()

    def prepare() -> None:
        before[:] = [holdings(tmp_path)]

    def operate(_: None) -> None:
        opened[:] = []
        opened.append(open_store(tmp_path, kind))

    def after(_: None, error: BaseException | None, what: str) -> None:
        if error is None:
            opened.pop().close()
        descriptors, files, _memory = holdings(tmp_path)
        if what.startswith(REMOVING):
            files = before[0][1]
            for path in (tmp_path / "store").glob("bell.*"):
                path.unlink()
        assert (descriptors, files) == before[0][:2], what
        again = open_store(tmp_path, kind)
        assert [each.payload for each in again.pop(b"a")] == [b"kept"], what
        again.push([Record(b"a", b"kept", FAR, 10)])
        assert_sound(again)
        again.close()

    every_failure(faults, prepare, operate, after)
    open_store(tmp_path, kind).destroy()


Operation = Callable[[SharedMemoryEngine], object]


def push(engine: SharedMemoryEngine) -> object:
    return engine.push([Record(b"new", b"x" * 200, FAR, 10)])


def push_much(engine: SharedMemoryEngine) -> object:
    return engine.push([Record(b"much", b"x" * 150_000, FAR, 10)])


def push_and_signal(engine: SharedMemoryEngine) -> object:
    return engine.push([Record(b"waited for", b"x", FAR, 10)])


def pop(engine: SharedMemoryEngine) -> object:
    return engine.pop(b"full", 2)


def make_a_bell(engine: SharedMemoryEngine) -> object:
    bell = engine.bell()
    engine.pop(b"empty", 1, bell)
    bell.signal()
    bell.clear()
    engine.disarm(b"empty", bell)
    bell.close()
    return bell


def restore(engine: SharedMemoryEngine) -> object:
    for taken in engine.pop(b"full"):
        engine.restore(b"full", taken)
    return None


def put(engine: SharedMemoryEngine) -> None:
    engine.put(b"table", b"new", FAR)


def remove(engine: SharedMemoryEngine) -> object:
    return engine.remove(b"table", b"old")


def members(engine: SharedMemoryEngine) -> object:
    return engine.members(b"table")


def statistics(engine: SharedMemoryEngine) -> object:
    return engine.statistics(), engine.statistics(b"full")


def flush(engine: SharedMemoryEngine) -> None:
    engine.flush()


def maintain(engine: SharedMemoryEngine) -> object:
    engine._next_look = 0
    engine._words[layout.NEXT_SWEEP] = 0
    return engine.statistics()


def close(engine: SharedMemoryEngine) -> None:
    engine.close()


def destroy(engine: SharedMemoryEngine) -> None:
    engine.destroy()


OPERATIONS = [
    push,
    push_much,
    push_and_signal,
    pop,
    make_a_bell,
    restore,
    put,
    remove,
    members,
    statistics,
    flush,
    maintain,
    close,
    destroy,
]


@pytest.mark.parametrize("operate", OPERATIONS)
def test_using(
    kind: type[SharedMemoryEngine], operate: Operation, faults: Faults, tmp_path: Path
) -> None:
    """Whatever fails, the store is sound, the other is served, and nothing is left behind."""
    before = holdings(tmp_path)

    def prepare() -> tuple[SharedMemoryEngine, SharedMemoryEngine]:
        engine = open_store(tmp_path, kind)
        other = open_store(tmp_path, kind)
        engine.push([Record(b"full", b"%d" % number, FAR, 10) for number in range(3)])
        engine.put(b"table", b"old", FAR)
        bell = other.bell()
        other.pop(b"waited for", 1, bell)
        engine._next_look = other._next_look = 1 << 62
        return engine, other

    def run(both: tuple[SharedMemoryEngine, SharedMemoryEngine]) -> None:
        operate(both[0])

    def after(
        both: tuple[SharedMemoryEngine, SharedMemoryEngine], error: BaseException | None, what: str
    ) -> None:
        engine, other = both
        other.push([Record(b"after", b"x", FAR, 10)])
        assert len(other.pop(b"after")) == 1, what
        assert_sound(other)
        if operate not in (pop, restore, flush, destroy):
            assert [each.payload for each in other.pop(b"full", 9)] == [b"0", b"1", b"2"], what
        elif operate is not destroy:
            # All that was asked for was done, or nothing; or it was done, and then leaving
            # failed, which is the end of what was taken.
            left = len(other.pop(b"full", 9))
            assert left in {pop: (1, 3), restore: (2, 3), flush: (0, 3)}[operate], what
        if operate not in (close, destroy):
            assert engine.push([Record(b"after", b"y", FAR, 10)]) == [], what
            assert len(other.pop(b"after")) == 1, what
        engine.close()
        other.destroy()
        clear(tmp_path, what)
        assert holdings(tmp_path) == before, what

    every_failure(faults, prepare, run, after)


def test_a_killed_process_is_cleared_away_though_calls_fail(
    kind: type[SharedMemoryEngine], faults: Faults, tmp_path: Path
) -> None:
    engine = open_store(tmp_path, kind)

    def prepare() -> None:
        def dies() -> None:
            mine = open_store(tmp_path, kind)
            mine.bell()
            mine.put(b"table", b"its own", FAR, mine.identity)
            os._exit(0)

        child = os.fork()
        if not child:
            dies()
        wait(child)

    def after(_: None, error: BaseException | None, what: str) -> None:
        for _again in range(2):
            maintain(engine)
        assert engine.members(b"table").names == (), what
        assert engine.statistics()["processes"] == 1, what
        assert_sound(engine)

    every_failure(faults, prepare, lambda _: maintain(engine), after)
    engine.destroy()


def test_an_error_that_stays_is_told_each_time_and_forgotten_when_it_goes(
    faults: Faults, tmp_path: Path
) -> None:
    engine = open_store(tmp_path)
    engine._next_look = 1 << 62  # Upkeep only logs its errors.
    for _ in range(3):
        with faults.failing(0, 5), pytest.raises(StoreUnavailable, match="lock"):
            engine.push([Record(b"a", b"x", FAR, 10)])
    assert engine.push([Record(b"a", b"x", FAR, 10)]) == []
    in_child(lambda: open_store(tmp_path).pop(b"a"))
    engine.destroy()
