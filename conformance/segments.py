"""A directory and processes for the tests of the Segment contract.

Those processes run this module as a script, so it needs only asgi_ipc.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from asgi_ipc.engines import find
from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.segment import Location

if TYPE_CHECKING:
    from asgi_ipc.engines.shm.segment import Segment

#: Longest wait for another process, in seconds; only a test that fails waits so long.
PATIENCE = 120.0
PAGE = os.sysconf("SC_PAGE_SIZE")


class Ground:
    """A Segment class under test, and a directory for it. Removes everything it made."""

    def __init__(self, engine: str, prefix: str) -> None:
        self.engine = engine
        factory: Any = find(engine)
        self.segment: type[Segment] = factory.segment
        self.token: str = secrets.token_hex(8)
        directory = os.path.join(tempfile.gettempdir(), f"{prefix}-segment")
        os.mkdir(directory, 0o700)
        self.location: Location = Location(directory, 0o600, None, private=False)
        self.directory: StoreDirectory = StoreDirectory.open(self.location)
        self._locators: set[str] = set()
        self._open: list[Segment] = []
        self._more: list[StoreDirectory] = []
        self._processes: list[Process] = []

    def locator(self, name: str = "channels") -> str:
        """Return a new locator, as a new store would use."""
        locator = self.segment.locator_for(name, secrets.token_hex(8))
        self._locators.add(locator)
        return locator

    def create(
        self, locator: str, size: int = 4 * PAGE, location: Location | None = None
    ) -> Segment:
        """Create memory and reserve all of it."""
        directory = self._as_location(location) if location else self.directory
        segment = self.segment.create(directory, locator, size)
        self._open.append(segment)
        segment.reserve(0, size)
        return segment

    def _as_location(self, location: Location) -> StoreDirectory:
        """Return the same directory for a store with another mode or group."""
        descriptor = os.open(location.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._more.append(StoreDirectory(location, descriptor))
        return self._more[-1]

    def attach(self, locator: str) -> Segment:
        """Attach to it once more."""
        segment = self.segment.attach(self.directory, locator)
        self._open.append(segment)
        return segment

    def path(self, locator: str) -> str | None:
        """Return where the memory of a locator is or would be, or None if that is no file."""
        self.create(sample := self.locator())
        name = f"/{os.path.basename(sample)}"
        places = [self.location.directory + name]
        with contextlib.suppress(OSError), open("/proc/self/maps") as maps:
            mapped = [line.split(maxsplit=5)[-1].strip() for line in maps]
            places += [path for path in mapped if path.endswith(name)]
        folders = [os.path.dirname(path) for path in places if os.path.exists(path)]
        return os.path.join(folders[0], os.path.basename(locator)) if folders else None

    def exists(self, locator: str) -> bool:
        """Return whether there is memory to attach to."""
        try:
            self.segment.attach(self.directory, locator).close()
        except FileNotFoundError:
            return False
        return True

    def unlink(self, locator: str) -> None:
        """Remove the memory of that locator, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            segment = self.segment.attach(self.directory, locator)
            try:
                segment.unlink()
            finally:
                segment.close()

    def process(self, code: str, *arguments: object) -> Process:
        """Run code in a process of its own; see `main`."""
        self._processes.append(Process(self, code, arguments))
        return self._processes[-1]

    def clean_up(self) -> None:
        """Release and remove everything; a test that failed has not ended its processes."""
        for process in self._processes:
            process.end()
        for segment in self._open:
            segment.close()
        for locator in self._locators:
            self.unlink(locator)
        for directory in (self.directory, *self._more):
            directory.close()
        for name in os.listdir(self.location.directory):
            raise AssertionError(f"{name} was left behind in the store's directory")
        os.rmdir(self.location.directory)


class Process:
    """A process that runs a test's code and exchanges lines with the test."""

    def __init__(self, ground: Ground, code: str, arguments: tuple[object, ...]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        said = json.dumps([ground.engine, list(ground.location), code, list(arguments)])
        self._process = subprocess.Popen(
            [sys.executable, __file__, said],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )
        self._buffer = b""

    def line(self) -> str:
        """Return the next line that it printed."""
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        while b"\n" not in self._buffer:
            assert poll.poll(1000 * PATIENCE), "the process gave no answer"
            said = os.read(self._process.stdout.fileno(), 65536)
            assert said, f"the process ended: {self._process.wait(PATIENCE)}"
            self._buffer += said
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def go_on(self) -> None:
        """Let its ``input()`` return."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    def end(self) -> int:
        """Wait for its end; return the exit status, negative if a signal ended it.

        May be called twice.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            return self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


@contextlib.contextmanager
def umask(mask: int) -> Any:
    """Set the umask meanwhile."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def main() -> None:
    """Run a test's code with ``segment`` (the class), ``directory`` and ``arguments``."""
    engine, location, code, arguments = json.loads(sys.argv[1])
    factory: Any = find(engine)
    directory = StoreDirectory.open(Location(*location))
    names = {"segment": factory.segment, "directory": directory, "arguments": arguments}
    exec(code, names)


if __name__ == "__main__":
    main()
