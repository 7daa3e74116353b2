"""Entries of the doctor's report: attempt a check, and a folder of the doctor's own for that."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from asgi_ipc.engines.shm.directory import check_way
from asgi_ipc.engines.shm.segment import Location
from asgi_ipc.exceptions import StoreUnavailable

from ..attempt import Failed, NotTried, attempt

#: The advice where a folder can't do what a store needs.
ELSEWHERE = "set engine_options['directory'] to a directory on another file system"


def tried(
    name: str, title: str, where: str, check: Callable[[], str], needed: bool = True
) -> dict[str, Any]:
    """Attempt a check and return its entry in the report.

    ``needed`` is false for what the chosen engine can do without: it does not *fail*.
    """
    return {"name": name, "title": title, "where": where, "needed": needed} | attempt(check)


def entry(
    name: str, title: str, where: str, refusal: Failed | NotTried, needed: bool = True
) -> dict[str, Any]:
    """Return the entry of something that does not work, or was not tried, without an attempt."""
    return {
        "name": name,
        "title": title,
        "where": where,
        "needed": needed,
        "works": False if isinstance(refusal, Failed) else None,
        "detail": str(refusal),
        "advice": refusal.advice if isinstance(refusal, Failed) else "",
    }


@contextlib.contextmanager
def private_folder(parent: str) -> Iterator[str]:
    """Make a folder in ``parent`` itself, which is made too if it is not there; remove both.

    Another folder would not do: a directory that is named can be a mount point, be on another
    file system than the one above it, or have other rights. Raises `Failed`; and `NotTried` where
    other users can put something else in the folder's place, as what is tried there is reached
    and removed by its path. The engine, which does neither, is tried there all the same.
    """
    folder = os.path.join(parent, f"asgi_ipc-doctor-{secrets.token_hex(8)}")

    def make() -> str:
        _check_alone(parent)
        made = ""
        with contextlib.suppress(FileExistsError):
            os.mkdir(parent, 0o700)
            made = "made"
        os.mkdir(folder, 0o700)
        return made

    def remove() -> str:
        shutil.rmtree(folder, ignore_errors=True)
        if made["detail"]:
            with contextlib.suppress(OSError):
                os.rmdir(parent)
        return ""

    made = attempt(lambda: _or_failed(make))
    try:
        if made["works"] is None:
            raise NotTried(made["detail"])
        if not made["works"]:
            raise Failed(f"no directory can be made there: {made['detail']}", ELSEWHERE)
        yield folder
    finally:
        if made["works"]:
            attempt(remove)


def _check_alone(parent: str) -> None:
    """Raise `NotTried` if another user can rename what lies in a folder, or the folder."""
    location = Location(parent, 0o700, None)
    try:
        try:
            check_way(parent, location)
        except FileNotFoundError:
            check_way(os.path.dirname(parent), location)
    except StoreUnavailable as error:
        raise NotTried(f"other users can rename entries of {parent!r}") from error


def _or_failed(make: Callable[[], str]) -> str:
    try:
        return make()
    except OSError as error:
        raise Failed(str(error.strerror)) from error
