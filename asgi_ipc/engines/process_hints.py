"""What people want to know of a process: when it started, and its command line.

Only hints: a process id is reused, and means another process in another container. So a command
line is told only of a process that started when the id was written down, and without what is known
to be secret. Nothing is decided by it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable

#: Seconds that ``ps`` may be off, and that it may take.
_ROUNDED, _PATIENCE = 2, 5.0
#: What may be secret in a command line: user and password in a URL, keys, options of a relay.
_CREDENTIALS, _KEY = re.compile(r"://\S*@"), re.compile(r"\b[0-9a-fA-F]{64}\b")
_OPTION_NAME = "--relay-option"
#: Bytes of a command line that are of use.
_LONGEST = 4096
#: In the command lines of the children of Python's multiprocessing, and how many a program starts
#: in a row: its server of forks, and that one's child.
_OF_MULTIPROCESSING, _GENERATIONS = "from multiprocessing.", 3


def start_ticks(pid: int | str = "self") -> int:
    """Return when a process started, in clock ticks since the boot; 0 if the system tells not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name may hold anything, a parenthesis too; 19 fields lie between.
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def start_time(ticks: int) -> float:
    """Return such ticks as seconds since the epoch, 0.0 for 0."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    if not ticks or clock is None:
        return 0.0
    boot = time.time() - time.clock_gettime(clock)
    return round(boot + ticks / os.sysconf("SC_CLK_TCK"), 2)


def command(pid: int, ticks: int, age: float) -> str:
    """Return the command line of a process; empty if it is unknown, or another process's.

    ``ticks`` is what `start_ticks` said in that process, and ``age`` how many seconds ago at least
    it started. May run ``ps``, where the system has no ``/proc``.
    """
    if pid <= 0:
        return ""
    if ticks:
        # Another one's, if it ended between the two.
        found = _command_in_proc(pid)
        return found if start_ticks(pid) == ticks else ""
    return _command_by_ps(pid, age)


def parent_command(pid: int, command: str) -> str:
    """Return the command line of the program that started a child of multiprocessing, or empty.

    Such a child, as uvicorn's workers are, has no telling command line of its own. ``command`` is
    what is known of it: empty if that is not what process ``pid`` runs here. For ``/proc`` alone.
    """
    if _OF_MULTIPROCESSING not in command or _command_in_proc(pid) != command:
        return ""
    for _ in range(_GENERATIONS):
        pid = _parent(pid)
        found = _command_in_proc(pid) if pid > 1 else ""
        if _OF_MULTIPROCESSING not in found:
            return found
    return ""


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def readable(text: str) -> str:
    """Return a text in one line, without what a terminal might obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def without_secrets(words: Iterable[str], are_whole: bool = True) -> list[str]:
    """Return the words of a command line without the credentials in URLs and options of relays.

    That hides them from readers of a screen or a report, and not from users of the machine: the
    system shows command lines to every user. If words are not whole, what follows such an option
    is hidden up to the next one.
    """
    found: list[str] = []
    is_value = goes_on = False
    for word in words:
        goes_on = goes_on and not word.startswith("-")
        if goes_on:
            continue
        start = "" if is_value else f"{_OPTION_NAME}="
        if is_value or word.startswith(start):
            name, equals, _ = word.removeprefix(start).partition("=")
            word = f"{start}{name}=..." if equals else f"{start}..."
            goes_on = not are_whole
        is_value = word == _OPTION_NAME
        found.append(_KEY.sub("...", _CREDENTIALS.sub("://...@", word)))
    return found


def _command_in_proc(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            read = file.read(_LONGEST)
            words = read.rstrip(b"\0").split(b"\0")
            # The end of a URL says which part of it is a password.
            if len(read) == _LONGEST and len(words) > 1:
                words.pop()
    except OSError:
        return ""
    return readable(" ".join(without_secrets(each.decode("utf-8", "replace") for each in words)))


def _command_by_ps(pid: int, age: float) -> str:
    # Imported late: most systems have no need of it.
    import subprocess

    try:
        told = subprocess.run(
            ["ps", "-o", "etime=", "-o", "command=", "-p", str(pid)],
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    elapsed, _, found = told.decode("utf-8", "replace").strip().partition(" ")
    # What was one word is not known.
    found = " ".join(without_secrets(found.split(), are_whole=False))
    return readable(found)[:_LONGEST] if _seconds(elapsed) + _ROUNDED >= age else ""


def _seconds(elapsed: str) -> int:
    """Return ``[[days-]hours:]minutes:seconds`` in seconds; -1 for anything else."""
    days, _, clock = elapsed.rpartition("-")
    try:
        total = 0
        for part in clock.split(":"):
            total = total * 60 + int(part)
        return total + int(days or 0) * 86400
    except ValueError:
        return -_ROUNDED - 1


__all__ = ["command", "parent_command", "readable", "start_ticks", "start_time", "without_secrets"]
