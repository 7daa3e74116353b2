"""Which kind of lock a store gets, and what is found wrong with each."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.engines.shm.locks import base, fcntl_locks, flock_locks
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.locks import no_record_locks, recorded_kind
from tests.tools.stores import (
    in_child,
    maintain,
    open_store,
    record,
)


def others_get(monkeypatch: pytest.MonkeyPatch, locked: bool) -> None:
    monkeypatch.setattr(fcntl_locks, "_take_as_other", lambda *_: locked)


def test_record_locks_are_the_rule(tmp_path: Path) -> None:
    engine = open_store(tmp_path)
    assert recorded_kind(tmp_path) == base.FCNTL
    engine.destroy()


def refusing(monkeypatch: pytest.MonkeyPatch, function: str, code: int) -> None:
    call = getattr(fcntl, function)

    def refuse(descriptor: int, command: int, *arguments: Any) -> Any:
        # Reserving memory asks for a descriptor's flags.
        if function == "fcntl" and command in (fcntl.F_GETFL, fcntl.F_SETFL):
            return call(descriptor, command, *arguments)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, function, refuse)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda patch: refusing(patch, "lockf", errno.ENOLCK), "No locks available"),
        (lambda patch: refusing(patch, "fcntl", errno.EINVAL), "Invalid argument"),
        (lambda patch: patch.setattr(fcntl, "lockf", lambda *_: None), "two holders"),
        (lambda patch: others_get(patch, True), "two holders"),
        (lambda patch: others_get(patch, False), "given back"),
    ],
)
@pytest.mark.skipif(not fcntl_locks._OTHER_HOLDER, reason="one process can't play two here")
def test_record_locks_that_do_not_work_are_found_out_and_flock_takes_over(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[[pytest.MonkeyPatch], None],
    said: str,
) -> None:
    path = tmp_path / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    assert fcntl_locks.record_locks_fail(str(path), descriptor) is None
    wrong(monkeypatch)
    assert said in (fcntl_locks.record_locks_fail(str(path), descriptor) or "")
    os.close(descriptor)
    engine = open_store(tmp_path)
    assert recorded_kind(tmp_path) == base.FLOCK
    engine.push([record(engine, b"a", b"hello")])
    assert engine.pop(b"a")[0].payload == b"hello"
    engine.destroy()


def test_a_trial_takes_no_lock_from_another_process(tmp_path: Path) -> None:
    first = open_store(tmp_path)

    def second() -> None:
        other = open_store(tmp_path)
        other.close()
        open_store(tmp_path).close()

    in_child(second)
    in_child(lambda: maintain(open_store(tmp_path)))
    assert first.statistics()["processes"] >= 1
    identity = first.identity
    maintain(first)
    assert first.session.processes.owner_word(identity)
    first.destroy()


@pytest.mark.parametrize(
    ("made_with", "cant"), [("fcntl record locks", "flock"), ("flock", "fcntl record locks")]
)
def test_a_store_is_never_used_with_both_kinds_of_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_with: str, cant: str
) -> None:
    trials = {
        "fcntl record locks": (fcntl_locks, "record_locks_fail"),
        "flock": (flock_locks, "flocks_fail"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*trials[cant], lambda *_: "switched off")
        open_store(tmp_path).close()
    before = sorted((tmp_path / "store").iterdir())
    monkeypatch.setattr(*trials[made_with], lambda *_: "switched off")
    with pytest.raises(StoreUnavailable) as caught:
        open_store(tmp_path)
    for part in (f"made with {made_with}", "switched off", "two kinds", "remove it", "directory"):
        assert part in str(caught.value)
    assert sorted((tmp_path / "store").iterdir()) == before


def test_a_process_that_can_use_both_kinds_uses_the_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        no_record_locks(patch)
        engine = open_store(tmp_path)
        engine.push([record(engine, b"a", b"hello")])
        engine.close()
    engine = open_store(tmp_path)
    assert recorded_kind(tmp_path) == base.FLOCK
    assert engine.pop(b"a")[0].payload == b"hello"
    engine.destroy()
    assert list(tmp_path.iterdir()) == []


def test_two_creators_that_disagree_do_not_both_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other one writes its record after this one has looked which kind it must be.
    open_store(tmp_path).close()
    no_record_locks(monkeypatch)
    monkeypatch.setattr("asgi_ipc.engines.shm.lock_file._kind", lambda path, descriptor: 0)
    with pytest.raises(StoreUnavailable, match=r"made with fcntl record locks.*uses flock"):
        open_store(tmp_path)


def test_where_nothing_locks_the_error_names_both_kinds_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, "lockf", errno.ENOLCK)
    refusing(monkeypatch, "flock", errno.EOPNOTSUPP)
    with pytest.raises(StoreUnavailable) as caught:
        open_store(tmp_path)
    for part in ("fcntl record locks", "No locks available", "flock", "not supported", "directory"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []
