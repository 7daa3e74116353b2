"""Memory that breaks a clause of `asgi_ipc.engines.shm.segment`."""

from __future__ import annotations

import os

from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.mmap import MmapSegment
from asgi_ipc.engines.shm.posix import PosixSegment
from asgi_ipc.engines.shm.segment import Owner
from tests.wrong_engines import WrongMemory


class LeavesWhatItCouldNotMake(WrongMemory):
    breaks = "G1"

    class Memory(MmapSegment):
        @classmethod
        def create(cls, directory: StoreDirectory, locator: str, size: int) -> MmapSegment:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            descriptor = directory.open_file(locator, flags, 0o600)
            os.fchmod(descriptor, directory.location.mode)
            os.truncate(descriptor, size)
            return cls(directory, locator, descriptor)

    segment = Memory


class LeavesItsModeToTheUmask(WrongMemory):
    breaks = "G1"

    class Memory(MmapSegment):
        @classmethod
        def create(cls, directory: StoreDirectory, locator: str, size: int) -> MmapSegment:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            descriptor = directory.open_file(locator, flags, directory.location.mode)
            os.truncate(descriptor, size)
            return cls(directory, locator, descriptor)

    segment = Memory


class NamesItByTheProcess(WrongMemory):
    breaks = "G2"

    class Memory(MmapSegment):
        @staticmethod
        def locator_for(name: str, token: str) -> str:
            return f"{name}.{token}.{os.getpid()}"

    segment = Memory


class FollowsLinks(WrongMemory):
    breaks = "G3"

    class Memory(MmapSegment):
        @classmethod
        def attach(cls, directory: StoreDirectory, locator: str) -> MmapSegment:
            descriptor = os.open(os.path.join(directory.path, locator), os.O_RDWR | os.O_NONBLOCK)
            return cls(directory, locator, descriptor)

    segment = Memory


class FollowsLinksInAnotherFolder(WrongMemory):
    breaks = "G3"

    class Memory(PosixSegment):
        @classmethod
        def attach(cls, directory: StoreDirectory, locator: str) -> PosixSegment:
            return cls(locator, os.open(f"/dev/shm{locator}", os.O_RDWR | os.O_NONBLOCK))

    segment = Memory


class MakesWhatIsMissing(WrongMemory):
    breaks = "G3"

    class Memory(MmapSegment):
        @classmethod
        def attach(cls, directory: StoreDirectory, locator: str) -> MmapSegment:
            descriptor = directory.open_file(locator, os.O_RDWR | os.O_CREAT, 0o600)
            return cls(directory, locator, descriptor)

    segment = Memory


class ReservesNothing(WrongMemory):
    breaks = "G4"

    class Memory(PosixSegment):
        def reserve(self, offset: int, length: int) -> None:
            """Do nothing."""

    segment = Memory


class TouchesWhatIsNotReserved(WrongMemory):
    breaks = "G4"

    class Memory(PosixSegment):
        @classmethod
        def create(cls, directory: StoreDirectory, locator: str, size: int) -> PosixSegment:
            path = f"/dev/shm{locator}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.truncate(descriptor, size)
            return cls(locator, descriptor)

        def head(self, length: int) -> bytes:
            return self.view[:length].tobytes()

    segment = Memory


class SaysWhatItExpects(WrongMemory):
    breaks = "G5"

    class Memory(MmapSegment):
        def owner(self) -> Owner:
            return Owner(os.geteuid(), os.getegid(), 0o600)

    segment = Memory


class RemovesWhatTookItsName(WrongMemory):
    breaks = "G6"

    class Memory(MmapSegment):
        def unlink(self) -> None:
            self._directory.unlink(self._locator)

    segment = Memory


class TellsOfOthers(WrongMemory):
    breaks = "G7"

    class Memory(PosixSegment):
        @classmethod
        def left(cls) -> list[str]:
            return ["/asgi_ipc.0123456789abcdef.c"]

    segment = Memory


class GivesBackWhatLiesAround(WrongMemory):
    breaks = "G8"

    class Memory(MmapSegment):
        def give_back(self, offset: int, length: int) -> bool:
            first = offset // 4096 * 4096
            self.view[first : offset + length] = bytes(offset + length - first)
            return True

    segment = Memory
