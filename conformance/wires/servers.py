"""Real servers for the suite, each started once in a run, and ended with it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from asgi_ipc.conformance.tools import ENOUGH, Port


class Server:
    """A server process on a port of this machine."""

    #: The programs that can be it.
    programs: Sequence[str] = ()

    def __init__(self, *arguments: str, scheme: str = "") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="asgi_ipc-wires-")
        self.folder: Path = Path(self._folder.name)
        # Else another process might get it before this one listens, or while it is restarted.
        self._kept = Port()
        self.port: int = self._kept.number
        self._scheme = scheme or type(self).__name__.lower()
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except RuntimeError:
            self.end()
            raise

    @classmethod
    def missing(cls) -> str | None:
        """Return None if it can be started here, or why not."""
        if any(map(shutil.which, cls.programs)):
            return None
        return f"no {' or '.join(cls.programs)} is installed"

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def command(self, program: str) -> list[str]:
        """Return the command that starts it."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and return once it takes connections."""
        program = next(filter(None, map(shutil.which, self.programs)), None)
        if program is None:
            raise RuntimeError(f"{self.missing()}; install it")
        log = self.folder / "log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [*self.command(program), *self._arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        until = time.monotonic() + ENOUGH
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{program} did not start: {log.read_text()}") from None
                time.sleep(0.02)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def terminate(self) -> None:
        """Have it end as it does at a clean restart."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """Stop the process, which keeps its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)  # Its threads stop one after the other.

    def thaw(self) -> None:
        """Let the process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """Kill it, remove its folder, and give up its port."""
        self.stop()
        self._folder.cleanup()
        self._kept.close()


class Redis(Server):
    """A Redis server that keeps nothing on a disk."""

    programs: Sequence[str] = ("redis-server",)

    def command(self, program: str) -> list[str]:
        """Listen on the loopback address alone."""
        plain = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
        port = ["--port", "0", "--tls-port"] if self._scheme == "rediss" else ["--port"]
        return [program, *port, str(self.port), *plain]

    def call(self, *words: str) -> bytes:
        """Return the server's first words in answer to a command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=ENOUGH) as connection:
            parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
            connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
            return connection.recv(65536)

    def kill_clients(self) -> None:
        """End all connections of clients."""
        self.call("CLIENT", "KILL", "TYPE", "pubsub")
        self.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


class Valkey(Redis):
    """A Valkey server."""

    programs: Sequence[str] = ("valkey-server",)


class Nats(Server):
    """A NATS server."""

    programs: Sequence[str] = ("nats-server",)

    def command(self, program: str) -> list[str]:
        """Listen on the loopback address alone."""
        return [program, "-a", "127.0.0.1", "-p", str(self.port)]


#: The servers of the wires of asgi_ipc.
SERVERS: dict[str, type[Server]] = {"nats": Nats, "redis": Redis, "valkey": Valkey}
