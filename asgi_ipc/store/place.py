"""Where a store lies and who may use it: from the options to a directory that can be trusted."""

from __future__ import annotations

import contextlib
import os
import stat

from ..exceptions import OptionError, StoreUnavailable
from .segment import Owner, Place

#: Times that a directory may vanish while it is being made.
_PATIENCE = 100


def place_for(
    parent: str,
    prefix: str,
    directory: str | os.PathLike[str] | None,
    group: str | int | None,
    mode: int | None,
) -> Place:
    """Where the store of a prefix lies, from the options."""
    gid = _group_id(group)
    if mode is None:
        mode = 0o600 if gid is None else 0o660
    if not isinstance(mode, int) or mode & ~0o660 or mode & 0o600 != 0o600:
        raise OptionError(
            f"engine_options['mode']={mode!r}: 0o600, 0o640 or 0o660, as the owner must be able "
            "to read and write and others never may"
        )
    if mode & 0o060 and gid is None:
        raise OptionError(
            f"engine_options['mode']={mode:#o} opens the store to a group: name it with "
            "engine_options['group']"
        )
    if directory is None:
        who = f"{os.geteuid()}" if gid is None else f"group-{gid}"
        base = os.path.join(parent, f"asgi_ipc-{who}")
    else:
        base = os.path.abspath(os.fspath(directory))
    return Place(os.path.join(base, prefix), mode, gid, directory is None)


def _group_id(group: str | int | None) -> int | None:
    if group is None or (isinstance(group, int) and not isinstance(group, bool) and group >= 0):
        return group
    if isinstance(group, str):
        import grp

        with contextlib.suppress(KeyError):
            return grp.getgrnam(group).gr_gid
    raise OptionError(
        f"engine_options['group']={group!r}: the name or number of a group of this system"
    )


def temporary_folder() -> str:
    """The folder for temporary files. Raises `StoreUnavailable` if there is none.

    Not `tempfile.gettempdir`: when the first choice is full, or nothing can be written to,
    that goes on to the next and in the end to the current folder; two processes would then
    have two stores and never know.
    """
    named = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    folders = [os.path.abspath(name) for name in named if name]
    folders += ["/tmp", "/var/tmp", "/usr/tmp"]
    for folder in folders:
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise StoreUnavailable(
        f"there is no temporary folder that this user may write to (looked for "
        f"{', '.join(folders)}); name a folder with engine_options['directory'], or with the "
        "environment variable TMPDIR for all processes alike"
    )


def make_directory(place: Place) -> None:
    """The store's directory and the one above it, made if need be. Raises `StoreUnavailable`."""
    # Who may read or write what lies inside must be able to pass through.
    mode = place.mode | (place.mode & 0o444) >> 2
    made = []
    for _ in range(_PATIENCE):
        for path in (os.path.dirname(place.directory), place.directory):
            try:
                os.mkdir(path, 0o700)
                made.append(path)
                if place.gid is not None:
                    os.chown(path, -1, place.gid)
                os.chmod(path, mode)
            except FileExistsError:
                pass
            except FileNotFoundError as error:
                refusal = error
                break
            except OSError as error:
                for empty in reversed(made):
                    with contextlib.suppress(OSError):
                        os.rmdir(empty)
                raise unusable("make the directory", path, error) from error
        try:
            above = os.lstat(os.path.dirname(place.directory))
            status = os.lstat(place.directory)
            break
        except FileNotFoundError as error:
            # The last process of another store is just leaving, and takes away what is empty.
            refusal = error
        except OSError as error:
            raise unusable("reach the directory", place.directory, error) from error
    else:
        raise unusable("make the directory", place.directory, refusal) from refusal
    if place.private:
        # Anybody can make one of this name in a temporary folder, before us.
        _check_directory(os.path.dirname(place.directory), above, place._replace(mode=mode))
    _check_directory(place.directory, status, place._replace(mode=mode))


def _check_directory(path: str, status: os.stat_result, place: Place) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise StoreUnavailable(
            f"{path!r} is not a directory and was left as it is; choose another "
            "prefix or engine_options['directory']"
        )
    check_owner(path, Owner.of(status), place)


def unusable(doing: str, path: str, error: OSError) -> StoreUnavailable:
    """The error for a directory that can't be used."""
    return StoreUnavailable(
        f"can't {doing} {path!r} ({error.strerror}); name a directory that this user may "
        "write to with engine_options['directory']"
    )


def check_owner(path: str, owner: Owner, place: Place) -> None:
    """Refuse what others made or may write to, beyond what ``place`` allows on purpose."""
    if place.gid is None:
        mine = owner.uid == os.geteuid()
        wanted = f"user {os.geteuid()}"
    else:
        mine = owner.gid == place.gid
        wanted = f"group {place.gid}"
    if not mine:
        raise StoreUnavailable(
            f"{path!r} belongs to user {owner.uid}, group {owner.gid}, and not to {wanted}: "
            "the processes of one store run as one user, or share a group through "
            "engine_options['group']"
        )
    if owner.mode & ~place.mode & 0o022:
        raise StoreUnavailable(
            f"{path!r} can be written by others (mode {owner.mode:o}, expected {place.mode:o}): "
            "remove it or take the right away"
        )
