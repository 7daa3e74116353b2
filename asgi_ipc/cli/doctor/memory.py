"""The memory of each engine, tried where the engine's stores really have it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.errors import remedy_for_memory
from asgi_ipc.engines.shm.file_systems import in_memory, mount_of
from asgi_ipc.engines.shm.files import FileMemory, give
from asgi_ipc.engines.shm.segment import Location, Segment
from asgi_ipc.exceptions import StoreUnavailable

from ..attempt import Failed, NotTried, Other, attempt
from ..lock_files import directory_of
from .cgroups import memory_limit
from .entries import entry, private_folder, tried

_SIZE = 256 * 1024


def try_memory(
    name: str,
    factory: type[SharedMemoryEngine],
    options: Mapping[str, Any],
    sizes: Mapping[str, int],
    needed: bool,
) -> list[dict[str, Any]]:
    """Try the memory of one engine; ``needed`` if it is the chosen one.

    ``sizes`` are those of the layer: with them the limit of a control group is compared.
    """
    checks = [
        ("shared_memory", f"shared memory of engine {name}", _shared),
        ("reservation", f"memory of engine {name} is reserved before use", _reserved),
    ]
    if needed:
        limit = partial(_limit, asked=sum(sizes.values()))
        checks.append(("memory_limit", "memory limit of this process's control group", limit))
    try:
        with private_folder(directory_of(factory, options)) as folder:
            found: list[dict[str, Any]] = []
            for check_name, title, check in checks:
                if found and not found[0]["works"]:
                    why = NotTried(f"no {found[0]['title']}, as said above")
                    found.append(entry(check_name, title, "", why, needed))
                    continue
                location = Location(os.path.join(folder, check_name), 0o600, None)
                locator = factory.segment.locator_for("doctor", secrets.token_hex(8))
                try:
                    carried_out = partial(_on_memory, check, factory, location, locator)
                    found.append(tried(check_name, title, "", carried_out, needed))
                finally:
                    attempt(partial(_unlink, factory, location, locator))
            return found
    except (Failed, NotTried, ValueError, StoreUnavailable) as error:
        refusal = error if isinstance(error, (Failed, NotTried)) else Failed(str(error))
        return [entry(check_name, title, "", refusal, needed) for check_name, title, _ in checks]


def try_full(needed: bool = False) -> dict[str, Any]:
    """Try that a full file system is an error; it needs the right to mount one."""
    title = "a full file system raises an error instead of SIGBUS"
    return tried("full_file_system", title, "", _full, needed)


# ---- on memory of an engine


_Maker = Callable[[int], contextlib.AbstractContextManager[Segment]]


def _on_memory(
    check: Callable[..., str], factory: type[SharedMemoryEngine], location: Location, locator: str
) -> str:
    unavailable: Callable[[], str | None] | None = getattr(factory, "unavailable", None)
    reason = unavailable() if unavailable else None
    if reason is not None:
        raise Failed(reason)
    directory = StoreDirectory.open(location)

    @contextlib.contextmanager
    def make(size: int) -> Iterator[Segment]:
        try:
            made = factory.segment.create(directory, locator, size)
            try:
                yield made
            finally:
                made.unlink()
                made.close()
        except StoreUnavailable as error:
            raise Failed(str(error)) from error
        except OSError as error:
            raise Failed(
                f"{error.strerror or error}: {factory.segment.space(location.directory)}",
                remedy_for_memory(error, "free some of it, or raise its limit"),
            ) from error

    return check(make, lambda: factory.segment.attach(directory, locator))


def _shared(make: _Maker, attach: Callable[[], Segment]) -> str:
    def write(other: Other) -> None:
        memory = attach()
        memory.view[:5] = b"hello"
        memory.close()
        other.tell("written")

    with make(_SIZE) as mine:
        mine.reserve(0, _SIZE)
        if any(mine.view):
            raise Failed("new memory is not zero", "report it as a bug of asgi_ipc")
        with Other(write) as other:
            other.expect("written")
        if bytes(mine.view[:5]) != b"hello":
            raise Failed("a write of another process is not visible here")
    return f"{_SIZE // 1024} KiB shared by two processes"


def _reserved(make: _Maker, attach: Callable[[], Segment]) -> str:
    with make(4 * _SIZE) as mine:
        mine.reserve(_SIZE, _SIZE)
        # Where the reservation is worth nothing this is the end by SIGBUS.
        mine.view[_SIZE : 2 * _SIZE] = b"x" * _SIZE
        if not isinstance(mine, FileMemory):
            return "the system reserves all of it when it is made"
        mount = mount_of(mine._descriptor)
        taken = os.fstat(mine._descriptor).st_blocks // 2
        how = "by posix_fallocate" if hasattr(os, "posix_fallocate") else "whole, by writing zeros"
        told = f"{mount.type} at {mount.point}: " if mount else ""
        return f"{told}{taken} KiB taken for {_SIZE // 1024} KiB, {how}"


def _limit(make: _Maker, attach: Callable[[], Segment], asked: int) -> str:
    limit = memory_limit()
    if limit is None:
        return "there is none"
    with make(_SIZE) as mine:
        if isinstance(mine, FileMemory) and not in_memory(mine._descriptor):
            return f"{limit:,} bytes; the store lies on a disk, and may be larger"
    if asked >= limit:
        raise Failed(
            f"{limit:,} bytes, and the store may take {asked:,}: before it is full, the kernel "
            "kills a process that sends",
            "raise the limit (docker run --memory, MemoryMax= of a systemd unit) or lower "
            "channel_memory and group_memory; the programs need memory on top of them",
        )
    return f"{limit:,} bytes, of which the store takes {asked:,} at most"


def _unlink(factory: type[SharedMemoryEngine], location: Location, locator: str) -> str:
    """Remove what an attempt that was killed has left."""
    directory = StoreDirectory.open(location)
    with contextlib.suppress(FileNotFoundError):
        memory = factory.segment.attach(directory, locator)
        memory.unlink()
        memory.close()
    directory.close()
    return ""


# ---- on a file system of the doctor's own


def _full() -> str:
    with _small_file_system() as folder:
        descriptor = os.open(os.path.join(folder, "memory"), os.O_RDWR | os.O_CREAT, 0o600)
        step, reserved = 64 * 1024, 0
        try:
            give(descriptor, 64 * 1024 * 1024, 0o600, None)
            memory = FileMemory(descriptor)
            while reserved < memory.view.nbytes:
                memory.reserve(reserved, step)
                # Where the reservation were worth nothing this is the end by SIGBUS.
                memory.view[reserved : reserved + step] = b"x" * step
                reserved += step
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise Failed(f"it refuses with {error}") from error
            return f"refused after {reserved // 1024} KiB of a file system of 1 MiB"
    raise Failed("64 MiB fit into a file system of 1 MiB", "report it as a bug of asgi_ipc")


class _small_file_system:  # noqa: N801
    """A file system of 1 MiB in a mount namespace of this process's own, which dies with it."""

    def __enter__(self) -> str:
        unshare, mount, error_number = self._calls()
        user, group = os.geteuid(), os.getegid()
        flags = 0x00020000  # CLONE_NEWNS
        if user:
            flags |= 0x10000000  # CLONE_NEWUSER: there everybody may mount
        if unshare(flags):
            raise NotTried(f"needs a mount namespace: {os.strerror(error_number())}")
        if user:
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        # MS_REC | MS_PRIVATE: no other process sees what is mounted from here on.
        if mount(b"none", b"/", None, 0x4000 | 0x40000, None):
            raise NotTried(f"needs private mounts: {os.strerror(error_number())}")
        folder = "/tmp"
        if mount(b"none", folder.encode(), b"tmpfs", 0, b"size=1m"):
            raise NotTried(f"needs to mount tmpfs: {os.strerror(error_number())}")
        return folder

    def __exit__(self, *_: object) -> None:
        pass

    @staticmethod
    def _calls() -> tuple[Any, Any, Callable[[], int]]:
        try:
            import ctypes

            library = ctypes.CDLL(None, use_errno=True)
            return library.unshare, library.mount, ctypes.get_errno
        except ImportError:
            raise NotTried("needs Python's ctypes, which this one was built without") from None
        except (AttributeError, OSError):
            raise NotTried("needs Linux's mount namespaces") from None
