"""A member of the group, a real user, writes to all that it may while others work.

Whatever it does, they do not crash, hang or run out of memory, and get only documented errors;
and what these advise works.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import ChannelFull, SyncIPCChannelLayer
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.layout import SMALLEST
from asgi_ipc.engines.shm.locks.base import Gone
from asgi_ipc.exceptions import StoreCorrupt, StoreUnavailable
from tests.tools.commands import check, remove
from tests.tools.hostile import remove_memory_of
from tests.tools.stores import (
    ENGINES,
    assert_sound,
    open_store,
    record,
    start,
    wait,
)
from tests.tools.users import (
    needs_root,
    public_path,
    users_of_worker,
)
from tests.torture.damage import (
    Spoiler,
)

__all__ = ["public_path"]

pytestmark = [
    needs_root,
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="it looks into /proc"),
]

VICTIM, MEMBER, GROUP = users_of_worker(61_001, 61_002, 61_003)
#: Seconds of fuzzing; a longer run: FUZZ=600 in the environment.
SECONDS = float(os.environ.get("FUZZ", "4"))
#: What a process may need beyond what it has.
MEMORY = 256 << 20
#: Seconds without an end of a call after which it hangs: SIGALRM ends the process.
HANG = 60


@pytest.fixture
def shared(public_path: Path) -> Iterator[Path]:
    """A folder of the victim's, in which members find the store."""
    folder = public_path / "shared"
    folder.mkdir()
    os.chown(folder, VICTIM, GROUP)
    folder.chmod(0o755)
    yield folder
    remove_memory_of(VICTIM, MEMBER)


def as_user(uid: int, function: Callable[[], object]) -> int:
    """The number of a child of that user, of the group; to be waited for with `wait`."""

    def changed() -> None:
        os.setgroups([GROUP])
        os.setgid(GROUP)
        os.setuid(uid)
        function()

    return start(changed)


def little_memory() -> None:
    """From now on this process may have so much more memory, and no call may hang."""
    with open("/proc/self/status") as file:
        (data,) = (int(line.split()[1]) for line in file if line.startswith("VmData"))
    limit = (data << 10) + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def opened(shared: Path, kind: type[SharedMemoryEngine]) -> SharedMemoryEngine:
    return open_store(shared, kind, group=GROUP, channel_memory=SMALLEST)


# ---- random words


def spoil(shared: Path, kind: type[SharedMemoryEngine], seed: int, until: float) -> None:
    """Write words at random, and then something sensible, until the time is up."""
    dice = random.Random(seed)
    while time.monotonic() < until:
        try:
            engine = opened(shared, kind)
        except (StoreCorrupt, StoreUnavailable, Gone, OSError):
            time.sleep(0.01)
            continue
        try:
            for _ in range(dice.randrange(1, 400)):
                locked_segment = dice.choice([engine.session.channels, engine.session.groups])
                with contextlib.suppress(IndexError, ValueError):
                    Spoiler(locked_segment.heap, dice).spoil()
                # Else it is found corrupt at once, and nothing else is tried.
                time.sleep(dice.choice([0, 0.0002, 0.002]))
            with contextlib.suppress(StoreCorrupt, StoreUnavailable):
                engine.push([record(engine, b"q", dice.randbytes(50))] * 5)
        finally:
            with contextlib.suppress(StoreCorrupt, StoreUnavailable):
                engine.close()


def work(shared: Path, kind: type[SharedMemoryEngine], seed: int, until: float) -> None:
    """Use a layer as a site does; begin afresh, as the error advises, if it is told to."""
    little_memory()
    dice = random.Random(seed)
    options: dict[str, Any] = {"directory": shared, "group": GROUP}
    done = corrupt = 0

    def use(layer: SyncIPCChannelLayer) -> None:
        own = f"specific.{layer.client_prefix}!{dice.randrange(5)}"
        what = dice.randrange(9)
        if what == 0:
            layer.send("q", {"type": "x", "text": "x" * dice.choice([1, 100, 20_000])})
        elif what == 1:
            layer.send(own, {"type": "x"})
        elif what == 2:
            channel, message = layer.receive(["q", own[: own.index("!") + 1]])
            assert (channel is None) == (message is None)
        elif what == 3:
            layer.group_add(f"g{dice.randrange(3)}", own)
        elif what == 4:
            layer.group_send(f"g{dice.randrange(3)}", {"type": "x"})
        elif what == 5:
            assert isinstance(layer.group_channels("g1"), list)
        elif what == 6:
            assert layer.global_statistics()
        elif what == 7:
            layer.receive(["q"], block=True, timeout=0.01)
        else:
            layer.group_discard("g1", own)

    while time.monotonic() < until:
        signal.alarm(HANG)
        try:
            layer = SyncIPCChannelLayer(
                prefix="store",
                engine=kind.name,
                engine_options=options,
                channel_memory=SMALLEST,
                group_memory=SMALLEST,
            )
            while time.monotonic() < until:
                signal.alarm(HANG)
                with contextlib.suppress(ChannelFull):
                    use(layer)
                done += 1
        except StoreCorrupt as error:
            corrupt += 1
            text = str(error)
            assert "destroy()" in text, text
            # What the commands report: the other user may be making a store just now.
            with contextlib.suppress(StoreUnavailable, OSError):
                check("store", kind.name, options)
            with contextlib.suppress(StoreUnavailable, OSError):
                remove("store", kind.name, options)
        except StoreUnavailable:
            with contextlib.suppress(StoreUnavailable, OSError):
                remove("store", kind.name, options)
    signal.alarm(0)
    assert done > 5
    sys.stderr.write(f"{kind.name}: {done} calls, {corrupt} times corrupt\n")


def in_the_middle_of(use: Callable[[Callable[[], None]], None], act: Callable[[], None]) -> None:
    """Have the victim use a store, and a member act where it pauses."""
    ready, tell = os.pipe()
    go, say = os.pipe()

    def pause() -> None:
        os.write(tell, b"x")
        os.read(go, 1)

    child = as_user(VICTIM, lambda: use(pause))
    try:
        assert select.select([ready], [], [], HANG)[0]
        assert wait(as_user(MEMBER, act)) == 0
    finally:
        os.write(say, b"x")
        for descriptor in (ready, tell, go, say):
            os.close(descriptor)
    assert wait(child, 2 * HANG) == 0


@pytest.mark.parametrize("kind", ENGINES)
def test_a_member_that_writes_anything_anywhere_harms_no_process(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    until = time.monotonic() + SECONDS
    victims = [as_user(VICTIM, lambda n=n: work(shared, kind, n, until)) for n in range(2)]  # type: ignore[misc]
    member = as_user(MEMBER, lambda: spoil(shared, kind, 7, until))
    try:
        for victim in victims:
            # A signal (SIGSEGV, SIGBUS) is another status than 0, too.
            assert wait(victim, SECONDS + 2 * HANG) == 0
    finally:
        os.kill(member, signal.SIGKILL)
        os.waitpid(member, 0)
    with contextlib.suppress(StoreUnavailable):
        remove("store", kind.name, {"directory": shared, "group": GROUP})
    # Nothing is left of all this that would keep the next one from starting.
    afresh = as_user(VICTIM, lambda: _is_usable(shared, kind))
    assert wait(afresh) == 0


def _is_usable(shared: Path, kind: type[SharedMemoryEngine]) -> None:
    engine = opened(shared, kind)
    engine.push([record(engine, b"meet", b"here")])
    assert engine.pop(b"meet")[0].payload == b"here"
    assert_sound(engine)
    engine.destroy()


# ---- FIFOs, slots, descriptors


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("what", ["file", "link", "link to a FIFO", "flood", "no reader", "many"])
def test_a_member_that_replaces_or_floods_wake_ups_delays_and_harms_nothing_else(
    kind: type[SharedMemoryEngine], what: str, shared: Path
) -> None:
    victim = shared / "victim"
    victim.write_text("precious")
    victim.chmod(0o600)
    os.chown(victim, VICTIM, GROUP)

    def use(pause: Callable[[], None]) -> None:
        little_memory()
        signal.alarm(HANG)
        engine, other = opened(shared, kind), opened(shared, kind)
        bell = other.bell()
        assert other.pop(b"waited for", 1, bell) == []
        pause()
        for number in range(3):
            assert engine.push([record(engine, b"waited for", b"%d" % number)]) == []
            bell.clear()
            engine.upkeep.due = other.upkeep.due = 0
            engine.statistics()
            other.statistics()
            assert [each.payload for each in other.pop(b"waited for", 9, None)] == [b"%d" % number]
        engine.flush()  # Signals all there are.
        assert victim.read_text() == "precious"
        assert os.stat(victim).st_mode & 0o777 == 0o600
        # It installs another where its own is not what others signal.
        bell.look()
        again = bell if bell.fileno() >= 0 else other.bell()
        assert other.pop(b"again", 1, again) == []
        assert engine.push([record(engine, b"again", b"x")]) == []
        assert select.select([again.fileno()], [], [], HANG / 2)[0]
        other.close()
        engine.destroy()

    def attack() -> None:
        folder = shared / "store"
        bells = [folder / name for name in os.listdir(folder) if name.startswith("bell.")]
        assert bells
        for path in bells:
            if what == "flood":
                writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        os.write(writer, b"!" * 4096)
                continue
            if what == "many":
                for number in range(2000):
                    os.mkfifo(f"{str(path).rpartition('.')[0]}.{number + 70_000}", 0o660)
                continue
            path.unlink()
            if what == "file":
                path.write_text("planted")
            elif what == "link":
                path.symlink_to(victim)
            elif what == "no reader":
                os.mkfifo(path)
            else:
                os.mkfifo(shared / "store" / "elsewhere", 0o666)
                path.symlink_to(shared / "store" / "elsewhere")

    in_the_middle_of(use, attack)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_member_that_takes_all_slots_keeps_newcomers_out_and_says_so(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    def use(pause: Callable[[], None]) -> None:
        engine = opened(shared, kind)
        pause()
        engine.push([record(engine, b"a", b"here")])
        assert engine.pop(b"a")[0].payload == b"here"
        # What it claims belongs to no process, so the regular look frees it.
        engine.session.words[layout.NEXT_SWEEP] = engine.upkeep.due = 0
        engine.statistics()
        opened(shared, kind).close()
        engine.destroy()

    def take() -> None:
        mine = opened(shared, kind)
        first = mine.session.channels.heap.geometry.slots + layout.SLOT_IDENTITY
        for slot in range(layout.SLOTS):
            mine.session.words[first + slot * layout.SLOT_WORDS] = slot + 1
        with pytest.raises(StoreUnavailable, match="already has"):
            opened(shared, kind)
        os._exit(0)

    in_the_middle_of(use, take)


@pytest.mark.parametrize("kind", ENGINES)
def test_no_descriptor_is_inherited_by_a_program_that_is_started(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    def use() -> None:
        engine, other = opened(shared, kind), opened(shared, kind)
        bell = other.bell()
        other.pop(b"a", 1, bell)
        engine.push([record(engine, b"a")])
        mine = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is(fd)}
        assert any("store" in path for path in mine)
        shown = subprocess.run(
            ["ls", "-l", "/proc/self/fd"],
            close_fds=False,
            capture_output=True,
            text=True,
            check=True,
        )
        theirs = shown.stdout.split("\n")
        assert not [path for path in theirs if "asgi_ipc" in path or str(shared) in path]
        other.close()
        engine.destroy()

    assert wait(as_user(VICTIM, use)) == 0


def _is(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")
