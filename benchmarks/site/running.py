"""The processes of a site that runs, and what they cost."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .layers import Made
from .servers import end

_PATIENCE = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Site:
    """Workers, each with a port of its own, as behind a balancer that shares out evenly."""

    ports: list[int]
    #: Of all processes, the layer's server included.
    processes: list[int]

    def cpu(self) -> float:
        """CPU seconds that all processes have used."""
        return sum(map(_cpu, self.processes))

    def memory(self) -> int:
        """Bytes that all processes have; what they share is counted once."""
        return sum(map(_memory, self.processes))


@contextlib.contextmanager
def running(
    made: Made, variant: str, workers: int, server: int | None, folder: str, loop: str
) -> Iterator[Site]:
    """Run the site on a layer, with a worker process besides if there may be several."""
    environment = {**os.environ, "SITE": _described(made, variant)}
    ports, processes = [], []
    with contextlib.ExitStack() as stack:
        stack.callback(made.remove)
        for number in range(workers):
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
            # Inherited by connections. uvicorn takes a descriptor for a UNIX socket and would not
            # ask for it, so that small frames would wait for acknowledgements.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ports.append(listening.getsockname()[1])
            command = ["-m", "uvicorn", "--factory", "benchmarks.site.chat:application"]
            command += ["--fd", str(listening.fileno()), "--log-level", "warning", "--loop", loop]
            command += ["--lifespan", "off", "--ws-ping-interval", "600"]
            descriptors = [listening.fileno()]
            log = os.path.join(folder, f"worker-{number}.log")
            processes.append(_start(stack, command, environment, log, descriptors))
        if workers > 1:
            log = os.path.join(folder, "runworker.log")
            processes.append(_start(stack, ["-m", "benchmarks.site.chat"], environment, log, []))
        for port in ports:
            _wait(port, folder)
        yield Site(ports, [each.pid for each in processes] + ([server] if server else []))
        if any(process.poll() is not None for process in processes):
            raise RuntimeError(f"{last_lines(folder)}\na process of the site has ended, see above")


def _described(made: Made, variant: str) -> str:
    told = {"layer": made.layer, "databases": made.databases, "apps": made.apps}
    return json.dumps({**told, "variant": variant})


def _start(
    stack: contextlib.ExitStack,
    command: list[str],
    environment: dict[str, str],
    log: str,
    descriptors: list[int],
) -> subprocess.Popen[bytes]:
    output = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
    stack.callback(os.close, output)
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=descriptors,
    )
    stack.callback(end, process)
    return process


def _wait(port: int, folder: str) -> None:
    """Wait until a worker answers; its port is open from the first."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(_PATIENCE)
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        try:
            client.recv(1)
        except TimeoutError:
            raise RuntimeError(f"{last_lines(folder)}\nthe site did not start") from None


def last_lines(folder: str) -> str:
    """What the processes said last."""
    lines: list[str] = []
    for log in sorted(Path(folder).glob("*.log")):
        lines += log.read_text(errors="replace").splitlines()[-15:]
    return "\n".join(lines)


def _cpu(process: int) -> float:
    """Of a process and its children, those that have ended included."""
    spent = sum(map(int, _fields(process)[11:15]))
    return spent / _TICKS + sum(map(_cpu, _children(process)))


def _memory(process: int) -> int:
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    (line,) = (line for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024 + sum(map(_memory, _children(process)))


def _children(process: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def _fields(process: int) -> list[str]:
    """Of its status line, those behind the name, which may hold anything."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 20
