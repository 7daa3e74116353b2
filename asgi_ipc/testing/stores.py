"""Stores of tests: a new prefix for each, and their removal, also after a killed test run.

A process notes in a file which stores its current test uses, and holds a lock (flock) on the file
while it lives. A test run that starts or ends reads the files that no process holds, and removes
the stores that they name. So what a killed process leaves is gone with the next test run of the
same user, or at the end of the same run if other processes of it continue.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..cli.lock_files import is_absent
from ..engines import names
from ..exceptions import (
    EngineUnavailable,
    OptionError,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
)
from ..layers.aio import IPCChannelLayer
from ..layers.options import PREFIX_LIMIT
from ..layers.sync import SyncIPCChannelLayer

#: Bytes by which prefixes of tests differ.
_RANDOM = 8
_UNUSABLE = (EngineUnavailable, OptionError, StoreCorrupt, StoreFull, StoreUnavailable)
#: Stores of earlier tests that each new test looks at again.
_AGAIN = 4
_SIZES = ("channel_memory", "group_memory")


class TemporaryStore(NamedTuple):
    """A store as it is opened: the options of a layer that matter for that."""

    prefix: str
    #: A name or path; or a class or function, of which no note can be made.
    engine: Any
    engine_options: Mapping[str, Any]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TemporaryStore:
        """Return the store that a layer with these options has."""
        return cls(
            options["prefix"],
            options.get("engine", "posix"),
            options.get("engine_options") or {},
            {name: options[name] for name in _SIZES if name in options},
        )

    def is_absent(self) -> bool:
        """Tell whether it certainly does not exist, which only some engines can tell."""
        return is_absent(self.engine, self.prefix, self.engine_options)

    def remove(self) -> None:
        """Remove it, if it exists. Layers on it are closed. Raises what opening it raises."""
        if self.is_absent():
            return
        options: dict[str, Any] = {"engine_options": self.engine_options, **self.sizes}
        SyncIPCChannelLayer(self.prefix, engine=self.engine, **options).destroy()


def new_prefix(prefix: str = "") -> str:
    """Return a prefix that no other store has: ``test-``, random digits, and the site's own."""
    return f"test-{secrets.token_hex(_RANDOM)}-{prefix or 'asgi'}"[:PREFIX_LIMIT]


@contextlib.contextmanager
def noted(stores: list[TemporaryStore]) -> Iterator[None]:
    """Note stores for as long as they are in use, and remove them then."""
    notes = _notes()
    notes.add(stores)
    try:
        yield
    finally:
        try:
            with contextlib.ExitStack() as stack:
                for store in stores:
                    stack.callback(store.remove)
        finally:
            notes.discard(stores)


@contextlib.contextmanager
def temporary_layer(**options: Any) -> Iterator[IPCChannelLayer]:
    """A layer on a store of its own, which is removed at the end; no Django is needed.

    ``options`` are those of `asgi_ipc.IPCChannelLayer`, without ``prefix``. Give other processes
    ``layer.prefix`` and the same options to let them share the store. Blocks, and raises, as the
    layer's constructor.
    """
    if "prefix" in options:
        raise OptionError(
            f"prefix is {options['prefix']!r}; a temporary layer chooses its own, so leave it out"
        )
    if _is_instance(engine := options.get("engine", "posix")):
        raise OptionError(
            f"engine is the object {engine!r}, whose store is the user's; pass its class, or the"
            f" name of an engine, such as {', '.join(map(repr, names()))}"
        )
    options = {**options, "prefix": new_prefix()}
    with noted([TemporaryStore.of(options)]):
        yield IPCChannelLayer(**options)


def _is_instance(engine: object) -> bool:
    return not isinstance(engine, type) and hasattr(engine, "push")


class _Notes:
    """The file in which this process notes the stores in use; there is none while it uses none."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._stores: list[TemporaryStore] = []
        #: Its path and descriptor; None if there is none, or none can be made.
        self._file: tuple[Path, int] | None = None
        self._longest = 0
        #: Stores that were removed. A consumer that outlives its test can open one anew.
        self._removed: list[TemporaryStore] = []
        atexit.register(self._at_exit)

    def add(self, stores: list[TemporaryStore]) -> None:
        if not self._stores:
            self._file, self._longest = _locked_file(), 0
        self._stores += stores
        self._write()
        _remove_all(self._removed[-_AGAIN:])

    def discard(self, stores: list[TemporaryStore]) -> None:
        self._stores = [store for store in self._stores if store not in stores]
        self._removed += [store for store in stores if store.is_absent()]
        if self._stores:
            self._write()
        elif self._file is not None:
            path, file = self._file
            self._file = None
            path.unlink(missing_ok=True)
            os.close(file)

    def _write(self) -> None:
        if self._file is None:
            return
        lines = []
        for store in (*self._removed[-_AGAIN:], *self._stores):
            # An engine or an option that is an object can't be noted.
            with contextlib.suppress(TypeError):
                lines.append(json.dumps(store))
        text = "\n".join([*lines, ""]).encode()
        _, file = self._file
        # Padded rather than cut: ext4 writes a file that was cut to the disk as it is closed.
        self._longest = max(self._longest, len(text))
        os.pwrite(file, text.ljust(self._longest), 0)

    def _at_exit(self) -> None:
        """Remove what tests have left that never ended, or whose consumers outlived them."""
        if self.pid == os.getpid():
            stores = list(self._stores)
            _remove_all([*self._removed, *stores])
            self.discard(stores)


def _remove_all(stores: Iterable[TemporaryStore]) -> None:
    """Remove stores, as far as that is possible."""
    for store in stores:
        with contextlib.suppress(*_UNUSABLE):
            store.remove()


_current: _Notes | None = None


def _notes() -> _Notes:
    """This process's notes; a forked child begins its own. The first call removes leftovers."""
    global _current
    if _current is None or _current.pid != os.getpid():
        remove_leftovers()
        _current = _Notes()
    return _current


def _stem() -> Path:
    """Return how the names of this user's notes begin.

    They lie in no folder of their own: to make and remove one for each test takes milliseconds on
    some file systems.
    """
    return Path(tempfile.gettempdir(), f"asgi_ipc-tests-{os.geteuid()}-")


def _locked_file() -> tuple[Path, int] | None:
    """Make a file, and lock it. None if that is not possible."""
    while True:
        path = Path(f"{_stem()}{secrets.token_hex(_RANDOM)}")
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            path.unlink(missing_ok=True)
            os.close(file)
            return None
        if os.fstat(file).st_nlink:
            return path, file
        os.close(file)  # Another process took it for a leftover before it was locked.


def remove_leftovers() -> None:
    """Remove the stores that dead processes of this user have noted."""
    stem = _stem()
    for path in list(stem.parent.glob(f"{stem.name}*")):
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            status = os.fstat(file)
            if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
                continue
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_all(_read(file))
            path.unlink()
        except OSError:
            pass  # Its process lives, or another process is removing the same.
        finally:
            os.close(file)


def _read(file: int) -> Iterator[TemporaryStore]:
    with open(file, "rb", closefd=False) as lines:
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                yield TemporaryStore(*json.loads(line))


__all__ = [
    "TemporaryStore",
    "new_prefix",
    "noted",
    "remove_leftovers",
    "temporary_layer",
]
