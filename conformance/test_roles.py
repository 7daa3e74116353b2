"""Roles: of the engines of a store, one at a time holds each (E32)."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from asgi_ipc.engines.base import ROLES

from .forks import in_child
from .tools import eventually

if TYPE_CHECKING:
    from .case import Case

pytestmark: list[pytest.MarkDecorator] = [pytest.mark.clause("E32"), pytest.mark.needs("roles")]


def test_a_role_is_held_by_one_engine_until_it_is_released(case: Case) -> None:
    first, second = case.open(), case.open()
    assert not first.is_held(3)
    assert first.hold(3)
    assert first.hold(3), "by the same"
    assert not second.hold(3)
    assert first.is_held(3)
    assert second.is_held(3)
    assert second.hold(4), "another role"
    second.release(3)
    assert first.is_held(3), "who does not hold it can't release it"
    first.release(3)
    assert not second.is_held(3)
    assert second.hold(3)


def test_closing_releases_all_roles(case: Case) -> None:
    first, second = case.open(), case.open()
    assert first.hold(0)
    assert first.hold(ROLES - 1)
    first.close()
    assert second.hold(0)
    assert second.hold(ROLES - 1)


@pytest.mark.parametrize("role", [-1, ROLES, True, "relay"])
def test_what_is_no_role_is_refused(case: Case, role: int) -> None:
    engine = case.open()
    for method in (engine.hold, engine.release, engine.is_held):
        with pytest.raises(ValueError, match="role"):
            method(role)


@pytest.mark.needs("crosses_processes")
def test_a_process_keeps_its_role_while_it_is_stopped_and_loses_it_when_killed(case: Case) -> None:
    engine, other = case.open(), case.process()
    assert other.call("hold", 0)
    assert not engine.hold(0)
    os.kill(other.pid, signal.SIGSTOP)
    assert not engine.hold(0)
    assert engine.is_held(0)
    other.kill()
    assert eventually(lambda: engine.hold(0))


@pytest.mark.needs("crosses_processes")
def test_a_forked_child_holds_none_of_its_parents_roles(case: Case) -> None:
    engine = case.open()
    assert engine.hold(0)

    def child() -> None:
        assert not engine.hold(0)
        assert engine.is_held(0)
        engine.release(0)
        assert engine.hold(1)

    in_child(child)
    assert eventually(lambda: not engine.is_held(1)), "the child has ended"
    assert engine.hold(0)
    engine.release(0)
    assert not engine.is_held(0)
