"""Tables of members: E8 to E11."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asgi_ipc.engines.base import MAX_NAME, Members
from asgi_ipc.exceptions import StoreFull

from .tools import deadline, in_time, let_pass

if TYPE_CHECKING:
    from asgi_ipc.engines.base import Engine

    from .case import Case


def put(engine: Engine, table: bytes, *members: bytes, seconds: float = 600) -> None:
    """Put members with one lifetime."""
    for member in members:
        engine.put(table, member, deadline(engine, seconds))


@pytest.mark.clause("E8")
@pytest.mark.clause("E9")
def test_each_member_is_listed_once_however_often_put(engine: Engine) -> None:
    put(engine, b"t", b"a", b"b", b"a", b"a")
    assert sorted(engine.members(b"t").names) == [b"a", b"b"]


@pytest.mark.clause("E8")
def test_a_second_put_renews_the_deadline(engine: Engine) -> None:
    put(engine, b"t", b"longer", b"shorter", b"left alone", seconds=0.1)
    put(engine, b"t", b"longer")
    put(engine, b"t", b"other")
    put(engine, b"t", b"other", seconds=0.1)
    let_pass(engine, 0.12)
    assert engine.members(b"t").names == (b"longer",)


@pytest.mark.clause("E8")
def test_a_member_comes_back_after_it_has_gone(engine: Engine) -> None:
    put(engine, b"t", b"a", b"b", seconds=0.03)
    let_pass(engine, 0.05)
    put(engine, b"t", b"a")
    assert engine.members(b"t").names == (b"a",)
    assert engine.remove(b"t", b"a")
    put(engine, b"t", b"a")
    assert engine.members(b"t").names == (b"a",)


@pytest.mark.clause("E8")
@pytest.mark.needs("bounded")
def test_a_full_store_refuses_new_members_and_renews_old_ones(case: Case) -> None:
    engine = case.open(group_memory=1 << 18)
    members = fill(engine, b"table", 1 << 18)
    put(engine, b"table", members[0], members[-1], seconds=900)
    with pytest.raises(StoreFull):
        put(engine, b"other table", b"m" * 100)
    assert set(engine.members(b"table").names) == set(members)
    for member in members[:20]:
        assert engine.remove(b"table", member)
    put(engine, b"table", b"m" * 100)
    assert set(engine.members(b"table").names) == {*members[20:], b"m" * 100}


@pytest.mark.clause("E8")
@pytest.mark.needs("bounded")
def test_dead_members_make_room_for_new_ones(case: Case) -> None:
    engine = case.open(group_memory=1 << 18)

    def crowd(death: int) -> list[bytes]:
        for number in range(20):
            put(engine, b"table %d" % number, b"alive")
        return fill(engine, b"old", 1 << 18, death)

    members = in_time(engine, crowd, 4 if engine.capabilities.blocking else 0.8)
    # No call has looked at the old table since.
    put(engine, b"new", *members[: len(members) // 2])
    assert len(engine.members(b"new").names) == len(members) // 2


def fill(engine: Engine, table: bytes, memory: int, death: int | None = None) -> list[bytes]:
    """Put members of 100 bytes until there is no room; return those that were stored.

    Stops when the first ones expire, since they then make room for others.
    """
    members: list[bytes] = []
    until = death if death is not None else deadline(engine)
    while engine.clock() < until:
        assert len(members) * 100 <= 3 * memory, "three times its memory, and still not full"
        try:
            engine.put(table, member := b"%0100d" % len(members), until)
        except StoreFull:
            assert members
            break
        members.append(member)
    return members


@pytest.mark.clause("E9")
def test_no_member_is_listed_past_its_deadline(engine: Engine) -> None:
    put(engine, b"t", b"stillborn", seconds=-1)
    put(engine, b"t", b"dying", seconds=0.03)
    put(engine, b"t", b"alive")
    let_pass(engine, 0.05)
    assert engine.members(b"t").names == (b"alive",)


@pytest.mark.clause("E9")
def test_tables_are_independent(engine: Engine) -> None:
    put(engine, b"t", b"a")
    put(engine, b"tt", b"b", b"t")
    assert engine.members(b"t").names == (b"a",)
    assert sorted(engine.members(b"tt").names) == [b"b", b"t"]
    assert engine.members(b"T").names == ()
    assert engine.pop(b"t") == [], "a table is no queue"


@pytest.mark.clause("E9")
def test_a_table_holds_thousands_of_members(engine: Engine) -> None:
    members = [b"specific.%032x!%032x" % (number, number) for number in range(3000)]
    put(engine, b"t", *members)
    for member in members[::2]:
        assert engine.remove(b"t", member)
    assert sorted(engine.members(b"t").names) == sorted(members[1::2])


@pytest.mark.clause("E9")
def test_any_member_and_table_name_works(engine: Engine) -> None:
    names = [bytes([byte]) * length for byte in (0, 47, 255) for length in (1, 2, 64, MAX_NAME)]
    names += [bytes([byte]) for byte in range(1, 255) if byte != 47]
    everybody = b"all of them"
    put(engine, everybody, *names)
    for name in names:
        put(engine, name, name)
    assert sorted(engine.members(everybody).names) == sorted(names)
    for name in names:
        assert engine.members(name).names == (name,)


@pytest.mark.clause("E5")
@pytest.mark.parametrize(
    ("table", "member"),
    [(b"", b"m"), (b"t", b""), (b"t" * (MAX_NAME + 1), b"m"), (b"t", b"m" * (MAX_NAME + 1))],
    ids=["no table", "no member", "long table", "long member"],
)
def test_a_name_over_the_limits_is_refused(engine: Engine, table: bytes, member: bytes) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        put(engine, table, member)
    assert engine.statistics()["members"] == 0


@pytest.mark.clause("E10")
def test_remove_takes_out_and_says_whether_it_was_there(engine: Engine) -> None:
    put(engine, b"t", b"a", b"b")
    assert engine.remove(b"t", b"a") is True
    assert engine.remove(b"t", b"a") is False
    assert engine.remove(b"t", b"stranger") is False
    assert engine.remove(b"unknown", b"b") is False
    assert engine.members(b"t").names == (b"b",)


@pytest.mark.clause("E10")
def test_a_member_past_its_deadline_is_not_there(engine: Engine) -> None:
    put(engine, b"t", b"a", seconds=0.03)
    let_pass(engine, 0.05)
    assert engine.remove(b"t", b"a") is False


@pytest.mark.clause("E11")
def test_members_that_have_not_changed_are_the_same_object(engine: Engine) -> None:
    put(engine, b"t", b"a", b"b")
    known = engine.members(b"t")
    put(engine, b"other", b"c")
    engine.remove(b"t", b"stranger")
    assert engine.members(b"t", known) is known
    nobody = engine.members(b"unknown")
    assert engine.members(b"unknown", nobody) is nobody


@pytest.mark.clause("E11")
def test_a_renewal_changes_no_name_and_so_not_the_object(engine: Engine) -> None:
    put(engine, b"t", b"a", b"b")
    known = engine.members(b"t")
    put(engine, b"t", b"a", seconds=900)
    assert engine.members(b"t", known) is known


@pytest.mark.clause("E11")
def test_every_change_gives_a_new_object(case: Case) -> None:
    engine, other = case.open(), case.open()
    known = engine.members(b"t")
    for expected in ((b"a",), (b"a", b"b"), (b"a", b"b", b"c")):
        put(other, b"t", expected[-1])
        known = engine.members(b"t", known)
        assert tuple(sorted(known.names)) == expected
    other.remove(b"t", b"b")
    known = engine.members(b"t", known)
    assert sorted(known.names) == [b"a", b"c"]
    # As many members as before, but different ones.
    other.remove(b"t", b"a")
    put(other, b"t", b"d")
    known = engine.members(b"t", known)
    assert sorted(known.names) == [b"c", b"d"]
    other.flush()
    known = engine.members(b"t", known)
    assert known.names == ()
    put(other, b"t", b"e")
    assert engine.members(b"t", known).names == (b"e",)


@pytest.mark.clause("E11")
@pytest.mark.clause("E9")
def test_a_member_that_dies_is_a_change(engine: Engine) -> None:

    def list_both(death: int) -> Members:
        put(engine, b"t", b"alive")
        engine.put(b"t", b"dying", death)
        return engine.members(b"t")

    known = in_time(engine, list_both)
    assert sorted(known.names) == [b"alive", b"dying"]
    assert engine.members(b"t", known).names == (b"alive",)


@pytest.mark.clause("E11")
@pytest.mark.clause("E9")
def test_a_member_renewed_to_die_sooner_does(engine: Engine) -> None:

    def renew(death: int) -> Members:
        put(engine, b"t", b"alive", b"dying")
        known = engine.members(b"t")
        engine.put(b"t", b"dying", death)
        return engine.members(b"t", known)

    known = in_time(engine, renew)
    assert sorted(known.names) == [b"alive", b"dying"]
    assert engine.members(b"t", known).names == (b"alive",)


@pytest.mark.clause("E11")
def test_a_table_that_was_empty_meanwhile_is_not_taken_for_the_old_one(engine: Engine) -> None:
    for turn in range(20):
        member = b"%d" % turn
        put(engine, b"t", member)
        known = engine.members(b"t")
        assert engine.remove(b"t", member)
        put(engine, b"t", b"then " + member)
        assert engine.members(b"t", known).names == (b"then " + member,)
        assert engine.remove(b"t", b"then " + member)
