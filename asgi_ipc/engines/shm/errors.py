"""Errors of the system as `StoreUnavailable`, each with what to do about it."""

from __future__ import annotations

import errno

from asgi_ipc.exceptions import StoreUnavailable

#: What to do about running out of something, whatever was to be opened or made.
_REMEDIES = {
    errno.EMFILE: "raise this process's limit of open files (ulimit -n), or close some",
    errno.ENFILE: "raise the system's limit of open files (sysctl fs.file-max on Linux)",
    errno.EFBIG: "use a smaller channel_memory and group_memory, or raise this process's limit of "
    "the size of a file (ulimit -f)",
    errno.ENOMEM: "use a smaller channel_memory and group_memory, or another engine, or raise this "
    "process's limit of memory (ulimit -v) if it has one",
}
#: How the system refuses memory of any size.
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def unusable(doing: str, path: str, error: OSError, remedy: str = "") -> StoreUnavailable:
    """Return the error for a directory that can't be used."""
    usual = remedy or (
        "name a directory that this user may write to with engine_options['directory']"
    )
    if error.errno == errno.ENOSPC:
        usual = "free some space there, or name another engine_options['directory']"
    told = error.strerror or error
    return StoreUnavailable(f"can't {doing} {path!r} ({told}); {remedy_for(error, usual)}")


def remedy_for(error: BaseException, usual: str) -> str:
    """Return what to do about an error: the usual, unless the process or the system ran out."""
    return _REMEDIES.get(getattr(error, "errno", None) or 0, usual)


def remedy_for_memory(error: BaseException, usual: str) -> str:
    """Return the same where memory is refused: the usual has to do with how much it is."""
    if getattr(error, "errno", None) in _DENIED:
        return "use another engine, or have the administrator allow this process to write there"
    return remedy_for(error, usual)
