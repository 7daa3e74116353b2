"""Runs examples/chat for real, as `make run` does, and sees what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
RUN = (sys.executable, str(ROOT / "examples" / "chat" / "run.py"))
PROC = Path("/proc")
#: Nothing that a test waits for takes longer than this.
PATIENCE = 120.0


def environment(**changes: str) -> dict[str, str]:
    """Ours, without what a `make` around us said to a `make` below it."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return {**ours, "PYTHONUNBUFFERED": "1", **changes}


class Site:
    """The chat on a free port; a context manager that ends it whatever happens."""

    def __init__(
        self, engine: str, temporary: Path, workers: int = 2, command: tuple[str, ...] = RUN
    ) -> None:
        self.workers = workers
        self.marker = uuid.uuid4().hex
        self.temporary = temporary
        self.before = _entries(self._places())
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(
                PORT="0",
                ENGINE=engine,
                WORKERS=str(workers),
                TMPDIR=str(temporary),
                CHAT_MARKER=self.marker,
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Site:
        try:
            self.port = int(self.wait_for(r"http://127\.0\.0\.1:(\d+)/")[1])
            self.wait_for(r"background worker is process \d+")
            for n in range(1, self.workers + 1):
                self.wait_for(rf"web worker {n} is process \d+")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        self.kill()
        if error is not None:
            print(self.output)  # noqa: T201 - pytest shows it with the failure

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def prefix(self) -> str:
        return f"chat-{self.port}"

    @property
    def output(self) -> str:
        with self._changed:
            return "\n".join(self.lines)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Until the output has a line that matches."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while True:
                for line in self.lines:
                    if match := re.search(pattern, line):
                        return match
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive():
                    break
                self._changed.wait(min(left, 1.0))
        raise AssertionError(f"no line like {pattern!r} in:\n{self.output}")

    def web_pids(self) -> set[int]:
        """The newest process of each web worker."""
        found = re.findall(r"web worker (\d+) is process (\d+)", self.output)
        return {int(pid) for pid in dict(found).values()}

    def background_pid(self) -> int:
        return int(re.findall(r"background worker is process (\d+)", self.output)[-1])

    def stop(self, signum: signal.Signals) -> int:
        """Ask it to end, as a terminal would: its whole process group; the exit code."""
        os.killpg(self.process.pid, signum)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def kill(self) -> None:
        """End whatever is still there, by force, and forget its store."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self._reader.join(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def processes(self) -> set[int]:
        """Every living process of this site, found by its environment."""
        mark = f"CHAT_MARKER={self.marker}".encode()
        found = set()
        for entry in PROC.iterdir():
            if entry.name.isdecimal():
                try:
                    if mark in (entry / "environ").read_bytes():
                        found.add(int(entry.name))
                except OSError:
                    continue  # It ended meanwhile, or is not ours to look at.
        return found

    def holdings(self, pids: set[int]) -> set[Path]:
        """Files in shared memory or a temporary folder that these processes have open or mapped."""
        found = set()
        for pid in pids:
            for descriptor in (PROC / str(pid) / "fd").iterdir():
                try:
                    found.add(os.readlink(descriptor))
                except OSError:
                    continue
            maps = (PROC / str(pid) / "maps").read_text()
            found.update(line.split(maxsplit=5)[5] for line in maps.splitlines() if "/" in line)
        paths = {Path(name) for name in found if name.startswith("/")}
        return {path for path in paths if _within(path, self._places()) and not _program(path)}

    def leftovers(self) -> set[Path]:
        """Files that were not there before and bear this site's name or lie in its directory."""
        new = _entries(self._places()) - self.before
        return {p for p in new if self.prefix in str(p) or p.is_relative_to(self.temporary)}

    def _places(self) -> list[Path]:
        return [Path("/dev/shm"), Path(tempfile.gettempdir()), self.temporary]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


def _within(path: Path, places: list[Path]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def _program(path: Path) -> bool:
    """Whether it is a part of Python or of this checkout, which may lie in such a place too."""
    return _within(path, [ROOT, Path(sys.prefix), Path(sys.base_prefix)])


def sysv_segments(creators: set[int]) -> set[int]:
    """Ids of the SysV shared memory segments that these processes created."""
    table = (PROC / "sysvipc" / "shm").read_text().splitlines()
    columns = table[0].split()
    rows = [dict(zip(columns, line.split(), strict=True)) for line in table[1:]]
    return {int(row["shmid"]) for row in rows if int(row["cpid"]) in creators}


def _entries(places: list[Path]) -> set[Path]:
    """What lies in these directories, and one level down."""
    found = set()
    for place in places:
        for path in _listed(place):
            found.add(path)
            if path.is_dir() and not path.is_symlink():
                found.update(_listed(path))
    return found


def _listed(place: Path) -> list[Path]:
    try:
        return list(place.iterdir())
    except OSError:
        return []  # Gone meanwhile, or not ours.
