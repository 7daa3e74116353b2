"""The machines and processes of a site, the channels and groups they use, and their numbers.

Ledgers know where a message was sent, or received, by a number (``where``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

MACHINES = 3
#: Processes of a machine that are never killed.
STEADY = 2
#: Groups with members on all machines, and shared channels.
GROUPS, SHARED = 3, 2
#: Numbers of places: groups over all machines, groups and ordinary channels of one machine, shared
#: channels, and the own channel of each process.
LOCAL_GROUP, LOCAL, SHARED_CHANNEL, OWN = 10, 20, 30, 100
#: The number of the first process that may be killed.
KILLABLE = 300 * MACHINES
#: The prefix on all machines.
PREFIX = "torture"


def machine_of(me: int) -> int:
    """Return the machine of a process."""
    return me % MACHINES


def is_steady(me: int) -> bool:
    """Whether a process is never killed."""
    return me < KILLABLE


def steady(machine: int | None = None) -> list[int]:
    """Return the processes that are never killed, of one machine or of all."""
    return [me for me in range(MACHINES * STEADY) if machine in (None, machine_of(me))]


def groups_of(me: int) -> dict[int, str]:
    """Return the groups that a process is in, by their numbers."""
    machine = machine_of(me)
    names = {number: f"group{number}" for number in range(GROUPS)}
    return {**names, LOCAL_GROUP + machine: f"local{machine}"}


class Setting(NamedTuple):
    """What all processes of one run share."""

    folder: Path
    #: How each machine reaches the server.
    urls: tuple[str, ...]
    #: Seconds, of the wire.
    timeout: float
    #: Whether the server has queues.
    shares: bool
    #: Seconds between two messages of a process, on average.
    pause: float

    def store(self, machine: int) -> Path:
        """Return the directory of a machine's store."""
        return self.folder / f"machine{machine}"

    def options(self, machine: int) -> dict[str, Any]:
        """Return the options of a machine's layers."""
        return {
            "prefix": PREFIX,
            "engine": "mmap",
            "engine_options": {"directory": str(self.store(machine))},
            "channel_memory": 16 << 20,
            "group_memory": 1 << 20,
            "capacity": 1000,
            "channel_capacity": {"specific.*": 1_000_000},
            "relay": self.urls[machine],
            "relay_options": {"timeout": self.timeout},
            "relay_channels": ["shared.*"] if self.shares else None,
        }

    def name(self, me: int) -> Path:
        """Return the file in which a process writes the name of its channel."""
        return self.folder / f"{me}.name"

    def ledger(self, me: int) -> Path:
        """Return the ledger of a process."""
        return self.folder / f"{me}.ledger"

    def log(self, me: int) -> Path:
        """Return what a process has logged."""
        return self.folder / f"{me}.log"

    @property
    def begun(self) -> Path:
        """Return the file that says that all machines are joined: all may send."""
        return self.folder / "begun"

    @property
    def quiet(self) -> Path:
        """Return the file that says that nothing more is to be sent."""
        return self.folder / "quiet"
