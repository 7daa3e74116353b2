"""docs/format.md is what the code has: every number and word, the lock file, the kinds of lock."""

from __future__ import annotations

import ast
import re
from types import ModuleType

from asgi_ipc.engines.shm import lock_file
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.locks import base
from tests.tools.documents import FORMAT, rows


def number(text: str) -> int:
    """The value of such as ``(1 << 14) - 1``."""
    assert re.fullmatch(r"[0-9a-fx<()\s-]+", text), text
    value = eval(compile(ast.parse(text, mode="eval"), "docs/format.md", "eval"))
    assert isinstance(value, int)
    return value


def documented() -> dict[str, int]:
    """Every name with a number in docs/format.md."""
    found: dict[str, int] = {}
    for cells in rows(""):
        name = re.fullmatch(r"`([A-Z_]+)`", cells[0])
        if name:
            assert name[1] not in found, f"{name[1]} stands there twice"
            found[name[1]] = number(cells[1])
    return found


def constants(module: ModuleType) -> dict[str, int]:
    """Every number that a module gives a name in capitals."""
    return {
        name: value
        for name, value in vars(module).items()
        if re.fullmatch(r"[A-Z][A-Z_]*", name) and isinstance(value, int)
    }


#: Those of the lock file, which are the code's elsewhere.
LOCKED = {"OPENING", "CHANNELS_LOCK", "GROUPS_LOCK", "FIRST_SLOT"}


def test_every_number_of_the_layout_is_documented_and_right() -> None:
    of_the_layout = {name: value for name, value in documented().items() if name not in LOCKED}
    assert of_the_layout == constants(layout)


def test_the_bytes_that_are_locked_are_documented() -> None:
    found = documented()
    assert {name: found[name] for name in LOCKED} == {name: getattr(base, name) for name in LOCKED}


def test_the_ranges_of_words_are_those_of_the_layout() -> None:
    text = dict(cells[:2] for cells in rows("A segment") if cells[0][:1].isdigit())
    assert list(text) == ["0 to 15", "16 to 23", "24 to 31", "32 to 93", "94 to 1375"]
    assert layout.HASH_TABLE_START == 1376
    assert layout.JOURNAL_COUNT == 94
    for name, first, last in (("CURSOR", 24, 31), ("PUSHED", 32, 93), ("STATE", 16, 23)):
        assert first <= getattr(layout, name) <= last
    assert f"the bytes `{layout.MAGIC.decode()}`" in FORMAT
    assert layout.Geometry.of(layout.CHANNELS, layout.SMALLEST).extent_words * 8 == 16 << 10
    assert layout.Geometry.of(layout.CHANNELS, layout.SMALL_STORE).extent_words * 8 == 64 << 10


def test_the_lock_file_is_as_documented() -> None:
    offset = 0
    kinds = {"magic": "14s", "store id": "16s", "boot id": "16s", "engine": "16s"}
    kinds |= dict.fromkeys(("version", "kind", "ready", "machine"), "H")
    widths = {"H": 2, "I": 4}
    pattern = "<"
    for start, size, name, *_ in (cells for cells in rows("The lock file") if cells[0].isdigit()):
        assert int(start) == offset, name
        offset += int(size)
        pattern += kinds[name]
        assert widths.get(kinds[name], int(kinds[name][:-1] or 0)) == int(size), name
    assert lock_file._FORMAT.format == pattern
    assert lock_file._FORMAT.size == offset
    assert lock_file._MAGIC == b"asgi_ipc lock\n"


def test_the_kinds_of_lock_are_as_documented() -> None:
    assert f"{base.FCNTL} fcntl record locks, {base.FLOCK} flock" in FORMAT
