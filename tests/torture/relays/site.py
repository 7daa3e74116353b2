"""Three machines of one run: server, networks and processes, and what can be done to them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from asgi_ipc.conformance.wires.proxy import ProxyProcess
from asgi_ipc.conformance.wires.servers import Nats, Redis, Server

from asgi_ipc.engines import open_engine
from asgi_ipc.engines.base import Engine
from asgi_ipc.relay import report
from asgi_ipc.relay.way_out import OUT
from tests.torture.ledgers import GOT, SENT, Ledger, Line
from tests.torture.standstill import turns

from .judge import Harm
from .places import (
    KILLABLE,
    MACHINES,
    OWN,
    PREFIX,
    SHARED_CHANNEL,
    Setting,
    is_steady,
    machine_of,
    steady,
)
from .processes import work

SERVERS: dict[str, type[Server]] = {"redis": Redis, "nats": Nats}
#: Seconds, as `turns` counts them, in which machines must be joined, after whatever trouble.
JOINED = 60.0
#: Seconds in which a process that is told to stop does.
STOPPED = 20.0


class Child(NamedTuple):
    """A process: its number and what it is."""

    me: int
    role: str


class Site:
    """Server, networks, machines and processes; a context manager that ends all of them."""

    def __init__(
        self, wire: str, timeout: float, pause: float, roles: dict[int, list[str]]
    ) -> None:
        # Where it is fast; a ledger is written to with each message.
        where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="asgi_ipc-relays-", dir=where))
        self.faults: list[str] = []
        self.children: dict[int, Child] = {}
        #: Relays that were killed, by their machines.
        self.kills: Counter[int] = Counter()
        #: Relays that are stopped.
        self._stopped: set[int] = set()
        self._numbers = Counter[int]()
        self._read: dict[Path, int] = {}
        #: What has been read of the ledgers.
        self.lines: dict[int, list[Line]] = {}
        # What a server with queues has confirmed, it has after a restart.
        keeps = ("--appendonly", "yes", "--appendfsync", "always") if wire == "redis" else ()
        self.server = SERVERS[wire](*keeps)
        self.networks: list[ProxyProcess] = []
        for _ in range(MACHINES):
            self.networks.append(ProxyProcess(f"127.0.0.1:{self.server.port}"))
        urls = tuple(f"{wire}://{network.address}" for network in self.networks)
        self.setting = Setting(self.folder, urls, timeout, wire == "redis", pause)
        self._roles = roles

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        for child in list(self.children):
            self._kill(child)
        for network in self.networks:
            with contextlib.suppress(OSError):
                network.end()
        with contextlib.suppress(ProcessLookupError):
            self.server.thaw()
        self.server.end()
        for machine in range(MACHINES):
            if self.setting.store(machine).exists():
                self.engine(machine).destroy()
        shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self) -> None:
        """Start all processes, and let them send once all machines are joined."""
        for me in steady():
            self.setting.store(machine_of(me)).mkdir(exist_ok=True)
            self._start(me, "steady")
        for machine, roles in self._roles.items():
            for role in roles:
                self._start_another(machine, role)
        for _ in turns(JOINED, 0.05):
            self.reap()
            if all(self.setting.name(me).exists() for me in steady()) and self._are_joined():
                break
        else:
            raise RuntimeError(f"the machines do not join: {self.faults}")
        self.setting.begun.touch()

    def _are_joined(self) -> bool:
        reports = [self.report(machine) for machine in range(MACHINES)]
        return all(
            told.get("state") == "connected"
            and told["shards"] >= 4
            and len(told["peers"]) == MACHINES - 1
            # Where counting begins on each topic, the next relay knows as well.
            and all(len(peer["sequences"]) > told["shards"] for peer in told["peers"])
            for told in reports
        )

    # ---- processes

    def _start_another(self, machine: int, role: str) -> None:
        self._numbers[machine] += 1
        self._start(KILLABLE + MACHINES * self._numbers[machine] + machine, role)

    def _start(self, me: int, role: str) -> None:
        child = os.fork()
        if child:
            self.children[child] = Child(me, role)
            return
        status = 1
        try:
            for number in (signal.SIGINT, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            work(self.setting, me, role)
            status = 0
        except SystemExit as ended:
            status = 0 if ended.code is None else 1
        except BaseException:
            self.setting.log(me).with_suffix(".error").write_text(traceback.format_exc())
        finally:
            os._exit(status)

    def _kill(self, child: int) -> Child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self._stopped.discard(child)
        return self.children.pop(child)

    def reap(self) -> None:
        """No process may end by itself."""
        for child, (me, role) in list(self.children.items()):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                del self.children[child]
                error = self.setting.log(me).with_suffix(".error")
                told = error.read_text() if error.exists() else f"status {status}"
                self.faults.append(f"process {me} ({role}) ended: {told}")

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        until = time.monotonic() + seconds
        while True:
            self.reap()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.05))

    # ---- relays

    def engine(self, machine: int) -> Engine:
        """Open a machine's store."""
        options = self.setting.options(machine)
        names = ("channel_memory", "group_memory", "engine_options")
        return open_engine(options["engine"], PREFIX, **{name: options[name] for name in names})

    def report(self, machine: int) -> dict[str, Any]:
        """Return the last report of a machine's relay; empty if there is none."""
        engine = self.engine(machine)
        try:
            found = report.read(engine)
            waiting = engine.statistics(OUT)["pending"]
        finally:
            engine.close()
        return {} if found is None else {**found.content, "state": found.state, "out": waiting}

    def relay_of(self, machine: int) -> int:
        """Return the process that relays for a machine; 0 if none does."""
        found = self.report(machine)
        pid = int(found.get("pid", 0))
        return pid if found.get("state") != "none" and pid in self.children else 0

    def kill_relay(self, machine: int) -> None:
        """Kill the process that relays for a machine, and start another in its place."""
        child = self.relay_of(machine)
        if child:
            _, role = self._kill(child)
            self.kills[machine] += 1
            self._start_another(machine, role)

    def end_relay(self, machine: int) -> None:
        """Have the process that relays for a machine end by itself, and start another."""
        child = self.relay_of(machine)
        if not child:
            return
        me, role = self.children[child]
        os.kill(child, signal.SIGTERM)
        for _ in turns(STOPPED, 0.02):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                del self.children[child]
                if status:
                    self.faults.append(f"process {me} ({role}) ended with status {status}")
                break
        else:
            self.faults.append(f"process {me} ({role}) does not end")
            self._kill(child)
        self._start_another(machine, role)

    def take_down(self, machine: int) -> list[str]:
        """Kill all processes of a machine that may relay; return what they were."""
        relay, roles = self.relay_of(machine), []
        for child, (me, _) in list(self.children.items()):
            if machine_of(me) == machine and not is_steady(me):
                self.kills[machine] += child == relay
                roles.append(self._kill(child).role)
        return roles

    def bring_up(self, machine: int, roles: list[str]) -> None:
        """Start others in the place of those."""
        for role in roles:
            self._start_another(machine, role)

    def stop_relay(self, machine: int) -> None:
        """Stop the process that relays for a machine, until `heal`."""
        child = self.relay_of(machine)
        if child:
            os.kill(child, signal.SIGSTOP)
            self._stopped.add(child)

    def cont_relays(self) -> None:
        """Let those that are stopped go on."""
        for child in self._stopped:
            os.kill(child, signal.SIGCONT)
        self._stopped.clear()

    # ---- what came of it

    def read(self) -> None:
        """Read on in all ledgers."""
        for path in self.folder.glob("*.ledger"):
            at = self._read.get(path, 0)
            with path.open("rb") as file:
                file.seek(at)
                data = file.read()
            whole = len(data) // Ledger.LINE * Ledger.LINE
            self._read[path] = at + whole
            self.lines.setdefault(int(path.stem), []).extend(Ledger.parse(data[:whole]))

    def await_passage(self) -> float:
        """Wait until what is sent from now on gets from each machine to all; return how long."""
        self.read()
        marks = dict.fromkeys(steady(), 0)
        for me in marks:
            marks[me] = max(
                (line.number for line in self.lines[me] if line.what == SENT), default=0
            )
        passed = 0.0
        missing: list[str] = []
        for passed in turns(JOINED, 0.1):
            self.reap()
            self.read()
            missing = self._not_passed(marks)
            if not missing:
                return passed
        self.faults.append(
            f"{JOINED:g} seconds after all trouble nothing has passed: {', '.join(missing[:6])};"
            f" relays: {[self._shown(machine) for machine in range(MACHINES)]}"
        )
        return passed

    def _shown(self, machine: int) -> dict[str, Any]:
        told = self.report(machine)
        return {
            name: told.get(name) for name in ("state", "error", "pid", "out", "waiting", "shards")
        }

    def _not_passed(self, marks: dict[int, int]) -> list[str]:
        heard: set[tuple[int, int]] = set()
        shared: set[int] = set()
        for me in steady():
            for line in reversed(self.lines[me]):
                if line.what == GOT and line.number > marks.get(line.producer, 1 << 60):
                    if line.where >= OWN:
                        heard.add((line.producer, me))
                    elif line.where >= SHARED_CHANNEL:
                        shared.add(line.producer)
        missing = [f"{a} to {b}" for a in marks for b in marks if a != b and (a, b) not in heard]
        if self.setting.shares:
            missing += [f"{a} to shared channels" for a in marks if a not in shared]
        return missing

    def quieten(self) -> None:
        """Have all processes send no more; wait until what was sent has arrived or is counted."""
        self.setting.quiet.touch()
        self.pause(0.5)
        count, still = -1, 0.0
        for _ in turns(JOINED, 0.1):
            self.reap()
            self.read()
            now = sum(map(len, self.lines.values()))
            still = still + 0.1 if now == count else 0.0
            count = now
            if still >= 1.0 and not any(self.report(n).get("out", 1) for n in range(MACHINES)):
                break
        else:
            waiting = [self.report(n).get("out") for n in range(MACHINES)]
            self.faults.append(f"messages stay on the way out: {waiting}")
        engine = self.engine(0)
        quiet_since = engine.clock()
        engine.close()
        for _ in turns(JOINED, 0.1):
            self.reap()
            # A beat tells what was missed.
            if all(self._has_heard_all(machine, quiet_since) for machine in range(MACHINES)):
                return
        self.faults.append("a machine hears no beat of another")

    def _has_heard_all(self, machine: int, since: int) -> bool:
        peers = self.report(machine).get("peers", [])
        return len(peers) == MACHINES - 1 and all(peer["heard_at"] > since for peer in peers)

    def end(self) -> None:
        """Have the steady processes end, as they must."""
        for child, (me, _) in self.children.items():
            if is_steady(me):
                os.kill(child, signal.SIGTERM)
        for _ in turns(STOPPED, 0.02):
            for child, (me, _) in list(self.children.items()):
                if is_steady(me) and os.waitpid(child, os.WNOHANG)[0]:
                    del self.children[child]
            if not any(is_steady(me) for me, _ in self.children.values()):
                return
        self.faults.append("a process does not stop")

    def harm(self) -> dict[int, Harm]:
        """Return what the relays of each machine met, from their logs too."""
        breaks: Counter[int] = Counter()
        for path in self.folder.glob("*.log"):
            me = int(path.stem)
            for line in path.read_text().splitlines():
                if "this machine goes on by itself" in line:
                    breaks[machine_of(me)] += 1
                if line.startswith(("ERROR", "CRITICAL", "Traceback")):
                    self.faults.append(f"process {me} logged: {line}")
        return {n: Harm(self.kills[n], breaks[n]) for n in range(MACHINES)}


def random_machine(dice: random.Random) -> int:
    """Draw a machine."""
    return dice.randrange(MACHINES)
