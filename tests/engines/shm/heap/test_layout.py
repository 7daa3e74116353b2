"""The diagram in the layout module says what the code does."""

from __future__ import annotations

import re

import pytest

from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.layout import CHANNELS, GROUPS, Geometry


def constant(name: str) -> int:
    value = getattr(layout, f"W_{name}", getattr(layout, name, None))
    assert isinstance(value, int), f"the diagram names {name}, which the module doesn't"
    return value


def test_every_word_of_the_diagram_is_where_the_code_has_it() -> None:
    assert layout.__doc__
    singles = re.findall(r"^    (\d+) +([A-Z_]+)\b", layout.__doc__, re.MULTILINE)
    assert len(singles) >= 10
    for number, name in singles:
        if f"W_{name}" in vars(layout) or name != "MAGIC":
            assert constant(name) == int(number), name
    ranges = re.findall(r"^    (\d+)\.\.(\d+) .*?([A-Z_]+) \.\. ([A-Z_]+)", layout.__doc__, re.M)
    for start, stop, first, last in ranges:
        assert constant(first) == int(start)
        assert constant(last) <= int(stop)
    assert f"{layout.JOURNAL}        the journal" in layout.__doc__


def test_the_bits_of_words_are_those_of_the_diagram() -> None:
    assert layout.__doc__
    bits = {
        name: (int(first), int(last or first))
        for first, last, name in re.findall(
            r"^    bits? +(\d+)(?:\.\.(\d+))? +(\w+)", layout.__doc__, re.M
        )
    }
    assert bits["length"] == spread(layout.LENGTH_MASK)
    assert bits["kind"] == spread(layout.KIND_MASK, layout.KIND_SHIFT)
    assert bits["padding"] == spread(layout.PAD_MASK, layout.PAD_SHIFT)
    assert 1 << bits["split"][0] == layout.SPLIT
    assert bits["its"] == (layout.ID_SHIFT, 63)
    assert bits["place"] == spread(layout.OFFSET_MASK)
    assert bits["count"] == (layout.COUNT_SHIFT, 63)
    assert bits["size"] == spread(layout.ENTRY_SIZE)
    assert 1 << bits["dead"][0] == layout.ENTRY_DEAD
    assert bits["lifetime"] == (layout.ENTRY_LIFETIME_SHIFT, 63)


def spread(mask: int, shift: int = 0) -> tuple[int, int]:
    """First and last bit of a field."""
    return shift, shift + mask.bit_length() - 1


def test_no_two_words_share_a_place() -> None:
    names: dict[int, str] = {}
    for name, value in vars(layout).items():
        if name.isupper() and isinstance(value, int) and name in _WORDS:
            assert value not in names, f"{name} and {names[value]} are both word {value}"
            names[value] = name


_WORDS = {
    name
    for name in vars(layout)
    if name in {"STATE", "JOURNAL_COUNT", "JOURNAL_AFTER"}
    or (
        (
            isinstance(getattr(layout, name), int)
            and 24 <= getattr(layout, name) < 96
            and name.isupper()
        )
        and not name.endswith("_SHIFT")
        and not name.startswith(("Q_", "W_"))
    )
}


@pytest.mark.parametrize("kind", [CHANNELS, GROUPS])
@pytest.mark.parametrize("size", [layout.SMALLEST, 1 << 20, layout.SMALL_STORE, 100 << 20, 1 << 30])
def test_the_parts_of_a_segment_follow_one_another(kind: int, size: int) -> None:
    geometry = Geometry.of(kind, size)
    locations = [geometry.hash_table, *geometry[6:9], *geometry[10:]]
    assert geometry.slot_count == (0 if kind == GROUPS else min(layout.SLOTS, size >> 10))
    assert list(locations) == sorted(locations)
    assert geometry.extent_words <= layout.LENGTH_MASK, "a record of a whole extent must fit META"
    assert geometry.first_extent + 4 * geometry.extent_words < geometry.end
