"""Memory and locks of stores whose folder was removed by hand are found, named and removed."""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_ipc.cli.orphans import Orphan, find_orphans, remove_orphan
from asgi_ipc.engines.shm import store_memory
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.segment import public_token
from asgi_ipc.engines.shm.sysv import SysVEngine
from tests.tools.namespaces import (
    run_on,
)
from tests.tools.stores import (
    assert_gone,
    open_store,
    record,
    start,
    wait,
)
from tests.tools.users import (
    NOBODY,
    needs_root,
)

if not (os.path.isdir("/dev/shm") and os.path.exists("/proc/sysvipc/shm")):
    pytest.skip("this system does not list its shared memory", allow_module_level=True)


NAMESPACES = ("--mount", "--ipc")


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path short enough to stand in the memory, and where semaphores are used."""
    found = Path(tempfile.mkdtemp(prefix="o-", dir="/dev/shm"))
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture(params=[PosixEngine, SysVEngine])
def kind(request: pytest.FixtureRequest) -> type[SharedMemoryEngine]:
    found: type[SharedMemoryEngine] = request.param
    return found


def names_of(engine: SharedMemoryEngine) -> dict[str, list[str]]:
    """What the memory of a store and its locks are called."""
    assert engine.session.store is not None
    store_id = engine.session.store.store_id
    token = public_token(store_id, "locks")
    return {
        engine.name: list(store_memory.locators(engine.segment, store_id).values()),
        "locks": sorted(str(path) for path in Path("/dev/shm").glob(f"*asgi_ipc.{token}.*")),
    }


def of(names: dict[str, list[str]], known: tuple[str, ...] = ()) -> list[Orphan]:
    """Those found that are these; others may be other tests'."""
    found = find_orphans(known)
    return [each for each in found if each.name in names.get(each.engine, ())]


def test_a_store_whose_folder_is_gone_is_found_and_removed(
    kind: type[SharedMemoryEngine], folder: Path
) -> None:
    engine = open_store(folder, kind)
    names, location = names_of(engine), engine.session.location
    assert of(names) == [], "it is used"
    engine.push([record(engine, b"a")])
    engine.close()
    assert of(names) == [], "nobody uses it, and it is still a store"
    shutil.rmtree(folder / "store")
    found = of(names)
    assert sorted(each.name for each in found) == sorted(names[kind.name] + names["locks"])
    assert all(str(folder) in each.reason and not each.kept for each in found)
    for orphan in found:
        remove_orphan(orphan)
    assert of(names) == []
    assert_gone(location, kind, names[kind.name])
    assert not any(map(os.path.exists, names["locks"]))


def test_memory_that_a_process_still_has_is_kept(
    kind: type[SharedMemoryEngine], folder: Path
) -> None:
    out, into = os.pipe()
    told, tell = os.pipe()

    def other() -> None:
        engine = open_store(folder, kind)
        os.write(into, b"!")
        os.read(told, 1)
        assert engine.session.store is not None
        engine.session.store.remove_rest()

    child = start(other)
    os.read(out, 1)
    (lock,) = (folder / "store").glob("lock")
    lock.unlink()
    found = [each for each in find_orphans() if str(folder) in each.reason]
    assert [each for each in found if each.engine == kind.name]
    assert all("living process" in each.kept for each in found if each.engine == kind.name)
    for orphan in found:
        remove_orphan(orphan)
    assert [each.name for each in find_orphans() if str(folder) in each.reason] == [
        each.name for each in found if each.kept
    ]
    os.write(tell, b"!")
    assert wait(child) == 0
    for orphan in [each for each in find_orphans() if str(folder) in each.reason]:
        remove_orphan(orphan)
    for each in (out, into, told, tell):
        os.close(each)


def test_memory_of_a_store_that_was_made_anew_in_the_same_folder_is_found(
    kind: type[SharedMemoryEngine], folder: Path
) -> None:
    old = open_store(folder, kind)
    names = names_of(old)
    old.close()
    shutil.rmtree(folder / "store")
    new = open_store(folder, kind)
    found = of(names)
    assert {each.name for each in found} == {*names[kind.name], *names["locks"]}
    assert all("another store is now" in each.reason for each in found)
    for orphan in found:
        remove_orphan(orphan)
    assert of(names_of(new)) == []
    new.push([record(new, b"a", b"kept")])
    assert new.pop(b"a")[0].payload == b"kept"
    new.destroy()


def test_a_long_path_is_recognized_if_it_is_named_and_kept_otherwise(
    kind: type[SharedMemoryEngine], folder: Path
) -> None:
    long = folder / secrets.token_hex(30)
    engine = open_store(long, kind)
    names = names_of(engine)
    engine.close()
    shutil.rmtree(long)
    found = of(names)
    assert found
    assert all("pass PREFIX" in each.kept for each in found)
    for orphan in found:
        remove_orphan(orphan)
    assert of(names) == found
    found = of(names, (str(long / "store"),))
    assert not any(each.kept for each in found)
    for orphan in found:
        remove_orphan(orphan)
    assert of(names, (str(long / "store"),)) == []


def test_memory_of_another_program_is_no_orphan(folder: Path) -> None:
    import _posixshmem

    import sysv_ipc

    key = secrets.randbelow(0x7FFFFFFE) + 1
    segment = sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, size=4096)
    name = f"/asgi_ipc.{secrets.token_hex(8)}.x"
    os.close(_posixshmem.shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        found = {each.name for each in find_orphans()}
        assert not found & {f"{key:#010x}", name}
        # Nor is it removed if the caller says that it is one.
        remove_orphan(Orphan("sysv", f"{key:#010x}", "said so", ""))
        remove_orphan(Orphan("posix", name, "said so", ""))
        segment.detach()
        sysv_ipc.SharedMemory(key).detach()
    finally:
        sysv_ipc.remove_shared_memory(segment.id)
        _posixshmem.shm_unlink(name)


def run(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "asgi_ipc", "check", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_command_lists_and_removes(kind: type[SharedMemoryEngine]) -> None:
    # Where nothing is that other tests have just left.
    run_on("mount -t tmpfs none /dev/shm", check_the_command, kind.name, kinds=NAMESPACES)


def check_the_command(name: str) -> None:
    kind = {"posix": PosixEngine, "sysv": SysVEngine}[name]
    folder = Path(tempfile.mkdtemp(prefix="o-", dir="/dev/shm"))
    engine = open_store(folder, kind)
    names = names_of(engine)
    engine.close()
    shutil.rmtree(folder / "store")
    status, said = run("--orphans")
    assert status == 1
    for name in (*names[kind.name], *names["locks"]):
        assert f": {name}: there is no store at '{folder}/store' any more\n" in said
    status, said = run("--orphans", "--remove")
    assert status == 0
    assert all(f"{name}: " in said for name in names[kind.name])
    assert "(removed)" in said
    assert of(names) == []
    assert run("--orphans") == (0, "none\n")


def test_without_a_prefix_the_command_says_what_to_do() -> None:
    status, said = run()
    assert status == 2
    assert "PREFIX" in said
    assert "--orphans" in said


# ---- what other users put there


def as_root_finds(part: str) -> None:
    """Nothing that others have put there keeps root from finding what is root's."""
    folder = Path(tempfile.mkdtemp(prefix="o-", dir="/dev/shm"))
    folder.chmod(0o755)
    mine = open_store(folder, PosixEngine)
    names = names_of(mine)
    mine.close()
    shutil.rmtree(folder / "store")
    shared = open_store(folder / "shared", PosixEngine, group=NOBODY)
    (memory, _) = names_of(shared)["posix"]
    shared.close()

    def put() -> None:
        if part == "a name that is no text":
            descriptor = os.open(b"/dev/shm/\xff", os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(descriptor, 4096)
            kept = mmap.mmap(descriptor, 4096)
            os.write(tell, b"!")
            os.read(go, 1)
            kept.close()
            return
        said = b"/a\0b" if part == "no path" else os.fsencode(folder / "shared/store")
        if part == "memory of the group":
            view = os.open(f"/dev/shm{memory}", os.O_RDWR)
            os.pwrite(view, b"/a\0b".ljust(40, b"\0"), layout.W_FOLDER * layout.WORD)
        elif part == "memory given to root":
            import sysv_ipc

            segment = sysv_ipc.SharedMemory(4711, sysv_ipc.IPC_CREX, mode=0o600, size=4096)
            head = bytearray(512)
            head[layout.W_MAGIC * 8 : layout.W_MAGIC * 8 + len(layout.MAGIC)] = layout.MAGIC
            head[layout.W_FOLDER * 8 : layout.W_FOLDER * 8 + 4] = b"/a\0b"
            segment.write(bytes(head))
            segment.uid = 0
        else:
            # A link to what root made and the group may write.
            os.link(f"/dev/shm{memory}", "/dev/shm/asgi_ipc.0123456789abcdef.1")
            marks = Path("/dev/shm/asgi_ipc.0123456789abcdef.marks")
            if part == "a FIFO":
                os.mkfifo(marks, 0o666)
            else:
                marks.write_bytes(bytes(72) + said.ljust(56, b"\0"))
                marks.chmod(0o666)
        os.write(tell, b"!")

    def member() -> None:
        os.setgroups([NOBODY])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        put()

    ready, tell = os.pipe()
    go, say = os.pipe()
    child = start(member)
    assert os.read(ready, 1)
    status, said = run("--orphans")
    os.write(say, b"!")
    assert wait(child) == 0
    assert status == 1, said
    for name in (*names["posix"], *names["locks"]):
        assert f": {name}: there is no store at '{folder}/store' any more\n" in said
    run("--orphans", "--remove")
    assert of(names) == []
    assert os.path.exists(f"/dev/shm{memory}"), "it is of a store"


@needs_root
@pytest.mark.parametrize(
    "part",
    [
        *("a name that is no text", "a FIFO", "marks of a group's store", "no path"),
        *("memory of the group", "memory given to root"),
    ],
)
def test_what_other_users_put_there_stops_no_command(part: str) -> None:
    run_on("mount -t tmpfs none /dev/shm", as_root_finds, part, kinds=NAMESPACES)
