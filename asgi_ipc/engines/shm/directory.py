"""The directory of a store, opened once; everything in it is reached through its descriptor.

A path means what it meant a moment ago only if no other user can put something else in its way.
So each folder above the store's is checked before it is passed; the last two are made, opened
and checked by descriptor, never followed through a link; and files, FIFOs and memory inside are
made, opened and removed relative to that descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from asgi_ipc.exceptions import StoreUnavailable

from .errors import unusable
from .location import Location, Owner, check_owner, described

#: Times that a directory may vanish while it is being made.
_PATIENCE = 100
#: Links that a path may lead through.
_LINKS = 40
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: To pass through a folder that may not be listed, where the system can.
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class StoreDirectory:
    """The open directory of one store. It is closed when all that share it have closed it."""

    def __init__(self, location: Location, descriptor: int) -> None:
        self.location = location
        self.path: str = location.directory
        self._descriptor = descriptor
        # One entry for each user, and one that the last of them takes to close it: no lock, which
        # code that interrupts its holder would wait for without result.
        self._users, self._is_last = [None], [None]

    @classmethod
    def open(cls, location: Location, make: bool = True) -> StoreDirectory:
        """Open it, made if need be and ``make`` is true; the folder above it likewise.

        Raises `StoreUnavailable`: if it can't be made, is something else, or is in the hands of
        a user who may not use the store. Without ``make`` raises FileNotFoundError if it is
        missing.
        """
        for _ in range(_PATIENCE):
            try:
                base = _open_base(location, make)
                try:
                    return cls(location, _enter(base, location.directory, location, make, own=True))
                finally:
                    os.close(base)
            except FileNotFoundError as error:
                # The last process of another store removes the folders that are empty.
                refusal = error
                if not make:
                    raise
        raise unusable("make the directory", location.directory, refusal) from refusal

    def share(self) -> StoreDirectory:
        """Return it for one more holder, which closes it too."""
        self._users.append(None)
        return self

    def close(self) -> None:
        """Close it for one user."""
        with contextlib.suppress(IndexError):  # Another has just closed it.
            self._users.pop()
            if not self._users:
                self._is_last.pop()
                descriptor, self._descriptor = self._descriptor, -1
                os.close(descriptor)

    # ---- what lies inside; all raise OSError

    def open_file(self, name: str, flags: int, mode: int = 0) -> int:
        """Open a file or FIFO, never through a link and never waiting for another process."""
        return os.open(name, flags | _FILE, mode, dir_fd=self._descriptor)

    def make_fifo(self, name: str) -> None:
        """Make a FIFO, with no more rights than the umask allows."""
        if os.mkfifo in os.supports_dir_fd:
            os.mkfifo(name, self.location.mode, dir_fd=self._descriptor)
        else:
            os.mkfifo(os.path.join(self.path, name), self.location.mode)

    def status(self, name: str) -> os.stat_result:
        """Return the status of what has that name, itself a link or not."""
        return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)

    def unlink(self, name: str) -> None:
        """Remove a name."""
        os.unlink(name, dir_fd=self._descriptor)

    def names(self) -> list[str]:
        """List the names in it."""
        return os.listdir(self._descriptor)

    def may_unlink(self, uid: int) -> bool:
        """Tell whether this process may remove a file of that user."""
        status = os.fstat(self._descriptor)
        if status.st_mode & stat.S_ISVTX and os.geteuid() not in (0, uid, status.st_uid):
            return False
        return os.access(".", os.W_OK | os.X_OK, dir_fd=self._descriptor)

    def check_file(self, name: str, status: os.stat_result) -> None:
        """Refuse anything but a regular file of the store's users, known by this name alone."""
        path = os.path.join(self.path, name)
        if not stat.S_ISREG(status.st_mode):
            raise StoreUnavailable(f"{path!r} is not a plain file and was left as it is")
        check_links(path, status)
        check_owner(path, Owner.of(status), self.location)

    def finish_file(self, descriptor: int, status: os.stat_result) -> os.stat_result:
        """Give a new file of this process's user its group and mode, whatever the umask said."""
        location = self.location
        if location.gid is not None:
            os.fchown(descriptor, -1, location.gid)
        os.fchmod(descriptor, location.mode)
        return os.fstat(descriptor)


def check_links(path: str, status: os.stat_result) -> None:
    """Refuse a file that also lies elsewhere: it may have been another's first."""
    if status.st_nlink > 1:
        raise StoreUnavailable(
            f"{path!r} is one of {status.st_nlink} names of one file (hard links), and was left "
            "as it is; remove it, or choose another prefix or engine_options['directory']"
        )


def check_place(location: Location) -> None:
    """Raise what opening a directory that is missing would, as far as shows without making it.

    Raises `StoreUnavailable`.
    """
    path, base = location.directory, os.path.dirname(location.directory)
    try:
        StoreDirectory.open(location, make=False).close()
    except FileNotFoundError:
        if not os.path.isdir(base):
            path, base = base, os.path.dirname(base)
    else:
        base = path
    try:
        check_way(base, location)
        _check_writable(base)
    except OSError as error:
        raise unusable("make the directory", path, error) from error


def _check_writable(folder: str) -> None:
    effective = os.access in os.supports_effective_ids
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        number = errno.EROFS if is_read_only else errno.EACCES
        raise OSError(number, os.strerror(number), folder)


def remove_if_empty(location: Location) -> None:
    """Remove the store's directory if it is empty, then the private folder above it likewise."""
    folder, name = os.path.split(location.directory)
    parent, own = os.path.split(folder)
    with contextlib.suppress(OSError, StoreUnavailable):
        with contextlib.suppress(FileNotFoundError):
            base = _open_base(location, make=False)
            try:
                os.rmdir(name, dir_fd=base)
            finally:
                os.close(base)
        if location.private:
            above = os.open(parent, _PASS)
            try:
                os.rmdir(own, dir_fd=above)
            finally:
                os.close(above)


# ---- the way there


def _open_base(location: Location, make: bool) -> int:
    """Open the folder above the store's directory; FileNotFoundError if it vanishes."""
    path = os.path.dirname(location.directory)
    try:
        if not location.private:
            # A folder that was named may be a link, if no other user can turn it elsewhere.
            check_way(path, location)
            return os.open(path, _PASS)
        check_way(os.path.dirname(path), location)
    except FileNotFoundError:
        if not make:
            raise
    except OSError as error:
        raise unusable("reach the directory", path, error) from error
    try:
        if not location.private:
            # What was missing on the way may have been made since, by another user.
            check_way(os.path.dirname(path), location)
        above = os.open(os.path.dirname(path), _PASS)
    except OSError as error:
        raise unusable("make the directory", path, error) from error
    try:
        return _enter(above, path, location, make, own=location.private)
    finally:
        os.close(above)


def _enter(above: int, path: str, location: Location, make: bool, own: bool) -> int:
    """Open the folder of that path in the folder ``above``, made if need be.

    ``own`` says that its name is of our making: one that was left unfinished is finished.
    """
    name = os.path.basename(path)
    # A user who may read or write what lies inside must be able to pass through.
    mode = location.mode | (location.mode & 0o444) >> 2
    made = False
    try:
        try:
            folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
        except FileNotFoundError:
            if not make:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
                made = True
            folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
    except FileNotFoundError:
        raise
    except OSError as error:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=above)
        raise _refusal(above, name, path, location, error) from error
    try:
        status = os.fstat(folder)
        if (made or own) and _is_unfinished(folder, status, mode, location):
            if not make:  # Who only looks finishes nothing; and there is nothing in it.
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            if location.gid is not None:
                os.fchown(folder, -1, location.gid)
            os.fchmod(folder, mode)
            status = os.fstat(folder)
        check_owner(path, Owner.of(status), location._replace(mode=mode))
    except BaseException as error:
        os.close(folder)
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=above)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise unusable("make the directory", path, error) from error
        raise
    return folder


def _refusal(
    above: int, name: str, path: str, location: Location, error: OSError
) -> StoreUnavailable:
    """Say why a folder can't be opened, whose it is if it is another user's."""
    try:
        status = os.stat(name, dir_fd=above, follow_symlinks=False)
    except OSError:
        return unusable("make the directory", path, error)
    if not stat.S_ISDIR(status.st_mode):
        return StoreUnavailable(
            f"{path!r} is not a directory and was left as it is; choose another "
            "prefix or engine_options['directory']"
        )
    try:
        check_owner(path, Owner.of(status), location)
    except StoreUnavailable as refusal:
        return refusal
    return unusable("reach the directory", path, error)


def _is_unfinished(folder: int, status: os.stat_result, mode: int, location: Location) -> bool:
    """Whether a folder is as `os.mkdir` leaves it, by which its maker may have been killed."""
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        return False
    right = location.gid in (None, status.st_gid) and status.st_mode & 0o777 == mode
    return not right and not os.listdir(folder)


def check_way(path: str, location: Location) -> None:
    """Refuse a folder whose path another user than root can make lead elsewhere.

    Such a user can rename in one of the folders that the path passes through. Raises
    `StoreUnavailable`, and OSError for what can't be reached.
    """
    # The owner of the root directory is root, under whatever number this process sees: in a
    # container with users of its own, root of the host may have none.
    trusted = {0, os.geteuid(), os.lstat("/").st_uid}
    rest = [part for part in reversed(path.split("/")) if part]
    here, folder = "/", os.lstat("/")
    links = 0
    _check_folder(here, folder, location, trusted)
    while rest:
        name = rest.pop()
        step = f"{here.rstrip('/')}/{name}"
        status = os.lstat(step)
        if folder.st_mode & stat.S_ISVTX and folder.st_mode & 0o022:
            # Its owner may rename it there.
            _check_folder_owner(step, status, location, trusted)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(step)
            rest += [part for part in reversed(target.split("/")) if part]
            if target.startswith("/"):
                here, folder = "/", os.lstat("/")
            continue
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), step)
        here, folder = step, status
        _check_folder(here, folder, location, trusted)


def _check_folder(path: str, status: os.stat_result, location: Location, trusted: set[int]) -> None:
    _check_folder_owner(path, status, location, trusted)
    if status.st_mode & stat.S_ISVTX:
        return
    if status.st_mode & 0o002 or (
        status.st_mode & 0o020
        and status.st_gid != location.gid
        and not _is_private_group(status.st_gid)
    ):
        raise StoreUnavailable(
            f"other users can rename what lies in {path!r} (mode {status.st_mode & 0o7777:o}, "
            f"group {status.st_gid}), and so replace {location.directory!r}: "
            f"take the right away (chmod go-w {path}), or name another engine_options['directory']"
        )


def _check_folder_owner(
    path: str, status: os.stat_result, location: Location, trusted: set[int]
) -> None:
    if status.st_uid in trusted or (location.gid is not None and status.st_gid == location.gid):
        return
    raise StoreUnavailable(
        f"{path!r} belongs to user {described(status.st_uid)}, who can put another folder in "
        f"place of {location.directory!r}: name an engine_options['directory'] that lies below "
        "folders of root's or this user's own alone, or run this as that user"
    )


def _is_private_group(gid: int) -> bool:
    """Whether a group is this user's alone, as many systems make one for each user."""
    with contextlib.suppress(ImportError, KeyError, OSError):
        import grp
        import pwd

        user = pwd.getpwuid(os.geteuid())
        group = grp.getgrgid(gid)
        return (
            gid == user.pw_gid
            and set(group.gr_mem) <= {user.pw_name}
            and (group.gr_name == user.pw_name)
        )
    return False
