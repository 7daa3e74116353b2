"""The doctor, run by root in folders of other users: it touches nothing that is not its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asgi_ipc.cli.attempt import NotTried
from asgi_ipc.cli.doctor.entries import private_folder
from asgi_ipc.cli.doctor.stores import clear_away
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from tests.tools.hostile import GROUP, MEMBER, as_user, ground, kind, shared
from tests.tools.stores import (
    KIB,
    in_child,
)
from tests.tools.users import (
    needs_root,
)

__all__ = ["ground", "kind", "shared"]

pytestmark = needs_root


def test_the_doctor_removes_nothing_that_a_member_puts_in_place_of_its_store(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    """In a folder that a member may write to he can rename what he may not look into."""
    prefix = "doctor-0123456789ab"
    theirs = shared / "theirs"
    theirs.mkdir()
    theirs.chmod(0o750)
    (theirs / "precious").write_text("precious")
    as_user(MEMBER, lambda: os.rename(theirs, shared / prefix))
    clear_away(kind, prefix, {"directory": str(shared), "group": GROUP})
    assert (shared / prefix / "precious").read_text() == "precious"


def test_a_store_that_the_doctor_left_is_cleared_away(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    def crash() -> None:
        engine = kind(
            "doctor-0123456789ab",
            directory=shared,
            group=GROUP,
            channel_memory=512 * KIB,
            group_memory=256 * KIB,
        )
        engine.pop(b"a", 1, engine.bell())
        os._exit(0)

    in_child(crash)
    clear_away(kind, "doctor-0123456789ab", {"directory": str(shared), "group": GROUP})
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("who", ["members", "all", "owner"])
def test_the_doctor_tries_nothing_by_path_where_others_can_put_something_else(
    who: str, shared: Path
) -> None:
    if who == "all":
        shared.chmod(0o777)
    elif who == "owner":
        os.chown(shared, MEMBER, GROUP)
        shared.chmod(0o755)
    for parent in (shared, shared / "not there"):
        with pytest.raises(NotTried, match="can rename"), private_folder(str(parent)):
            raise AssertionError
    assert list(shared.iterdir()) == []
    shared.chmod(0o755)
    os.chown(shared, 0, 0)
    with private_folder(str(shared)) as folder:
        assert os.path.isdir(folder)
    assert list(shared.iterdir()) == []
