"""The engine's options: from them the `Location` of a store, and from that a command line."""

from __future__ import annotations

import contextlib
import mmap
import os
import shlex

from asgi_ipc.exceptions import OptionError, StoreUnavailable

from .heap.layout import SMALLEST
from .location import Location
from .lock_file import LONGEST_NAME

#: _CS_DARWIN_USER_TEMP_DIR: where macOS keeps a user's temporary files, whatever TMPDIR says.
_USER_TEMPORARY = 65537
#: The number above it means "none" to the system.
_LARGEST_GROUP = 2**32 - 2


def location_for(
    parent: str,
    prefix: str,
    directory: object,
    group: object,
    mode: object,
) -> Location:
    """Where the store of a prefix lies, from the options."""
    gid = _group_id(group)
    if directory is None:
        who = f"{os.geteuid()}" if gid is None else f"group-{gid}"
        base = os.path.join(parent, f"asgi_ipc-{who}")
    else:
        base = named_folder(directory)
    return Location(os.path.join(base, prefix), _mode(mode, gid), gid, directory is None)


def named_folder(directory: object) -> str:
    """The folder that ``engine_options['directory']`` names. Raises `OptionError`."""
    path = os.fspath(directory) if isinstance(directory, os.PathLike) else directory
    if not isinstance(path, str) or not path or not _can_be_named(path):
        raise OptionError(
            f"engine_options['directory']={directory!r}: it must be a str or pathlib.Path that "
            "names a folder, such as '/srv/ipc'; without it the store lies in a folder of this "
            "user's own"
        )
    if not os.path.isabs(path):
        # Of two processes started in different folders each would have a store.
        whole = os.path.expanduser(path)
        with contextlib.suppress(OSError):  # The current folder may be gone.
            whole = os.path.abspath(whole)
        raise OptionError(
            f"engine_options['directory']={directory!r}: it must be an absolute path, the same in "
            f"whatever folder a process is started; if that is meant, name {whole!r}"
        )
    return os.path.abspath(path)


def _can_be_named(text: str) -> bool:
    """Whether the system can be asked for something of that name."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _mode(mode: object, gid: int | None) -> int:
    if mode is None:
        return 0o600 if gid is None else 0o660
    shown = f"{mode:#o}" if isinstance(mode, int) else repr(mode)
    if not isinstance(mode, int) or mode not in (0o600, 0o660):
        raise OptionError(
            f"engine_options['mode']={shown}: it must be 0o600, or 0o660 with a group, as whoever "
            "uses a store reads and writes it, and others never may; it may be left out"
        )
    if mode == 0o660 and gid is None:
        raise OptionError(
            f"engine_options['mode']={shown} opens the store to a group: name it with "
            "engine_options['group']"
        )
    if mode == 0o600 and gid is not None:
        raise OptionError(
            f"engine_options['mode']={shown} keeps out group {gid}, which "
            "engine_options['group'] lets in: leave out one of the two"
        )
    return mode


def _group_id(group: object) -> int | None:
    if group is None:
        return None
    if isinstance(group, int) and not isinstance(group, bool) and 0 <= group <= _LARGEST_GROUP:
        return group
    if isinstance(group, str) and _can_be_named(group):
        import grp

        with contextlib.suppress(KeyError):
            return grp.getgrnam(group).gr_gid
    raise OptionError(
        f"engine_options['group']={group!r}: it must be the name or number of a group of this "
        "system, as 'getent group' lists them"
    )


def removal(engine: str, location: Location) -> str:
    """The command that removes a store which can't be used any more; for error messages.

    ``engine`` is what ``--engine`` takes for it.
    """
    folder, prefix = os.path.split(location.directory)
    words = ["python", "-m", "asgi_ipc", "check", prefix, "--engine", engine]
    if not location.private:
        words += ["--engine-option", f"directory={folder}"]
    if location.gid is not None:
        words += ["--engine-option", f"group={location.gid}"]
    return shlex.join([*words, "--remove"])


def temporary_folder() -> str:
    """Return the folder for temporary files. Raises `StoreUnavailable` if there is none.

    The same for all processes of a user. The environment decides only where the system has no
    such folder: a cron job, a service and a login shell have different ones, or none, so each
    would have a store of its own and never know. Nor does it matter how full the folder is.
    """
    folders = [*_of_the_user(), "/tmp", "/var/tmp", "/usr/tmp"]
    named = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    folders += [os.path.abspath(name) for name in named if name]
    for folder in folders:
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise StoreUnavailable(
        f"there is no temporary folder that this user may write to (looked for "
        f"{', '.join(folders)}); name a folder with engine_options['directory'], or with the "
        "environment variable TMPDIR for all processes alike"
    )


def _of_the_user() -> list[str]:
    """Return the temporary folder that the system gives each user (macOS), if it does."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        folder = os.confstr(_USER_TEMPORARY)
        if folder:
            return [os.path.abspath(folder)]
    return []


def in_pages(option: str, size: int) -> int:
    """Return the size of a segment in whole pages, as the system rounds up to them.

    The size is compared on opening.
    """
    if not isinstance(size, int) or size < SMALLEST:
        raise OptionError(f"{option}={size!r}: an int of at least {SMALLEST} bytes is needed")
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def check_name(engine: type) -> None:
    """Refuse a name that would not come back from the lock file as it is."""
    name = getattr(engine, "name", None)
    if (
        not isinstance(name, str)
        or not 1 <= len(name) <= LONGEST_NAME
        or not (name.isascii() and name.isprintable())
    ):
        raise TypeError(
            f"the class {engine.__qualname__} has the name {name!r}; the name of an engine is "
            f"written into the lock file and must be 1 to {LONGEST_NAME} printable ASCII "
            "characters: choose another"
        )
