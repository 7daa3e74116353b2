"""What members of a group, other users, and what was there first can make a store do: nothing.

Each part is played by a real user: `OWNER`, who opens the store, and `MEMBER`, who may use it too
and is hostile. So they need root. Only what both were trusted with, the store, may suffer.
"""

from __future__ import annotations

import contextlib
import grp
import itertools
import mmap
import os
import pwd
import random
import signal
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.cli.check import check, remove
from asgi_ipc.cli.doctor.attempt import NotTried
from asgi_ipc.cli.doctor.engines import look_at_store
from asgi_ipc.cli.doctor.stores import clear_away, record_of
from asgi_ipc.cli.doctor.trying import private_folder
from asgi_ipc.engines.bell import ANY
from asgi_ipc.engines.shm import directory, lock_file
from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.files import FileMemory
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.locks.flock_locks import FileLocks
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.ownership import locators
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.segment import Location, public_token
from asgi_ipc.engines.shm.sysv import SysVEngine
from asgi_ipc.exceptions import OptionError, StoreUnavailable
from tests.tools.stores import (
    KIB,
    in_child,
    open_store,
    record,
)
from tests.tools.users import (
    needs_root,
)

pytestmark = needs_root
#: Loaded before a process becomes another user, who may not read where Python lies.
LOADED = (grp, pwd)

ENGINES = [PosixEngine, SysVEngine, MmapEngine]
#: Other users and another group for each worker, as all that a user has is looked at.
_WORKER = 10 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
OWNER, MEMBER, GROUP = 20_001 + _WORKER, 20_002 + _WORKER, 12_345 + _WORKER
#: Swaps that are tried where the moment can't be chosen.
TRIES = 150


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> type[SharedMemoryEngine]:
    found: type[SharedMemoryEngine] = request.param
    return found


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder of root's that all users can pass through."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def shared(ground: Path) -> Path:
    """A folder for stores of the group."""
    folder = ground / "shared"
    folder.mkdir()
    os.chown(folder, 0, GROUP)
    folder.chmod(0o2770)
    return folder


@pytest.fixture
def home(ground: Path) -> Path:
    """What is the owner's alone."""
    folder = ground / "home"
    folder.mkdir(mode=0o700)
    (folder / "precious").write_text("precious")
    (folder / "precious").chmod(0o600)
    for path in (folder, folder / "precious"):
        os.chown(path, OWNER, OWNER)
    return folder


def assert_untouched(home: Path, names: tuple[str, ...] = ("precious",)) -> None:
    """Nothing in the owner's home was made, changed, opened to others or removed."""
    assert sorted(path.name for path in home.iterdir()) == sorted(names)
    assert (home / "precious").read_text() == "precious"
    for path, mode in ((home, 0o700), (home / "precious", 0o600)):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (OWNER, OWNER)
        assert stat.S_IMODE(status.st_mode) == mode, path


def become(uid: int) -> None:
    """The group is the first one of both: what is private to a user belongs to it as well."""
    os.setgroups([GROUP])
    os.setgid(GROUP)
    os.setuid(uid)


def as_user(uid: int, function: Callable[[], object]) -> None:
    def changed() -> None:
        become(uid)
        function()

    in_child(changed)


def members_store(folder: Path, kind: type[SharedMemoryEngine], **options: Any) -> Any:
    return open_store(folder, kind, group=GROUP, **options)


# ---- the lock file's record


def forgeries(genuine: bytes) -> Iterator[tuple[str, bytes]]:
    """Lock files that are wrong in one field, or short, or of nothing that makes sense."""
    dice = random.Random(15)
    sizes = {"magic": 14, "version": 2, "kind": 2, "ready": 4, "store id": 16, "boot id": 16}
    sizes["engine"] = lock_file.LONGEST_NAME
    assert sum(sizes.values()) == lock_file._FORMAT.size == len(genuine)
    special = {
        "version": [struct.pack("<H", number) for number in (0, 1, 2, 99, 0xFFFF)],
        "kind": [struct.pack("<H", number) for number in (0, 1, 2, 3, 4, 0xFFFF)],
        "ready": [struct.pack("<I", number) for number in (0, 2, 0xFFFFFFFF)],
        "engine": [
            name.ljust(16, b"\0")
            for name in (b"posix", b"sysv", b"mmap", b"memory", b"../../x", b"os:system", b"/etc")
        ],
    }
    offset = 0
    for name, size in sizes.items():
        values = [bytes(size), b"\xff" * size, dice.randbytes(size), *special.get(name, [])]
        for number, value in enumerate(values):
            yield f"{name} {number}", genuine[:offset] + value + genuine[offset + size :]
        offset += size
    for cut in (1, 13, 17, 40, len(genuine) - 1):
        yield f"cut at {cut}", genuine[:cut]
    yield "longer", genuine + b"/etc/passwd" * 100
    # Not ready, of another boot, of another engine: all that has a store be replaced.
    for engine in (b"posix", b"sysv", b"mmap"):
        for ready in (0, 1):
            head = struct.pack("<14sHHI", genuine[:14], 99, 1, ready)
            yield (
                f"old {engine.decode()} {ready}",
                (head + dice.randbytes(32) + engine.ljust(16, b"\0")),
            )


def private_store(home: Path, kind: type[SharedMemoryEngine], **options: Any) -> bytes:
    """Make a store of the owner's alone, in use by no process; its id."""
    reader, writer = os.pipe()

    def make() -> None:
        engine = open_store(home, kind, **options)
        engine.push([record(engine, b"a", b"secret")])
        assert engine._store is not None
        os.write(writer, engine._store.store_id)
        engine.close()

    as_user(OWNER, make)
    store_id = os.read(reader, 16)
    os.close(reader)
    os.close(writer)
    return store_id


def assert_secret_is_kept(home: Path, kind: type[SharedMemoryEngine], **options: Any) -> None:
    def look() -> None:
        engine = open_store(home, kind, **options)
        assert engine.pop(b"a")[0].payload == b"secret"
        engine.destroy()

    as_user(OWNER, look)


def try_everything(folder: Path, kind: type[SharedMemoryEngine]) -> None:
    """All that an unsuspecting user does with a store; an error is as good as anything."""
    options = {"directory": str(folder), "group": GROUP}
    with contextlib.suppress(StoreUnavailable):
        check("store", kind.name, options)
    look_at_store(kind.name, "store", options)
    with contextlib.suppress(StoreUnavailable):
        remove("store", kind.name, options)
    with contextlib.suppress(StoreUnavailable):
        members_store(folder, kind).close()
    with contextlib.suppress(StoreUnavailable):
        members_store(folder, kind).destroy()


def objects(uid: int) -> set[str]:
    """Shared memory and segments of a user."""
    found = set()
    for path in Path("/dev/shm").iterdir():
        with contextlib.suppress(FileNotFoundError):  # Other tests run at the same time.
            status = path.lstat()
            if status.st_uid == uid:
                found.add(f"{path} {status.st_size}")
    with contextlib.suppress(OSError):
        for row in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            if row.split()[7] == str(uid):
                found.add(f"segment {row.split()[1]}")
    return found


def test_a_forged_lock_file_reaches_nothing_but_the_store(
    kind: type[SharedMemoryEngine], shared: Path, home: Path
) -> None:
    store_id = private_store(home, kind)
    kept = objects(OWNER)
    lock = shared / "store" / "lock"

    def victim() -> None:
        try_everything(shared, kind)

    def make() -> None:
        members_store(shared, kind).close()

    as_user(MEMBER, make)
    genuine = lock.read_bytes()
    forged = [*forgeries(genuine)]
    # The owner's own id, as if it could be known.
    forged.append(("another store's", genuine[:22] + store_id + genuine[38:]))
    for name, content in forged:
        lock.parent.mkdir(exist_ok=True)
        lock.parent.chmod(0o770)
        os.chown(lock.parent, MEMBER, GROUP)
        lock.write_bytes(content)
        os.chown(lock, MEMBER, GROUP)
        lock.chmod(0o660)
        as_user(OWNER, victim)
        assert objects(OWNER) >= kept, name
        assert_untouched(home, ("precious", "store"))
        in_child(lambda: try_everything(shared, kind))  # root looks at it, too
        assert objects(OWNER) >= kept, name
        assert_untouched(home, ("precious", "store"))
    assert_secret_is_kept(home, kind)
    for engine in ENGINES:
        for locator in engine.segment.left():
            with contextlib.suppress(OSError):
                root = StoreDirectory(Location("/", 0o600, None), os.open("/", os.O_RDONLY))
                memory = engine.segment.attach(root, locator)
                if memory.owner().gid == GROUP:
                    memory.unlink()
                memory.close()
                root.close()
    in_child(clear_up)


def clear_up() -> None:
    """Remove what is the member's by now: what could not be proved to be the store's was left."""
    become(MEMBER)
    for engine in (PosixEngine, SysVEngine):
        root = StoreDirectory(Location("/", 0o600, None), os.open("/", os.O_RDONLY))
        for locator in engine.segment.left():
            memory = engine.segment.attach(root, locator)
            memory.unlink()
            memory.close()


@pytest.mark.parametrize("what", ["a store", "a store of the group", "blank"])
@pytest.mark.parametrize("ready", [0, 1])
def test_a_name_that_is_another_memory_s_by_chance_or_on_purpose_removes_nothing(
    kind: type[SharedMemoryEngine],
    what: str,
    ready: int,
    shared: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key of 31 bits can be looked for; that of a longer name stands for a broken digest."""
    if what == "blank" and kind is not SysVEngine:
        pytest.skip("its names hold the whole token")
    options: dict[str, Any] = {} if what == "a store" else {"group": GROUP}
    store_id = private_store(home, kind, **options)
    theirs = list(locators(kind.segment, store_id).values())
    gid = options.get("group")
    location = Location(str(home / "store"), 0o660 if gid else 0o600, gid, private=False)

    def make() -> None:
        members_store(shared, kind).close()

    as_user(MEMBER, make)
    lock = shared / "store" / "lock"
    genuine = bytearray(lock.read_bytes())
    genuine[18:22] = struct.pack("<I", ready)
    genuine[22:38] = os.urandom(16)
    lock.write_bytes(genuine)

    def victim() -> None:
        if what == "blank":  # Another program's, which begins with zeros.
            memory = kind.segment.attach(StoreDirectory.open(location), theirs[0])
            memory.view[:512] = bytes(512)
            memory.close()
        by_name = dict(zip(("channels", "groups"), theirs, strict=True))
        if kind is MmapEngine:  # Its memory lies in the directory: this is a link to theirs.
            for name in theirs:
                with contextlib.suppress(OSError):
                    os.link(home / "store" / name, shared / "store" / name)
        monkeypatch.setattr(
            kind.segment, "locator_for", staticmethod(lambda name, token: by_name[name])
        )
        for call in (check, remove):
            with contextlib.suppress(StoreUnavailable):
                call("store", kind.name, {"directory": str(shared), "group": GROUP})
        with contextlib.suppress(StoreUnavailable):
            members_store(shared, kind)
        with contextlib.suppress(StoreUnavailable):
            members_store(shared, kind).destroy()

    as_user(OWNER, victim)
    if what != "blank":
        if kind is MmapEngine:
            for name in theirs:
                with contextlib.suppress(FileNotFoundError):
                    (shared / "store" / name).unlink()
        assert_secret_is_kept(home, kind, **options)
    else:

        def still_there() -> None:
            for name in theirs:
                memory = kind.segment.attach(StoreDirectory.open(location), name)
                assert memory.is_linked()
                memory.unlink()
                memory.close()

        as_user(OWNER, still_there)


@pytest.mark.parametrize("size", [0, 1, 100])
@pytest.mark.parametrize("recorded", [1, 2, 3])
def test_locks_that_were_cut_or_changed_are_refused_in_words(
    size: int, recorded: int, ground: Path
) -> None:
    """Of a store with semaphores, which lies in shared memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        engine = open_store(Path(name))
        assert engine._store is not None
        if engine._store.lock_file.kind != 3:
            engine.destroy()
            pytest.skip("no semaphores here")
        engine.push([record(engine, b"a", b"x")])
        token = public_token(engine._store.store_id, "locks")
        engine.close()
        marks = Path(f"/dev/shm/asgi_ipc.{token}.marks")
        os.truncate(marks, size)
        lock = Path(name) / "store" / "lock"
        content = lock.read_bytes()
        lock.write_bytes(content[:16] + struct.pack("<H", recorded) + content[18:])
        said = ""
        try:
            open_store(Path(name)).destroy()
        except StoreUnavailable as error:
            said = str(error)
        assert not said or (str(marks) in said and "remove it" in said)
        assert said or size == 0 or recorded != 3
        for path in Path("/dev/shm").glob(f"*asgi_ipc.{token}.*"):
            path.unlink()


def test_semaphores_are_never_taken_for_a_store_of_a_group(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    as_user(MEMBER, lambda: members_store(shared, kind).close())
    lock = shared / "store" / "lock"
    content = lock.read_bytes()
    lock.write_bytes(content[:16] + struct.pack("<H", 3) + content[18:])

    def victim() -> None:
        with pytest.raises(StoreUnavailable, match="open to a group has no semaphores"):
            members_store(shared, kind)

    as_user(OWNER, victim)
    lock.write_bytes(content)
    as_user(MEMBER, lambda: members_store(shared, kind).destroy())


@pytest.mark.parametrize("late", [False, True])
def test_the_lock_file_of_another_store_put_in_place_keeps_its_locks(
    late: bool, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open a hard link of it and close that again would drop them all."""

    def nothing_yet(self: StoreDirectory, name: str) -> os.stat_result:
        raise FileNotFoundError

    def scenario() -> None:
        mine = members_store(shared / "one", MmapEngine)
        members_store(shared / "two", MmapEngine).close()
        lock = shared / "two" / "store" / "lock"
        lock.unlink()
        os.link(shared / "one" / "store" / "lock", lock)
        with monkeypatch.context() as patch:
            if late:  # Put there after it was looked at, and before it is opened.
                patch.setattr(StoreDirectory, "status", nothing_yet)
            with pytest.raises(StoreUnavailable, match="hard links"):
                members_store(shared / "two", MmapEngine)

        def other() -> None:
            newcomer = members_store(shared / "one", MmapEngine)
            assert newcomer.statistics()["processes"] == 2
            newcomer.close()

        lock.unlink()
        in_child(other)
        mine.destroy()

    os.chmod(shared, 0o2770)
    in_child(scenario)


@pytest.mark.parametrize("name", ["channels", "groups"])
def test_memory_that_also_has_another_name_is_refused_and_left(
    name: str, shared: Path, home: Path
) -> None:
    """It may have been another file of this user's first; here it is the store's own."""

    def scenario() -> None:
        members_store(shared, MmapEngine).close()
        (memory,) = (shared / "store").glob(f"{name}.*")
        os.link(memory, shared / "store" / "another")
        with pytest.raises(StoreUnavailable, match="hard links"):
            members_store(shared, MmapEngine)
        left = remove("store", "mmap", {"directory": str(shared), "group": GROUP})
        assert [text for text in left if "hard links" in text and str(memory.name) in text]
        assert memory.exists()

    as_user(OWNER, scenario)


# ---- what is swapped between two looks


class Swapper:
    """The member, in a process of its own, who puts links in the place of what is made."""

    def __init__(self) -> None:
        self._asked, self._ask = os.pipe()
        self._done, self._tell = os.pipe()
        self.child = os.fork()
        if not self.child:
            with contextlib.suppress(BaseException):
                signal.alarm(100)
                become(MEMBER)
                self._serve()
            os._exit(0)

    def _serve(self) -> None:
        while True:
            path, target = os.read(self._asked, 4096).decode().split("\n")
            with contextlib.suppress(OSError):
                os.rename(path, f"{path}.{os.urandom(4).hex()}")
            with contextlib.suppress(OSError):
                os.symlink(target, path)
            os.write(self._tell, b"!")

    def swap(self, path: Path, target: Path) -> None:
        os.write(self._ask, f"{path}\n{target}".encode())
        assert os.read(self._done, 1) == b"!"

    def end(self) -> None:
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        for each in (self._asked, self._ask, self._done, self._tell):
            os.close(each)


@pytest.fixture
def swapper() -> Iterator[Swapper]:
    found = Swapper()
    yield found
    found.end()


#: System calls after which the member swaps: whichever the store makes.
CALLS = ["mkdir", "mkfifo", "open", "fchown", "fchmod", "stat", "fstat", "lstat", "listdir"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("what", ["store", "lock", "bell"])
def test_a_link_put_in_place_after_any_call_leads_nowhere(
    kind: type[SharedMemoryEngine],
    call: str,
    what: str,
    shared: Path,
    home: Path,
    swapper: Swapper,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = home if what == "store" else home / "precious"
    real = getattr(os, call)
    swaps = itertools.count()
    wanted = [0]

    def path() -> Path:
        if what != "bell":
            return shared / "store" if what == "store" else shared / "store" / "lock"
        bells = sorted((shared / "store").glob("bell.[1-9a-f]*"))
        return bells[0] if bells else shared / "none"

    def swapping(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        if next(swaps) == wanted[0]:
            monkeypatch.setattr(os, call, real)
            swapper.swap(path(), target)
        return result

    def victim() -> None:
        for number in range(12):
            wanted[0] = number
            nonlocal swaps
            swaps = itertools.count()
            monkeypatch.setattr(os, call, swapping)
            with contextlib.suppress(StoreUnavailable, FileExistsError):
                engine = members_store(shared, kind)
                bell = engine.bell()
                bell.close()
                engine.destroy()
            monkeypatch.setattr(os, call, real)

    def child() -> None:
        become(OWNER)
        victim()

    in_child(child)
    assert_untouched(home)
    in_child(clear_up_of_owner)


def clear_up_of_owner() -> None:
    """What the owner made in stores that were taken away under it."""
    become(OWNER)
    root = StoreDirectory(Location("/", 0o600, None), os.open("/", os.O_RDONLY))
    for engine in (PosixEngine, SysVEngine):
        for locator in engine.segment.left():
            memory = engine.segment.attach(root, locator)
            memory.unlink()
            memory.close()


@pytest.mark.parametrize("what", ["store", "bell"])
def test_a_member_who_swaps_all_the_time_gets_at_nothing(
    what: str, shared: Path, home: Path
) -> None:
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            signal.alarm(100)
            become(MEMBER)
            while True:
                if what == "store":
                    with contextlib.suppress(OSError):
                        os.rename(shared / "store", shared / f"away-{os.urandom(4).hex()}")
                    with contextlib.suppress(OSError):
                        os.symlink(home, shared / "store")
                    with contextlib.suppress(OSError):
                        os.unlink(shared / "store")
                else:
                    for path in (shared / "store").glob("bell.[1-9a-f]*"):
                        with contextlib.suppress(OSError):
                            os.unlink(path)
                        with contextlib.suppress(OSError):
                            os.symlink(home / "precious", path)
        os._exit(0)

    def victim() -> None:
        become(OWNER)
        engine = None
        for _ in range(TRIES):
            with contextlib.suppress(StoreUnavailable):
                engine = engine or members_store(shared, MmapEngine)
                engine.bell().close()
            if what == "store" and engine:
                with contextlib.suppress(StoreUnavailable):
                    engine.close()
                engine = None

    try:
        in_child(victim)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert_untouched(home)


@pytest.mark.parametrize("what", ["file", "another FIFO", "hard link", "symlink", "directory"])
def test_a_bell_of_others_is_not_written_to(
    kind: type[SharedMemoryEngine], what: str, shared: Path, home: Path
) -> None:
    fifo = home / "fifo"
    os.mkfifo(fifo, 0o600)
    os.chown(fifo, OWNER, OWNER)

    def scenario() -> None:
        reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        sender, receiver = members_store(shared, kind), members_store(shared, kind)
        bell = receiver.bell()
        receiver.pop(b"a", 1, bell)
        os.unlink(bell.path)
        if what == "file":
            Path(bell.path).write_text("precious")
        elif what == "another FIFO":
            os.mkfifo(bell.path, 0o600)
        elif what == "hard link":
            os.link(fifo, bell.path)
        elif what == "symlink":
            os.symlink(fifo, bell.path)
        else:
            os.mkdir(bell.path)
        assert sender.push([record(sender, b"a")]) == []
        sender.flush()
        with pytest.raises(BlockingIOError):
            os.read(reader, 10)
        assert what != "file" or Path(bell.path).read_text() == "precious"
        bell.close()
        if what == "directory":
            os.rmdir(bell.path)
        sender.close()
        receiver.destroy()

    as_user(OWNER, scenario)


def test_a_bell_whose_two_ends_would_be_two_fifos_is_made_anew(
    kind: type[SharedMemoryEngine], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped: list[str] = []
    real = StoreDirectory.open_file

    def open_file(self: StoreDirectory, name: str, flags: int, mode: int = 0) -> int:
        if name.startswith("bell.") and flags == os.O_WRONLY and not swapped:
            swapped.append(name)
            os.unlink(shared / "store" / name)
            os.mkfifo(shared / "store" / name, 0o660)
            # It has a reader, so that it can be opened for writing.
            swapped.append(str(os.open(shared / "store" / name, os.O_RDWR)))
        return real(self, name, flags, mode)

    def scenario() -> None:
        engine = members_store(shared, kind)
        monkeypatch.setattr(StoreDirectory, "open_file", open_file)
        bell = engine.bell()
        assert len(swapped) == 2
        assert bell.number == 2
        bell.signal()
        assert os.read(bell.fileno(), 10) == ANY
        bell.close()
        engine.destroy()

    as_user(OWNER, scenario)


# ---- the way to the store


def refused(folder: Path, kind: type[SharedMemoryEngine], match: str, **options: Any) -> None:
    before = sorted(map(str, folder.parent.rglob("*")))
    with pytest.raises(StoreUnavailable, match=match):
        open_store(folder, kind, **options)
    assert sorted(map(str, folder.parent.rglob("*"))) == before, "something was made"


def test_a_directory_below_another_users_is_refused(
    kind: type[SharedMemoryEngine], ground: Path, home: Path
) -> None:
    home.chmod(0o777)

    def victim() -> None:
        refused(home / "ipc", kind, rf"belongs to user {OWNER}, who can put another folder")
        refused(home / "deep" / "ipc", kind, rf"belongs to user {OWNER}")

    as_user(MEMBER, victim)
    in_child(lambda: refused(home / "ipc", kind, rf"belongs to user {OWNER}"))
    in_child(lambda: refused(home / "ipc", kind, rf"belongs to user {OWNER}", group=GROUP))
    home.chmod(0o700)
    as_user(OWNER, lambda: open_store(home / "ipc", kind).destroy())


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o770, 0o757])
def test_a_directory_in_one_where_others_can_rename_is_refused(
    kind: type[SharedMemoryEngine], mode: int, ground: Path
) -> None:
    loose = ground / "loose"
    loose.mkdir()
    os.chown(loose, OWNER, GROUP)
    loose.chmod(mode)

    def victim() -> None:
        refused(loose / "ipc", kind, r"other users can rename.*chmod go-w")

    as_user(OWNER, victim)
    if not mode & 0o002:
        # Those who may are the group's own members, who are trusted with the store.
        as_user(OWNER, lambda: members_store(loose / "ipc", kind).destroy())
        (loose / "ipc").rmdir()
    loose.chmod(0o1777)  # Where only the owner of a thing may rename it.
    as_user(OWNER, lambda: open_store(loose / "ipc", kind).destroy())


@pytest.mark.parametrize("whose", [OWNER, MEMBER, 0], ids=["owner", "member", "root"])
def test_a_link_on_the_way_is_followed_if_no_other_user_can_turn_it(
    kind: type[SharedMemoryEngine], whose: int, ground: Path, home: Path
) -> None:
    ground.chmod(0o1777)
    link = ground / "link"
    link.symlink_to(home)
    os.lchown(link, whose, whose)

    def victim() -> None:
        if whose == MEMBER:
            refused(link / "ipc", kind, rf"link' belongs to user {MEMBER}")
        else:
            open_store(link / "ipc", kind).destroy()

    as_user(OWNER, victim)
    (home / "ipc").rmdir() if whose != MEMBER else None
    assert_untouched(home)


def test_a_link_in_place_of_the_users_own_folder_makes_nothing_where_it_points(
    kind: type[SharedMemoryEngine], ground: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.chmod(0o1777)
    monkeypatch.setattr(kind, "default_parent", classmethod(lambda cls: str(ground)))

    def squat() -> None:
        (ground / f"asgi_ipc-{OWNER}").symlink_to(home)

    def victim() -> None:
        with pytest.raises(StoreUnavailable, match="is not a directory and was left as it is"):
            kind("store", channel_memory=512 * KIB, group_memory=256 * KIB)

    as_user(MEMBER, squat)
    as_user(OWNER, victim)
    assert_untouched(home)


def test_an_empty_folder_that_another_made_first_is_named_with_its_owner_and_a_remedy(
    kind: type[SharedMemoryEngine], ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.chmod(0o1777)
    monkeypatch.setattr(kind, "default_parent", classmethod(lambda cls: str(ground)))
    for mode in (0o700, 0o755, 0o777):
        squatted = ground / f"asgi_ipc-{OWNER}"

        def squat(path: Path = squatted, mode: int = mode) -> None:
            path.mkdir()
            path.chmod(mode)

        def victim() -> None:
            said = rf"belongs to user {MEMBER}.*engine_options\['directory'\].*root remove it"
            with pytest.raises(StoreUnavailable, match=said):
                kind("store", channel_memory=512 * KIB, group_memory=256 * KIB)

        as_user(MEMBER, squat)
        as_user(OWNER, victim)
        assert list(squatted.iterdir()) == []
        squatted.rmdir()


def test_a_folder_with_something_in_it_is_not_opened_to_the_group(
    kind: type[SharedMemoryEngine], home: Path
) -> None:
    """Only what the store has just made, or left unfinished, gets other rights."""
    (home / "store").mkdir(mode=0o700)
    (home / "store" / "mine").touch()
    os.chown(home / "store", OWNER, OWNER)

    def victim() -> None:
        with pytest.raises(StoreUnavailable, match=f"and not to group {GROUP}"):
            members_store(home, kind)

    as_user(OWNER, victim)
    assert stat.S_IMODE((home / "store").lstat().st_mode) == 0o700
    (home / "store" / "mine").unlink()
    as_user(OWNER, lambda: members_store(home, kind).destroy())


# ---- what must go on working


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_honest_members_share_a_store_whatever_their_umask(
    kind: type[SharedMemoryEngine], umask: int, shared: Path
) -> None:
    def one(uid: int, sent: bytes, expected: bytes) -> None:
        os.umask(umask)
        engine = members_store(shared, kind)
        assert [each.payload for each in engine.pop(b"a", 5)] == ([expected] if expected else [])
        bell = engine.bell()
        assert engine.pop(b"b", 1, bell) == []
        engine.push([record(engine, b"a", sent)])
        bell.close()
        engine.close()

    as_user(OWNER, lambda: one(OWNER, b"from the owner", b""))
    as_user(MEMBER, lambda: one(MEMBER, b"from the member", b"from the owner"))
    as_user(OWNER, lambda: one(OWNER, b"last", b"from the member"))

    def stranger() -> None:
        os.setgroups([])
        os.setgid(20_003 + _WORKER)
        os.setuid(20_003 + _WORKER)
        with pytest.raises((StoreUnavailable, OptionError)):
            members_store(shared, kind)

    in_child(stranger)
    as_user(OWNER, lambda: members_store(shared, kind).destroy())
    assert list(shared.iterdir()) == []


def test_a_member_who_may_not_remove_the_memory_is_told_before_anything_is_marked(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    as_user(OWNER, lambda: members_store(shared, kind).close())

    def member() -> None:
        engine = members_store(shared, kind)
        engine.push([record(engine, b"a", b"kept")])
        if kind is MmapEngine:
            engine.destroy()
            return
        with pytest.raises(StoreUnavailable, match=f"belongs to user {OWNER}.*flush"):
            engine.destroy()
        assert engine.pop(b"a")[0].payload == b"kept"
        engine.close()

    as_user(MEMBER, member)
    as_user(OWNER, lambda: members_store(shared, kind).destroy())
    assert list(shared.iterdir()) == []


def test_root_looks_at_a_users_store_and_nothing_of_it_is_changed(
    kind: type[SharedMemoryEngine], home: Path, shared: Path
) -> None:
    private_store(home, kind)
    with pytest.raises(StoreUnavailable, match=rf"belongs to user {OWNER}"):
        check("store", kind.name, {"directory": str(home)})
    found = look_at_store(kind.name, "store", {"directory": str(home)})
    assert not found["works"]
    assert_secret_is_kept(home, kind)
    as_user(OWNER, lambda: members_store(shared, kind).close())
    options = {"directory": str(shared), "group": GROUP}
    before = sorted(
        (str(path), path.lstat().st_uid, path.lstat().st_mode) for path in shared.rglob("*")
    )
    assert check("store", kind.name, options) == []
    assert look_at_store(kind.name, "store", options)["works"]
    after = sorted(
        (str(path), path.lstat().st_uid, path.lstat().st_mode) for path in shared.rglob("*")
    )
    assert after == before
    assert record_of(Location(str(shared / "store"), 0o660, GROUP, False)) is not None
    as_user(OWNER, lambda: members_store(shared, kind).destroy())


@pytest.mark.parametrize("kind", [PosixEngine, MmapEngine])
def test_memory_that_is_cut_in_the_moment_it_is_opened_is_a_documented_error(
    kind: type[SharedMemoryEngine], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = members_store(shared, kind)

    def cut(descriptor: int, size: int) -> mmap.mmap:
        os.ftruncate(descriptor, size // 2)
        return mapped(descriptor, size)

    mapped = mmap.mmap
    before = dict(lock_file._registry)
    monkeypatch.setattr(mmap, "mmap", cut)
    with pytest.raises(StoreUnavailable, match="cut while it was opened"):
        members_store(shared, kind)
    assert lock_file._registry == before
    monkeypatch.undo()
    engine.destroy()


@pytest.mark.parametrize("kind", [PosixEngine, MmapEngine])
@pytest.mark.parametrize("which", [layout.CHANNELS, layout.GROUPS])
def test_memory_that_a_member_has_stretched_is_refused_and_takes_none(
    kind: type[SharedMemoryEngine], which: int, shared: Path
) -> None:
    size = 1 << 36

    def stretch() -> None:
        engine = members_store(shared, kind)
        assert engine._store is not None
        memory = engine._store.locked_segments[which].segment
        assert isinstance(memory, FileMemory)
        os.ftruncate(memory._descriptor, size)
        geometry = layout.Geometry.of(which, size)
        for word, value in {
            layout.W_SIZE: size,
            layout.W_EXTENT_WORDS: geometry.extent_words,
            layout.W_BUCKETS: geometry.buckets,
            # Who enters writes all of what a store begins with.
            layout.STATE: layout.FORMATTING,
        }.items():
            engine._store.locked_segments[which].words[word] = value
        os._exit(0)

    as_user(MEMBER, stretch)

    def victim() -> None:
        for opened in (
            lambda: members_store(shared, kind),
            lambda: check("store", kind.name, {"directory": str(shared), "group": GROUP}),
        ):
            with pytest.raises(StoreUnavailable, match="stretched"):
                opened()

    as_user(OWNER, victim)
    in_child(victim)
    remove("store", kind.name, {"directory": str(shared), "group": GROUP})
    as_user(OWNER, lambda: members_store(shared, kind).destroy())


@pytest.mark.parametrize("below", [False, True])
def test_who_only_looks_does_not_open_an_empty_folder_to_the_group(
    kind: type[SharedMemoryEngine], below: bool, monkeypatch: pytest.MonkeyPatch, ground: Path
) -> None:
    """As a process that makes a store leaves it if it is killed, or a member has renamed it."""
    monkeypatch.setattr(kind, "default_parent", classmethod(lambda _: str(ground)))
    folder = ground / f"asgi_ipc-group-{GROUP}"
    folder.mkdir(mode=0o700)
    if below:
        os.chown(folder, 0, GROUP)
        folder.chmod(0o770)
        folder /= "store"
        folder.mkdir(mode=0o700)
    for call in (check, remove):
        with pytest.raises(StoreUnavailable, match="there is no store"):
            call("store", kind.name, {"group": GROUP})
    result = look_at_store(kind.name, "store", {"group": GROUP})
    assert result["works"]
    assert "there is none" in result["detail"]
    status = folder.lstat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o700, 0)


def test_a_folder_on_the_way_that_another_makes_just_now_is_refused(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.chmod(0o1777)
    real = directory.check_way

    def check_way(path: str, location: Location) -> None:
        try:
            real(path, location)
        except FileNotFoundError:
            as_user(MEMBER, lambda: (ground / "new").mkdir(mode=0o777))
            monkeypatch.undo()
            raise

    monkeypatch.setattr(directory, "check_way", check_way)
    with pytest.raises(StoreUnavailable, match=f"belongs to user {MEMBER}"):
        open_store(ground / "new" / "folder")
    assert list((ground / "new").iterdir()) == []


def test_a_fifo_put_in_place_of_a_lock_keeps_its_rights(shared: Path) -> None:
    (shared / "store").mkdir()
    os.chown(shared / "store", 0, GROUP)
    (shared / "store").chmod(0o770)
    fifo = shared / "store" / f"lock.{bytes(16).hex()}.1"
    os.mkfifo(fifo, 0o600)
    os.chown(fifo, 0, 0)
    opened = StoreDirectory.open(Location(str(shared / "store"), 0o660, GROUP, private=False))
    locks = FileLocks(str(shared / "store" / "lock"), -1, opened)
    with pytest.raises(StoreUnavailable, match="not a plain file"):
        locks.prepare(bytes(16), create=True)
    status = fifo.lstat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o600, 0)
    opened.close()


def test_a_private_file_put_in_place_of_the_lock_file_is_not_given_to_the_group(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    """It is empty still, and its writer has it open."""
    private = shared / "private"
    descriptor = os.open(private, os.O_RDWR | os.O_CREAT, 0o600)
    os.fchown(descriptor, 0, 0)

    def put() -> None:
        (shared / "store").mkdir()
        (shared / "store").chmod(0o770)
        os.rename(private, shared / "store" / "lock")

    as_user(MEMBER, put)
    in_child(lambda: members_store(shared, kind).close())
    status = os.fstat(descriptor)
    assert (stat.S_IMODE(status.st_mode), status.st_gid, status.st_size) == (0o600, 0, 0)
    assert status.st_ino != (shared / "store" / "lock").stat().st_ino
    os.close(descriptor)
    in_child(lambda: members_store(shared, kind).destroy())


# ---- the doctor, run by root


def test_the_doctor_removes_nothing_that_a_member_puts_in_place_of_its_store(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    """In a folder that a member may write to he can rename what he may not look into."""
    prefix = "doctor-0123456789ab"
    theirs = shared / "theirs"
    theirs.mkdir()
    theirs.chmod(0o750)
    (theirs / "precious").write_text("precious")
    as_user(MEMBER, lambda: os.rename(theirs, shared / prefix))
    clear_away(kind, prefix, {"directory": str(shared), "group": GROUP})
    assert (shared / prefix / "precious").read_text() == "precious"


def test_a_store_of_the_doctor_s_that_was_left_is_cleared_away(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    def crash() -> None:
        engine = kind(
            "doctor-0123456789ab",
            directory=shared,
            group=GROUP,
            channel_memory=512 * KIB,
            group_memory=256 * KIB,
        )
        engine.pop(b"a", 1, engine.bell())
        os._exit(0)

    in_child(crash)
    clear_away(kind, "doctor-0123456789ab", {"directory": str(shared), "group": GROUP})
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("who", ["members", "all", "owner"])
def test_the_doctor_tries_nothing_by_path_where_others_can_put_something_else(
    who: str, shared: Path
) -> None:
    if who == "all":
        shared.chmod(0o777)
    elif who == "owner":
        os.chown(shared, MEMBER, GROUP)
        shared.chmod(0o755)
    for parent in (shared, shared / "not there"):
        with pytest.raises(NotTried, match="can rename"), private_folder(str(parent)):
            raise AssertionError
    assert list(shared.iterdir()) == []
    shared.chmod(0o755)
    os.chown(shared, 0, 0)
    with private_folder(str(shared)) as folder:
        assert os.path.isdir(folder)
    assert list(shared.iterdir()) == []
