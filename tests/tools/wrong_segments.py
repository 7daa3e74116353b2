"""Segments each of which is wrong in one way, for test_segment_porting; and a right one."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile

from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.files import give
from asgi_ipc.engines.shm.mmap import MmapSegment
from asgi_ipc.engines.shm.segment import Location, Owner


def path_of(directory: StoreDirectory, locator: str) -> str:
    return os.path.join(directory.path, locator)


def as_location(directory: StoreDirectory, location: Location) -> StoreDirectory:
    """The same directory for another place; its descriptor is the first one's."""
    return StoreDirectory(location, directory._descriptor)


class RightSegment(MmapSegment):
    """As engine mmap, and closes its file if it can't be sized."""

    @classmethod
    def create(cls, directory: StoreDirectory, locator: str, size: int) -> MmapSegment:
        location, path = directory.location, path_of(directory, locator)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, location.mode)
        try:
            try:
                give(descriptor, size, location.mode, location.gid)
            except BaseException:
                os.close(descriptor)
                raise
            return cls(directory, locator, descriptor)
        except BaseException:
            os.unlink(path)
            raise


class Right(SharedMemoryEngine):
    name = "right"
    segment = RightSegment


class KeepsOldContent(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def create(cls, directory: StoreDirectory, locator: str, size: int) -> MmapSegment:
            made = super().create(directory, locator, size)
            made.reserve(0, 4096)
            made.view[100] = 1
            return made


class HeedsTheUmask(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def create(cls, directory: StoreDirectory, locator: str, size: int) -> MmapSegment:
            os.umask(mask := os.umask(0))
            location = directory.location
            cut = as_location(directory, location._replace(mode=location.mode & ~mask))
            return super().create(cut, locator, size)


class TakesOverWhatExists(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def create(cls, directory: StoreDirectory, locator: str, size: int) -> MmapSegment:
            try:
                return super().create(directory, locator, size)
            except FileExistsError:
                return cls.attach(directory, locator)


class MakesItTooLarge(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def create(cls, directory: StoreDirectory, locator: str, size: int) -> MmapSegment:
            return super().create(directory, locator, size + 1)


class LeavesWhatFailed(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def create(cls, directory: StoreDirectory, locator: str, size: int) -> MmapSegment:
            try:
                return super().create(directory, locator, size)
            except FileExistsError:
                raise
            except OSError:
                super().create(directory, locator, 4096).close()
                raise


class AlwaysTheSameName(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @staticmethod
        def locator_for(name: str, token: str) -> str:
            return name


class NamesItTooLong(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @staticmethod
        def locator_for(name: str, token: str) -> str:
            return f"{name}.{token}.{'x' * 60}"


class MakesAHiddenFileFirst(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def create(cls, directory: StoreDirectory, locator: str, size: int) -> MmapSegment:
            # As an engine does that links a whole file into its place.
            descriptor, path = tempfile.mkstemp(dir=directory.path)
            os.close(descriptor)
            made = super().create(directory, locator, size)
            os.unlink(path)
            return made


class ACopyOfItsOwn(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def __init__(self, directory: StoreDirectory, locator: str, descriptor: int) -> None:
            super().__init__(directory, locator, descriptor)
            self.copy = memoryview(bytearray(self.view))
            self.view = self.copy


class AttachMakesIt(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def attach(cls, directory: StoreDirectory, locator: str) -> MmapSegment:
            try:
                return super().attach(directory, locator)
            except FileNotFoundError:
                return cls.create(directory, locator, 4096)


class ReserveWipes(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def reserve(self, offset: int, length: int) -> None:
            os.pwrite(self._descriptor, bytes(length), offset)


class ReserveDoesNothing(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def reserve(self, offset: int, length: int) -> None:
            pass


class GivesBackWholePagesAround(SharedMemoryEngine):
    """And so what is live beside what is given back."""

    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def give_back(self, offset: int, length: int) -> bool:
            first = offset // 4096 * 4096
            self.view[first : -(-(offset + length) // 4096) * 4096] = bytes(
                -(-(offset + length) // 4096) * 4096 - first
            )
            return True


class ItIsAlwaysMine(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def owner(self) -> Owner:
            return super().owner()._replace(uid=os.geteuid(), gid=os.getegid())


class ItsModeIsAsAsked(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def owner(self) -> Owner:
            return super().owner()._replace(mode=0o600)


class CloseKeepsTheDescriptor(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def close(self) -> None:
            self.view.release()
            assert self._map is not None
            self._map.close()


class CloseOnlyOnce(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def close(self) -> None:
            if self._descriptor < 0:
                raise ValueError("closed already")
            super().close()


class CloseRemoves(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def close(self) -> None:
            if self._descriptor >= 0:
                path = os.readlink(f"/proc/self/fd/{self._descriptor}")
                if os.path.exists(path):
                    os.unlink(path)
            super().close()


class UnlinkTruncates(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def unlink(self) -> None:
            os.pwrite(self._descriptor, bytes(4096), 0)
            super().unlink()


class UnlinkOnlyOnce(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def unlink(self) -> None:
            os.unlink(path_of(self._directory, self._locator))


class UnlinkByName(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def unlink(self) -> None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path_of(self._directory, self._locator))


class PicksANameAnew(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @staticmethod
        def locator_for(name: str, token: str) -> str:
            return f"{name}.{secrets.token_hex(8)}"


class AttachFollowsLinks(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def attach(cls, directory: StoreDirectory, locator: str) -> MmapSegment:
            return cls(directory, locator, os.open(path_of(directory, locator), os.O_RDWR))


class HidesItsOtherNames(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def owner(self) -> Owner:
            return super().owner()._replace(links=1)


class HeadIsZero(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def head(self, length: int) -> bytes:
            return bytes(length)


class AlwaysLinked(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def is_linked(self) -> bool:
            return True


class NobodyMayUnlink(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def may_unlink(self) -> bool:
            return False
