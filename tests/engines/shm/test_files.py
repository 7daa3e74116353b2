"""`asgi_ipc.engines.shm.files`: memory with a descriptor, apart from the engines that use it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asgi_ipc.engines.shm.files import FileMemory

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
