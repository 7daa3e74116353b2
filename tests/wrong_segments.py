"""Segments each of which is wrong in one way, for test_segment_porting; and a right one."""

from __future__ import annotations

import os
import tempfile

from asgi_ipc.engines.mmap import MmapSegment
from asgi_ipc.store.engine import SharedMemoryEngine
from asgi_ipc.store.files import give
from asgi_ipc.store.segment import Owner, Place


def path_of(place: Place, locator: str) -> str:
    return os.path.join(place.directory, locator)


class RightSegment(MmapSegment):
    """As engine mmap, and closes its file if it can't be sized."""

    @classmethod
    def create(cls, place: Place, locator: str, size: int) -> MmapSegment:
        path = path_of(place, locator)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, place.mode)
        try:
            try:
                give(descriptor, size, place.mode, place.gid)
            except BaseException:
                os.close(descriptor)
                raise
            return cls(descriptor)
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
        def create(cls, place: Place, locator: str, size: int) -> MmapSegment:
            made = super().create(place, locator, size)
            made.reserve(0, 4096)
            made.view[100] = 1
            return made


class HeedsTheUmask(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def create(cls, place: Place, locator: str, size: int) -> MmapSegment:
            os.umask(mask := os.umask(0))
            return super().create(place._replace(mode=place.mode & ~mask), locator, size)


class TakesOverWhatExists(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def create(cls, place: Place, locator: str, size: int) -> MmapSegment:
            try:
                return super().create(place, locator, size)
            except FileExistsError:
                return cls.attach(place, locator)


class MakesItTooLarge(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def create(cls, place: Place, locator: str, size: int) -> MmapSegment:
            return super().create(place, locator, size + 1)


class LeavesWhatFailed(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def create(cls, place: Place, locator: str, size: int) -> MmapSegment:
            try:
                return super().create(place, locator, size)
            except FileExistsError:
                raise
            except OSError:
                super().create(place, locator, 4096).close()
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
        def create(cls, place: Place, locator: str, size: int) -> MmapSegment:
            # As one does who wants to link a whole file into its place.
            descriptor, path = tempfile.mkstemp(dir=place.directory)
            os.close(descriptor)
            made = super().create(place, locator, size)
            os.unlink(path)
            return made


class ACopyOfItsOwn(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def __init__(self, descriptor: int) -> None:
            super().__init__(descriptor)
            self.copy = memoryview(bytearray(self.view))
            self.view = self.copy


class AttachMakesIt(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def attach(cls, place: Place, locator: str) -> MmapSegment:
            try:
                return super().attach(place, locator)
            except FileNotFoundError:
                return cls.create(place, locator, 4096)


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


class ItIsAlwaysMine(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        def owner(self) -> Owner:
            return Owner(os.geteuid(), os.getegid(), super().owner().mode)


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
        @classmethod
        def unlink(cls, place: Place, locator: str) -> None:
            path = path_of(place, locator)
            if os.path.exists(path):
                with open(path, "r+b") as file:
                    file.write(bytes(4096))
            super().unlink(place, locator)


class UnlinkOnlyOnce(SharedMemoryEngine):
    name = "wrong"

    class segment(RightSegment):  # noqa: N801
        @classmethod
        def unlink(cls, place: Place, locator: str) -> None:
            os.unlink(path_of(place, locator))
