"""The Segment contract, G1 to G8 of `asgi_ipc.engines.shm.segment`: what a UNIX must offer.

For a port of shared memory to another system: run these tests first, then all others. Engines
whose class has no ``segment`` are skipped.

    python -m asgi_ipc.conformance test_segment --engine my.module:MyEngine
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from asgi_ipc.engines.shm.segment import Owner

from .forks import in_child, killed_at
from .leaks import files_used
from .segments import PAGE, Ground, umask

if TYPE_CHECKING:
    from .case import Case


@pytest.fixture
def ground(case: Case) -> Iterator[Ground]:
    """The Segment class of the engine under test, with its own directory."""
    from asgi_ipc.engines import find

    if not hasattr(find(case.engine), "segment"):
        pytest.skip(f"{case.engine} has no segment: it is not a shared-memory engine")
    ground = Ground(case.engine, case.prefix)
    yield ground
    ground.clean_up()


def another_group() -> int | None:
    """A group that this process may give files to, besides its first."""
    if os.geteuid() == 0:
        return os.getegid() + 4321
    return next((group for group in os.getgroups() if group != os.getegid()), None)


@pytest.mark.clause("G1")
@pytest.mark.parametrize("pages", [1, 64, 4099])
def test_new_memory_is_zero_writable_and_of_exactly_that_size(ground: Ground, pages: int) -> None:
    view = ground.create(ground.locator(), pages * PAGE).view
    assert (view.nbytes, view.itemsize, view.format, view.readonly) == (pages * PAGE, 1, "B", False)
    assert not any(view)
    view[0] = view[-1] = 255
    with view.cast("Q") as words:
        words[1] = (1 << 64) - 1
        assert words[1] == (1 << 64) - 1
    assert view[:9].tobytes() == b"\xff" + bytes(7) + b"\xff"


@pytest.mark.clause("G1")
def test_memory_is_zero_where_others_were_before(ground: Ground) -> None:
    for _ in range(3):
        locator = ground.locator()
        segment = ground.create(locator)
        assert not any(segment.view)
        segment.view[:] = b"\xa5" * segment.view.nbytes
        segment.close()
        ground.unlink(locator)
        again = ground.create(locator)
        assert not any(again.view)


@pytest.mark.clause("G1")
@pytest.mark.clause("G5")
@pytest.mark.parametrize("mask", [0, 0o027, 0o777], ids=oct)
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660], ids=oct)
def test_the_mode_is_the_one_asked_for_whatever_the_umask(
    ground: Ground, mode: int, mask: int
) -> None:
    location = ground.location._replace(mode=mode, gid=os.getegid())
    with umask(mask):
        segment = ground.create(ground.locator(), location=location)
    assert segment.owner() == Owner(os.geteuid(), os.getegid(), mode)


@pytest.mark.clause("G1")
@pytest.mark.clause("G5")
def test_the_group_is_the_one_asked_for(ground: Ground) -> None:
    group = another_group()
    if group is None:
        pytest.skip("this user has one group only")
    locator = ground.locator()
    ground.create(locator, location=ground.location._replace(mode=0o660, gid=group))
    assert ground.attach(locator).owner() == Owner(os.geteuid(), group, 0o660)


@pytest.mark.clause("G1")
@pytest.mark.parametrize("size", [4 * PAGE, 2 * PAGE, 16 * PAGE])
def test_a_locator_that_is_taken_is_refused_and_what_is_there_unharmed(
    ground: Ground, size: int
) -> None:
    locator = ground.locator()
    first = ground.create(locator)
    first.view[:] = b"x" * first.view.nbytes
    with pytest.raises(FileExistsError):
        ground.create(locator, size)
    again = ground.attach(locator)
    assert again.view.nbytes == first.view.nbytes
    assert again.view.tobytes() == b"x" * first.view.nbytes


@pytest.mark.clause("G1")
@pytest.mark.parametrize("size", [1 << 62, (1 << 62) + 3 * PAGE])
def test_memory_that_no_machine_has_is_an_oserror_and_leaves_nothing(
    ground: Ground, size: int
) -> None:
    locator = ground.locator()
    before = files_used()
    with pytest.raises(OSError):  # noqa: PT011
        ground.create(locator, size)
    assert not ground.exists(locator)
    assert files_used() == before
    ground.create(locator)


@pytest.mark.clause("G2")
def test_a_locator_is_short_and_names_no_other_memory(ground: Ground) -> None:
    tokens = [f"{number:016x}" for number in range(50)]
    names = ("channels", "groups")
    locators = [ground.segment.locator_for(name, token) for token in tokens for name in names]
    assert len(set(locators)) == 100
    assert all(each.isascii() and each.isprintable() and 0 < len(each) <= 60 for each in locators)
    assert not any(map(ground.exists, locators)), "naming is not making"


@pytest.mark.clause("G2")
def test_a_locator_follows_from_its_arguments_in_every_process(ground: Ground) -> None:
    names = ("channels", "groups")
    first = [ground.segment.locator_for(name, ground.token) for name in names]
    assert [ground.segment.locator_for(name, ground.token) for name in names] == first
    code = """
for name in ("channels", "groups"):
    print(segment.locator_for(name, arguments[0]))
"""
    other = ground.process(code, ground.token)
    assert [other.line(), other.line()] == first
    assert other.end() == 0


@pytest.mark.clause("G2")
@pytest.mark.clause("G1")
def test_a_creator_killed_at_any_instant_leaves_only_what_is_found(ground: Ground) -> None:
    opcode, step = 1, 7
    locator = ground.locator()
    while killed_at(lambda: ground.create(locator, 2 * PAGE), opcode):
        if ground.exists(locator):
            ground.attach(locator).owner()  # Half-made memory counts as complete, or is absent.
        ground.unlink(locator)
        assert not ground.exists(locator)
        assert os.listdir(ground.location.directory) == []
        assert not any(ground.create(locator, 2 * PAGE).view)
        ground.unlink(locator)
        opcode += step
    assert opcode > 2 * step, "it was never killed"


@pytest.mark.clause("G2")
@pytest.mark.clause("G6")
def test_a_remover_killed_at_any_instant_can_be_followed_by_another(ground: Ground) -> None:
    opcode, step = 1, 5
    locator = ground.locator()
    ground.create(locator)
    while killed_at(lambda: ground.unlink(locator), opcode):
        ground.unlink(locator)
        assert not ground.exists(locator)
        ground.create(locator)
        opcode += step
    assert not ground.exists(locator)


CONVERSATION = """
import sys
mine = segment.attach(directory, arguments[0])
print(mine.view[:5].tobytes().decode(), mine.view.nbytes, *mine.owner(), flush=True)
mine.view[-3:] = b"ans"
print("written", flush=True)
input()
print(mine.view[:5].tobytes().decode(), flush=True)
mine.close()
"""


@pytest.mark.clause("G3")
@pytest.mark.clause("G5")
def test_another_process_sees_the_same_bytes_at_once(ground: Ground) -> None:
    locator = ground.locator()
    segment = ground.create(locator)
    segment.view[:5] = b"hello"
    others = []
    try:
        for _ in range(2):
            other = ground.process(CONVERSATION, locator)
            others.append(other)
            said = ["hello", segment.view.nbytes, *segment.owner()]
            assert other.line() == " ".join(map(str, said))
            assert other.line() == "written"
            assert segment.view[-3:].tobytes() == b"ans"
            segment.view[-3:] = bytes(3)
        segment.view[:5] = b"there"
        for other in others:
            other.go_on()
            assert other.line() == "there"
    finally:
        statuses = [other.end() for other in others]
    assert statuses == [0, 0]


@pytest.mark.clause("G3")
@pytest.mark.clause("G2")
def test_memory_outlives_the_process_that_made_it(ground: Ground) -> None:
    locator = ground.locator()
    code = """
made = segment.create(directory, *arguments)
made.reserve(0, arguments[1])
made.view[:4] = b"left"
"""
    assert ground.process(code, locator, 2 * PAGE).end() == 0
    assert ground.attach(locator).view[:5].tobytes() == b"left\0"


@pytest.mark.clause("G3")
def test_one_process_may_attach_twice(ground: Ground) -> None:
    locator = ground.locator()
    first = ground.create(locator)
    second, third = ground.attach(locator), ground.attach(locator)
    second.view[100] = 7
    assert first.view[100] == third.view[100] == 7
    second.close()
    third.view[100] = 8
    assert first.view[100] == 8


@pytest.mark.clause("G3")
def test_a_forked_child_shares_what_its_parent_attached(ground: Ground) -> None:
    segment = ground.create(ground.locator())

    def child() -> None:
        segment.view[5] = 55
        segment.close()

    in_child(child)
    assert segment.view[5] == 55
    segment.view[6] = 66


@pytest.mark.clause("G3")
@pytest.mark.clause("G6")
def test_memory_that_is_gone_or_never_was_is_filenotfounderror(ground: Ground) -> None:
    locator = ground.locator()
    with pytest.raises(FileNotFoundError):
        ground.attach(locator)
    ground.create(locator)
    ground.unlink(locator)
    with pytest.raises(FileNotFoundError):
        ground.attach(locator)
    code = """
try:
    segment.attach(directory, arguments[0])
except FileNotFoundError:
    print("not there")
"""
    other = ground.process(code, locator)
    assert other.line() == "not there"
    assert other.end() == 0


@pytest.mark.clause("G3")
def test_attaching_follows_no_link(ground: Ground) -> None:
    """For memory that is a file; other memory has no links."""
    locator, other = ground.locator(), ground.locator()
    ground.create(other).view[:5] = b"other"
    path, link = ground.path(other), ground.path(locator)
    if path is None or link is None:
        pytest.skip("its memory is no file")
    os.symlink(path, link)
    try:
        with pytest.raises(OSError):  # noqa: PT011
            ground.attach(locator)
    finally:
        os.unlink(link)


@pytest.mark.clause("G3")
@pytest.mark.parametrize("what", ["fifo", "directory"])
def test_attaching_to_something_else_is_an_oserror_and_waits_for_nothing(
    ground: Ground, what: str
) -> None:
    locator = ground.locator()
    path = ground.path(locator)
    if path is None:
        pytest.skip("its memory is no file")
    os.mkfifo(path) if what == "fifo" else os.mkdir(path)
    try:
        with pytest.raises(OSError):  # noqa: PT011
            ground.attach(locator)
    finally:
        os.unlink(path) if what == "fifo" else os.rmdir(path)


@pytest.mark.clause("G4")
def test_the_head_is_what_the_memory_begins_with(ground: Ground) -> None:
    fresh = ground.segment.create(ground.directory, ground.locator(), 4 * PAGE)
    try:
        assert fresh.head(512) == bytes(512), "before anything was reserved"
    finally:
        fresh.close()
    segment = ground.create(locator := ground.locator())
    segment.view[:600] = bytes(range(200)) * 3
    for each in (segment, ground.attach(locator)):
        assert each.head(512) == (bytes(range(200)) * 3)[:512]


@pytest.mark.clause("G4")
def test_what_is_reserved_can_be_touched_wherever_it_is(ground: Ground) -> None:
    segment = ground.segment.create(ground.directory, ground.locator(), 512 * PAGE)
    try:
        for first, pages in ((511, 1), (0, 3), (200, 64), (3, 1)):
            segment.reserve(first * PAGE, pages * PAGE)
            part = segment.view[first * PAGE : (first + pages) * PAGE]
            assert not any(part)
            part[:] = b"\x5a" * len(part)
            part.release()
    finally:
        segment.close()


@pytest.mark.clause("G4")
def test_to_reserve_again_keeps_what_is_there(ground: Ground) -> None:
    locator = ground.locator()
    segment = ground.create(locator)
    content = bytes(range(256)) * (segment.view.nbytes // 256)
    segment.view[:] = content
    segment.reserve(0, segment.view.nbytes)
    ground.attach(locator).reserve(PAGE, PAGE)
    assert segment.view.tobytes() == content


@pytest.mark.clause("G8")
def test_what_is_given_back_is_had_again_by_reserving_and_all_else_stays(ground: Ground) -> None:
    segment = ground.create(locator := ground.locator(), 8 * PAGE)
    other = ground.attach(locator)
    size = segment.view.nbytes
    segment.view[:] = b"\x5a" * size
    # Whole pages, and parts of the two around them.
    start, stop = 2 * PAGE - 100, size - 2 * PAGE + 100
    can = segment.give_back(0, 0)
    gave = segment.give_back(start, stop - start)
    assert gave is can
    assert other.view[:start] == b"\x5a" * start
    assert other.view[stop:] == b"\x5a" * (size - stop)
    if not gave:
        assert other.view[start:stop] == b"\x5a" * (stop - start), "it has done nothing"
    other.reserve(start, stop - start)
    other.view[start:stop] = b"\xa5" * (stop - start)
    assert segment.view[start:stop] == b"\xa5" * (stop - start)
    assert segment.give_back(PAGE + 1, PAGE) in (True, False), "no whole page"
    assert segment.view[PAGE : 2 * PAGE - 100] == b"\x5a" * (PAGE - 100)


FILL = """
import contextlib, os
size = 64 << 20
made, blank = (
    segment.create(directory, segment.locator_for(name, "f" * 16), size)
    for name in ("channels", "groups")
)
refused = None
for offset in range(0, size, 1 << 16):
    try:
        made.reserve(offset, 1 << 16)
    except OSError as error:
        refused = error.errno
        break
    made.view[offset : offset + (1 << 16)] = b"x" * (1 << 16)
if refused:
    # To the last page, so that none is left for the head of memory that was never reserved.
    with contextlib.suppress(OSError), open("/dev/shm/rest", "wb", buffering=0) as rest:
        while True:
            rest.write(bytes(4096))
    assert blank.head(64) == bytes(64)
made.unlink()
blank.unlink()
print("refused" if refused else "enough", offset)
"""


@pytest.mark.clause("G4")
def test_a_full_file_system_is_an_oserror_and_never_a_bus_error(ground: Ground) -> None:
    """Runs on file systems of 8 MB for memory and directory, in its own mount namespace."""
    unshare = shutil.which("unshare")
    shell = "mount -t tmpfs -o size=8m,mode=755 tmpfs /dev/shm && exec {python} {me}"
    trial = "mount -t tmpfs tmpfs /dev/shm"
    namespace = [unshare or "", "--mount", "--ipc", "--map-root-user", "sh", "-c"]
    if not unshare or subprocess.run([*namespace, trial], capture_output=True).returncode:
        pytest.skip("this user or this system may not mount a small file system")
    code = textwrap.dedent(f"""
        import sys
        sys.path[:] = {sys.path!r}
        from asgi_ipc.engines import find
        from asgi_ipc.engines.shm.directory import StoreDirectory
        from asgi_ipc.engines.shm.segment import Location
        names = {{"segment": find({ground.engine!r}).segment}}
        location = Location("/dev/shm/store", 0o600, None, private=False)
        names["directory"] = StoreDirectory.open(location)
        exec({FILL!r}, names)
    """)
    shell = shell.format(python=sys.executable, me='-c "$0"')
    done = subprocess.run([*namespace, shell, code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.returncode, done.stderr)
    said, offset = done.stdout.split()
    if said == "enough":
        pytest.skip("its memory is not in /dev/shm, which this test fills")
    assert (1 << 20) <= int(offset) <= (8 << 20), done.stdout


@pytest.mark.clause("G4")
def test_it_says_where_the_memory_comes_from(ground: Ground) -> None:
    said: Any = ground.segment.space(ground.location.directory)
    assert isinstance(said, str)
    assert said.strip()
    missing = os.path.join(ground.location.directory, "gone")
    assert ground.segment.space(missing), "it is part of an error message, and must not fail"


@pytest.mark.clause("G5")
def test_an_attached_process_learns_which_user_made_it(ground: Ground) -> None:
    locator = ground.locator()
    ground.create(locator)
    assert ground.attach(locator).owner() == Owner(os.geteuid(), os.getegid(), 0o600)


@pytest.mark.clause("G5")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_learns_the_owner_or_is_refused(ground: Ground) -> None:
    locator = ground.locator()
    ground.create(locator)
    code = """
import os
# The other user may not be able to read the modules that this imports.
segment.attach(directory, arguments[0]).close()
os.setgid(65534), os.setuid(65534)
try:
    print(*segment.attach(directory, arguments[0]).owner())
except PermissionError:
    print("not let in")
"""
    os.chmod(ground.location.directory, 0o755)
    other = ground.process(code, locator)
    said = other.line()
    assert other.end() == 0
    assert said in ("not let in", f"0 {os.getegid()} {0o600}")


@pytest.mark.clause("G5")
def test_memory_with_another_name_says_so(ground: Ground) -> None:
    """For memory that is a file; other memory has one name."""
    locator = ground.locator()
    assert ground.create(locator).owner().links == 1
    path = ground.path(locator)
    if path is None:
        pytest.skip("its memory is no file")
    os.link(path, f"{path}.too")
    try:
        assert ground.attach(locator).owner().links == 2
    finally:
        os.unlink(f"{path}.too")


@pytest.mark.clause("G6")
def test_its_maker_may_remove_it(ground: Ground) -> None:
    locator = ground.locator()
    assert ground.create(locator).may_unlink()
    assert ground.attach(locator).may_unlink()


@pytest.mark.clause("G6")
def test_memory_that_was_removed_is_known_to_be_by_those_attached(ground: Ground) -> None:
    locator = ground.locator()
    first, second = ground.create(locator), ground.attach(locator)
    assert first.is_linked()
    assert second.is_linked()
    ground.unlink(locator)
    assert not first.is_linked()
    assert not second.is_linked()


@pytest.mark.clause("G6")
def test_to_remove_memory_never_removes_what_took_its_name(ground: Ground) -> None:
    locator = ground.locator()
    first, second = ground.create(locator), ground.attach(locator)
    first.unlink()
    later = ground.create(locator)
    later.view[:5] = b"later"
    first.unlink()
    second.unlink()
    assert ground.attach(locator).view[:5].tobytes() == b"later"


@pytest.mark.clause("G7")
def test_what_is_left_is_listed_if_anything_is(ground: Ground) -> None:
    locator = ground.locator()
    before = list(ground.segment.left())
    assert locator not in before
    ground.create(locator).close()
    if os.path.exists(os.path.join(ground.location.directory, locator)):
        assert locator not in ground.segment.left(), "the store's directory shows it"
        return
    if not list(ground.segment.left()):
        pytest.skip("this system does not tell")
    assert locator in ground.segment.left()
    ground.unlink(locator)
    assert locator not in ground.segment.left()


@pytest.mark.clause("G6")
def test_closing_releases_the_memory_and_may_be_done_twice(ground: Ground) -> None:
    locator = ground.locator()
    ground.create(locator)
    gc.collect()
    descriptors, files = len(os.listdir("/dev/fd")), files_used()
    for _ in range(20):
        segment = ground.segment.attach(ground.directory, locator)
        view = segment.view
        segment.close()
        segment.close()
        with pytest.raises(ValueError, match="released"):
            view[0]
    assert len(os.listdir("/dev/fd")) == descriptors
    assert files_used() == files
    assert ground.exists(locator), "closing is not removing"


@pytest.mark.clause("G6")
def test_closed_memory_stays_for_the_others(ground: Ground) -> None:
    locator = ground.locator()
    first = ground.create(locator)
    second = ground.attach(locator)
    first.view[0] = 1
    first.close()
    second.view[1] = 2
    assert ground.attach(locator).view[:2].tobytes() == b"\x01\x02"


@pytest.mark.clause("G6")
def test_an_attached_process_keeps_memory_that_is_removed(ground: Ground) -> None:
    locator = ground.locator()
    first, second = ground.create(locator), ground.attach(locator)
    first.view[0] = 1
    ground.unlink(locator)
    assert not ground.exists(locator)
    second.view[1] = 2
    assert first.view[:2].tobytes() == second.view[:2].tobytes() == b"\x01\x02"
    # A later process gets other memory, even under the same locator.
    later = ground.create(locator)
    assert not any(later.view)
    later.view[0] = 9
    assert first.view[0] == 1


@pytest.mark.clause("G6")
def test_to_remove_what_is_gone_does_nothing(ground: Ground) -> None:
    locator = ground.locator()
    first, second = ground.create(locator), ground.attach(locator)
    first.unlink()
    first.unlink()
    second.unlink()
    assert not ground.exists(locator)


@pytest.mark.clause("G6")
def test_no_memory_is_left_when_it_is_removed(ground: Ground) -> None:
    """Takes 200 MB in ten steps, so that memory left behind shows."""
    for _ in range(10):
        locator = ground.locator()
        segment = ground.create(locator, 20 << 20)
        segment.close()
        ground.unlink(locator)
        assert not ground.exists(locator)
