"""The folder of a store, and the way to it: no other user can point it to another place.

Each part is played by a real user: `OWNER`, who opens the store, and `MEMBER`, who may use it too
and is hostile. So they need root. Only what both were trusted with, the store, may suffer.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.engines.shm import directory
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.segment import Location
from asgi_ipc.exceptions import OptionError, StoreUnavailable
from tests.tools.commands import check, look_at_store, remove
from tests.tools.hostile import (
    GROUP,
    MEMBER,
    OWNER,
    STRANGER,
    as_user,
    assert_untouched,
    become,
    clear_up,
    ground,
    home,
    members_store,
    shared,
)
from tests.tools.stores import (
    KIB,
    in_child,
    open_store,
    record,
)
from tests.tools.users import (
    needs_root,
)

__all__ = ["ground", "home", "shared"]

pytestmark = needs_root

#: Swaps that are tried where the moment can't be chosen.
TRIES = 150


# ---- what is swapped between two looks


class Swapper:
    """The member, in a process of its own: it puts links in the place of what is made."""

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
    in_child(lambda: clear_up(OWNER))


@pytest.mark.parametrize("what", ["store", "bell"])
def test_a_member_that_swaps_links_all_the_time_reaches_nothing(
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


# ---- the way to the store


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
        # Only members of the group may, and they are trusted with the store.
        as_user(OWNER, lambda: members_store(loose / "ipc", kind).destroy())
        (loose / "ipc").rmdir()
    loose.chmod(0o1777)  # Where only the owner of a thing may rename it.
    as_user(OWNER, lambda: open_store(loose / "ipc", kind).destroy())


@pytest.mark.parametrize("whose", [OWNER, MEMBER, 0], ids=["owner", "member", "root"])
def test_a_link_on_the_way_is_followed_if_no_other_user_can_replace_it(
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
        os.setgid(STRANGER)
        os.setuid(STRANGER)
        with pytest.raises((StoreUnavailable, OptionError)):
            members_store(shared, kind)

    in_child(stranger)
    as_user(OWNER, lambda: members_store(shared, kind).destroy())
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("below", [False, True])
def test_looking_does_not_open_an_empty_folder_to_the_group(
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


def test_a_folder_on_the_way_that_another_user_makes_meanwhile_is_refused(
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


def refused(folder: Path, kind: type[SharedMemoryEngine], match: str, **options: Any) -> None:
    before = sorted(map(str, folder.parent.rglob("*")))
    with pytest.raises(StoreUnavailable, match=match):
        open_store(folder, kind, **options)
    assert sorted(map(str, folder.parent.rglob("*"))) == before, "something was made"
