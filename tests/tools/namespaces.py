"""Machines that lack something, played in namespaces of this one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Folders that are replaced by others in some of the machines.
_HIDDEN = ("/tmp/", "/var/tmp/", "/dev/shm/")
#: Shows the checkout in a place that none of them hides.
_ELSEWHERE = f"""
mount -t tmpfs none /mnt
mkdir /mnt/checkout
mount --bind '{ROOT}' /mnt/checkout
"""
#: Exit status of a machine that this one can't play.
CANT_PLAY = 77

#: A /dev without shm.
NO_SHM = """
new=$(mktemp -d)
mount -t tmpfs none $new
for node in null zero full random urandom tty; do
    touch $new/$node
    mount --bind /dev/$node $new/$node
done
mount --move $new /dev
rmdir $new
"""


def unshared(*kinds: str) -> list[str]:
    """The command that starts another one in namespaces of these kinds; skips if forbidden."""
    command = ["unshare", *kinds]
    if os.geteuid():
        command.append("--map-root-user")
    why = _forbidden(tuple(command))
    if why:
        pytest.skip(f"{' '.join(command)} is not allowed here: {why}")
    return command


@cache
def _forbidden(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            [*command, "true"], capture_output=True, text=True, timeout=300, check=False
        )
    except OSError as error:
        return str(error)
    return done.stderr.strip() or "refused" if done.returncode else ""


def python(function: Callable[..., object], *arguments: object) -> list[str]:
    """The command that calls a function of a module of these tests in a new interpreter."""
    call = f"{function.__module__} import {function.__name__} as f; f(*{arguments!r})"
    return [sys.executable, "-W", "error", "-c", f"from {call}"]


def run_on(
    setup: str,
    function: Callable[..., object],
    *arguments: object,
    kinds: tuple[str, ...] = ("--mount",),
    **environment: str,
) -> None:
    """Call a function where ``setup``, a shell script, has changed what namespaces allow."""
    command = python(function, *arguments)
    if "--mount" in kinds and str(ROOT).startswith(_HIDDEN):
        # The checkout would vanish with the folder it lies in; it is run from elsewhere.
        if not command[0].startswith(f"{ROOT}/"):
            pytest.skip(f"{command[0]} is not in the checkout, which lies in a temporary folder")
        setup = f"{_ELSEWHERE}\n{setup}\ncd /mnt/checkout"
        command[0] = command[0].replace(str(ROOT), "/mnt/checkout", 1)
    shell = ["sh", "-c", f'set -e\n{setup}\nexec "$@"', "sh"]
    done = subprocess.run(
        [*unshared(*kinds), *shell, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode == CANT_PLAY:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process to talk to by lines, which is gone afterwards."""
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Kill it, and wait for those in its namespaces too: they die a moment later."""
    process.kill()
    assert process.stdout
    process.stdout.read()
    process.wait()
