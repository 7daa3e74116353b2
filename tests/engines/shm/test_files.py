"""`asgi_ipc.engines.shm.files`: memory with a descriptor, apart from the engines that use it."""

from __future__ import annotations

import array
import errno
import os
import threading
from pathlib import Path

import pytest

from asgi_ipc.engines.shm import file_systems, files
from asgi_ipc.engines.shm.files import FileMemory
from tests.tools.stores import in_child

MAPS = Path("/proc/self/maps")


@pytest.mark.skipif(not MAPS.exists(), reason="no /proc tells what is mapped")
def test_a_mapping_that_is_closed_while_a_part_is_in_hand_goes_with_that_part(
    tmp_path: Path,
) -> None:
    """As a frame has one whose exception is being handled while the store is closed."""
    path = tmp_path / "memory"
    path.write_bytes(bytes(4096))
    memory = FileMemory(os.open(path, os.O_RDWR))
    part = memory.view[8:16]
    memory.close()
    memory.close()
    assert bytes(part) == bytes(8)
    assert str(path) in MAPS.read_text()
    del part
    assert str(path) not in MAPS.read_text()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_thread_looks_at_the_file_system_reserves_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, go_on = threading.Event(), threading.Event()
    path = tmp_path / "f"
    path.write_bytes(bytes(4096))
    first, other = (FileMemory(os.open(path, os.O_RDWR)) for _ in range(2))

    def look_slowly(descriptor: int) -> int:
        if threading.current_thread() is not threading.main_thread():
            looks.set()
            go_on.wait()
        return 4096

    monkeypatch.setattr(files, "granule", look_slowly)
    thread = threading.Thread(target=first.reserve, args=(0, 4096))
    thread.start()
    looks.wait()
    try:
        in_child(lambda: other.reserve(0, 4096), seconds=30)
    finally:
        go_on.set()
        thread.join()
        for memory in (first, other):
            memory.close()


@pytest.mark.parametrize("numbers", [(0x80086601, 0x40086602), (0x40086601, 0x80086602)])
def test_a_file_system_that_copies_is_known_by_its_flag_on_every_processor(
    numbers: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beneath an overlay the flag alone tells; POWER and MIPS have other numbers for it."""
    kept = array.array("l", [8])

    def ioctl(_: int, number: int, flags: array.array[int]) -> None:
        if number not in numbers:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        if number == numbers[0]:
            flags[0] = kept[0]
        else:
            kept[0] = flags[0]

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    with (tmp_path / "memory").open("wb") as file:
        reason = file_systems.refusal(file.fileno())
    assert reason is not None
    assert "new block" in reason
    assert kept[0] & 8
