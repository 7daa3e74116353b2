"""A push that wakes many: some of the woken processes signal the others (E26)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgi_ipc.engines.base import Bell
from asgi_ipc.engines.shm import spread
from asgi_ipc.engines.shm.bells import LIST, bell_name
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.sysv import SysVEngine
from tests.tools.doubles import (
    watchdog,
)
from tests.tools.stores import (
    open_store,
    record,
    wait,
)

__all__ = ["watchdog"]

pytestmark = pytest.mark.usefixtures("watchdog")

#: Receivers; more than are signalled directly.
MANY = 24
#: Seconds for what ought to happen at once; only a test that fails waits so long.
ENOUGH = 60.0
QUEUES = [b"specific.%032d!" % number for number in range(MANY)]

Engines = Iterator[SharedMemoryEngine]


@pytest.fixture(params=[MmapEngine, PosixEngine, SysVEngine], ids=lambda kind: str(kind.name))
def kind(request: pytest.FixtureRequest) -> type[SharedMemoryEngine]:
    kind: type[SharedMemoryEngine] = request.param
    reason = kind.unavailable()
    if reason:
        pytest.skip(reason)
    return kind


@pytest.fixture
def sender(tmp_path: Path, kind: type[SharedMemoryEngine]) -> Engines:
    """The engine that pushes, and does no upkeep by itself; nothing may be left of its store."""
    engine = open_store(tmp_path, kind)
    engine.upkeep.due = 1 << 62
    yield engine
    engine.destroy()
    assert list(tmp_path.iterdir()) == []


def push_to_all(sender: SharedMemoryEngine, queues: list[bytes] = QUEUES) -> None:
    assert sender.push([record(sender, queue) for queue in queues]) == []


class Receivers:
    """Processes that each wait for a signal, and only for the signal, and report that it came."""

    def __init__(
        self,
        folder: Path,
        kind: type[SharedMemoryEngine],
        count: int = MANY,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """``first`` is called in the first of them before it waits."""
        self.pids, self.pipes = [], []
        for number in range(count):
            reader, writer = os.pipe()
            pid = os.fork()
            if not pid:
                try:
                    self._wait(folder, kind, number, writer, first if number == 0 else None)
                finally:
                    traceback.print_exc()
                    os._exit(1)
            os.close(writer)
            self.pids.append(pid)
            self.pipes.append(reader)
        assert all(os.read(pipe, 1) == b"a" for pipe in self.pipes), "armed"

    @staticmethod
    def _wait(
        folder: Path,
        kind: type[SharedMemoryEngine],
        number: int,
        writer: int,
        first: Callable[[], None] | None,
    ) -> None:
        engine = open_store(folder, kind)
        bell = engine.bell()
        assert engine.pop(QUEUES[number], 1, bell) == []
        if first is not None:
            first()
        os.write(writer, b"a")
        assert is_signalled(bell)
        bell.clear()
        assert len(engine.pop(QUEUES[number])) == 1
        engine.close()
        os.write(writer, b"x")
        os._exit(0)

    def have_it(self, *numbers: int) -> bool:
        """Whether these get it, the others being left alone."""
        return all(os.read(self.pipes[number], 1) == b"x" for number in numbers)

    def signal(self, number: int, what: signal.Signals) -> None:
        os.kill(self.pids[number], what)

    def end(self) -> list[int]:
        """Their exit statuses."""
        for pipe in self.pipes:
            os.close(pipe)
        return [wait(pid) for pid in self.pids]


def is_signalled(bell: Bell, seconds: float = ENOUGH) -> bool:
    poll = select.poll()
    poll.register(bell.fileno(), select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def test_all_processes_are_signalled_again_and_again(
    sender: SharedMemoryEngine, tmp_path: Path, kind: type[SharedMemoryEngine]
) -> None:
    for _ in range(3):
        receivers = Receivers(tmp_path, kind)
        push_to_all(sender)
        assert receivers.have_it(*range(MANY))
        assert receivers.end() == [0] * MANY


def test_a_stopped_helper_withholds_nothing_from_the_others_and_gets_it_later(
    sender: SharedMemoryEngine, tmp_path: Path, kind: type[SharedMemoryEngine]
) -> None:
    receivers = Receivers(tmp_path, kind)
    receivers.signal(0, signal.SIGSTOP)
    push_to_all(sender)
    assert receivers.have_it(*range(1, MANY))
    receivers.signal(0, signal.SIGCONT)
    assert receivers.have_it(0)
    assert receivers.end() == [0] * MANY


def test_a_helper_killed_once_it_was_asked_withholds_nothing_from_the_others(
    sender: SharedMemoryEngine, tmp_path: Path, kind: type[SharedMemoryEngine]
) -> None:
    receivers = Receivers(tmp_path, kind)
    receivers.signal(0, signal.SIGSTOP)
    push_to_all(sender)
    receivers.signal(0, signal.SIGKILL)
    assert receivers.have_it(*range(1, MANY))
    assert receivers.end() == [signal.SIGKILL, *[0] * (MANY - 1)]


def test_a_helper_killed_between_taking_a_bell_and_signalling_it_loses_only_that_signal(
    sender: SharedMemoryEngine,
    tmp_path: Path,
    kind: type[SharedMemoryEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And its message is there when the receiver polls."""
    take = spread._take

    def die_with_the_third() -> None:
        taken = []

        def take_and_die(reader: int) -> tuple[int, bytes] | None:
            taken.append(take(reader))
            if len(taken) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return taken[-1]

        monkeypatch.setattr(spread, "_take", take_and_die)

    receivers = Receivers(tmp_path, kind, first=die_with_the_third)
    # It is the only helper, so that it is sure to come to a third one.
    monkeypatch.setattr(spread, "HELPERS", 1)
    push_to_all(sender)
    assert receivers.have_it(1, 2)
    assert wait(receivers.pids.pop(0)) == signal.SIGKILL
    sender.session.signal_own_list()
    assert receivers.have_it(*range(4, MANY))
    assert len(sender.pop(QUEUES[3])) == 1
    receivers.signal(2, signal.SIGKILL)
    assert receivers.end() == [0, 0, signal.SIGKILL, *[0] * (MANY - 4)]


@pytest.mark.parametrize("how", ["upkeep", "close"])
def test_if_all_helpers_are_stopped_the_sender_signals_the_others(
    sender: SharedMemoryEngine, tmp_path: Path, kind: type[SharedMemoryEngine], how: str
) -> None:
    """At its next upkeep, which comes about once a second; or when it closes."""
    receivers = Receivers(tmp_path, kind)
    for number in range(spread.HELPERS):
        receivers.signal(number, signal.SIGSTOP)
    push_to_all(sender)
    poll = select.poll()
    for pipe in receivers.pipes:
        poll.register(pipe, select.POLLIN)
    assert poll.poll(50) == [], "or this test shows nothing"
    if how == "upkeep":
        sender.upkeep.due = 0
        sender.statistics()
    else:
        sender.close()
        sender.__init__(  # type: ignore[misc]
            "store", directory=tmp_path, channel_memory=512 << 10, group_memory=256 << 10
        )
    assert receivers.have_it(*range(spread.HELPERS, MANY))
    for number in range(spread.HELPERS):
        receivers.signal(number, signal.SIGCONT)
    assert receivers.have_it(*range(spread.HELPERS))
    assert receivers.end() == [0] * MANY


# Within one process: each engine counts as one.


@pytest.fixture
def crowd(tmp_path: Path, sender: SharedMemoryEngine) -> Iterator[list[SharedMemoryEngine]]:
    engines = [open_store(tmp_path, type(sender)) for _ in range(12)]
    yield engines
    for engine in engines:
        engine.close()


def armed(engines: list[SharedMemoryEngine], queues: list[bytes] = QUEUES) -> list[Bell]:
    bells: list[Bell] = [engine.bell() for engine in engines]
    for engine, bell, queue in zip(engines, bells, queues, strict=False):
        assert engine.pop(queue, 1, bell) == []
    return bells


def signalled(bells: list[Bell]) -> list[int]:
    """Which of them have signalled, without clearing any."""
    return [number for number, bell in enumerate(bells) if is_signalled(bell, 0)]


def test_the_first_are_signalled_by_the_sender_and_the_others_by_them(
    sender: SharedMemoryEngine, crowd: list[SharedMemoryEngine]
) -> None:
    bells = armed(crowd)
    push_to_all(sender, QUEUES[:12])
    assert signalled(bells) == list(range(spread.HELPERS))
    bells[1].clear()
    assert signalled(bells) == [n for n in range(12) if n != 1]
    for bell in bells:
        bell.clear()
    assert signalled(bells) == [], "and none is signalled twice"


def test_the_helpers_change(sender: SharedMemoryEngine, crowd: list[SharedMemoryEngine]) -> None:
    bells = armed(crowd)
    for turn in range(3):
        push_to_all(sender, QUEUES[:12])
        assert signalled(bells) == [turn, turn + 1]
        for _ in range(2):
            clear_and_wait(crowd, bells)


def test_few_are_signalled_by_the_sender(
    sender: SharedMemoryEngine, crowd: list[SharedMemoryEngine], tmp_path: Path
) -> None:
    bells = armed(crowd)
    push_to_all(sender, QUEUES[: spread.DIRECT])
    assert signalled(bells) == list(range(spread.DIRECT))
    assert not (tmp_path / "store" / bell_name(sender.identity, LIST)).exists()


def test_several_queues_of_a_process_make_one_helper(
    sender: SharedMemoryEngine, crowd: list[SharedMemoryEngine]
) -> None:
    """Or a single process that is stopped would have all the work."""
    bells = [crowd[0].bell() for _ in range(4)] + [crowd[1].bell()] + armed(crowd[5:], QUEUES[5:])
    for bell, queue in zip(bells[:4], QUEUES, strict=False):
        assert crowd[0].pop(queue, 1, bell) == []
    assert crowd[1].pop(QUEUES[4], 1, bells[4]) == []
    push_to_all(sender, QUEUES[:12])
    assert signalled(bells) == [0, 1, 2, 3, 4]
    bells[4].clear()
    assert len(signalled(bells)) == len(bells) - 1


def test_a_bell_that_no_process_hears_is_passed_over_by_sender_and_helper(
    sender: SharedMemoryEngine, crowd: list[SharedMemoryEngine]
) -> None:
    bells = armed(crowd)
    (behind,) = armed([sender], [QUEUES[7]])
    bells[0].close()
    bells[7].close()
    push_to_all(sender, QUEUES[:12])
    assert signalled([*bells[1:7], *bells[8:]]) == [0, 1], "a closed one is asked for nothing"
    bells[1].clear()
    assert signalled([behind]) == [0]


@pytest.mark.parametrize("trouble", ["full", "long names", "no list"])
def test_what_the_list_has_no_room_for_the_sender_signals(
    sender: SharedMemoryEngine,
    crowd: list[SharedMemoryEngine],
    trouble: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_the_way = tmp_path / "store" / bell_name(sender.identity, LIST)
    queues = QUEUES
    if trouble == "full":
        monkeypatch.setattr(spread, "_write", lambda *_: False)
    elif trouble == "long names":
        queues = [queue * 2 for queue in QUEUES]
    else:
        os.mkfifo(in_the_way)
    bells = armed(crowd, queues)
    push_to_all(sender, queues[:12])
    assert signalled(bells) == list(range(12))
    if trouble == "no list":
        in_the_way.unlink()


@pytest.mark.parametrize("spoiled", [b"x", b"\xff" * 64, b"\0" * 640, os.urandom(640)])
def test_nonsense_in_a_list_harms_nobody(
    sender: SharedMemoryEngine, crowd: list[SharedMemoryEngine], spoiled: bytes
) -> None:
    bells = armed(crowd)
    owned = sender.session._own_list()
    assert owned is not None
    owned.use(lambda _, writer: os.write(writer, spoiled), 0)
    push_to_all(sender, QUEUES[:12])
    for _ in range(2):
        for number in signalled(bells):
            bells[number].clear()
        sender.session.signal_own_list()
    # What follows a piece of an entry is not understood; what comes after that is.
    clear_and_wait(crowd, bells)
    push_to_all(sender, QUEUES[:12])
    for number in signalled(bells):
        bells[number].clear()
    assert len(signalled(bells)) == 10


def test_a_forked_child_has_a_list_of_its_own(
    sender: SharedMemoryEngine, crowd: list[SharedMemoryEngine], tmp_path: Path
) -> None:
    bells = armed(crowd)
    push_to_all(sender, QUEUES[:12])
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            assert sender.session.bells.list is None
            sender.close()
            status = 0
        os._exit(status)
    assert wait(child) == 0
    assert (tmp_path / "store" / bell_name(sender.identity, LIST)).exists()
    bells[0].clear()
    assert len(signalled(bells)) == 11


def clear_and_wait(engines: list[SharedMemoryEngine], bells: list[Bell]) -> None:
    for engine, bell, queue in zip(engines, bells, QUEUES, strict=False):
        bell.clear()
        engine.pop(queue, 9, bell)


def test_a_store_that_is_made_anew_goes_on_so(
    sender: SharedMemoryEngine, crowd: list[SharedMemoryEngine]
) -> None:
    armed(crowd)
    push_to_all(sender, QUEUES[:12])
    crowd[0].destroy()
    bells = armed(crowd[1:])
    push_to_all(sender, QUEUES[:11])
    assert signalled(bells) == [1, 2]
    bells[1].clear()
    assert len(signalled(bells)) == 10


def test_a_list_that_was_removed_is_made_again(
    sender: SharedMemoryEngine, crowd: list[SharedMemoryEngine], tmp_path: Path
) -> None:
    bells = armed(crowd)
    push_to_all(sender, QUEUES[:12])
    (tmp_path / "store" / bell_name(sender.identity, LIST)).unlink()
    sender.upkeep.due = 0
    sender.statistics()
    assert len(signalled(bells)) == 12, "the sender signalled what was left"
    clear_and_wait(crowd, bells)
    push_to_all(sender, QUEUES[:12])
    assert signalled(bells) == [1, 2]
    bells[1].clear()
    assert len(signalled(bells)) == 11


def test_signalling_everybody_leaves_the_lists_as_they_are(
    sender: SharedMemoryEngine, crowd: list[SharedMemoryEngine]
) -> None:
    """A list is no bell: a signal in it would shift all entries."""
    bells = armed(crowd)
    push_to_all(sender, QUEUES[:12])
    clear_and_wait(crowd, bells)
    crowd[5].session.signal_all()
    clear_and_wait(crowd, bells)
    push_to_all(sender, QUEUES[:12])
    assert signalled(bells) == [1, 2]
    bells[1].clear()
    assert len(signalled(bells)) == 11


def test_a_sender_that_another_thread_is_closing_signals_itself(
    sender: SharedMemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no slot any more, by which helpers would find its list."""
    bells = [(queue, 1) for queue in QUEUES]
    monkeypatch.setattr(sender.session, "slot", -1)
    assert sender.session.spread(bells) == bells
