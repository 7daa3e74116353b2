"""What the attempts share: a folder of the doctor's own to try in, and how a result reads."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from .attempt import Failed, attempt

#: The advice where a folder can't do what a store needs.
ELSEWHERE = "name a directory on another file system with engine_options['directory']"


def tried(
    name: str, title: str, where: str, check: Callable[[], str], needed: bool = True
) -> dict[str, Any]:
    """Attempt a check and return its entry in the report.

    ``needed`` is false for what the chosen engine can do without: it does not *fail*.
    """
    return {"name": name, "title": title, "where": where, "needed": needed} | attempt(check)


def entry(
    name: str, title: str, where: str, detail: str, advice: str = "", needed: bool = True
) -> dict[str, Any]:
    """Return the entry of something that does not work and needs no attempt to know it."""
    return {
        "name": name,
        "title": title,
        "where": where,
        "needed": needed,
        "works": False,
        "detail": detail,
        "advice": advice,
    }


@contextlib.contextmanager
def private_folder(parent: str) -> Iterator[str]:
    """Make a folder in ``parent`` itself, which is made too if it is not there; remove both.

    Another folder would not do: a directory that is named can be a mount point, be on another
    file system than the one above it, or have other rights. Raises `Failed`.
    """
    folder = os.path.join(parent, f"asgi_ipc-doctor-{secrets.token_hex(8)}")

    def make() -> str:
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
        if not made["works"]:
            raise Failed(f"no folder can be made there: {made['detail']}", ELSEWHERE)
        yield folder
    finally:
        if made["works"]:
            attempt(remove)


def _or_failed(make: Callable[[], str]) -> str:
    try:
        return make()
    except OSError as error:
        raise Failed(str(error.strerror)) from error
