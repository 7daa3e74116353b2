#!/usr/bin/env python
"""Runs the chat: several web processes on one port and a background worker.

PORT, ENGINE and WORKERS in the environment change it. Ctrl-C or SIGTERM ends every process
and removes the shared memory. A process that dies is started again. The page asks through the
channel layer which processes there are, and to kill one of them. `cluster.py` runs several of these
as machines, with a relay each.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.exceptions import EngineUnavailable, OptionError, StoreFull, StoreUnavailable

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
MEMORY = {
    "posix": "POSIX shared memory",
    "sysv": "System V shared memory",
    "mmap": "files in the temporary folder",
}
#: Each of them means: end everything and tidy up.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Processes get this long to end by themselves.
PATIENCE = 5.0
#: So many deaths in a row, each within `SHORT` seconds of its start, and we give up.
DEATHS = 5
SHORT = 2.0


class Unfit(Exception):
    """The chat can't run like this; the text says why and what to do."""


#: Begins each line that is printed; cluster.py has a name for each machine.
NAME = os.environ.get("CHAT_MACHINE", "chat")


def say(text: str) -> None:
    # In one piece: other processes write to the same terminal.
    sys.stdout.write(f"{NAME}: {text}\n")
    sys.stdout.flush()


def number(name: str, default: int, least: int, most: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isdecimal() and least <= int(text) <= most):
        raise Unfit(f"{name}={text} is not a whole number from {least} to {most}.")
    return int(text)


def listen(port: int) -> socket.socket:
    """The socket all web processes accept from."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise Unfit(
            f"can't listen on port {port}: {error.strerror}. Try PORT={port + 1}."
        ) from error
    listener.listen(128)
    return listener


def open_layer(engine: str, prefix: str) -> SyncIPCChannelLayer:
    if engine == "memory":
        raise Unfit(
            "ENGINE=memory stays inside one process, and this chat is made of several. "
            "Take posix, sysv or mmap."
        )
    try:
        layer = SyncIPCChannelLayer(prefix=prefix, engine=engine)
    except (EngineUnavailable, OptionError, StoreFull, StoreUnavailable) as error:
        raise Unfit(str(error)) from error
    layer.flush()  # Left by a chat on this port that was killed with -9.
    return layer


class Supervisor:
    """Keeps the processes running until it is told to stop."""

    def __init__(self, listener: socket.socket, engine: str, prefix: str, workers: int) -> None:
        self.listener = listener
        self.workers = workers
        self.layer = IPCChannelLayer(prefix, engine=engine)
        self.environment = {
            **os.environ,
            "ENGINE": engine,
            "CHAT_PREFIX": prefix,
            "CHAT_SUPERVISED": "1",
            "CHAT_DEMO": "1",
            "CHAT_WORKERS": str(workers),
            "DJANGO_SETTINGS_MODULE": "chat.settings",
        }
        # Never written to: our processes see the end of it when we are gone, even by kill -9.
        self.lifeline, self._held = os.pipe()
        self.running: dict[asyncio.subprocess.Process, str] = {}
        #: Those that the page asked to kill, which is no reason to give up.
        self.killed: set[int] = set()
        self.stopping = False

    async def run(self) -> None:
        """Start everything; return when asked to stop, everything ended."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for signum in SIGNALS:
            loop.add_signal_handler(signum, stop.set)
        web = [sys.executable, "-m", "uvicorn", "chat.asgi:application"]
        web += ["--fd", str(self.listener.fileno()), "--log-level", "warning"]
        web += ["--lifespan", "off", "--timeout-graceful-shutdown", "2"]
        background = [sys.executable, "manage.py", "runworker", "assistant"]
        keepers = [
            asyncio.create_task(self.keep(f"web worker {n}", web))
            for n in range(1, self.workers + 1)
        ]
        keepers.append(asyncio.create_task(self.keep("background worker", background)))
        stopped = asyncio.create_task(stop.wait())
        listening = asyncio.create_task(self.listen())
        try:
            done, _ = await asyncio.wait([stopped, *keepers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            listening.cancel()
            await self.end(keepers)
            await self.layer.close()
        for task in done - {stopped}:
            task.result()

    async def keep(self, name: str, command: list[str]) -> None:
        """Run a process, and again when it dies."""
        deaths = 0
        while not self.stopping:
            began = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=HERE,
                env=self.environment,
                stdin=self.lifeline,
                pass_fds=[self.listener.fileno()],
                start_new_session=True,  # Ctrl-C comes to us alone; we end them in order.
            )
            self.running[process] = name
            if self.stopping:  # It was just being started as the others were told to end.
                process.terminate()
            say(f"{name} is process {process.pid}")
            await self.tell(f"{name} is process {process.pid}")
            code = await process.wait()
            del self.running[process]
            if self.stopping:
                return
            died_soon = time.monotonic() - began < SHORT and process.pid not in self.killed
            self.killed.discard(process.pid)
            deaths = deaths + 1 if died_soon else 0
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            if deaths >= DEATHS:
                raise Unfit(f"{name} ended {how} {deaths} times in a row; giving up.")
            say(f"{name} (process {process.pid}) ended {how}; starting it again")
            await self.tell(f"{name}, process {process.pid}, ended {how}; starting it again")

    async def listen(self) -> None:
        """Do what web processes ask for, which have it from their pages."""
        while True:
            try:
                asked = await self.layer.receive("supervisor")
            except StoreUnavailable:  # Somebody removed the store; there is a new one soon.
                await asyncio.sleep(1.0)
                continue
            if asked.get("type") == "tell":
                await self.tell()
            elif asked.get("type") == "kill":
                for process, name in self.running.items():
                    if process.pid == asked.get("pid") and name.startswith("web"):
                        self.killed.add(process.pid)
                        process.kill()

    async def tell(self, event: str = "") -> None:
        """Tell all pages which processes there are, and what has happened."""
        processes = {name: process.pid for process, name in self.running.items()}
        processes["supervisor"] = os.getpid()
        message = {"type": "figures.processes", "processes": processes, "event": event}
        with contextlib.suppress(StoreUnavailable):
            await self.layer.group_send("figures", message)

    async def end(self, keepers: list[asyncio.Task[None]]) -> None:
        """Ask every process to end, and after a while make it."""
        self.stopping = True
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        _, late = await asyncio.wait(keepers, timeout=PATIENCE)
        for process in self.running if late else ():
            say(f"process {process.pid} does not end; killing it")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*keepers, return_exceptions=True)


def main() -> int:
    for signum in SIGNALS:
        signal.signal(signum, signal.default_int_handler)
    try:
        with listener_of_this() as listener:
            port = listener.getsockname()[1]  # PORT=0 takes any free one.
            serve(listener, os.environ.get("CHAT_PREFIX") or f"chat-{port}")
    except KeyboardInterrupt:
        pass
    except Unfit as unfit:
        say(str(unfit))
        return 1
    say("ended; nothing is left behind")
    return 0


def listener_of_this() -> socket.socket:
    """The socket that cluster.py has opened for this machine, or one on PORT."""
    inherited = os.environ.get("CHAT_LISTENER")
    if inherited:
        return socket.socket(fileno=int(inherited))
    return listen(number("PORT", 8000, 0, 65535))


def serve(listener: socket.socket, prefix: str) -> None:
    """Run the chat on a socket and a store of its own until asked to stop."""
    workers = number("WORKERS", 2, 1, 64)
    engine = os.environ.get("ENGINE") or "posix"
    layer = open_layer(engine, prefix)
    try:
        say(f"http://{HOST}:{listener.getsockname()[1]}/")
        say(describe(layer, engine, prefix))
        asyncio.run(Supervisor(listener, engine, prefix, workers).run())
    finally:
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_IGN)
        layer.destroy()


def describe(layer: SyncIPCChannelLayer, engine: str, prefix: str) -> str:
    """Which engine and memory the chat is on."""
    counts = layer.global_statistics()
    used, total = (counts[key] / 1024**2 for key in ("bytes_used", "bytes_total"))
    memory = MEMORY.get(engine, "memory")
    return f"engine {engine}, prefix {prefix}: {memory}, {used:.1f} of {total:.0f} MiB in use"


if __name__ == "__main__":
    sys.exit(main())
