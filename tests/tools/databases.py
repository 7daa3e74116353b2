"""Databases for consumers: SQLite files, and a PostgreSQL server of the tests' own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

#: Seconds for the server to start or stop.
_PATIENCE = 60.0
#: Where Debian puts the programs, which are not all in the path.
_DEBIAN = Path("/usr/lib/postgresql")
_USERS = ("postgres", "nobody")


def postgres_programs() -> Path | None:
    """The folder with initdb and postgres; None where there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(_DEBIAN.glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Run a server on a UNIX socket that writes nothing it need not; the socket's folder."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL here: initdb and postgres are not installed")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    user: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:
        if os.geteuid() == 0:
            # The server refuses to run as root.
            name = next(filter(_is_user, _USERS), None)
            if name is None:
                pytest.skip("PostgreSQL refuses to run as root, and there is no other user")
            shutil.chown(folder, name)
            user = {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}
        data = os.path.join(folder, "data")
        _call(
            [programs / "initdb", "-D", data, "-U", "tests", "-A", "trust", "-N", "-E", "UTF8"],
            folder,
            user,
        )
        settings = {
            "unix_socket_directories": folder,
            "listen_addresses": "",
            "fsync": "off",
            "synchronous_commit": "off",
            "max_connections": "50",
            "shared_buffers": "8MB",
            "dynamic_shared_memory_type": "mmap",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        with (
            open(os.path.join(folder, "log"), "wb") as log,
            subprocess.Popen(
                [programs / "postgres", "-D", data, *options],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **user,
            ) as server,
        ):
            try:
                _wait_until_ready(server, folder)
                yield folder
            finally:
                # The fast way, which does not wait for clients.
                server.send_signal(signal.SIGINT)
                try:
                    server.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    server.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The socket's folder of a server that the tests of this process share."""
    with postgres_server() as folder:
        yield folder


def sqlite_settings(folder: Path, alias: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Django's settings for a database in a file."""
    name = str(folder / f"{alias}.sqlite3")
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": name, **options}


def postgres_settings(folder: str, alias: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Django's settings for the database that every server has."""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "tests",
        "HOST": folder,
        **options,
    }


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _call(command: list[Any], folder: str, user: dict[str, Any]) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE, check=False, **user
    )
    assert done.returncode == 0, done.stderr


def _wait_until_ready(server: subprocess.Popen[bytes], folder: str) -> None:
    import psycopg

    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            psycopg.connect(host=folder, user="tests", dbname="postgres").close()
            return
        except psycopg.OperationalError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                log = Path(folder, "log").read_text(errors="replace")
                raise RuntimeError(f"PostgreSQL did not start: {error}\n{log}") from error
            time.sleep(0.05)
