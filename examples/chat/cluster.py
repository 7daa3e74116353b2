#!/usr/bin/env python
"""Runs the chat on several machines, played by namespaces of this one, joined by relays.

Each machine has a network, shared memory, a store and workers of its own, and reaches the others
only through a server (redis-server, valkey-server or nats-server) at the middle of their network.
MACHINES, PORT, ENGINE, WORKERS, and DELAY (milliseconds on the way to each machine, if the kernel
has netem) in the environment change it. Ctrl-C or SIGTERM ends all of it; the namespaces, their
links and addresses are gone with the last process, also after kill -9.

The browser's sockets are opened here, outside, and handed to the machines, so that the network of
this machine gets no link, address or route.
"""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from run import HERE, SIGNALS, Unfit, listen, number, say

PROGRAMS = ("ip", "mount", "nsenter", "setpriv", "unshare")
#: Of the server, and of machine number N; they exist in the namespaces only.
SERVER, MACHINE = "10.77.0.254", "10.77.0.{}"
SERVERS = {
    "redis-server": f"redis://{SERVER}:6379/0",
    "valkey-server": f"redis://{SERVER}:6379/0",
    "nats-server": f"nats://{SERVER}:4222",
}
OPTIONS = ["--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no"]
#: What becomes a machine: in its namespaces it waits for its link, and then runs the chat.
BECOME = """
set -e
for folder in $FOLDERS; do mount -t tmpfs tmpfs "$folder"; done
read -r address
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
exec "$@" </dev/null
"""
#: Where stores lie: each machine has its own, unless this program lies there itself.
FOLDERS = [
    folder
    for folder in ("/dev/shm", "/tmp")
    if not any(
        Path(path).resolve().is_relative_to(folder) for path in (HERE, sys.prefix, sys.base_prefix)
    )
]
#: Seconds for a namespace to be made, and for a machine to end.
PATIENCE = 15.0


class Network:
    """The network in the middle: a namespace with the server and a bridge."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        name = next((name for name in SERVERS if shutil.which(name)), None)
        if name is None:
            raise Unfit(
                f"no server found ({', '.join(SERVERS)}). On Debian and Ubuntu: "
                "apt install redis-server."
            )
        self.url = SERVERS[name]
        self._stack = stack
        options = OPTIONS if "nats" not in name else ["--addr", "0.0.0.0"]
        # Ended last, and by the kernel if we are killed.
        server = self.start("KILL", ["--net"], [name, *options], stdout=subprocess.DEVNULL)
        self.pid = server.pid
        self.run("ip link set lo up")
        self.run("ip link add bridge type bridge")
        self.run(f"ip address add {SERVER}/24 dev bridge")
        self.run("ip link set bridge up")

    def start(
        self, last_signal: str, kinds: list[str], command: list[str], **options: object
    ) -> subprocess.Popen[bytes]:
        """Start a process in namespaces of its own; ended with the stack."""
        process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
            ["setpriv", f"--pdeathsig={last_signal}", "unshare", *kinds, "--", *command],
            cwd=HERE,
            start_new_session=True,  # Ctrl-C comes to us alone; we end them in order.
            **{"stdin": subprocess.DEVNULL, **options},
        )
        self._stack.callback(end, process)
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and not apart(process.pid):
            if time.monotonic() > deadline:
                raise Unfit("no namespace was made in time.")
            time.sleep(0.005)
        if process.poll() is not None:
            raise Unfit(f"{command[0]} could not run in namespaces of its own here; see above.")
        return process

    def run(self, command: str) -> None:
        """Run a command in the network's namespace."""
        done = self._run(command)
        if done.returncode:
            raise Unfit(f"{command}: {done.stderr.decode().strip()}")

    def join(self, number: int, pid: int) -> None:
        """Link a machine's namespace to the bridge, as eth0 there and machineN here."""
        port = f"machine{number}"
        self.run(f"ip link add {port} type veth peer name eth0 netns {pid}")
        self.run(f"ip link set {port} master bridge up")

    def delay(self, number: int, milliseconds: int) -> bool:
        """Delay what a machine hears; whether the kernel can."""
        command = f"tc qdisc add dev machine{number} root netem delay {milliseconds}ms"
        return shutil.which("tc") is not None and self._run(command).returncode == 0

    def _run(self, command: str) -> subprocess.CompletedProcess[bytes]:
        enter = ["nsenter", f"--target={self.pid}", "--net", *shlex.split(command)]
        return subprocess.run(enter, capture_output=True, timeout=PATIENCE, check=False)


def apart(pid: int) -> bool:
    """Whether a process has left our network."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    except OSError:
        return False


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process by SIGTERM, or by force if it takes too long."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def cluster(listeners: list[socket.socket]) -> Iterator[None]:
    """Start the network and a machine for each socket; at the end, nothing of them is left."""
    prefix = f"chat-{listeners[0].getsockname()[1]}"
    machines: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        try:
            network = Network(stack)
            for n, listener in enumerate(listeners, 1):
                machines.append(start_machine(network, n, listener, prefix))
            milliseconds = number("DELAY", 1, 0, 10_000)
            numbers = range(1, len(machines) + 1)
            if milliseconds and not all(network.delay(n, milliseconds) for n in numbers):
                say("this kernel can't delay packets (netem): the network is as fast as it is")
            explain(network, prefix, [machine.pid for machine in machines])
            yield
        finally:
            for signum in SIGNALS:
                signal.signal(signum, signal.SIG_IGN)
            for machine in machines:  # All at once; the stack waits for each.
                machine.terminate()


def start_machine(
    network: Network, n: int, listener: socket.socket, prefix: str
) -> subprocess.Popen[bytes]:
    """Start the chat in namespaces of its own, linked to the network."""
    machine = network.start(
        "TERM",
        ["--net", "--mount", "--ipc"],
        ["sh", "-c", BECOME, "sh", sys.executable, "run.py"],
        stdin=subprocess.PIPE,
        pass_fds=[listener.fileno()],
        env={
            **os.environ,
            "CHAT_MACHINE": f"machine {n}",
            "CHAT_LISTENER": str(listener.fileno()),
            "CHAT_PREFIX": prefix,
            "CHAT_RELAY": network.url,
            "FOLDERS": " ".join(FOLDERS),
            "TMPDIR": "/dev/shm",
        },
    )
    network.join(n, machine.pid)
    assert machine.stdin is not None
    with machine.stdin:
        machine.stdin.write(f"{MACHINE.format(n)}\n".encode())
    return machine


def explain(network: Network, prefix: str, pids: list[int]) -> None:
    """Say how to look at a machine, and how to pull its cable."""
    say(f"{len(pids)} machines over {network.url}; write on one page and read on another's")
    look = Path(sys.executable).with_name("asgi-ipc")
    for n, pid in enumerate(pids, 1):
        say(f"machine {n}'s relay: nsenter -t {pid} --net --mount --ipc {look} relays {prefix}")
    say(f"to cut one off: nsenter -t {network.pid} --net ip link set machine1 down (and up)")


def check() -> None:
    """Raise `Unfit` where machines can't be played."""
    if sys.platform != "linux":
        raise Unfit(f"machines are played by namespaces of Linux, and this is {sys.platform}.")
    if os.geteuid() != 0:
        raise Unfit("making namespaces with a network needs root. Run it as root: sudo make ...")
    engine = os.environ.get("ENGINE") or "posix"
    needed = "/dev/shm" if engine == "posix" else "/tmp"
    if needed not in FOLDERS:
        raise Unfit(
            f"with ENGINE={engine} each machine needs a {needed} of its own, and the checkout or"
            " its Python lies in there; move it, or take ENGINE=posix."
        )
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise Unfit(f"{', '.join(missing)}: not found. They are in iproute2, mount and util-linux.")


def main() -> int:
    for signum in SIGNALS:
        signal.signal(signum, signal.default_int_handler)
    status = 0
    try:
        check()
        machines = number("MACHINES", 3, 2, 50)
        port = number("PORT", 8000, 0, 65535 - machines)
        with contextlib.ExitStack() as stack:
            listeners = [stack.enter_context(listen(port and port + n)) for n in range(machines)]
            with cluster(listeners):
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            say("a machine or the server has ended; ending all")
            status = 1
    except KeyboardInterrupt:
        pass
    except Unfit as unfit:
        say(str(unfit))
        return 1
    say("all machines ended; nothing is left behind")
    return status


if __name__ == "__main__":
    sys.exit(main())
