"""Every prefix of what an operation stores, and every torn store.

A kill can also come inside C code, where no opcode ends. So an operation is run once
under tracing with the memory compared after each opcode that can store. That gives its
stores, whatever code made them. Then the memory is put together as a kill would have
left it: after each store; in the midst of each that is wider than a word (forwards,
backwards, any part of it, blanked first as ``pack_into`` does); and, as the processor
and the compiler owe us no order but that of the commit word, with any part of the
stores between two commit words. A single aligned word is never torn.

What is stored is seen even where it was there already: unused memory holds one pattern
in a first run and another in a second.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, NamedTuple

from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.layout import WORD
from conformance.opcodes import trace_nothing, trace_opcodes

from .examine import Examiner, State, Tally, command
from .steps import Scenario
from .world import Finding, World, brief

#: What an opcode that stores to memory begins with.
_STORING = ("STORE_S", "CALL", "PRECALL")
#: At most so many cuts of one store, spread evenly.
_CUTS = 400
#: Parts of the stores between two commit words, at most.
_PARTS = 24


class Store(NamedTuple):
    """One store of the operation."""

    locked_segment: int
    #: Offsets of the bytes that were stored.
    where: list[int]
    #: The memory of the region before it and after it.
    before: bytes
    after: bytes
    #: By a C function, which may blank a field first, and not by an assignment.
    called: bool

    @property
    def is_word(self) -> bool:
        """One aligned word, which is stored at once."""
        return not self.called and self.where[0] // WORD == self.where[-1] // WORD

    @property
    def is_state(self) -> bool:
        """It ends or begins a commit."""
        state = layout.STATE * WORD
        return self.before[state : state + WORD] != self.after[state : state + WORD]


def poison(world: World, state: State, pattern: int) -> State:
    """The same state with a pattern in all memory that means nothing."""
    result = []
    for locked_segment, data in zip(world.locked_segments, state, strict=True):
        geometry = locked_segment.heap.geometry
        spoiled = bytearray(data)
        words = memoryview(spoiled).cast("Q")
        word = pattern * 0x0101010101010101

        def blot(start: int, stop: int, words: Any = words, word: int = word) -> None:
            for offset in range(start, stop):
                words[offset] = word

        blot(layout.JOURNAL, layout.JOURNAL + 2 * layout.JOURNAL_PAIRS)
        blot(words[layout.CURSOR], words[layout.CURSOR_END])
        extent = words[layout.FREE_EXTENT]
        while extent:
            start = geometry.first_extent + (extent - 1) * geometry.extent_words
            blot(start, start + geometry.extent_words)
            extent = words[geometry.extent_next + extent - 1]
        blot(geometry.end - words[layout.IDS_RESERVED], geometry.end - words[layout.IDS_USED])
        words.release()
        result.append(bytes(spoiled))
    return result[0], result[1]


def stores(world: World, start: State, operate: Callable[[World], object]) -> dict[int, Store]:
    """What an operation stores, by the number of the opcode."""
    found: dict[int, Store] = {}
    last = list(start)
    opcode, storing = 0, ""
    views = [locked_segment.segment.view for locked_segment in world.locked_segments]

    def compare() -> None:
        for locked_segment, view in enumerate(views):
            now = bytes(view)
            if now != last[locked_segment]:
                called = not storing.startswith("STORE")
                where = differences(last[locked_segment], now)
                found[opcode * 2 + locked_segment] = Store(
                    locked_segment, where, last[locked_segment], now, called
                )
                last[locked_segment] = now

    def look(code: CodeType, offset: int) -> None:
        nonlocal opcode, storing
        if storing.startswith(_STORING):
            compare()
        opcode += 1
        storing = _name(code, offset)

    world.load(start)
    trace_opcodes(look)
    try:
        operate(world)
    finally:
        trace_nothing()
    compare()
    return found


def _name(code: CodeType, offset: int) -> str:
    if code not in _names:
        _names[code] = [dis.opname[byte] for byte in code.co_code]
    return _names[code][offset]


_names: dict[Any, list[str]] = {}


def differences(before: bytes, after: bytes) -> list[int]:
    """Offsets of the bytes that differ."""
    found = []
    for start in range(0, len(before), 1024):
        one, other = before[start : start + 1024], after[start : start + 1024]
        if one != other:
            found += [start + at for at in range(len(one)) if one[at] != other[at]]
    return found


class Cutter(Examiner):
    """Cuts operations short wherever that is possible."""

    ends = "images"

    def run(self, scenario: Scenario) -> Tally:
        """All cuts of a scenario."""
        world, before = self.world, self.tally
        start, allowed = self.begin(scenario)
        start, other = poison(world, start, 0xA5), poison(world, start, 0x5A)
        found = stores(world, start, scenario.operate)
        again = stores(world, other, scenario.operate)
        if list(found) != list(again):
            raise Finding(f"{scenario.name}: what is stored depends on memory that means nothing")
        for opcode, store in again.items():
            where = sorted({*found[opcode].where, *store.where})
            found[opcode] = found[opcode]._replace(where=where)
        end = world.view()
        if end != allowed[-1]:
            raise Finding(f"{scenario.name}: it came to {brief(end)}, not {brief(allowed[-1])}")
        images = self.images(start, list(found.values()))
        seen = set()
        for number, (state, location) in enumerate(images):
            self.tally = self.tally.plus(Tally(ends=1))
            mark = hash(state)
            if mark not in seen:
                seen.add(mark)
                self.judge(scenario, state, allowed, location, exercise=not number % 8)
        return Tally(*(now - then for now, then in zip(self.tally, before, strict=True)))

    def images(self, start: State, found: list[Store]) -> Iterator[tuple[State, str]]:
        """Every memory image a cut may leave, and where that was."""
        now = list(start)
        group: list[Store] = []
        share = self.sample * 2 / len(found) if self.sample and found else 1.0
        for number, store in enumerate(found):
            chosen = self.dice.random() < share
            where = f"at store {number} of {len(found)}"

            def whole(data: bytes, store: Store = store) -> State:
                both = list(now)
                both[store.locked_segment] = data
                return both[0], both[1]

            if chosen and not store.is_word:
                cuts = self.cuts(store) if not self.sample else self.some(self.cuts(store))
                for data in cuts:
                    yield whole(data), f"in the midst, {where}"
            if chosen:
                yield whole(store.after), f"after, {where}"
            # A store that moves the commit word must be alone, and is the end of a group.
            if store.is_state or (group and group[0].locked_segment != store.locked_segment):
                if chosen:
                    yield from self.parts(group, now, where)
                group = []
            if not store.is_state:
                group.append(store)
            now[store.locked_segment] = store.after
        yield from self.parts(group, now, "at the end")

    def some(self, cuts: Iterator[bytes]) -> list[bytes]:
        """A few of many."""
        every = list(cuts)
        return self.dice.sample(every, min(len(every), self.sample // 4 + 1))

    def cuts(self, store: Store) -> Iterator[bytes]:
        """A store that is not an aligned word, torn."""
        where, before, after = store.where, store.before, store.after
        size = len(where)
        step = 1 if size <= 64 else max(1, size // _CUTS)
        for cut in range(step, size, step):
            yield mix(before, after, where[:cut])
            if cut % (4 * step) == 0:
                yield mix(before, after, where[cut:])
        words = sorted({offset // WORD for offset in where})
        for _ in range(min(16, len(words))):
            taken = {word for word in words if self.dice.random() < 0.5}
            yield mix(before, after, [offset for offset in where if offset // WORD in taken])
        if store.called:
            blank = bytes(len(before))
            spread = [offset for word in words for offset in range(word * WORD, word * WORD + WORD)]
            for cut in range(0, len(words), max(1, len(words) // _CUTS)):
                data = mix(before, after, spread[: cut * WORD])
                yield mix(data, blank, spread[cut * WORD : (cut + 1) * WORD])
            yield mix(before, blank, spread)

    def parts(
        self, group: list[Store], now: list[bytes], where: str
    ) -> Iterator[tuple[State, str]]:
        """Any part of the stores between two commit words."""
        if not group:
            return
        locked_segment = group[0].locked_segment
        for _ in range(min(1 << len(group), _PARTS if not self.sample else 3)):
            data = group[0].before
            for store in group:
                if self.dice.random() < 0.5:
                    # A word is stored whole, also in bytes that an earlier store had changed.
                    word = store.where[0] // WORD * WORD
                    whole = [*range(word, word + WORD)] if store.is_word else store.where
                    data = mix(data, store.after, whole)
                elif not store.is_word:
                    words = {offset // WORD for offset in store.where}
                    taken = {word for word in words if self.dice.random() < 0.5}
                    chosen = [offset for offset in store.where if offset // WORD in taken]
                    data = mix(data, store.after, chosen)
            both = list(now)
            both[locked_segment] = data
            yield (both[0], both[1]), f"with a part of the {len(group)} stores before, {where}"


def mix(data: bytes, other: bytes, offsets: list[int]) -> bytes:
    """``data`` with the bytes of another at some offsets."""
    mixed = bytearray(data)
    for offset in offsets:
        mixed[offset] = other[offset]
    return bytes(mixed)


def examine(engine: str, sample: int, only: str, say: Callable[[str], object]) -> Tally:
    """Everything on one engine."""
    # Those of many thousand opcodes store nothing that shorter ones do not.
    return Cutter(engine, sample).run_all(only, say, longest=5 if sample else 19)


main = command("prefixes", __doc__, examine)
